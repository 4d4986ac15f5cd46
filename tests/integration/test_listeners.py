"""Listeners of notifications against a real Redis: nothing missed, nobody slowed, bounded."""

import contextlib
import json
import time

import pytest

from app import keys
from app.api.notifications import frames
from app.errors import InvalidRequest, Overloaded, RedisUnavailable
from app.publisher import Publisher
from app.streams import notifications
from app.streams.listeners import MAX_WAITING, Listeners, server_sent
from app.streams.notifications import notification
from app.wire.connections import connect
from tests.conftest import start_redis, unused_port
from tests.waiting import until

both_versions = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


@pytest.fixture
async def publisher(streams_redis, cache_redis):
    return Publisher(streams_redis, cache_redis, stream="s")


@pytest.fixture
async def listeners(settings):
    made = Listeners(settings, limit=20)
    yield made
    await made.close()


def texts(taken):
    """The messages in what a listener took."""
    lines = [line for heard in taken for line in heard.frame.decode().splitlines()]
    return [json.loads(line[6:]).get("message") for line in lines if line.startswith("data: {")]


async def heard(listener, count):
    got = []

    async def enough():
        got.extend(texts(await listener.take(0.05) or []))
        return len(got) >= count

    await until(enough)
    return got


@both_versions
async def test_a_listener_hears_what_is_sent_to_its_channel_and_nothing_else(listeners, publisher):
    async with listeners.listening("user:u1") as first, listeners.listening("user:u2") as second:
        assert await publisher.notify_user("u1", "one") == 1
        await publisher.notify_user("u2", "two")

        assert await heard(first, 1) == ["one"]
        assert await heard(second, 1) == ["two"]


async def test_a_thousand_listeners_need_one_subscription(settings, publisher, cache_redis):
    listeners = Listeners(settings, limit=1000)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(300):
            await stack.enter_async_context(listeners.listening(f"user:u{number % 3}"))
        subscribers = await cache_redis.pubsub_numsub("user:u0", "user:u1", "user:u2")
        clients = await cache_redis.client_list(_type="pubsub")

    assert [count for _, count in subscribers] == [1, 1, 1]
    assert len(clients) == 1
    await listeners.close()


@both_versions
async def test_who_comes_back_hears_what_it_missed_once_and_in_order(
    listeners, publisher, cache_redis
):
    """
    Pub/sub alone forgets; Last-Event-ID finds it again.
    """
    async with listeners.listening("user:u1") as listener:
        await publisher.notify_user("u1", 0)
        (seen,) = await _taken(listener)
    for number in range(1, 4):
        await publisher.notify_user("u1", number)

    async with listeners.listening("user:u1", seen.id) as listener:
        await publisher.notify_user("u1", 4)

        assert await heard(listener, 4) == [1, 2, 3, 4]
        assert not listener.missed
    async with listeners.listening("user:u1", "0") as listener:
        assert await heard(listener, 5) == [0, 1, 2, 3, 4]


async def _taken(listener):
    while not (taken := await listener.take(1)):
        pass
    return taken


async def test_who_missed_more_than_is_remembered_is_told(listeners, publisher, cache_redis):
    await publisher.notify_user("u1", "old")
    seen = await notifications.newest_id(cache_redis, "user:u1")
    for number in range(notifications.KEPT + 5):
        await publisher.notify_user("u1", number)

    async with listeners.listening("user:u1", seen) as listener:
        sent = frames(listener, 0.01)
        first = [await anext(sent), await anext(sent)]
        rest = await heard(listener, notifications.KEPT)

    assert first == [b"retry: 3000\n\n", b'event: gap\ndata: {"missed":true}\n\n']
    assert rest == list(range(5, notifications.KEPT + 5))


async def test_the_memory_is_bounded_in_entries_channels_and_time(cache_redis, monkeypatch):
    monkeypatch.setattr(notifications, "KEPT_CHANNELS", 10)
    for number in range(30):
        for _ in range(3):
            await notifications.send(cache_redis, f"user:{number}", notification("x", "t"))
    for _ in range(notifications.KEPT + 20):
        await notifications.send(cache_redis, "user:29", notification("x", "t"))

    kept = [key async for key in cache_redis.scan_iter("arqscope:replay:*")]
    assert sorted(kept) == sorted(keys.replay(f"user:{n}") for n in range(20, 30))
    assert await cache_redis.xlen(keys.replay("user:29")) == notifications.KEPT
    assert 0 < await cache_redis.ttl(keys.replay("user:29")) <= notifications.KEPT_S
    assert await cache_redis.zcard(keys.REPLAY_CHANNELS) == 10


async def test_a_slow_listener_is_dropped_and_the_quick_one_hears_all(listeners, publisher):
    async with listeners.listening("user:u1") as slow, listeners.listening("user:u1") as quick:
        got = []
        for number in range(MAX_WAITING + 50):
            await publisher.notify_user("u1", number)
            got += texts(await quick.take(0.001) or [])
        got += await heard(quick, MAX_WAITING + 50 - len(got))

        assert got == list(range(MAX_WAITING + 50))
        assert slow.dropped.is_set()
        assert not quick.dropped.is_set()
        assert len(slow._waiting) == MAX_WAITING


async def test_an_outage_of_redis_costs_no_listener_a_notification(tmp_path, settings):
    """
    The server comes back with its memory; what was sent meanwhile is heard late, once.
    """
    server = start_redis(tmp_path / "redis")
    listeners = Listeners(settings.model_copy(update={"redis_url": server.url}))
    client = connect(server.url)
    publisher = Publisher(client, client, stream="s")
    async with listeners.listening("user:u1") as listener:
        await publisher.notify_user("u1", 1)
        assert await heard(listener, 1) == [1]
        task = listeners._task
        await client.client_kill_filter(_type="pubsub")
        server.kill()
        server.start()

        async def sent(number):
            return await publisher.notify_user("u1", number) >= 0

        await until(lambda: sent(2))
        got = [n for n in await heard(listener, 1) if n == 2]

    assert got == [2]
    assert listeners._task is task
    await listeners.close()
    await client.aclose()
    server.stop()


async def test_too_many_listeners_are_refused_and_a_place_is_given_back(listeners):
    async with contextlib.AsyncExitStack() as stack:
        for number in range(20):
            await stack.enter_async_context(listeners.listening(f"user:{number}"))
        with pytest.raises(Overloaded, match="20 listeners"):
            async with listeners.listening("user:late"):
                pass

    async with listeners.listening("user:late"):
        assert len(listeners) == 1
    assert len(listeners) == 0


async def test_a_malformed_last_event_id_is_refused(listeners):
    with pytest.raises(InvalidRequest, match="Last-Event-ID"):
        async with listeners.listening("user:u1", "yesterday"):
            pass


async def test_without_redis_listening_is_refused_within_three_seconds(settings):
    away = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{unused_port()}/0"})
    listeners = Listeners(away)

    began = time.monotonic()
    with pytest.raises(RedisUnavailable):
        await listeners.listening("user:u1").__aenter__()

    assert time.monotonic() - began < 3
    await listeners.close()


async def test_closing_ends_every_listener_and_lets_nobody_in(listeners):
    async with listeners.listening("user:u1") as listener:
        await listeners.close()

        assert [chunk async for chunk in frames(listener)] == [b"retry: 3000\n\n"]
    with pytest.raises(Overloaded, match="stopping"):
        async with listeners.listening("user:u1"):
            pass


async def test_silence_is_broken_by_signs_of_life(listeners):
    async with listeners.listening("user:u1") as listener:
        sent = frames(listener, heartbeat_s=0.01)

        assert [await anext(sent) for _ in range(3)] == [b"retry: 3000\n\n", *2 * [b": alive\n\n"]]


async def test_what_other_programs_publish_is_heard_without_an_id(listeners, cache_redis):
    async with listeners.listening("user:u1") as listener:
        await cache_redis.publish("user:u1", "two\nlines\r\nand three")
        (one,) = await _taken(listener)

    assert one.frame == b"data: two\ndata: lines\ndata: and three\n\n"


def test_no_text_can_break_out_of_its_event():
    frame = server_sent("a\nid: 9\r\revent: x\n\ndata: y", entry_id="1-0")

    assert all(
        line.startswith(("id: 1-0", "data: ")) for line in frame.decode().strip().split("\n")
    )
