"""The event processor against real Redis servers, in this process and as one that gets killed."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app import actions, keys
from app.actions import Connections
from app.collector import Collector
from app.declarations import StreamPolicy
from app.records import DeadLetter, LetterState
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import ROOT, start_redis, wait_until
from tests.letters import ANN
from tests.waiting import until
from workers.event_processor import EventProcessor
from workers.event_router import Registry, load_handlers
from workers.events.group import EventGroup

STREAM = "pyairtable-events"
GROUP = "event-processors"
both_versions = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


@contextlib.asynccontextmanager
async def processing(settings: Settings, registry: Registry) -> AsyncIterator[EventProcessor]:
    processor = EventProcessor(settings, registry)
    running = asyncio.create_task(processor.run())
    try:
        yield processor
    finally:
        processor.stop()
        await running


def quick(settings: Settings, **more: Any) -> Settings:
    return settings.model_copy(
        update={"block_time": 50, "lease_s": 0.6, "event_attempts": 3, **more}
    )


async def settled(redis: Any, count: int) -> None:
    """Wait until *count* events are processed or dead and none is pending."""

    async def is_so() -> bool:
        totals = await redis.hgetall(keys.event_totals(STREAM))
        done = int(totals.get("processed", 0)) + int(totals.get("dead", 0))
        return done >= count and (await redis.xpending(STREAM, GROUP))["pending"] == 0

    await until(is_so, timeout_s=30)


async def letters(redis: Any) -> list[DeadLetter]:
    ids = await redis.zrange(keys.dead_open(STREAM), 0, -1)
    return [
        DeadLetter.from_fields(await redis.hgetall(keys.dead_record(STREAM, one))) for one in ids
    ]


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
        await until(lambda: _has(handled, 10))
        await streams_redis.flushdb()
        ids += [await streams_redis.xadd(STREAM, {"type": "a.b", "data": "3"}) for _ in range(5)]
        await until(lambda: _has(handled, 15))

    assert handled == ids
    assert await cache_redis.llen(keys.DLQ_ALERTS) == 2


async def _has(found: list[str], count: int) -> bool:
    return len(found) >= count


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
        await until(lambda: _has(handled, 3))
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
    several = quick(settings, declared_streams=(StreamPolicy(name=STREAM, keep=1_000),))
    async with streams_redis.pipeline(transaction=False) as pipe:
        for _ in range(2_500):
            pipe.xadd(STREAM, {"type": "a.b", "data": "1"})
        await pipe.execute()
    await streams_redis.xgroup_create(STREAM, "sleepers", "0")
    registry = Registry()
    registry.on("*")(_nothing)

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


async def _nothing(event, context): ...


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
        await until(lambda: _has(begun, 2))
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
        await until(lambda: _has(handled, 10))
        rows = await streams_redis.xpending_range(STREAM, GROUP, "-", "+", 1_000)
        await settled(streams_redis, 400)

    owned = {name: sum(row["consumer"] == name for row in rows) for name in ("one", "two")}
    assert max(owned.values()) <= 200
    assert min(owned.values()) > 0


HANDLERS = """
import os, signal
from pathlib import Path
from workers.event_router import on

@on("crash.always")
async def die(event, context):
    os.kill(os.getpid(), signal.SIGKILL)

@on("work.*")
async def work(event, context):
    with open(os.environ["WORK_LOG"], "a") as log:
        log.write(event.id + "\\n")
    await context.enqueue("generic", {"n": event.data}, queue="async-processing")
    if event.data == 3 and Path(os.environ["WORK_LOG"] + ".die").exists():
        Path(os.environ["WORK_LOG"] + ".die").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Processors:
    """Starts event processors as processes of their own."""

    def __init__(self, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "event_test_handlers.py").write_text(HANDLERS, encoding="utf-8")
        self.log = tmp_path / "work.log"
        self.started: list[subprocess.Popen[bytes]] = []
        self.environ = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
            "REDIS_URL": settings.redis_url,
            "REDIS_STREAMS_URL": settings.redis_streams_url,
            "REDIS_QUEUE_URL": settings.redis_queue_url,
            "ARQSCOPE_HANDLERS": "event_test_handlers",
            "ARQSCOPE_LEASE_S": "0.6",
            "BLOCK_TIME": "50",
            "WORK_LOG": str(self.log),
        }
        self.directory = tmp_path

    def start(self) -> subprocess.Popen[bytes]:
        with (self.directory / "processor.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.event_processor"],
                env=self.environ,
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def let_one_die(self) -> None:
        Path(f"{self.log}.die").touch()

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait(10)


@pytest.fixture
def processors(settings, tmp_path):
    made = Processors(settings, tmp_path)
    yield made
    made.close()


@both_versions
async def test_a_processor_killed_in_the_middle_of_an_event_loses_nothing(
    processors, streams_redis, queue_redis
):
    processors.let_one_die()
    for number in range(50):
        await streams_redis.xadd(STREAM, {"type": "work.made", "data": str(number)})

    first = processors.start()
    await asyncio.to_thread(first.wait, 20)
    second = processors.start()
    await settled(streams_redis, 50)
    second.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(second.wait, 20)

    assert (first.returncode, code) == (-signal.SIGKILL, 0)
    assert await queue_redis.zcard("async-processing") == 50  # none missing, none doubled
    assert [(one.error, one.traceback) for one in await letters(streams_redis)] == []


async def test_an_event_that_kills_its_processor_is_buried_alone(
    processors, streams_redis, queue_redis
):
    for number in range(20):
        await streams_redis.xadd(STREAM, {"type": "work.made", "data": str(100 + number)})
    poison = await streams_redis.xadd(STREAM, {"type": "crash.always", "data": "1"})
    for number in range(20):
        await streams_redis.xadd(STREAM, {"type": "work.made", "data": str(200 + number)})

    def crash() -> bool:
        process = processors.start()
        wait_until(lambda: process.poll() is not None or _dead(processors), 20)
        return process.poll() is not None

    def _dead(processors: Processors) -> bool:
        return b"event buried" in (processors.directory / "processor.log").read_bytes()

    crashes = 0
    while await asyncio.to_thread(crash):
        crashes += 1
    await settled(streams_redis, 41)

    (letter,) = await letters(streams_redis)
    assert (letter.id, letter.reason, letter.attempts) == (poison, "crash", crashes)
    assert await queue_redis.zcard("async-processing") == 40


async def test_a_redis_that_is_killed_is_waited_for(tmp_path):
    server = start_redis(tmp_path / "redis")
    settings = Settings(
        redis_url=server.database(0),
        redis_streams_url=server.database(1),
        redis_queue_url=server.database(2),
    )
    registry = Registry()
    handled: list[str] = []

    @registry.on("*")
    async def handle(event, context):
        handled.append(event.id)
        await context.enqueue("generic", {})

    streams = connect(settings.url("streams"), retries=5)
    async with processing(quick(settings), registry):
        await streams.xadd(STREAM, {"type": "a.b", "data": "1"})
        await settled(streams, 1)
        server.kill()
        await asyncio.to_thread(server.start)
        for _ in range(20):
            await streams.xadd(STREAM, {"type": "a.b", "data": "2"})
        await settled(streams, 21)
    await streams.aclose()
    server.stop()

    assert len(set(handled)) == 21


async def test_a_queue_redis_that_is_away_costs_no_attempt(tmp_path, settings, streams_redis):
    """
    The event waits for the queue's Redis, and makes one job when it is back.
    """
    server = start_redis(tmp_path / "queue")
    server.stop()
    apart = quick(settings, redis_queue_url=server.database(0), event_attempts=1)
    registry = Registry()
    tried: list[str] = []

    @registry.on("*")
    async def handle(event, context):
        tried.append(event.id)
        await context.enqueue("generic", {})

    await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"})
    async with processing(apart, registry) as processor:
        await until(lambda: _has(tried, 2))
        trouble = processor.describe()
        await asyncio.to_thread(server.start)
        await settled(streams_redis, 1)

    queue = connect(server.database(0))
    assert await queue.zcard("event-driven-jobs") == 1
    await queue.aclose()
    server.stop()
    assert (trouble["state"], "queue" in trouble["trouble"]) == ("degraded", True)
    assert [(one.error, one.traceback) for one in await letters(streams_redis)] == []


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
