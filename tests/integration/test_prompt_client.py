"""The client of requests: in time, together, and each with its own answer."""

import asyncio
import signal
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import (
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's name
)

from app.wire.batch import Batch
from app.wire.connections import connect
from app.wire.prompt_client import LEAST_S, OVER_S, Patience, patience
from tests.conftest import RunningRedis, start_redis


@pytest.fixture
async def client(redis_server: RunningRedis):
    made = connect(redis_server.url, answer_within_s=1.2)
    yield made
    await made.aclose(close_connection_pool=True)


async def calls(redis: Redis) -> int:
    return sum(int(row["calls"]) for row in (await redis.info("commandstats")).values())


async def test_each_of_many_at_once_gets_its_own_answer(client: Redis) -> None:
    await asyncio.gather(*(client.set(f"k{n}", n) for n in range(300)))

    assert await asyncio.gather(*(client.get(f"k{n}") for n in range(300))) == [
        str(n) for n in range(300)
    ]
    assert (await client.info("clients"))["connected_clients"] < 12


async def test_an_error_meets_only_who_caused_it(client: Redis) -> None:
    await client.set("text", "x")

    good, bad, after = await asyncio.gather(
        client.get("text"), client.incr("text"), client.get("text"), return_exceptions=True
    )

    assert (good, after) == ("x", "x")
    assert isinstance(bad, ResponseError)


async def test_replies_are_shaped_as_usual(client: Redis) -> None:
    await client.hset("h", mapping={"a": "1"})
    found = await asyncio.gather(
        client.hgetall("h"), client.zadd("z", {"m": 1.5}), client.exists("h"), client.info("server")
    )

    assert found[:3] == [{"a": "1"}, 1, 1]
    assert "redis_version" in found[3]


async def test_who_leaves_takes_nobody_along(client: Redis) -> None:
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(client.get("a"))
        staying = group.create_task(client.set("b", 1))
        await asyncio.sleep(0)
        leaving.cancel()

    assert staying.result()


async def test_a_frozen_redis_ends_every_command_in_time(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    client = connect(server.url, answer_within_s=0.5)
    await asyncio.gather(*(client.ping() for _ in range(3)))
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)

    began = time.monotonic()
    answers = await asyncio.gather(
        *(client.get("a") for _ in range(200)), client.pipeline().get("a").execute(),
        client.mget([f"k{n}" for n in range(100)]), return_exceptions=True,
    )  # fmt: skip
    took_s = time.monotonic() - began
    server.process.send_signal(signal.SIGCONT)

    assert all(isinstance(answer, RedisError) for answer in answers)
    assert took_s < 1.5
    assert await client.set("works", "again")
    await client.aclose(close_connection_pool=True)
    server.stop()


async def test_a_request_waits_for_a_frozen_redis_once_whatever_it_sends(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    client = connect(server.url, answer_within_s=1.0)
    await client.ping()
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)

    async def request(waited_s: float) -> float:
        patience.set(Patience(waited_s))
        began = time.monotonic()
        for _ in range(4):
            batch = Batch(client)
            batch.ask(lambda _: None, "GET", "a")
            for sent in (client.get("a"), client.pipeline().get("a").execute(), batch.run()):
                with pytest.raises(TimeoutError):
                    await sent
        return time.monotonic() - began

    began = time.monotonic()
    fresh_s, late_s = await asyncio.gather(
        asyncio.create_task(request(0.0)), asyncio.create_task(request(0.9))
    )
    assert time.monotonic() - began < 2.0  # twelve commands, each of which could take a second
    assert late_s < fresh_s
    server.process.send_signal(signal.SIGCONT)
    assert await client.set("works", "again")
    await client.aclose(close_connection_pool=True)
    server.stop()


def test_patience_is_for_the_first_seconds_of_a_request_and_spent_once() -> None:
    fresh, late, old = Patience(), Patience(0.9), Patience(OVER_S)

    assert LEAST_S < fresh.left_s(1.0) <= 1.0
    assert late.left_s(1.0) == LEAST_S
    assert late.left_s(0.1) == 0.1
    fresh.spend()
    old.spend()
    assert fresh.left_s(1.0) == 0.0
    assert old.left_s(1.0) == 1.0
