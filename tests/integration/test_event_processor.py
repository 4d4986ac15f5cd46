"""The event processor against real Redis servers, in this process."""

import asyncio
import json

from app import actions, keys
from app.actions import Connections
from app.collector import Collector
from app.declarations import StreamPolicy
from app.records import DeadLetter, LetterState
from tests.letters import ANN
from tests.processing import GROUP, STREAM, both_versions, has, processing, quick, settled
from tests.waiting import until
from workers.event_router import Registry, load_handlers


@both_versions
async def test_an_event_written_by_redis_cli_is_processed(settings, streams_redis, queue_redis):
    """
    The form of the specification: the entry exists before the group does.
    """
    entry_id = await streams_redis.xadd(
        STREAM, {"type": "user.created", "userId": "u1", "data": '{"email":"a@b.c"}'}
    )

    async with processing(settings, load_handlers(settings)):
        await settled(streams_redis, 1)

    assert await queue_redis.zrange("event-driven-jobs", 0, -1) == [f"evt-{entry_id}-welcome_user"]
    ((_, recent),) = await streams_redis.xrange(keys.recent_events(STREAM))
    assert (recent["id"], recent["type"], recent["outcome"]) == (
        entry_id,
        "user.created",
        "handled",
    )
    assert recent["handlers"] == "tell_user,welcome_user"


async def test_notify_user_arrives_on_the_users_channel(settings, streams_redis, cache_redis):
    async with cache_redis.pubsub() as listener:
        await listener.subscribe("user:u1")
        await listener.get_message(timeout=5)
        await streams_redis.xadd(
            STREAM, {"type": "notification.send", "userId": "u1", "data": '{"message":"hello"}'}
        )

        async with processing(settings, load_handlers(settings)):
            message = json.loads((await listener.get_message(timeout=10))["data"])

    assert (message["type"], message["message"], message["userId"]) == (
        "notification",
        "hello",
        "u1",
    )


async def test_a_handler_that_is_through_is_not_run_again(settings, streams_redis):
    """
    Two handlers, one fails twice: each takes effect once.
    """
    registry = Registry()
    ran: list[str] = []

    @registry.on("user.*")
    async def good(event, context):
        ran.append("good")

    @registry.on("user.created")
    def flaky(event, context):
        ran.append("flaky")
        if context.attempt < 3:
            raise ConnectionError("away")

    await streams_redis.xadd(STREAM, {"type": "user.created", "data": "{}"})
    async with processing(quick(settings), registry):
        await settled(streams_redis, 1)

    assert ran == ["good", "flaky", "flaky", "flaky"]


async def test_an_event_nobody_handles_is_counted(settings, streams_redis):
    await streams_redis.xadd(STREAM, {"type": "billing.paid", "data": "{}"})

    async with processing(quick(settings), load_handlers(settings)):
        await settled(streams_redis, 1)

    totals = await streams_redis.hgetall(keys.event_totals(STREAM))
    assert (totals["unmatched"], totals["processed"]) == ("1", "1")


async def test_an_event_processed_twice_enqueues_one_job(settings, streams_redis, queue_redis):
    registry = Registry()

    @registry.on("airtable.*")
    async def sync(event, context):
        await context.enqueue("data-sync", {"n": 1})
        await context.enqueue("data-sync", {"n": 2})
        await context.publish("sync.begun")
        await context.notify_user("u1", "begun")
        if context.attempt == 1:
            raise RuntimeError("after its effects")

    await streams_redis.xadd(STREAM, {"type": "airtable.changed", "data": "{}"})
    async with processing(quick(settings), registry):
        await settled(streams_redis, 2)

    assert len(await queue_redis.zrange("event-driven-jobs", 0, -1)) == 2
    assert await streams_redis.xlen(STREAM) == 2  # the event and the one it brought about


@both_versions
async def test_a_stopped_processor_leaves_nothing_behind(settings, streams_redis, queue_redis):
    """
    What it held and had not begun goes back free of charge, and its consumer and record are gone.
    """
    registry = Registry()
    begun: list[str] = []
    may_end = asyncio.Event()

    @registry.on("*")
    async def handle(event, context):
        begun.append(event.id)
        await may_end.wait()

    for _ in range(20):
        await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"})
    async with processing(quick(settings, concurrency=2, lease_s=30), registry) as processor:
        await until(lambda: has(begun, 2))
        await until(lambda: queue_redis.zcard(keys.WORKERS))
        processor.stop()
        may_end.set()

    rows = await streams_redis.xpending_range(STREAM, GROUP, "-", "+", 100)
    assert {row["times_delivered"] for row in rows} == {0}
    assert len(rows) + int(await streams_redis.hget(keys.event_totals(STREAM), "processed")) == 20
    assert await queue_redis.zcard(keys.WORKERS) == 0
    may_end.set()
    async with processing(quick(settings), registry):
        await settled(streams_redis, 20)
    assert len(begun) == 20
    assert await streams_redis.xinfo_consumers(STREAM, GROUP) == []


async def test_a_busy_processor_keeps_its_entries(settings, streams_redis):
    """
    A handler slower than the lease is not started a second time by a processor beside it.
    """
    registry = Registry()
    begun: list[str] = []

    @registry.on("*")
    async def handle(event, context):
        begun.append(event.id)
        await asyncio.sleep(1.5)

    await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"})
    one = quick(settings, stream_consumer_name="one")
    two = quick(settings, stream_consumer_name="two")
    async with processing(one, registry), processing(two, registry):
        await settled(streams_redis, 1)

    assert len(begun) == 1


@both_versions
async def test_one_processor_serves_every_declared_stream(
    settings, streams_redis, queue_redis, cache_redis
):
    """
    Each with its own group, attempts and partition; letters, actions and frames know them by name.
    """
    billing = StreamPolicy(name="billing", group="tills", partition=("correlationId",), attempts=1)
    several = quick(settings, declared_streams=(billing,))
    registry = Registry()
    order: list[str] = []
    broken = True

    @registry.on("*")
    async def handle(event, context):
        if event.value("bad") and broken:
            raise ValueError("bad")
        await asyncio.sleep(0.02 if event.value("n") == 0 else 0)
        if event.type == "c.d":  # ids of two streams may be equal
            order.append(event.id)

    await streams_redis.xadd(STREAM, {"type": "a.b", "data": "{}"})
    entry = {"type": "c.d", "correlationId": "order-1"}
    ids = [await streams_redis.xadd("billing", {**entry, "data": f'{{"n":{n}}}'}) for n in range(3)]
    bad = await streams_redis.xadd("billing", {"type": "c.d", "data": '{"bad":true}'})
    async with processing(several, registry) as processor:
        await settled(streams_redis, 1)
        await until(lambda: streams_redis.zcard(keys.dead_open("billing")))
        broken = False
        connections = Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)
        report = await actions.retry_letter(connections, several, ANN, "billing", bad)
        await until(lambda: streams_redis.zcard(keys.dead_closed("billing")))
        await until(lambda: asyncio.sleep(0, len(order) == len(ids) + 1))
        await until(lambda: queue_redis.zcard(keys.WORKERS))
        (beat,) = await queue_redis.zrange(keys.WORKERS, 0, -1)
        source = await queue_redis.hget(keys.worker(beat), "source")

    collector = Collector(several)
    snapshot = await collector.sample()
    await collector.stop()
    assert report.changed
    assert [one for one in order if one in ids] == ids
    record = await streams_redis.hgetall(keys.dead_record("billing", bad))
    letter = DeadLetter.from_fields(record)
    assert (letter.state, letter.attempts, letter.source) == (LetterState.RESOLVED, 1, "billing")
    assert list(snapshot.streams["stream"]) == [STREAM, "billing"]
    assert dict(zip(snapshot.streams["stream"], snapshot.streams["processed"], strict=True)) == {
        STREAM: 1,
        "billing": 4,
    }
    assert set(snapshot.groups["group"]) == {GROUP, "tills"}
    assert source == f"{STREAM},billing"
    assert processor.describe()["held"] == 0


async def test_a_processor_beside_a_slow_one_gets_its_share(settings, streams_redis):
    """
    Nobody takes a thousand entries before it knows how fast they are handled.
    """
    registry = Registry()
    handled: list[str] = []

    @registry.on("*")
    async def handle(event, context):
        await asyncio.sleep(0.01)
        handled.append(event.id)

    async with streams_redis.pipeline(transaction=False) as pipe:
        for _ in range(400):
            pipe.xadd(STREAM, {"type": "a.b", "data": "1"})
        await pipe.execute()
    one = quick(settings, stream_consumer_name="one", lease_s=30)
    two = quick(settings, stream_consumer_name="two", lease_s=30)
    async with processing(one, registry), processing(two, registry):
        await until(lambda: has(handled, 10))
        rows = await streams_redis.xpending_range(STREAM, GROUP, "-", "+", 1_000)
        await settled(streams_redis, 400)

    owned = {name: sum(row["consumer"] == name for row in rows) for name in ("one", "two")}
    assert max(owned.values()) <= 200
    assert min(owned.values()) > 0
