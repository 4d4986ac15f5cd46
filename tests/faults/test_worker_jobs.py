"""Workers under fault, rows of FAULTS.md: jobs that block, raise, fail for ever or are malformed."""

import asyncio
import hashlib
import json
import os
import pickle
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, cast

import pytest
from arq.cron import cron
from arq.jobs import Job

from app import keys
from app.enqueue import JobRequest, enqueue_many
from app.errors import RedisUnavailable
from app.payloads.codec import Codec
from app.records import MAX_ERROR_BYTES, JobRun
from app.wire.connections import connect
from tests.conftest import lacking, unused_port
from tests.faults.api import api
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.fault_jobs import EXCEPTIONS
from tests.faults.proxy import ChaosProxy
from tests.faults.rig import Rig, sized
from tests.waiting import until
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker

MakeRig = Callable[..., Rig]


async def _record(rig: Rig, letter: str) -> dict[str, str]:
    raw = await cast(Any, rig.client.hgetall(keys.dead_record(rig.queue, letter)))
    return {name.decode(): value.decode("utf-8", "surrogateescape") for name, value in raw.items()}


@pytest.mark.row("W9")
async def test_blocking_functions_hold_neither_the_loop_nor_their_worker(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Sleeps, backtracking and number crunching run in children that the timeout kills.
    """
    rig = make_rig(lease_s=3)
    blockers = {"sleep": ("block", (60,)), "regex": ("backtrack", ())}
    if sized(True, False):
        blockers["frames"] = ("crunch", ())
    limit_s = sized(4.0, 1.6)  # a loaded machine needs a second to start a child
    worker = rig.start()
    await rig.submit([JobRequest(name="measure_loop", args=(limit_s + 1,), id="metronome")])
    await rig.submit(
        [
            JobRequest(name=name, args=args, id=i, timeout_s=limit_s, attempts=1)
            for i, (name, args) in blockers.items()
        ]
    )
    await rig.holds(lambda: asyncio.sleep(0, _children(rig, len(blockers))))
    submitted_at = time.time()
    await rig.emptied(limit_s + 15)
    killed_s = max(run.finished_ms for run in await rig.runs()) / 1000 - submitted_at
    children = _children(rig, len(blockers))
    slowest = await Job("metronome", rig.client, rig.queue, Codec().decode).result(timeout=1)
    reasons = {i: (await _record(rig, i))["reason"] for i in blockers}
    await until(lambda: asyncio.sleep(0, not any(_exists(pid) for pid in children)))

    row.figure(loop_lag_p99_ms=slowest[0], loop_lag_max_ms=slowest[-1], killed_s=killed_s)
    assert worker.is_alive
    assert reasons == dict.fromkeys(blockers, "timeout")
    assert killed_s <= limit_s + 5
    assert slowest[0] < 250
    assert (await rig.verdict(effect="start")).lost == ()


def _children(rig: Rig, count: int) -> list[int]:
    """Pids of the children that run blocking functions, once there are *count*."""
    pids = [int(e.effect[4:]) for e in rig.entries() if e.effect.startswith("pid ")]
    return pids if len(pids) >= count else []


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.row("W11")
async def test_no_exception_a_job_raises_harms_its_worker(make_rig: MakeRig, row: Row) -> None:
    """
    Each is retried by the policy, then kept, cut to a bearable size.
    """
    rig = make_rig()
    rig.policy(attempts=2, backoff_s=0.01, backoff_cap_s=0.02)
    worker = rig.start()
    await rig.submit([JobRequest(name="raise_this", args=(k,), id=k) for k in EXCEPTIONS])
    try:
        await rig.emptied(15)
    finally:
        left = [raw.decode() for raw in await rig.client.zrange(rig.queue, 0, -1)]
        tries = Counter(entry.id for entry in rig.entries("start"))
        row.figure(left=left, most_tries=max(tries.values(), default=0))
    records = {kind: await _record(rig, kind) for kind in EXCEPTIONS}
    sizes = {
        kind: max(len(record[f].encode()) for f in ("error", "traceback", "history"))
        for kind, record in records.items()
    }
    await rig.work(1, 0, prefix="after")
    await rig.emptied()

    verdict = await rig.verdict()
    row.figure(**verdict.figures(), stored_max_bytes=max(sizes.values()))
    assert worker.is_alive
    assert verdict.holds, describe(verdict)
    assert set(tries.values()) == {2}
    assert {kind: record["attempts"] for kind, record in records.items()} == dict.fromkeys(
        EXCEPTIONS, "2"
    )
    assert max(sizes.values()) <= MAX_ERROR_BYTES


@pytest.mark.row("W12")
async def test_retries_of_a_job_that_always_fails_follow_the_schedule(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Full jitter: the n-th delay lies within [0, min(cap, base * 2^(n-1))]; then a dead letter.
    """
    base_s, cap_s, tries = sized((0.5, 8.0, 8), (0.05, 0.4, 8))
    rig = make_rig()
    rig.policy(attempts=tries, backoff_s=base_s, backoff_cap_s=cap_s)
    rig.start()
    await rig.submit([JobRequest(name="always_fail", id=f"j{n}") for n in range(sized(20, 5))])
    await rig.emptied(60)

    verdict = await rig.verdict(effect="start")
    runs: dict[str, list[Any]] = {}
    for run in await rig.runs():
        runs.setdefault(run.job_id, []).append(run)
    # what a run was due at is what the failure before it scheduled
    delays = [
        (number, (later.due_ms - before.finished_ms) / 1000)
        for of_job in runs.values()
        for number, (before, later) in enumerate(pairwise(of_job))
    ]
    over = [(n, s) for n, s in delays if not -0.01 <= s <= min(cap_s, base_s * 2**n) + 0.1]
    kept = [json.loads((await _record(rig, i))["history"]) for i in runs]
    row.figure(delays=len(delays), outside=len(over), **verdict.figures())
    assert verdict.lost == verdict.doubled == verdict.stray == ()
    assert over == []
    assert {len(of_job) for of_job in runs.values()} == {tries}
    assert {len(history) for history in kept} == {tries}


@pytest.mark.row("W12")
async def test_a_thousand_failures_at_once_do_not_come_back_at_once(
    make_rig: MakeRig, row: Row
) -> None:
    failures = sized(1_000, 400)
    rig = make_rig()
    rig.policy(attempts=8, backoff_s=20, backoff_cap_s=600)
    rig.start(CONCURRENCY=50)
    await rig.submit([JobRequest(name="always_fail", id=f"j{n}") for n in range(failures)])
    await rig.has("start", failures)
    await rig.stop()

    scores = [score for _, score in await rig.client.zrange(rig.queue, 0, -1, withscores=True)]
    buckets = Counter(int(score // 1000) for score in scores)
    share = max(buckets.values()) / len(scores)
    row.figure(failures=len(scores), max_share_in_1_s=share)
    assert len(scores) == failures
    assert share <= 0.10


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

    reasons = {name: (await _record(rig, name))["reason"] for name in payloads}
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
    records = {name: await _record(rig, name) for name in closed | opened}
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


@pytest.mark.row("W14")
async def test_hooks_that_raise_and_a_redis_that_is_away_cost_no_ending(
    make_rig: MakeRig, row: Row
) -> None:
    """
    All hooks raise, the cache Redis does not exist, and the queue Redis dies as the jobs end.
    """
    rig = make_rig(lease_s=5)
    nobody = f"redis://127.0.0.1:{unused_port()}/0"
    fleet = [rig.start(broken_hooks=True, REDIS_URL=nobody) for _ in range(2)]
    await rig.work(20, 1.0)
    await rig.submit([JobRequest(name="always_fail", id=f"f{n}") for n in range(20)])

    async def ten_work() -> (
        bool
    ):  # those that fail may be due in the same millisecond, and start first
        return sum(entry.id.startswith("j") for entry in rig.entries("start")) >= 10

    await rig.holds(ten_work)

    await crash(rig.server)
    await rig.has("done", 10)
    await asyncio.sleep(0.3)
    rig.server.start()
    await rig.emptied()
    alive = [worker.is_alive for worker in fleet]
    codes = await rig.stop()

    verdict = await rig.verdict()
    row.figure(deaths=alive.count(False), **verdict.figures())
    assert (alive, codes) == ([True, True], [0, 0])
    assert verdict.holds, describe(verdict)
    assert (verdict.complete, verdict.dead) == (20, 20)


@pytest.mark.row("W14")
async def test_an_audit_that_cannot_be_written_refuses_the_action_and_costs_no_ending(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Somebody wants to abort a job: without an audit line nothing is aborted, and the job ends as it would
    have, also where letters are written.
    """
    rig = make_rig()
    worker = rig.start()
    async with api(rig) as http:
        await rig.work(3, 0.8)
        await rig.has("start", 3)
        await rig.client.set(keys.AUDIT, "not a stream: XADD is refused")
        refused = [
            await http.post(f"/jobs/{rig.queue}/j0/abort"),
            await http.post(f"/jobs/{rig.queue}", json={"name": "work", "data": {}}),
            await http.post(f"/queues/{rig.queue}/pause"),
        ]
        looked = await http.get(f"/jobs/{rig.queue}/j0")
    await rig.submit([JobRequest(name="always_fail", id="dies")])
    await rig.emptied()
    alive = worker.is_alive
    await rig.stop()

    verdict = await rig.verdict()
    row.figure(
        refused=[answer.status_code for answer in refused],
        looked=looked.status_code,
        deaths=int(not alive),
        **verdict.figures(),
    )
    assert alive
    assert [answer.status_code for answer in refused] == [503] * 3
    assert looked.status_code == 200
    assert verdict.holds, describe(verdict)
    assert (verdict.complete, verdict.dead, verdict.aborted) == (3, 1, 0)
    assert (await rig.totals())["accepted"] == 4
    assert not await rig.client.exists(keys.PAUSED_QUEUES, keys.ARQ_ABORT)


@pytest.mark.row("W16")
async def test_one_id_is_one_job_however_often_and_through_whatever_it_is_asked_for(
    make_rig: MakeRig, row: Row
) -> None:
    """
    A hundred producers at once, and one whose reply is lost after the job was accepted.
    """
    rig = make_rig()
    rig.start()
    same = [JobRequest(name="work", id="same")]
    made = await asyncio.gather(*(enqueue_many(rig.producer, rig.queue, same) for _ in range(100)))
    async with ChaosProxy(rig.server.port) as proxy:
        url = rig.server.database(2).replace(f":{rig.server.port}/", f":{proxy.port}/")
        producer = connect(url, retries=0)
        await producer.ping()
        proxy.cut_next_reply = True
        with pytest.raises(RedisUnavailable):
            await enqueue_many(producer, rig.queue, [JobRequest(name="work", id="cut")])
        again = await enqueue_many(producer, rig.queue, [JobRequest(name="work", id="cut")])
        await producer.aclose(close_connection_pool=True)
    rig.acked |= {"same", "cut"}
    await rig.emptied()
    await rig.stop()

    verdict = await rig.verdict()
    created = sum(answer.created for answers in made for answer in answers)
    row.figure(created=created, created_again=again[0].created, **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert (created, again[0].created, verdict.duplicates) == (1, False, 0)
    assert (await rig.totals())["accepted"] == 2


@pytest.mark.row("W17")
@pytest.mark.parametrize("shift", ["+2h", "-2h"])
async def test_a_workers_wrong_clock_starts_nothing_early_and_nothing_late(
    make_rig: MakeRig, row: Row, shift: str
) -> None:
    """
    Redis' clock decides when a job is due; stock arq runs the hour's job at once.
    """
    faketime = shutil.which("faketime")
    if faketime is None:
        lacking("faketime")
    rig = make_rig()
    # faketime forks: what it started dies with it
    prefix = (faketime, "-f", shift, "setpriv", "--pdeathsig", "KILL")
    worker = rig.start_fresh(*prefix, FAKETIME_DONT_FAKE_MONOTONIC=1)
    await rig.has_started(worker)
    delay_s = sized(2.0, 1.2)
    before_ms = await _now_ms(rig)
    await rig.submit(
        [
            JobRequest(name="work", id="now"),
            JobRequest(name="work", id="soon", delay_s=delay_s),
            JobRequest(name="work", id="later", delay_s=3600),
        ]
    )
    after_ms = await _now_ms(rig)
    await rig.holds(lambda: rig.client.exists(keys.arq_result("soon")), limit_s=10)

    # an end's report has its id from Redis, whose clock is the one that counts
    ends = await rig.client.xrange(keys.runs(rig.queue))
    ((ended_ms, due_ms),) = [
        (int(entry.partition(b"-")[0]), run.due_ms)
        for entry, fields in ends
        if (run := JobRun.from_json(fields[b"r"])).job_id == "soon"
    ]
    waiting = [raw.decode() for raw in await rig.client.zrange(rig.queue, 0, -1)]
    row.figure(shift=shift, late_s=(ended_ms - due_ms) / 1000, waiting=waiting)
    assert worker.is_alive
    assert waiting == ["later"]
    assert before_ms <= due_ms - delay_s * 1000 <= after_ms
    assert due_ms <= ended_ms <= due_ms + 1000


async def _now_ms(rig: Rig) -> int:
    """Redis' clock."""
    seconds, micros = await rig.client.time()
    return int(seconds) * 1000 + int(micros) // 1000
