"""Clients on a real Redis: what the recipe makes of connections that die unseen."""

import asyncio
import time
from importlib import import_module
from importlib.util import find_spec

import pytest
from redis.exceptions import RedisError

from app.wire.connections import connect, is_refusal
from tests.conftest import RunningRedis, lacking


def test_a_connection_that_died_unseen_is_replaced_under_uvloop_too(
    redis_server: RunningRedis,
) -> None:
    """
    uvloop raises RuntimeError on a transport the kernel gave up; a worker died of it after a blackhole.
    """
    if find_spec("uvloop") is None:  # Windows has none
        lacking("uvloop")
    uvloop = import_module("uvloop")

    async def ping_twice() -> tuple[bool, bool]:
        client = connect(redis_server.url)
        first = await client.ping()
        (held,) = client.connection_pool._available_connections
        assert held._writer is not None
        held._writer.transport.abort()
        second = await client.ping()
        await client.aclose(close_connection_pool=True)
        return first, second

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ping_twice()) == (True, True)


async def test_a_missing_password_is_told_as_a_refusal(redis_server: RunningRedis) -> None:
    """redis-py checked the health of the connection it was making, until the stack was full."""
    client = connect(f"redis://127.0.0.1:{redis_server.port}/0")
    began = time.monotonic()

    with pytest.raises(RedisError) as told:
        await client.time()

    await client.aclose(close_connection_pool=True)
    assert is_refusal(told.value), told.value
    assert "recursion" not in str(told.value)
    assert time.monotonic() - began < 4


async def test_a_command_is_cancelled_at_whatever_moment_that_is_asked(
    redis_server: RunningRedis,
) -> None:
    """
    asyncio.wait_for, in which redis-py sends, loses a cancellation before Python 3.12.
    """
    client = connect(redis_server.url)
    await client.ping()
    went_on = []
    for turns in range(60):
        task = asyncio.create_task(client.set("k", "v"))
        for _ in range(turns):
            await asyncio.sleep(0)
        had_ended = task.done()
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        if not had_ended and not isinstance(ended, asyncio.CancelledError):
            went_on.append(turns)
    await client.aclose()

    assert went_on == []
