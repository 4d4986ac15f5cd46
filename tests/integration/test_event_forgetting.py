"""A streams Redis that came back from an earlier moment: what it forgot of events is done again."""

import json

import pytest

from app import keys
from tests.processing import (
    GROUP,
    STREAM,
    both_versions,
    letters,
    processing,
    quick,
    settled,
)
from tests.waiting import until
from workers.event_router import Registry
from workers.events import intake


async def effects(redis) -> list[str]:
    """The events whose effect is in the stream."""
    rows = await redis.xrange(STREAM)
    return [json.loads(row["data"])["of"] for _, row in rows if row["type"] == "made.it"]


async def forget_effect(redis, event_id: str, effect_id: str) -> None:
    await redis.xdel(STREAM, effect_id)
    await redis.delete(keys.handled(STREAM, event_id))


def publishing(forgotten: list[str], redis) -> Registry:
    """A handler whose first effect is gone again before it is acknowledged."""
    registry = Registry()

    @registry.on("a.*")
    async def handle(event, context):
        made = await context.publish("made.it", {"of": event.id})
        if not forgotten:
            forgotten.append(made)
            await forget_effect(redis, event.id, made)

    @registry.on("made.*")
    async def effect(event, context):
        pass

    return registry


@both_versions
async def test_an_effect_forgotten_before_its_event_is_acknowledged_is_made_again(
    settings, streams_redis
):
    forgotten: list[str] = []
    async with processing(quick(settings), publishing(forgotten, streams_redis)):
        ids = [await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"}) for _ in range(2)]
        await settled(streams_redis, 4)

    assert sorted(await effects(streams_redis)) == ids
    assert forgotten


@both_versions
async def test_a_settled_event_that_redis_gives_out_again_is_skipped_only_with_its_effects(
    settings, streams_redis
):
    async with processing(quick(settings), publishing(["nothing"], streams_redis)):
        kept, lost = [await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"}) for _ in "12"]
        await settled(streams_redis, 4)
        (made,) = await streams_redis.hvals(keys.handled(STREAM, lost))
        await forget_effect(streams_redis, lost, made)
        await streams_redis.xgroup_setid(STREAM, GROUP, "0")
        # the lost one and its new effect: what is whole is not counted again
        await settled(streams_redis, 6)

    assert sorted(await effects(streams_redis)) == [kept, lost]
    assert await streams_redis.hget(keys.event_totals(STREAM), "processed") == "6"


async def test_marks_that_may_have_expired_are_not_asked_for(settings, streams_redis, monkeypatch):
    monkeypatch.setattr(intake, "FORGETS_S", 0.0)
    async with processing(quick(settings), publishing(["nothing"], streams_redis)):
        old = await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"})
        await settled(streams_redis, 2)
        await streams_redis.delete(keys.handled(STREAM, old))
        await streams_redis.xgroup_setid(STREAM, GROUP, "0")
        await streams_redis.xadd(STREAM, {"type": "made.it", "data": '{"of": "nobody"}'})
        await settled(streams_redis, 3)

    assert sorted(await effects(streams_redis)) == [old, "nobody"]


@both_versions
@pytest.mark.parametrize("is_forgotten", [True, False])
async def test_a_dead_event_that_redis_gives_out_again_has_its_letter_once(
    settings, streams_redis, is_forgotten
):
    async with processing(quick(settings), publishing(["nothing"], streams_redis)):
        bad = await streams_redis.xadd(STREAM, {"type": "a.b", "data": "{"})
        await settled(streams_redis, 1)
        before = await streams_redis.hget(keys.dead_record(STREAM, bad), "died_ms")
        if is_forgotten:
            await streams_redis.delete(
                keys.dead_record(STREAM, bad),
                keys.dead_payload(STREAM, bad),
                keys.dead_open(STREAM),
            )
        await streams_redis.xgroup_setid(STREAM, GROUP, "0")
        more = await streams_redis.xadd(STREAM, {"type": "made.it", "data": "{}"})

        async def is_through() -> bool:
            (group,) = await streams_redis.xinfo_groups(STREAM)
            return group["last-delivered-id"] == more and group["pending"] == 0

        await until(is_through, timeout_s=30)

    (letter,) = await letters(streams_redis)
    assert letter.id == bad
    assert json.loads(await streams_redis.get(keys.dead_payload(STREAM, bad)))["raw"]["data"] == "{"
    totals = await streams_redis.hgetall(keys.event_totals(STREAM))
    assert totals["dead"] == ("2" if is_forgotten else "1")
    assert is_forgotten or str(letter.died_ms) == before
