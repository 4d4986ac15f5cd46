"""Consumer groups in use: who adopts, what is counted, trimmed, made again or deleted."""

import json

from app import keys
from app.declarations import StreamPolicy
from tests.processing import GROUP, STREAM, both_versions, has, nothing, processing, quick, settled
from tests.waiting import until
from workers.event_router import Registry
from workers.events.group import EventGroup


@both_versions
async def test_a_destroyed_group_is_made_again_where_it_was(settings, streams_redis, cache_redis):
    registry = Registry()
    handled: list[str] = []

    @registry.on("*")
    async def handle(event, context):
        handled.append(event.id)

    async with processing(quick(settings), registry):
        ids = [await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"}) for _ in range(5)]
        await settled(streams_redis, 5)
        await streams_redis.xgroup_destroy(STREAM, GROUP)
        ids += [await streams_redis.xadd(STREAM, {"type": "a.b", "data": "2"}) for _ in range(5)]
        await until(lambda: has(handled, 10))
        await streams_redis.flushdb()
        ids += [await streams_redis.xadd(STREAM, {"type": "a.b", "data": "3"}) for _ in range(5)]
        await until(lambda: has(handled, 15))

    assert handled == ids
    assert await cache_redis.llen(keys.DLQ_ALERTS) == 2


@both_versions
async def test_an_orphan_is_adopted_and_a_deleted_one_forgotten(settings, streams_redis):
    registry = Registry()
    handled: list[str] = []

    @registry.on("*")
    async def handle(event, context):
        handled.append(event.id)

    ids = [await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"}) for _ in range(4)]
    await streams_redis.xgroup_create(STREAM, GROUP, "0")
    await streams_redis.xreadgroup(GROUP, "dead-consumer", {STREAM: ">"}, count=4)
    await streams_redis.xdel(STREAM, ids[1])
    async with processing(quick(settings), registry):

        async def is_clean() -> bool:
            return (await streams_redis.xpending(STREAM, GROUP))["pending"] == 0

        await until(is_clean)
        await until(lambda: has(handled, 3))
        await settled(streams_redis, 3)

    assert sorted(handled) == [ids[0], ids[2], ids[3]]
    assert await streams_redis.hget(keys.event_totals(STREAM), "trimmed") == "1"


@both_versions
async def test_a_delivery_counts_when_it_begins_not_when_it_is_claimed(streams_redis):
    """
    Processors that die as soon as they have claimed an entry make no suspect of it.
    """
    entry = await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"})
    await streams_redis.xgroup_create(STREAM, GROUP, "0")
    await streams_redis.xreadgroup(GROUP, "first", {STREAM: ">"})

    for number in range(10):
        name = f"c{number}"
        group = EventGroup(streams_redis, streams_redis, stream=STREAM, group=GROUP, consumer=name)
        assert await group.adopt([entry], own=False, idle_ms=0) == [
            (entry, 1, {"type": "a.b", "data": "1"})
        ]
    late = EventGroup(streams_redis, streams_redis, stream=STREAM, group=GROUP, consumer="c0")
    begun = [await late.begin(entry), await group.begin(entry)]
    taken = await late.adopt([entry], own=True, idle_ms=0)

    (row,) = await group.pending(own=True, idle_ms=0)
    assert (begun, taken, row.deliveries) == ([0, 2], [], 2)


@both_versions
async def test_trimming_spares_what_is_unread_or_pending(settings, streams_redis):
    async with streams_redis.pipeline(transaction=False) as pipe:
        for _ in range(1000):
            pipe.xadd(STREAM, {"type": "a.b", "data": "1"})
        ids = await pipe.execute()
    await streams_redis.xgroup_create(STREAM, GROUP, "0")
    await streams_redis.xgroup_create(STREAM, "others", ids[-1])
    rows = await streams_redis.xreadgroup(GROUP, "c", {STREAM: ">"}, count=600)
    await streams_redis.xack(STREAM, GROUP, *[row[0] for row in rows[0][1] if row[0] != ids[450]])
    group = EventGroup(streams_redis, streams_redis, stream=STREAM, group=GROUP, consumer="c")

    trimmed = await group.trim(kept=100)

    assert 300 <= trimmed <= 450
    assert ids.index((await streams_redis.xrange(STREAM, count=1))[0][0]) <= 450


async def test_a_stream_that_some_group_does_not_keep_up_with_is_an_alert(
    settings, streams_redis, cache_redis
):
    """
    Nothing unread is trimmed, so its length is the operator's to know; it is told once.
    """
    # a long lease: the processor's own look after its house is not now
    several = quick(
        settings, lease_s=60.0, declared_streams=(StreamPolicy(name=STREAM, keep=1_000),)
    )
    async with streams_redis.pipeline(transaction=False) as pipe:
        for _ in range(2_500):
            pipe.xadd(STREAM, {"type": "a.b", "data": "1"})
        await pipe.execute()
    await streams_redis.xgroup_create(STREAM, "sleepers", "0")
    registry = Registry()
    registry.on("*")(nothing)

    async with processing(several, registry) as processor:
        await settled(streams_redis, 2_500)
        (source,) = processor._sources
        for _ in range(2):
            await source.keep_house(60_000)
        await streams_redis.xgroup_destroy(STREAM, "sleepers")
        await source.keep_house(60_000)

    alerts = [json.loads(one) for one in await cache_redis.lrange(keys.DLQ_ALERTS, 0, -1)]
    assert [one["type"] for one in alerts] == ["event-stream-long"]
    assert await streams_redis.xlen(STREAM) < 1_200


@both_versions
async def test_consumers_that_went_away_are_deleted_unless_they_own_entries(streams_redis):
    await streams_redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    for number in range(50):
        await streams_redis.xgroup_createconsumer(STREAM, GROUP, f"gone-{number}")
    await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"})
    await streams_redis.xreadgroup(GROUP, "owner", {STREAM: ">"})
    group = EventGroup(streams_redis, streams_redis, stream=STREAM, group=GROUP, consumer="me")

    deleted = await group.prune_consumers(0)

    left = await streams_redis.xinfo_consumers(STREAM, GROUP)
    assert (len(deleted), [row["name"] for row in left]) == (50, ["owner"])
