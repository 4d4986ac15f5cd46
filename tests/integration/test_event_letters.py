"""Events that die: when they become dead letters, once, with what they were, and what a retry of one does."""

import json

import pytest
from redis.exceptions import ResponseError

from app import keys
from app.records import DeadLetter, LetterState
from tests.processing import GROUP, STREAM, both_versions, letters, processing, quick, settled
from tests.waiting import until
from workers.event_router import Registry, load_handlers
from workers.events.group import EventGroup, Settled


@both_versions
async def test_a_malformed_entry_is_a_dead_letter_at_the_first_attempt(settings, streams_redis):
    bad = await streams_redis.xadd(STREAM, {"type": "user.created", "data": b"\xff{", b"\xfe": "x"})
    await streams_redis.xadd(STREAM, {"type": "user.created", "data": "{}", "userId": "u"})

    async with processing(quick(settings), load_handlers(settings)):
        await settled(streams_redis, 2)

    (letter,) = await letters(streams_redis)
    assert (letter.id, letter.kind, letter.reason, letter.attempts) == (
        bad,
        "event",
        "malformed",
        1,
    )
    payload = json.loads(await streams_redis.get(keys.dead_payload(STREAM, bad)))
    raw = {k.encode(errors="surrogateescape"): v for k, v in payload["raw"].items()}
    assert raw[b"data"].encode(errors="surrogateescape") == b"\xff{"
    assert b"\xfe" in raw
    totals = await streams_redis.hgetall(keys.event_totals(STREAM))
    assert (totals["malformed"], totals["dead"], totals["processed"]) == ("1", "1", "1")


@both_versions
async def test_a_handler_that_always_raises_makes_a_dead_letter_after_n_attempts(
    settings, streams_redis
):
    registry = Registry()
    attempts: dict[str, int] = {}
    order: list[str] = []

    @registry.on("order.*")
    async def handle(event, context):
        attempts[event.id] = attempts.get(event.id, 0) + 1
        if event.value("bad"):
            raise ValueError(f"order {event.id} is bad")
        order.append(event.id)

    ids = [
        await streams_redis.xadd(
            STREAM,
            {"type": "order.made", "workspaceId": "w", "data": json.dumps({"bad": n == 3})},
        )
        for n in range(8)
    ]
    async with processing(quick(settings), registry):
        await settled(streams_redis, 8)

    (letter,) = await letters(streams_redis)
    assert (letter.id, letter.attempts, letter.reason) == (ids[3], 3, "attempts")
    assert (letter.error_type, letter.name) == ("ValueError", "order.made")
    assert "in handle" in letter.traceback
    assert attempts[ids[3]] == 3
    assert order == [one for one in ids if one != ids[3]]
    assert await streams_redis.hlen(keys.event_attempts(STREAM)) == 0


async def test_a_permanent_error_is_not_tried_again(settings, streams_redis):
    await streams_redis.xadd(STREAM, {"type": "notification.send", "data": "{}"})

    async with processing(quick(settings), load_handlers(settings)):
        await settled(streams_redis, 1)

    (letter,) = await letters(streams_redis)
    assert (letter.reason, letter.attempts) == ("permanent", 1)


@both_versions
async def test_a_redriven_event_resolves_its_dead_letter(settings, streams_redis):
    registry = Registry()
    broken = True
    ran: list[str] = []

    @registry.on("order.*")
    async def first(event, context):
        ran.append("first")

    @registry.on("order.made")
    async def second(event, context):
        if broken:
            raise ValueError("not yet")
        ran.append("second")

    entry_id = await streams_redis.xadd(STREAM, {"type": "order.made", "data": "{}"})
    async with processing(quick(settings), registry):
        await until(lambda: letters(streams_redis))
        broken = False
        raw = json.loads(await streams_redis.get(keys.dead_payload(STREAM, entry_id)))["raw"]
        await streams_redis.zrem(keys.dead_open(STREAM), entry_id)
        await streams_redis.zadd(keys.dead_retrying(STREAM), {entry_id: 1})
        await streams_redis.xadd(STREAM, {**raw, "redrivenFrom": entry_id})
        await settled(streams_redis, 2)

    record = await streams_redis.hgetall(keys.dead_record(STREAM, entry_id))
    assert DeadLetter.from_fields(record).state == LetterState.RESOLVED
    assert ran == ["first", "second"]
    assert await streams_redis.zcard(keys.dead_retrying(STREAM)) == 0
    assert await streams_redis.zrange(keys.dead_closed(STREAM), 0, -1) == [entry_id]


async def test_a_malformed_event_redriven_stays_one_dead_letter(settings, streams_redis):
    bad = await streams_redis.xadd(STREAM, {"type": "order.made", "data": "{"})

    async with processing(quick(settings), Registry()):
        await settled(streams_redis, 1)
        await streams_redis.zrem(keys.dead_open(STREAM), bad)
        await streams_redis.zadd(keys.dead_retrying(STREAM), {bad: 1})
        await streams_redis.xadd(STREAM, {"type": "order.made", "data": "{", "redrivenFrom": bad})
        await settled(streams_redis, 2)

    assert [letter.id for letter in await letters(streams_redis)] == [bad]
    assert await streams_redis.zcard(keys.dead_retrying(STREAM)) == 0


@both_versions
async def test_a_letter_that_cannot_be_written_costs_no_event(streams_redis, monkeypatch):
    """
    What the script cannot read must stop it before the acknowledgement: after it the event is nowhere.
    """
    entry = await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"})
    await streams_redis.xgroup_create(STREAM, GROUP, "0")
    await streams_redis.xreadgroup(GROUP, "c", {STREAM: ">"})
    group = EventGroup(streams_redis, streams_redis, stream=STREAM, group=GROUP, consumer="c")
    letter = {"kind": "event", "source": STREAM, "name": "a.b"}
    event = Settled(id=entry, identity=entry, type="a.b", handlers="", outcome="dead", ms=0)
    monkeypatch.setattr("workers.events.group.json.dumps", lambda _: "{half")

    with pytest.raises(ResponseError):
        await group.bury(event, "failed", letter)

    assert (await streams_redis.xpending(STREAM, GROUP))["pending"] == 1
    monkeypatch.undo()
    assert await group.bury(event, "failed", letter)
    assert (await streams_redis.xpending(STREAM, GROUP))["pending"] == 0
    assert [one.id for one in await letters(streams_redis)] == [entry]
