"""Tails of channels: heard while somebody looks, bounded under a flood, given up afterwards."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from app.errors import InvalidRequest, Overloaded
from app.settings import Settings
from app.streams import tails as module
from app.streams.tails import KEPT, MAX_CHARS, MAX_PATTERNS, Ear, Tails
from app.wire.connections import connect
from tests.waiting import until


@pytest.fixture
async def cache(settings: Settings) -> AsyncIterator[Redis]:
    client = connect(settings.url("cache"))
    yield client
    await client.aclose()


@pytest.fixture
async def tails(settings: Settings) -> AsyncIterator[Tails]:
    made = Tails(settings)
    yield made
    await made.close()


async def followed(tails: Tails, pattern: str) -> Any:
    async def confirmed() -> bool:
        return tails.look(pattern).is_followed

    await until(confirmed)
    return tails.look(pattern)


async def test_a_pattern_hears_its_channels_and_no_other(cache: Redis, tails: Tails) -> None:
    tail = await followed(tails, "user:*")

    await cache.publish("workspace:w", "not for us")
    await cache.publish("user:ann", "hello")

    async def heard() -> bool:
        return tail.heard == 1

    await until(heard)
    assert [(m.channel, m.text) for m in tail.messages] == [("user:ann", "hello")]


async def test_two_patterns_share_one_connection(cache: Redis, tails: Tails) -> None:
    users = await followed(tails, "user:*")
    everything = await followed(tails, "*")

    await cache.publish("user:ann", "hello")

    async def heard() -> bool:
        return users.heard >= 1 and everything.heard >= 1

    await until(heard)
    assert len(list(await cache.client_list(_type="pubsub"))) == 1


async def test_of_a_flood_the_newest_are_kept(cache: Redis, tails: Tails) -> None:
    tail = await followed(tails, "user:*")

    for start in range(0, 3000, 500):
        async with cache.pipeline(transaction=False) as pipe:
            for number in range(start, start + 500):
                pipe.publish("user:ann", str(number))
            await pipe.execute()
    await cache.publish("user:ann", "x" * (MAX_CHARS + 5))

    async def heard() -> bool:
        return tail.heard == 3001

    await until(heard)
    assert len(tail.messages) == KEPT
    assert (len(tail.messages[-1].text), tail.messages[-1].is_cut) == (MAX_CHARS, True)
    assert tail.messages[-2].text == "2999"


async def test_what_nobody_looks_at_is_given_up(
    cache: Redis, tails: Tails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    await followed(tails, "user:*")
    assert await cache.pubsub_numpat() == 1

    async def given_up() -> bool:
        return await cache.pubsub_numpat() == 0

    await until(given_up)
    assert len(tails) == 0
    await followed(tails, "user:*")  # and taken up again


async def test_an_outage_is_said_and_survived(cache: Redis, tails: Tails) -> None:
    tail = await followed(tails, "user:*")
    for client in await cache.client_list(_type="pubsub"):
        await cache.client_kill_filter(_id=client["id"])

    async def again() -> bool:
        tails.look("user:*")
        await cache.publish("user:ann", "hello")
        return tail.heard > 0

    await until(again)
    assert tail.is_followed
    assert tail.trouble == ""


@pytest.mark.parametrize("pattern", ["", "x" * 129, "a\nb", "\x00"])
async def test_what_is_no_pattern_is_refused(tails: Tails, pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="pattern"):
        tails.look(pattern)


async def test_a_process_follows_so_many_and_no_more(tails: Tails) -> None:
    for number in range(MAX_PATTERNS):
        tails.look(f"user:{number}")
    with pytest.raises(Overloaded):
        tails.look("one:more")


async def test_what_redis_tells_of_its_keys_is_heard_by_name_only(
    cache: Redis, tails: Tails
) -> None:
    everything, of_keys = await followed(tails, "*"), await followed(tails, "__keyspace@*")

    await cache.publish("__keyspace@0__:async-processing", "zadd")
    await cache.publish("__keyevent@0__:zadd", "async-processing")
    await cache.publish("user:ann", "hello")

    async def heard() -> bool:
        return everything.heard == 1 and of_keys.heard == 1

    await until(heard)
    assert everything.messages[-1].channel == "user:ann"
    assert everything.hidden == 2
    assert of_keys.messages[-1].channel == "__keyspace@0__:async-processing"
    assert of_keys.hidden == 0


async def test_who_follows_loses_nothing_however_seldom_they_look(
    cache: Redis, tails: Tails
) -> None:
    """
    A page that refreshes once a minute, or when told to: the patience of a look is over long before.
    """
    ear = Ear(tails)
    await followed(tails, "user:*")
    tail = ear.look("user:*")

    for heard in (1, 2):  # between the two it is asked whether anybody is left
        tail.looked_at = time.monotonic() - 3_600
        await cache.publish("user:ann", f"message {heard}")
        await until(_has_heard(tail, heard))

    assert ear.look("user:*") is tail
    assert [m.text for m in tail.messages] == ["message 1", "message 2"]


async def test_who_leaves_follows_nothing(cache: Redis, tails: Tails) -> None:
    """
    Another pattern takes the place of the one before; who leaves twice takes nobody else's place.
    """
    ear, other = Ear(tails), Ear(tails)
    users = await followed(tails, "user:*")
    ear.look("user:*")
    other.look("user:*")

    workspaces = ear.look("workspace:*")
    followers = users.followers, workspaces.followers
    other.leave()
    other.leave()
    ear.look("workspace:*")
    users.looked_at = time.monotonic() - 3_600

    async def only_workspaces() -> bool:
        return len(tails) == 1 and await cache.pubsub_numpat() == 1

    await until(only_workspaces)
    assert followers == (1, 1)
    assert (users.followers, workspaces.followers) == (0, 1)


def _has_heard(tail: Any, count: int) -> Any:
    async def has() -> bool:
        return bool(tail.heard == count)

    return has
