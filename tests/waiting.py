"""Wait for a condition instead of sleeping."""

import asyncio
import time
from collections.abc import Awaitable, Callable
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
