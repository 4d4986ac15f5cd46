"""Clients on a real Redis: what the recipe makes of connections that die unseen."""

import asyncio

import pytest

from app.connections import connect
from tests.conftest import RunningRedis


def test_a_connection_that_died_unseen_is_replaced_under_uvloop_too(
    redis_server: RunningRedis,
) -> None:
    """
    uvloop raises RuntimeError on a transport the kernel gave up; a worker died of it after a blackhole.
    """
    uvloop = pytest.importorskip("uvloop")

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
