"""Event processors in a test: one in this process, settings that hurry, and what came of the events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app import keys
from app.records import DeadLetter
from app.settings import Settings
from tests.waiting import until
from workers.event_processor import EventProcessor
from workers.event_router import Registry

STREAM = "pyairtable-events"
GROUP = "event-processors"
both_versions = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


@contextlib.asynccontextmanager
async def processing(settings: Settings, registry: Registry) -> AsyncIterator[EventProcessor]:
    processor = EventProcessor(settings, registry)
    running = asyncio.create_task(processor.run())
    try:
        yield processor
    finally:
        processor.stop()
        await running


def quick(settings: Settings, **more: Any) -> Settings:
    return settings.model_copy(
        update={"block_time": 50, "lease_s": 0.6, "event_attempts": 3, **more}
    )


async def settled(redis: Any, count: int) -> None:
    """Wait until *count* events are processed or dead and none is pending."""

    async def is_so() -> bool:
        totals = await redis.hgetall(keys.event_totals(STREAM))
        done = int(totals.get("processed", 0)) + int(totals.get("dead", 0))
        return done >= count and (await redis.xpending(STREAM, GROUP))["pending"] == 0

    await until(is_so, timeout_s=30)


async def letters(redis: Any) -> list[DeadLetter]:
    ids = await redis.zrange(keys.dead_open(STREAM), 0, -1)
    return [
        DeadLetter.from_fields(await redis.hgetall(keys.dead_record(STREAM, one))) for one in ids
    ]


async def has(found: list[str], count: int) -> bool:
    return len(found) >= count


async def nothing(event, context): ...
