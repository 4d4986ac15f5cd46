"""What stock arq does beside our worker: aborts, pickled jobs, cron ticks, a shared queue."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from arq import cron
from arq.connections import ArqRedis
from arq.jobs import Job
from arq.worker import func
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue, enqueue_many
from app.payloads.codec import Codec
from tests.conftest import RunningRedis
from tests.integration.worker_rig import (  # noqa: F401 - fixtures
    QUEUE,
    leftovers,
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
