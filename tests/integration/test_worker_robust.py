"""The worker against what should not be: hostile payload fields, its own errors, abrupt ends."""

import asyncio
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_sync
from arq import cron
from arq.jobs import Job, JobStatus
from arq.worker import async_check_health
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue
from app.errors import InvalidRequest
from app.payloads.codec import MAX_PAYLOAD_BYTES, Codec
from tests.conftest import RunningRedis
from tests.integration.worker_rig import (  # noqa: F401 - fixtures
    QUEUE,
    leftovers,
    letter,
    linger,
    make_worker,
    raw_redis,
    succeed,
    totals,
)
from tests.waiting import until
from workers.claims.claimer import Claimer
from workers.claims.leases import LeaseKeeper
from workers.engine.worker import Worker
from workers.settings import redis_settings

pytestmark = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)

GOOD = {"t": None, "f": "succeed", "a": [], "k": {}, "et": 1}
#: fields of a payload that is well-formed but that nobody can act on
ODD: dict[str, dict[str, Any]] = {
    "timeout-text": {"o": {"timeout": "soon"}},
    "timeout-list": {"o": {"timeout": [1]}},
    "timeout-huge": {"o": {"timeout": 10**400}},
    "attempts-huge": {"f": "fail", "o": {"attempts": 10**400}},
    "attempts-true": {"o": {"attempts": True}},
    "backoff-huge": {"f": "fail", "o": {"backoff": 10**400}},
    "backoff-below": {"f": "fail", "o": {"backoff": -1}},
    "cid-object": {"o": {"cid": {"a": 1}}},
    "cid-long": {"o": {"cid": "c" * 10_000}},
    "enqueued-never": {"et": 10**30},
    "enqueued-before": {"et": -(10**30)},
    "options-list": {"o": [1]},
}


async def put_raw(redis: Redis, job_id: str, payload: bytes) -> None:
    """A job as a foreign producer writes it."""
    await redis.set(keys.arq_job(job_id), payload, px=60_000)
    await redis.zadd(QUEUE, {job_id: 1})


async def test_no_field_of_a_payload_stops_a_worker_or_leaves_its_job_claimed(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Well-formed JSON, and pickles, whose numbers no policy, clock or timer can use.
    """
    for name, fields in ODD.items():
        await put_raw(raw_redis, name, b"j1:" + json.dumps(GOOD | fields).encode())
        await put_raw(raw_redis, f"{name}-pickled", pickle.dumps(GOOD | fields))
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="good"))
    worker = make_worker(options={"codec": Codec(allow_pickle=True)})

    await asyncio.wait_for(worker.main(), 20)

    for name in ODD:
        for job_id in (name, f"{name}-pickled"):
            assert (await letter(raw_redis, job_id)).reason == "malformed", job_id
            assert await raw_redis.exists(keys.dead_payload(QUEUE, job_id))
    assert await Job("good", raw_redis, QUEUE).status() is JobStatus.complete
    assert await leftovers(raw_redis) == set()


async def test_a_stock_payload_enqueued_at_no_time_is_a_letter_too(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    Without our codec arq's own decoder reads the payload; its numbers are checked as well.
    """
    await put_raw(raw_redis, "never", pickle.dumps(GOOD | {"et": 10**30}))
    await put_raw(raw_redis, "good", pickle.dumps(GOOD))

    await asyncio.wait_for(make_worker(options={"codec": None}).main(), 20)

    assert (await letter(raw_redis, "never")).reason == "malformed"
    assert await Job("good", raw_redis, QUEUE).status() is JobStatus.complete


async def test_a_due_time_that_is_no_time_does_not_block_the_queue(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    -inf is a score Redis takes, and the head of every queue.
    """
    await put_raw(raw_redis, "first", b"j1:" + json.dumps(GOOD).encode())
    await raw_redis.zadd(QUEUE, {"first": "-inf"})
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="second"))

    await asyncio.wait_for(make_worker().main(), 20)

    assert (await totals(raw_redis))["complete"] == 2


async def test_names_of_functions_are_cut_where_they_are_kept(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    10,000 run reports of jobs with a name of 100 KB would be a gigabyte of Redis.
    """
    await put_raw(raw_redis, "long", b"j1:" + json.dumps(GOOD | {"f": "f" * 100_000}).encode())

    await make_worker(options={"unknown_grace_s": 0.0}).main()

    (_, report), *_ = await raw_redis.xrange(keys.runs(QUEUE))
    assert len(report[b"r"]) < 2_000
    assert len((await letter(raw_redis, "long")).name) == 128


async def test_a_run_the_worker_itself_fails_to_end_is_a_crash_and_not_held_for_ever(
    raw_redis: Redis, make_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An error in our own code costs the lease, not the worker; after enough of them the job is a letter.
    """
    worker = make_worker(burst=False, options={"lease_s": 0.3})
    running = asyncio.create_task(worker.main())
    await until(lambda: _ready(worker))
    endings = worker.runner.endings
    complete = endings.complete

    def broken(run: Any, *rest: Any) -> None:
        if run.claim.id == "cursed":
            raise AssertionError("a bug of ours")
        complete(run, *rest)

    monkeypatch.setattr(endings, "complete", broken)
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="cursed"))
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="good"))
    await until(lambda: raw_redis.exists(keys.dead_record(QUEUE, "cursed")), timeout_s=20)
    await worker.close()
    await running

    assert (await letter(raw_redis, "cursed")).reason == "crash"
    assert (await totals(raw_redis))["complete"] == 1
    assert await leftovers(raw_redis) == set()


async def _ready(worker: Worker) -> bool:
    return worker._runner is not None


async def test_closing_a_running_worker_stops_it_as_a_signal_does(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    ``handle_signals=False`` is for workers inside other frameworks: ``close()`` is how they stop.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(60,), id="long"))
    worker = make_worker(burst=False, options={"drain_s": 0.0})
    running = asyncio.create_task(worker.main())
    await until(lambda: raw_redis.hexists(keys.running(QUEUE), "long"))

    await asyncio.wait_for(worker.close(), 10)

    assert running.done()
    assert running.exception() is None
    assert await raw_redis.hget(keys.attempts(QUEUE), "long") == b"1:0:1:0|"
    assert not await raw_redis.exists(keys.running(QUEUE))


async def test_a_worker_whose_main_is_cancelled_lays_its_jobs_back(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    A framework that cancels the task leaves no job to its lease.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(60,), id="long"))
    worker = make_worker(burst=False)
    running = asyncio.create_task(worker.main())
    await until(lambda: raw_redis.hexists(keys.running(QUEUE), "long"))

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)

    assert await raw_redis.hget(keys.attempts(QUEUE), "long") == b"1:0:1:0|"
    assert not await raw_redis.exists(keys.running(QUEUE))
    assert not await raw_redis.exists(keys.arq_in_progress("long"))


async def test_a_worker_that_does_not_allow_aborts_finishes_its_jobs(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    ``allow_abort_jobs`` is off by default in arq, and stays so in a worker made with arq's arguments.
    """
    await enqueue(raw_redis, QUEUE, JobRequest(name="linger", args=(1.5,), id="running"))
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="waiting"))
    await raw_redis.zadd(keys.ARQ_ABORT, {"running": 2**40, "waiting": 2**40})

    await make_worker(allow_abort_jobs=False).main()

    counted = await totals(raw_redis)
    assert (counted["complete"], counted.get("aborted", 0)) == (2, 0)
    assert await raw_redis.zcard(keys.ARQ_ABORT) == 0


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
async def test_a_worker_with_arqs_defaults_passes_arqs_health_check(
    raw_redis: Redis, redis_server: RunningRedis, make_worker: Callable[..., Worker]
) -> None:
    """
    ``arq --check`` finds the sentinel from the first moment, with the default interval of an hour too.
    """
    worker = make_worker(burst=False)
    running = asyncio.create_task(worker.main())
    await until(lambda: raw_redis.exists(worker.health_check_key))

    assert await async_check_health(redis_settings(redis_server.url), queue_name=QUEUE) == 0

    second = make_worker(burst=False)
    beside = asyncio.create_task(second.main())
    await until(lambda: _beats(raw_redis, 2))
    await worker.close()
    await running
    assert await raw_redis.exists(worker.health_check_key)  # the second lives by it
    await second.close()
    await beside
    assert not await raw_redis.exists(worker.health_check_key)


async def _beats(redis: Redis, count: int) -> bool:
    return await redis.zcard(keys.WORKERS) == count


async def test_jobs_cannot_be_started_past_the_claim(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    arq's ``start_jobs`` would run a job without lease, fence or dead letter.
    """
    worker = make_worker()

    with pytest.raises(RuntimeError, match="without a lease"):
        await worker.start_jobs([b"j1"])
    with pytest.raises(RuntimeError, match="without a lease"):
        await worker.run_job("j1", 1)


async def test_a_hook_that_exits_ends_neither_its_worker_nor_its_job(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    SystemExit leaves an event loop at once where nobody stops it.
    """

    async def leave(ctx: dict[str, Any]) -> None:
        raise SystemExit(3)

    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="j1"))

    await make_worker(on_job_start=leave, on_job_end=leave, after_job_end=leave).main()

    assert (await totals(raw_redis))["complete"] == 1


def test_a_correlation_id_that_no_worker_would_take_is_refused_at_the_door(
    redis_server: RunningRedis,
) -> None:
    """
    What the producer's side lets pass, the worker's side reads.
    """
    with pytest.raises(InvalidRequest, match="correlationId"):
        JobRequest(name="succeed", correlation_id="c" * 257)


async def test_a_cron_job_of_the_startup_runs_in_burst_mode_too(
    raw_redis: Redis, make_worker: Callable[..., Worker]
) -> None:
    """
    arq's own cron with ``run_at_startup``, in burst mode: the queue is not empty before its tick ran.
    """
    ran: list[str] = []

    async def tick(ctx: dict[str, Any]) -> None:
        ran.append(ctx["job_id"])

    worker = make_worker(cron_jobs=[cron(tick, hour=1, run_at_startup=True)])

    await worker.main()

    assert len(ran) == 1


def test_limits_of_producer_and_worker_agree(redis_server: RunningRedis) -> None:
    """
    Whatever JobRequest accepts at its bounds decodes on the other side.
    """
    for fields in (
        {"timeout_s": 0.001, "attempts": 1, "backoff_s": 0},
        {"timeout_s": 86_400, "attempts": 1_000, "backoff_s": 3_600, "correlation_id": "c" * 256},
    ):
        asked = JobRequest(name="succeed", **fields)  # type: ignore[arg-type]
        raw = Codec().encode_job("succeed", (), {}, enqueued_ms=1, options=asked.options())
        assert Codec().decode_job(raw).options == asked.options()
        assert len(raw) < MAX_PAYLOAD_BYTES


# -- the scripts that a running worker seldom needs ------------------------------------------------


async def test_what_a_lost_claim_handed_over_is_put_back_as_it_was(raw_redis: Redis) -> None:
    """
    give_back.lua: only what this worker does not know of, due when it was due, without a crash.
    """
    for due_ms, name in enumerate(
        ("known", "unheard", "foreign"), 11
    ):  # 1 is how arq asks for an abort
        await put_raw(raw_redis, name, b"j1:" + json.dumps(GOOD).encode())
        await raw_redis.zadd(QUEUE, {name: due_ms})
    mine = Claimer(queue=QUEUE, worker_id="host:1:aa", lease_ms=30_000, crashes=5)
    other = Claimer(queue=QUEUE, worker_id="host:1:ab", lease_ms=30_000, crashes=5)
    first = await mine.claim(raw_redis, 2, token="host:1:aa#1", idle=True)
    rest = await other.claim(raw_redis, 1, token="host:1:ab#1", idle=True)
    assert [claim.id for claim in first.claims + rest.claims] == ["known", "unheard", "foreign"]

    assert await mine.give_back(raw_redis, ["known"]) == ["unheard"]
    assert await mine.give_back(raw_redis, ["known"]) == []

    assert await raw_redis.zscore(QUEUE, "unheard") == 12
    assert await raw_redis.zscore(QUEUE, "known") > 13  # leased still
    assert await raw_redis.hkeys(keys.attempts(QUEUE)) == []
    assert not await raw_redis.exists(keys.arq_in_progress("unheard"))
    again = await other.claim(raw_redis, 2, token="host:1:ab#2", idle=True)
    assert [claim.id for claim in again.claims] == ["unheard"]


async def test_a_lease_is_renewed_for_its_holder_alone(
    raw_redis: Redis, redis_server: RunningRedis
) -> None:
    """
    renew.lua: extended while ours, made again when it expired untaken, reported lost when it is another's.
    """
    for name in ("kept", "expired", "taken"):
        await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id=name))
    claimer = Claimer(queue=QUEUE, worker_id="host:1:aa", lease_ms=60_000, crashes=5)
    await claimer.claim(raw_redis, 3, token="host:1:aa#1", idle=True)
    await raw_redis.pexpire(keys.arq_in_progress("kept"), 10_000)
    await raw_redis.delete(keys.arq_in_progress("expired"))
    await raw_redis.set(keys.arq_in_progress("taken"), "host:2:bb#1")
    lost: list[str] = []
    pool = redis_sync.ConnectionPool.from_url(redis_server.url, encoding_errors="surrogateescape")
    keeper = LeaseKeeper(pool, QUEUE, lease_s=60, on_lost=lost.extend)
    keeper.held.update(dict.fromkeys(("kept", "expired", "taken"), "host:1:aa#1"))

    await asyncio.get_running_loop().run_in_executor(None, keeper._renew)
    keeper.stop()

    assert lost == ["taken"]
    for name in ("kept", "expired"):
        assert await raw_redis.get(keys.arq_in_progress(name)) == b"host:1:aa#1"
        assert await raw_redis.pttl(keys.arq_in_progress(name)) > 50_000
    assert await raw_redis.get(keys.arq_in_progress("taken")) == b"host:2:bb#1"
