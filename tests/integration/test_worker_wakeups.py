"""How soon a worker starts a job: paused queues, idle and busy workers, wake tokens."""

import asyncio
from collections.abc import Callable

import pytest
from arq.jobs import Job, JobStatus
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue
from app.records import JobRun
from tests.integration.worker_rig import (  # noqa: F401 - fixtures
    QUEUE,
    linger,
    make_worker,
    raw_redis,
    succeed,
)
from tests.waiting import until
from workers.engine.worker import Worker

#: every test here on Redis 7 and on the embedded 6.2: the scripts are half of the worker
pytestmark = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


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
