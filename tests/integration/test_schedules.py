"""Schedules of a real worker: told in its heartbeat, their last ends kept, run now by an action."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq import cron
from redis.asyncio import Redis

from app import actions, keys
from app.actions import Actor, Connections
from app.annals.recall import Recall
from app.collector import Collector
from app.enqueue import JobRequest
from app.pages.address import Address
from app.pages.scene import Reach
from app.pages.timetable import Kept, kept, load
from app.payloads.codec import Codec
from app.schedules import Tick
from app.settings import Settings
from app.streams.tails import Ear, Tails
from tests.conftest import RunningRedis
from tests.waiting import until
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.retry_policy import RetryPolicy

QUEUE = "async-processing"


async def tidy(ctx: dict[str, Any]) -> None:
    """End well."""


async def broken(ctx: dict[str, Any]) -> None:
    raise ConnectionError("no route")


@pytest.fixture
async def worker(redis_server: RunningRedis, queue_redis: Redis) -> AsyncIterator[Worker]:
    """A worker with two schedules, one of which runs as it starts."""
    from arq.connections import ArqRedis

    pool = ArqRedis.from_url(redis_server.database(2))
    made = Worker(
        functions=[tidy],
        cron_jobs=[
            cron(tidy, name="tidy", hour=3, minute=30),
            cron(broken, name="broken", minute={0, 30}, run_at_startup=True, max_tries=1),
        ],
        queue_name=QUEUE,
        redis_pool=pool,
        handle_signals=False,
        ctx={"arqscope": EngineOptions(policy=RetryPolicy(attempts=1), codec=Codec())},
    )
    task = asyncio.create_task(made.main())
    yield made
    made.handle_sig(15)  # type: ignore[arg-type]
    await asyncio.wait_for(task, 15)
    await made.close()


async def test_a_page_knows_what_a_worker_keeps_and_how_it_ended(
    worker: Worker, settings: Settings, queue_redis: Redis, streams_redis: Redis
) -> None:
    connections = Connections(queue=queue_redis, streams=streams_redis, cache=queue_redis)
    collector = Collector(settings)
    try:

        async def told() -> list[Kept]:
            return kept(await collector.sample())

        await until(told)
        await until(lambda: queue_redis.hget(keys.ticks(QUEUE), "broken"))
        reach = Reach(
            connections=connections, settings=settings, snapshot=collector.snapshot,
            recall=Recall(queue_redis, streams_redis), ear=Ear(Tails(settings)),
        )  # fmt: skip

        found = {one.schedule.name: one for one in kept(collector.snapshot)}
        ticks = await load(reach, Address("schedules"))

        assert found["tidy"].schedule.words == "every day at 03:30"
        assert found["broken"].schedule.words == "every 30 min"
        assert (found["tidy"].queue, found["tidy"].workers) == (QUEUE, 1)
        tick = ticks[QUEUE, "broken"]
        assert (tick.outcome, tick.error) == ("dead", "ConnectionError: no route")
        assert tick.job_id.startswith("broken:")
        assert await queue_redis.pttl(keys.ticks(QUEUE)) > 89 * 86_400_000
        assert (QUEUE, "tidy") not in ticks
    finally:
        await collector.stop()


async def test_run_now_runs_it_beside_its_ticks(
    worker: Worker, settings: Settings, queue_redis: Redis
) -> None:
    connections = Connections(queue=queue_redis, streams=queue_redis, cache=queue_redis)
    operator = Actor(name="kim", role="operator")

    (done,) = await actions.submit_jobs(
        connections, settings, operator, QUEUE, [JobRequest(name="tidy")]
    )

    async def ended() -> bool:
        text = await queue_redis.hget(keys.ticks(QUEUE), "tidy")  # type: ignore[misc]
        return bool(text) and Tick.from_json(text).job_id == done.id

    await until(ended)
