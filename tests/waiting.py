"""Wait for a condition instead of sleeping."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import RedisError


async def until(condition: Callable[[], Awaitable[Any]], *, timeout_s: float = 30) -> Any:
    """Poll the coroutine function *condition* until it is true; AssertionError after *timeout_s*.

    A condition that raises because Redis is away counts as not yet true.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            value = await condition()
        except (RedisError, OSError) as error:
            value = None
            last: object = error
        else:
            last = value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not true within {timeout_s} s: {last!r}")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def within(limit_s: float, *, beat_s: float = 0.02) -> AsyncIterator[None]:
    """TimeoutError when the block takes longer than *limit_s* of the time this loop was given.

    Counted in beats of the loop itself: while a busy machine lets the whole process stand still, none passes.
    """
    async with asyncio.timeout(None) as limit:

        async def count() -> None:
            for _ in range(round(limit_s / beat_s)):
                await asyncio.sleep(beat_s)
            limit.reschedule(0)

        counting = asyncio.create_task(count())
        try:
            yield
        finally:
            counting.cancel()
