"""A worker of ours in this process: its functions, its fixtures, and what it leaves in Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.worker import func
from redis.asyncio import Redis

from app import keys
from app.errors import PermanentError
from app.payloads.codec import Codec
from app.records import DeadLetter
from tests.conftest import RunningRedis
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.retry_policy import RetryPolicy

QUEUE = "async-processing"
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
