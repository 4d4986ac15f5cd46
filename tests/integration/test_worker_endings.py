"""How a job ends in a real Redis: well, after retries, refused, late, hostile; each leaves what it should and nothing else."""

import asyncio
import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from arq import Retry
from arq.jobs import Job, JobStatus
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue
from app.letters.redrive import Shelf, Verdict, redrive
from app.payloads.codec import Codec
from app.records import JobRun, LetterState
from app.wire.connections import connect
from tests.conftest import RunningRedis
from tests.integration.worker_rig import (  # noqa: F401 - fixtures
    QUEUE,
    fail,
    leftovers,
    letter,
    linger,
    make_worker,
    raw_redis,
    refuse,
    succeed,
    totals,
)
from tests.waiting import until
from workers.claims.janitor import Janitor
from workers.engine.worker import Worker
from workers.retry_policy import RetryPolicy

#: every test here on Redis 7 and on the embedded 6.2: the scripts are half of the worker
pytestmark = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


async def test_a_job_that_ends_well_leaves_its_result_its_report_and_nothing_else(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Result, report and count are written in the step that removes the job.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", args=({"n": 1},), id="j1"))

    await make_worker().main()

    assert await Job("j1", raw_redis, QUEUE, Codec().decode).result(timeout=1) == {"n": 1}
    ((_, fields),) = await raw_redis.xrange(keys.runs(QUEUE))
    run = JobRun.from_json(fields[b"r"])
    assert (run.job_id, run.outcome, run.attempt, run.function) == ("j1", "complete", 1, "succeed")
    assert await totals(raw_redis) == {"accepted": 1, "complete": 1}
    assert await leftovers(raw_redis) == set()


async def test_a_plain_exception_is_retried_and_then_kept_with_its_raw_payload(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Three attempts, then a dead letter whose payload is the very bytes that were enqueued.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="fail", args=("db-7",), id="j1"))
    enqueued = hashlib.sha256(await raw_redis.get(keys.arq_job("j1"))).hexdigest()

    await make_worker().main()

    kept = await raw_redis.get(keys.dead_payload(QUEUE, "j1"))
    assert hashlib.sha256(kept).hexdigest() == enqueued
    assert await raw_redis.pttl(keys.dead_payload(QUEUE, "j1")) == -1
    found = await letter(raw_redis, "j1")
    assert (found.state, found.reason, found.attempts) == (LetterState.NEW, "attempts", 3)
    assert (found.error_type, found.error) == ("ConnectionError", "no route to db-7")
    assert "in fail" in found.traceback
    assert [f["attempt"] for f in json.loads(found.history)] == [1, 2, 3]
    assert await raw_redis.zrange(keys.dead_open(QUEUE), 0, -1) == [b"j1"]
    assert await totals(raw_redis) == {"accepted": 1, "retried": 2, "failed": 3, "dead": 1}
    assert await leftovers(raw_redis) == set()


async def test_a_permanent_error_is_not_retried(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    await enqueue(raw_redis, QUEUE, JobRequest(name="refuse", id="j1"))

    await make_worker().main()

    found = await letter(raw_redis, "j1")
    assert (found.reason, found.attempts) == ("permanent", 1)


async def test_arqs_retry_waits_as_long_as_it_asks_and_counts_as_an_attempt(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    tries: list[int] = []

    async def twice(ctx: dict[str, Any]) -> str:
        tries.append(ctx["job_try"])
        if ctx["job_try"] < 3:
            raise Retry(defer=timedelta(milliseconds=50))
        return "third time"

    await enqueue(raw_redis, QUEUE, JobRequest(name="twice", id="j1"))
    started = time.monotonic()

    await make_worker(twice).main()

    assert tries == [1, 2, 3]
    assert time.monotonic() - started >= 0.1
    assert await Job("j1", raw_redis, QUEUE, Codec().decode).result(timeout=1) == "third time"


async def test_a_timeout_ends_the_run_and_names_itself(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    request = JobRequest(name="linger", args=(60,), id="j1", timeout_s=0.2, attempts=1)
    await enqueue(raw_redis, QUEUE, request)

    await make_worker().main()

    found = await letter(raw_redis, "j1")
    assert (found.reason, found.error_type) == ("timeout", "TimeoutError")


async def test_hostile_payloads_and_unknown_functions_become_letters_and_the_worker_lives(
    raw_redis: Redis, make_worker: Callable[..., Worker], tmp_path: Any
) -> None:
    """
    Malformed bytes, wrong shapes, a pickle bomb, an unknown function, a vanished payload.
    """
    canary = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(canary),)

    payloads = {
        "garbage": b"\x00\xff\x13",
        "shape": b'j1:{"t":"x","f":1,"a":{},"k":[],"et":null}',
        "deep": b'j1:{"t":null,"f":"succeed","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "bomb": pickle.dumps({"t": None, "f": "succeed", "a": (Bomb(),), "k": {}, "et": 1}),
        "unknown": b'j1:{"t":null,"f":"nobody","a":[],"k":{},"et":1}',
    }
    for name, payload in payloads.items():
        await raw_redis.set(keys.arq_job(name), payload, px=60_000)
        await raw_redis.zadd(QUEUE, {name: 1})
    await raw_redis.zadd(QUEUE, {"expired": 1})
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="good"))

    await make_worker(options={"unknown_grace_s": 0.0}).main()

    assert not canary.exists()
    reasons = {i: (await letter(raw_redis, i)).reason for i in (*payloads, "expired")}
    assert reasons == {
        "garbage": "malformed",
        "shape": "malformed",
        "deep": "malformed",
        "bomb": "malformed",
        "unknown": "unknown-function",
        "expired": "expired",
    }
    for name, payload in payloads.items():
        assert await raw_redis.get(keys.dead_payload(QUEUE, name)) == payload
    assert await Job("good", raw_redis, QUEUE).status() is JobStatus.complete


async def test_a_function_nobody_knows_yet_waits_for_a_newer_worker(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    During a rolling deploy the old worker lays the job back instead of destroying it.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="newcomer", id="j1"))
    old = make_worker(burst=False)
    running = asyncio.create_task(old.main())
    await until(lambda: raw_redis.hexists(keys.attempts(QUEUE), "j1"))
    old.handle_sig(15)
    await running
    await raw_redis.zadd(QUEUE, {"j1": 1})

    async def newcomer(ctx: dict[str, Any]) -> str:
        return "welcome"

    await make_worker(newcomer).main()

    assert await Job("j1", raw_redis, QUEUE, Codec().decode).result(timeout=1) == "welcome"


async def test_a_payload_about_to_expire_is_kept_for_the_letter(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Stock arq: "job expired", arguments gone for ever.
    """
    payload = Codec().encode_job("succeed", (7,), {}, enqueued_ms=1)
    await raw_redis.set(keys.arq_job("j1"), payload, px=60_000)
    await raw_redis.zadd(QUEUE, {"j1": 1})
    assert await Janitor(QUEUE).round(raw_redis, int(time.time() * 1000)) == 1
    await raw_redis.delete(keys.arq_job("j1"))

    await make_worker().main()

    assert (await letter(raw_redis, "j1")).reason == "expired"
    assert await raw_redis.get(keys.dead_payload(QUEUE, "j1")) == payload


async def test_the_memory_of_a_job_lasts_over_its_runs_and_not_to_the_next_job_of_its_id(
    redis_server: RunningRedis, raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Checkpoint and marks survive failures and the retry of the dead letter; an id used again later
    belongs to another job, whose work must not be skipped.
    """
    seen: list[tuple[str, Any, bool]] = []
    broken = True

    async def work(ctx: dict[str, Any]) -> None:
        job = ctx["job"]
        seen.append((ctx["job_id"], await job.restore(), await job.once("mail")))
        await job.checkpoint("half")
        if broken:
            raise ConnectionError("away")

    await enqueue(raw_redis, QUEUE, JobRequest(name="work", id="daily"))
    await make_worker(work, policy=RetryPolicy(attempts=2, base_s=0.01, cap_s=0.02)).main()
    broken = False
    client = connect(redis_server.url)
    assert (await redrive(Shelf(client, QUEUE, "job"), "daily", Verdict(actor="me"))).changed
    await client.aclose(close_connection_pool=True)
    await make_worker(work).main()
    await raw_redis.delete(keys.arq_result("daily"), keys.arq_result("daily~r1"))
    await enqueue(raw_redis, QUEUE, JobRequest(name="work", id="daily"))
    await make_worker(work).main()

    assert seen == [
        ("daily", None, True),
        ("daily", "half", False),
        ("daily~r1", "half", False),
        ("daily", None, True),
    ]
