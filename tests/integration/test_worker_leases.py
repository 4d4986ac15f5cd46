"""Workers that stop, die or lose their Redis, and what becomes of their jobs."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from arq.jobs import Job, JobStatus
from arq.worker import func
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue, enqueue_many
from app.payloads.codec import Codec
from app.records import JobRun
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
from workers.engine.worker import Worker

#: every test here on Redis 7 and on the embedded 6.2: the scripts are half of the worker
pytestmark = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


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
