"""The worker on a real Redis: outcomes, retries, dead letters, leases and compatibility with arq."""

import asyncio
import hashlib
import json
import os
import pickle
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq import Retry, cron
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from arq.worker import func
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue, enqueue_many
from app.errors import PermanentError
from app.letters.redrive import Shelf, Verdict, redrive
from app.payloads.codec import Codec
from app.records import DeadLetter, JobRun, LetterState
from app.wire.connections import connect
from tests.conftest import RunningRedis
from tests.waiting import until
from workers.claims.janitor import Janitor
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.retry_policy import RetryPolicy

QUEUE = "async-processing"
#: every test here on Redis 7 and on the embedded 6.2: the scripts are half of the worker
pytestmark = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)
PATIENT = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02)


async def succeed(ctx: dict[str, Any], value: Any = None) -> Any:
    return value


async def fail(ctx: dict[str, Any], value: Any = None) -> None:
    raise ConnectionError(f"no route to {value}")


async def refuse(ctx: dict[str, Any]) -> None:
    raise PermanentError("the base is gone")


async def linger(ctx: dict[str, Any], seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@pytest.fixture
async def raw_redis(redis_server: RunningRedis) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_server.url)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def make_worker(
    redis_server: RunningRedis, raw_redis: Redis
) -> AsyncIterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(*functions: Any, policy: RetryPolicy = PATIENT, **more: Any) -> Worker:
        options = {
            "url": redis_server.url,
            "policy": policy,
            "codec": Codec(),
            "drain_s": 5.0,
            **more.pop("options", {}),
        }
        listed = functions or (succeed, fail, refuse, linger)
        worker = Worker(
            functions=[f if hasattr(f, "coroutine") else func(f, name=f.__name__) for f in listed],
            queue_name=QUEUE,
            handle_signals=False,
            **{"burst": True, "ctx": {"arqscope": EngineOptions(**options)}, **more},
        )
        made.append(worker)
        return worker

    yield make
    for worker in made:
        await worker.close()


async def letter(redis: Redis, letter_id: str) -> DeadLetter:
    raw = await redis.hgetall(keys.dead_record(QUEUE, letter_id))
    return DeadLetter.from_fields({k.decode(): v.decode() for k, v in raw.items()})


async def totals(redis: Redis) -> dict[str, int]:
    return {k.decode(): int(v) for k, v in (await redis.hgetall(keys.totals(QUEUE))).items()}


async def leftovers(redis: Redis) -> set[bytes]:
    """Keys of unfinished business: whatever a finished job must not leave behind."""
    found = {
        k for k in await redis.keys("*") if k.startswith((b"arq:job", b"arq:in-p", b"arq:ret"))
    }
    for key in (QUEUE, keys.running(QUEUE), keys.attempts(QUEUE)):
        if await redis.exists(key):
            found.add(key.encode())
    return found


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


async def test_a_stopping_worker_lays_its_job_back_without_costing_an_attempt(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(30,), id="j1"))
    worker = make_worker(burst=False, options={"drain_s": 0.1})
    running = asyncio.create_task(worker.main())
    await until(lambda: raw_redis.hexists(keys.running(QUEUE), "j1"))

    worker.handle_sig(15)
    await asyncio.wait_for(running, 10)

    assert (await raw_redis.hget(keys.attempts(QUEUE), "j1")).startswith(b"1:0:1:0|")
    assert await raw_redis.zscore(QUEUE, "j1") is not None
    assert not await raw_redis.exists(keys.arq_in_progress("j1"))
    assert await totals(raw_redis) == {"accepted": 1, "shutdown": 1}


async def test_a_draining_worker_lets_its_job_end_and_takes_no_other(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(0.5,), id="j1"))
    worker = make_worker(burst=False)
    running = asyncio.create_task(worker.main())
    await until(lambda: raw_redis.hexists(keys.running(QUEUE), "j1"))

    worker.handle_sig(15)
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="j2"))
    await asyncio.wait_for(running, 10)

    assert await Job("j1", raw_redis, QUEUE, Codec().decode).result(timeout=1) == "done"
    assert await Job("j2", raw_redis, QUEUE).status() is JobStatus.queued


async def test_an_orphan_falls_due_at_its_lease_end_and_counts_as_a_crash(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    A worker that vanished leaves a running mark and a lease; no scan is needed to find the job.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="j1"))
    now = int(time.time() * 1000)
    await raw_redis.hset(keys.running(QUEUE), "j1", f"{now}:{now}:1:gone#1")
    await raw_redis.set(keys.arq_in_progress("j1"), "gone#1", px=300)
    await raw_redis.zadd(QUEUE, {"j1": now + 300})

    await make_worker().main()

    ((_, fields),) = await raw_redis.xrange(keys.runs(QUEUE))
    assert JobRun.from_json(fields[b"r"]).attempt == 2
    assert (await totals(raw_redis))["crashed"] == 1


async def test_a_job_that_keeps_killing_workers_is_buried_as_a_crash(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Two crashes among others and three alone, the last of them not yet counted.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="j1"))
    await raw_redis.hset(keys.attempts(QUEUE), "j1", "4:0:0:4|")
    await raw_redis.hset(keys.running(QUEUE), "j1", "1:1:5:gone#5")

    await make_worker().main()

    found = await letter(raw_redis, "j1")
    assert found.reason == "crash"
    assert "5 times" in found.error
    assert "3 of them with nothing beside it" in found.error


async def test_a_job_suspected_by_crashes_of_others_runs_alone_and_is_not_buried(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Whatever ran on a worker that vanished is suspected once; what ends well is cleared.
    """
    names = [f"j{number}" for number in range(8)]
    await enqueue_many(raw_redis, QUEUE, [JobRequest(name="peek", id=name) for name in names])
    for name in names:
        await raw_redis.hset(keys.attempts(QUEUE), name, "1:0:0:1|")
        await raw_redis.hset(keys.running(QUEUE), name, "1:1:2:gone#2")
    at_once: list[int] = []
    worker: Worker

    async def peek(ctx: dict[str, Any]) -> None:
        at_once.append(len(worker.tasks))
        await asyncio.sleep(0.01)
        at_once.append(len(worker.tasks))

    worker = make_worker(func(peek, name="peek"))
    await worker.main()

    assert at_once == [1] * 16
    assert await totals(raw_redis) == {"accepted": 8, "complete": 8, "crashed": 8}
    assert not await raw_redis.exists(keys.attempts(QUEUE), keys.dead_open(QUEUE))


async def test_the_ending_of_a_run_whose_lease_went_elsewhere_is_refused(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    The fence: a worker that was paused past its lease must not overwrite what its heir did.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(0.6,), id="j1"))
    worker = make_worker(burst=False)
    running = asyncio.create_task(worker.main())
    await until(lambda: raw_redis.hexists(keys.running(QUEUE), "j1"))

    await raw_redis.hset(keys.running(QUEUE), "j1", "1:1:2:heir#1")
    await raw_redis.set(keys.arq_in_progress("j1"), "heir#1", px=60_000)
    await until(lambda: asyncio.sleep(0, not worker.tasks and not len(worker.outbox)))
    worker.handle_sig(15)
    await running

    assert not await raw_redis.exists(keys.arq_result("j1"))
    assert await raw_redis.get(keys.arq_in_progress("j1")) == b"heir#1"
    assert "complete" not in await totals(raw_redis)


async def test_arqs_own_abort_stops_a_running_and_a_deferred_job(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(60,), id="running"))
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="deferred", delay_s=3600))
    worker = make_worker(burst=False, allow_abort_jobs=True)
    running = asyncio.create_task(worker.main())
    await until(lambda: raw_redis.hexists(keys.running(QUEUE), "running"))
    decode = Codec().decode

    aborted = [
        await Job(name, raw_redis, QUEUE, decode).abort(timeout=5, poll_delay=0.05)
        for name in ("running", "deferred")
    ]
    worker.handle_sig(15)
    await running

    assert aborted == [True, True]
    assert await raw_redis.zcard(keys.ARQ_ABORT) == 0
    assert (await totals(raw_redis))["aborted"] == 2


async def test_a_pickled_job_of_a_stock_producer_runs_when_that_is_allowed(
    redis_server: RunningRedis, raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    The stock producer also reads the result, so it goes back pickled.
    """
    producer = ArqRedis.from_url(redis_server.url)
    producer.default_queue_name = QUEUE
    producer.job_serializer = producer.job_deserializer = None
    producer.expires_extra_ms = 86_400_000
    job = await producer.enqueue_job("succeed", {"x": (1, 2)}, _queue_name=QUEUE)
    assert job is not None

    await make_worker(options={"codec": Codec(allow_pickle=True)}).main()

    assert await job.result(timeout=1) == {"x": (1, 2)}
    await producer.aclose()


async def test_pause_holds_jobs_back_and_resume_lets_them_go(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    await raw_redis.sadd(keys.PAUSED_QUEUES, QUEUE)
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="j1"))
    worker = make_worker(burst=False)
    running = asyncio.create_task(worker.main())
    await until(lambda: asyncio.sleep(0, worker.claiming.rounds > 1))
    assert await Job("j1", raw_redis, QUEUE).status() is JobStatus.queued

    await raw_redis.srem(keys.PAUSED_QUEUES, QUEUE)
    await until(lambda: raw_redis.exists(keys.arq_result("j1")))
    worker.handle_sig(15)
    await running


async def test_an_idle_worker_starts_a_job_within_milliseconds(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(burst=False)
    running = asyncio.create_task(worker.main())
    await until(
        lambda: asyncio.sleep(0, worker._wakeups is not None and worker.wakeups.is_listening)
    )
    for number in range(10):
        await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id=f"j{number}"))
        await until(lambda n=number: raw_redis.exists(keys.arq_result(f"j{n}")))
    worker.handle_sig(15)
    await running

    waits = sorted(
        JobRun.from_json(f[b"r"]).wait_s for _, f in await raw_redis.xrange(keys.runs(QUEUE))
    )
    assert waits[len(waits) // 2] < 0.1


async def test_a_worker_that_runs_a_long_job_starts_others_within_milliseconds(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """A busy worker with free slots waits for wake tokens too; a poll would take 100s of ms."""
    worker = make_worker(burst=False)
    running = asyncio.create_task(worker.main())
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(30,), id="long"))
    await until(lambda: asyncio.sleep(0, len(worker.tasks) == 1 and worker.wakeups.is_listening))
    for number in range(10):
        await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id=f"j{number}"))
        await until(lambda n=number: raw_redis.exists(keys.arq_result(f"j{n}")))
    assert "long" in worker.tasks
    worker.handle_sig(15)
    worker.handle_sig(15)
    await running

    waits = sorted(
        JobRun.from_json(f[b"r"]).wait_s
        for _, f in await raw_redis.xrange(keys.runs(QUEUE))
        if JobRun.from_json(f[b"r"]).function == "succeed"
    )
    assert len(waits) == 10
    assert waits[5] < 0.1


async def test_a_worker_without_a_free_slot_leaves_the_wake_tokens_to_others(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    worker = make_worker(burst=False, max_jobs=1)
    running = asyncio.create_task(worker.main())
    await until(
        lambda: asyncio.sleep(0, worker._wakeups is not None and worker.wakeups.is_listening)
    )
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(30,), id="long"))
    await until(lambda: asyncio.sleep(0, len(worker.tasks) == 1))
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="other"))

    async def token_lies() -> bool:
        return bool(await raw_redis.llen(keys.wake(QUEUE)))

    await until(token_lies)

    async def blocked() -> int:
        return int((await raw_redis.info("clients"))["blocked_clients"])

    assert await blocked() == 0
    worker.handle_sig(15)
    worker.handle_sig(15)
    await running


async def test_jobs_survive_a_restart_of_redis_and_the_worker_stays(
    redis_server: RunningRedis, raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    kill -9 on Redis while 200 jobs are under way: the same worker finishes every one.
    """
    requests = [JobRequest(name="linger", args=(0.02,), id=f"j{n}") for n in range(200)]
    await enqueue_many(raw_redis, QUEUE, requests)
    worker = make_worker(burst=False)
    running = asyncio.create_task(worker.main())
    await until(lambda: raw_redis.exists(keys.runs(QUEUE)))

    redis_server.kill()
    redis_server.start()

    async def all_done() -> bool:
        return (await totals(raw_redis)).get("complete") == 200

    await until(all_done, timeout_s=20)
    worker.handle_sig(15)
    await running
    assert await leftovers(raw_redis) == set()


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


async def test_a_late_worker_does_not_run_a_cron_tick_again(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    arq issue 196: the finished tick is enqueued once more and runs twice.
    """
    ran: list[int] = []

    async def tick(ctx: dict[str, Any]) -> None:
        ran.append(1)

    for _ in range(2):
        job = cron(tick, hour=None, minute=None, second=None, microsecond=0)
        worker = make_worker(succeed, cron_jobs=[job])
        job.next_run = datetime.fromtimestamp(1_700_000_000, UTC)
        await worker.main()

    assert len(ran) == 1


async def test_a_stock_worker_beside_ours_shares_the_queue(
    redis_server: RunningRedis, raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Both take jobs of our producer; every job runs once, whoever takes it.
    """
    ran: list[tuple[str, int]] = []

    async def by_ours(ctx: dict[str, Any], number: int) -> None:
        ran.append(("ours", number))
        await asyncio.sleep(0.05)

    async def by_stock(ctx: dict[str, Any], number: int) -> None:
        ran.append(("stock", number))
        await asyncio.sleep(0.05)

    codec = Codec()
    pool = ArqRedis.from_url(redis_server.url)
    pool.job_serializer, pool.job_deserializer = codec.encode, codec.decode
    pool.default_queue_name, pool.expires_extra_ms = QUEUE, 86_400_000
    stock = Worker.__mro__[1](
        functions=[func(by_stock, name="work")],
        queue_name=QUEUE,
        redis_pool=pool,
        burst=True,
        poll_delay=0.01,
        max_jobs=3,
        handle_signals=False,
        job_serializer=codec.encode,
        job_deserializer=codec.decode,
    )
    ours = make_worker(func(by_ours, name="work"), max_jobs=3)
    requests = [JobRequest(name="work", args=(n,), id=f"j{n}") for n in range(60)]
    await enqueue_many(raw_redis, QUEUE, requests)

    await asyncio.wait_for(asyncio.gather(stock.main(), ours.main()), 30)

    assert sorted(number for _, number in ran) == list(range(60))
    assert {who for who, _ in ran} == {"ours", "stock"}
    assert await leftovers(raw_redis) == set()
    await pool.aclose(close_connection_pool=True)


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


async def test_a_job_of_a_stopping_worker_lays_itself_back_at_no_attempt(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    async def work(ctx: dict[str, Any]) -> str:
        job = ctx["job"]
        if job.attempt > 1 or await job.restore():
            return "resumed"
        await job.checkpoint("half")
        while not job.should_stop():  # noqa: ASYNC110 - as a user's job would
            await asyncio.sleep(0.01)
        job.lay_back()

    await enqueue(raw_redis, QUEUE, JobRequest(name="work", id="j1"))
    worker = make_worker(work, burst=False)
    running = asyncio.create_task(worker.main())
    await until(lambda: asyncio.sleep(0, len(worker.tasks) == 1))
    worker.handle_sig(15)
    await running
    assert await raw_redis.zcard(QUEUE) == 1

    await make_worker(work).main()

    report = [JobRun.from_json(f[b"r"]) for _, f in await raw_redis.xrange(keys.runs(QUEUE))][-1]
    assert str(report.outcome) == "complete"
    assert (await totals(raw_redis)).get("failed", 0) == 0
