"""Two queue servers, what is connected to them, and a worker on either."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from app import actions, keys, reader
from app.actions import Connections
from app.declarations import QueuePolicy
from app.enqueue import JobRequest, codec_of
from app.records import JobState
from app.settings import Settings
from tests.conftest import RunningRedis, start_redis
from tests.letters import ANN
from workers.engine.worker import Worker
from workers.settings import worker_settings

HOME_QUEUE, AWAY_QUEUE = "async-processing", "reports-daily"


@pytest.fixture(scope="module")
def _second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    server = start_redis(tmp_path_factory.mktemp("second"))
    yield server
    server.stop()


@pytest.fixture
def second(_second: RunningRedis) -> RunningRedis:
    """The further queue server, empty and up."""
    if _second.process is None:
        _second.start()
    with _client_of(_second) as client:
        client.flushall()
    return _second


def _client_of(server: RunningRedis) -> Any:
    import redis

    return redis.Redis.from_url(server.url, decode_responses=True)


@pytest.fixture
def sharded(settings: Settings, second: RunningRedis) -> Settings:
    """Two queue servers: one queue at home, one placed by the beginning of its name."""
    given = settings.model_dump() | {
        "redis_queue_shards": f"reports-*={second.url}",
        "queues": (
            QueuePolicy(name=HOME_QUEUE, attempts=1),
            QueuePolicy(name=AWAY_QUEUE, attempts=1),
        ),
        "generic_jobs": True,
        "drain_s": 2.0,
    }
    return Settings(**given)


@pytest.fixture
async def connections(sharded: Settings) -> AsyncIterator[Connections]:
    made = Connections.of(sharded)
    yield made
    await made.close()


@asynccontextmanager
async def working(settings: Settings, queue: str) -> AsyncIterator[Worker]:
    """A worker of *queue*, as ``arqscope worker`` makes it."""
    worker = Worker(**worker_settings(queue, settings), handle_signals=False)
    task = asyncio.create_task(worker.main())
    try:
        yield worker
    finally:
        await worker.close()
        await asyncio.wait([task])


async def submit(connections: Connections, settings: Settings, queue: str, **more: Any) -> str:
    request = JobRequest(name="generic", args=({"shouldFail": False, **more},))
    return (await actions.submit_jobs(connections, settings, ANN, queue, [request]))[0].id


def ended(
    connections: Connections, settings: Settings, job_id: str, state: JobState
) -> Callable[[], Any]:
    async def look() -> bool:
        found = await reader.find_job(
            connections, job_id, queues=settings.queue_names, codec=codec_of(settings)
        )
        return found is not None and found.state is state

    return look


async def keys_of(redis: Redis) -> set[str]:
    return {str(key) async for key in redis.scan_iter("*")}


async def _all_done(connections: Connections, queue: str) -> bool:
    return not await connections.holding(queue).zcard(queue)


async def _letters(redis: Redis, count: int) -> bool:
    return int(await redis.zcard(keys.dead_open(AWAY_QUEUE))) == count
