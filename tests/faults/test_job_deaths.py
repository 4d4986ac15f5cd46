"""Every way to end without success is a dead letter with the bytes that were enqueued (W13)."""

import asyncio
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from arq.cron import cron
from arq.jobs import Job

from app import keys
from app.enqueue import JobRequest
from app.payloads.codec import Codec
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.rig import Rig
from tests.waiting import until
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker

MakeRig = Callable[..., Rig]


@pytest.mark.row("W13")
async def test_every_way_to_die_keeps_the_payload_that_was_enqueued(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Malformed, pickle bomb, unknown function, attempts used up, stock tries used up: the bytes stay.
    """
    rig = make_rig()
    codec = Codec()
    payloads = {
        "garbage": b"\x00\xffnot a job",
        "wrong-shape": b'j1:{"t":null,"f":7,"a":[],"k":{},"et":1}',
        "deep": b"j1:" + b"[" * 100_000,
        "surrogate": b'j1:{"t":null,"f":"no\\ud800where","a":[],"k":{},"et":1,"o":{"cid":"\\udcff"}}',
        b"\xff\xfe not UTF-8".decode("utf-8", "surrogateescape"): b"j1:{}",
        "bomb": pickle.dumps({"t": None, "f": _Bomb(), "a": (), "k": {}, "et": 1}),
        "unknown": codec.encode_job("nobody_knows_me", (), {}, enqueued_ms=1),
        "attempts": codec.encode_job("always_fail", (), {}, enqueued_ms=1),
        "stock-tries": codec.encode_job("work", (), {}, enqueued_ms=1),
    }
    async with rig.client.pipeline() as pipe:
        for name, raw in payloads.items():
            pipe.set(keys.arq_job(name), raw)
            pipe.zadd(rig.queue, {name: 1})
        pipe.set(keys.arq_retry("stock-tries"), 3)
        # nobody has known the function since 1970: the grace of a rolling deploy is over
        for name in ("unknown", "surrogate"):
            pipe.hset(keys.attempts(rig.queue), name, '0:0:0:0|{"f":[],"u":1}')
        await pipe.execute()
    worker = rig.start()
    await rig.emptied()

    reasons = {name: (await rig.letter(name))["reason"] for name in payloads}
    kept = {n: await rig.client.get(keys.dead_payload(rig.queue, n)) for n in payloads}
    await rig.work(1, 0, prefix="after")
    await rig.emptied()
    row.figure(reasons=sorted(set(reasons.values())))
    assert worker.is_alive
    assert not _BOMB_SIGN.exists()
    assert {name: _sha(raw) for name, raw in kept.items()} == {
        name: _sha(raw) for name, raw in payloads.items()
    }
    row.figure(classes=len(reasons))
    assert reasons.pop("surrogate") == "unknown-function"
    assert reasons.pop(next(name for name in reasons if not name.isascii())) == "malformed"
    assert reasons == {
        "garbage": "malformed",
        "wrong-shape": "malformed",
        "deep": "malformed",
        "bomb": "malformed",
        "unknown": "unknown-function",
        "attempts": "attempts",
        "stock-tries": "attempts",
    }


_BOMB_SIGN: Final = Path(tempfile.gettempdir()) / f"arqscope-bomb-{os.getpid()}"


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {_BOMB_SIGN}",)


def _sha(raw: bytes | None) -> str:
    return hashlib.sha256(raw or b"").hexdigest()


@pytest.mark.row("W13")
async def test_six_ways_to_end_without_success_are_six_letters_with_the_bytes_enqueued(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Unknown function, expired, undecodable, attempts used up, aborted, cron: all as our own producer,
    arq's ``Job.abort`` and arq's cron put them there.
    """
    rig = make_rig()
    rig.policy(attempts=1)
    payload_of = {}
    await rig.submit([JobRequest(name="work", id="expired", expires_s=0.3)])
    payload_of["expired"] = await rig.client.get(keys.arq_job("expired"))
    await rig.submit(
        [
            JobRequest(name="nobody_knows_me", id="unknown"),
            JobRequest(name="always_fail", id="tries"),
            JobRequest(name="work", args=(60,), id="aborted"),
        ]
    )
    await rig.client.set(keys.arq_job("undecodable"), b"\x00\xffnot a job")
    await rig.client.zadd(rig.queue, {"undecodable": 1})
    # nobody has known the function since 1970: the grace of a rolling deploy is over
    await rig.client.hset(keys.attempts(rig.queue), "unknown", '0:0:0:0|{"f":[],"u":1}')
    for name in ("unknown", "tries", "aborted", "undecodable"):
        payload_of[name] = await rig.client.get(keys.arq_job(name))
    await rig.holds(lambda: _gone(rig, "expired"))
    worker = rig.start()
    await rig.has("start", 2)  # "tries" and "aborted"
    job = Job("aborted", rig.client, rig.queue, Codec().decode)
    assert await job.abort(timeout=5, poll_delay=0.05)
    await rig.emptied()
    await rig.stop()
    payload_of |= await _failed_cron(rig)

    closed = {i.decode() for i in await rig.client.zrange(keys.dead_closed(rig.queue), 0, -1)}
    opened = {i.decode() for i in await rig.client.zrange(keys.dead_open(rig.queue), 0, -1)}
    records = {name: await rig.letter(name) for name in closed | opened}
    kept = {n: await rig.client.get(keys.dead_payload(rig.queue, n)) for n in payload_of}
    kept_for_ever = [await rig.client.ttl(keys.dead_payload(rig.queue, n)) for n in payload_of]
    cron_id = next(name for name in payload_of if name.startswith("nightly"))
    totals = await rig.totals()
    row.figure(classes=len(records), totals=totals)
    assert not worker.is_alive
    assert {name: record["reason"] for name, record in records.items()} == {
        "unknown": "unknown-function",
        "expired": "expired",
        "undecodable": "malformed",
        "tries": "attempts",
        "aborted": "aborted",
        cron_id: "attempts",
    }
    assert {n: _sha(raw) for n, raw in kept.items()} == {
        n: _sha(raw) for n, raw in payload_of.items()
    }
    assert all(payload_of.values())
    assert set(kept_for_ever) == {-1}
    assert closed == {"aborted"}
    assert (records["aborted"]["state"], records["aborted"]["decision"]) == ("discarded", "ABORT")
    assert (totals["aborted"], totals["dead"]) == (1, 5)
    assert not [key async for key in rig.client.scan_iter(keys.vault(rig.queue, "*"))]
    verdict = await rig.verdict(effect="start")
    assert verdict.holds, describe(verdict)


async def _failed_cron(rig: Rig) -> dict[str, bytes]:
    """Let arq's cron enqueue a job that fails; return its id and the bytes that were enqueued."""
    enqueued: dict[str, bytes] = {}
    codec = Codec()

    def encode(job: dict[str, Any]) -> bytes:
        raw = codec.encode(job)
        enqueued.setdefault(job.get("f", ""), raw)
        return raw

    async def nightly(ctx: dict[str, Any]) -> None:
        raise ConnectionError("no base tonight")

    scheduler = Worker(
        cron_jobs=[cron(nightly, name="nightly", run_at_startup=True, max_tries=1)],
        queue_name=rig.queue,
        handle_signals=False,
        poll_delay=0.1,
        job_serializer=encode,
        job_deserializer=codec.decode,
        ctx={"arqscope": EngineOptions(url=rig.server.database(2), codec=codec)},
    )
    running = asyncio.create_task(scheduler.main())
    await until(lambda: asyncio.sleep(0, scheduler.jobs_failed > 0))
    scheduler.handle_sig(15)  # type: ignore[arg-type]
    await running
    await scheduler.close()
    letters = await rig.client.zrange(keys.dead_open(rig.queue), 0, -1)
    name = next(raw.decode() for raw in letters if raw.startswith(b"nightly"))
    return {name: enqueued["nightly"]}


async def _gone(rig: Rig, job_id: str) -> bool:
    return not await rig.client.exists(keys.arq_job(job_id))
