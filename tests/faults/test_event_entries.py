"""Events under fault, rows of FAULTS.md: entries cut off, malformed, trimmed, deleted, out of time."""

import asyncio
import json
import time
from typing import Any, cast

import pytest

from app import keys
from app.errors import BadRecord, SettingsError
from app.streams.events import Event
from app.wire.connections import connect
from tests.faults import ledger
from tests.faults.conftest import Row
from tests.faults.event_rig import GROUP, STREAM, EventRig, MakeRig, both_in_full, both_versions
from tests.faults.fault_events import fields
from tests.faults.proxy import ChaosProxy
from tests.faults.rig import sized
from workers.event_router import Registry
from workers.events.attempt import Delivery, letter_of
from workers.events.group import EventGroup


def _malformed() -> dict[str, dict[Any, Any]]:
    """Entries nobody can handle, by what is wrong with them; values as bytes or text."""
    kind = {"type": "broken.entry"}
    return {
        "no data": kind,
        "no type": {"data": "{}"},
        "nothing known": {"x": "y"},
        "empty data": {**kind, "data": ""},
        "bad JSON": {**kind, "data": '{"n":'},
        "deep": {**kind, "data": "[" * 100_000 + "]" * 100_000},
        "NaN": {**kind, "data": '{"n": NaN}'},
        "infinite": {**kind, "data": "-Infinity"},
        "twice": {**kind, "data": '{"a":1,"a":2}'},
        "lone surrogate": {**kind, "data": '"\\ud800"'},
        "not UTF-8": {**kind, "data": b'{"a":"\xff\xfe"}'},
        "not UTF-8 outside data": {**kind, "data": "{}", "userId": b"\xc3\x28"},
        "5,000 digits": {**kind, "data": "1" * 5_000},
        "big": {**kind, "data": "x" * sized(64_000_000, 2_000_000)},
        "large, not UTF-8": {**kind, "data": b'\xff\x00"\\/\x1f\xc3' * 200_000},
        "10,000 fields": {**kind, "data": "{}", **{f"f{n}": "v" for n in range(10_000)}},
        "type with spaces": {"type": "no such form", "data": "{}"},
        "type of 1 MB": {"type": "a." + "b" * 1_000_000, "data": "{}"},
        "long user": {**kind, "data": "{}", "userId": "u" * 10_000},
        "redrive of nothing": {**kind, "data": "{}", "redrivenFrom": "evil"},
        "NUL and line feed": {**kind, "data": "\x00\n"},
        "field without name": {"": "", "type": "broken.entry"},
    }


def _parts(entry_id: str) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split("-")))


async def _has_letters(rig: EventRig, count: int) -> bool:
    return bool(await rig.redis.zcard(keys.dead_open(STREAM)) >= count)


async def _kept(rig: EventRig, letter_id: str) -> dict[bytes, bytes]:
    raw = await rig.redis.get(keys.dead_payload(STREAM, letter_id))
    return {_bytes(k): _bytes(v) for k, v in json.loads(cast(str, raw))["raw"].items()}


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _decision_ms(entry_id: str, entry: dict[Any, Any]) -> float:
    """Time the processor takes to see that *entry* is malformed and to describe its letter.

    By the clock on the wall, so that a wait counts as well; the least of five, one of which a loaded
    machine leaves alone.
    """
    texts = {_bytes(k).decode("utf-8", "surrogateescape"): v for k, v in entry.items()}
    raw = {k: _bytes(v).decode("utf-8", "surrogateescape") for k, v in texts.items()}
    took_s = []
    for _ in range(5):
        delivery = Delivery(entry_id, raw, 1, taken_at=0.0)
        began = time.perf_counter()
        assert delivery.decode() is None
        assert delivery.malformed is not None
        letter_of(delivery, "malformed", delivery.malformed, stream=STREAM, worker="w")
        took_s.append(time.perf_counter() - began)
    return min(took_s) * 1000


@pytest.mark.row("E3")
@both_in_full
async def test_entries_of_a_reply_that_was_cut_off_are_read_again(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    Redis handed the entries over, the connection broke before they arrived.
    """
    rig = make_event_rig(lease_s=5, kind=kind)
    cuts = sized(20, 3)
    waits = []
    async with ChaosProxy(rig.server.port, rig.seed) as proxy:
        through = f"redis://:{rig.server.password}@127.0.0.1:{proxy.port}/1"
        one = rig.start({"REDIS_STREAMS_URL": through})
        await rig.started(one)
        await rig.work(10)
        await rig.has("done", 10)
        for number in range(cuts):
            proxy.lose_reply_with = b"work.cut"
            await rig.work(20, kind="work.cut")
            began = time.monotonic()
            await rig.holds(lambda: asyncio.sleep(0, not proxy.lose_reply_with))
            await rig.has("done", 10 + 20 * (number + 1))
            waits.append(time.monotonic() - began)
        await rig.settled()
        alive = one.is_alive
        await rig.stop()

    verdict = await rig.verdict()
    row.figure(redis=kind, cuts=cuts, wait_max_s=max(waits), **verdict.figures())
    assert alive
    assert verdict.holds, verdict.said()
    assert max(waits) < 5  # sooner than the lease: they are our own


@pytest.mark.row("E6")
@both_in_full
async def test_malformed_entries_are_letters_at_once_with_their_bytes(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    What is only unusual is handled: an unknown type, a timestamp of next century, odd fields.
    """
    rig = make_event_rig(lease_s=10, kind=kind)
    processor = rig.start()
    await rig.started(processor)
    corpus = _malformed()
    slowest = ("", 0.0)
    ids = {}
    for number, (what, entry) in enumerate(corpus.items(), 1):
        (ids[what],) = await rig.publish([entry])
        began = time.monotonic()
        await rig.holds(lambda n=number: _has_letters(rig, n))  # type: ignore[misc]
        slowest = max(slowest, (what, time.monotonic() - began), key=lambda pair: pair[1])
    odd = await rig.publish(
        [
            fields("nobody.cares"),
            fields("work.late", timestamp="2126-01-01T00:00:00Z"),
            fields("work.odd", version="99", **{"ünï": "cødé"}),
        ]
    )
    await rig.has("done", 2)
    await rig.has("unmatched", 1)
    await rig.settled()
    alive = processor.is_alive
    await rig.stop()

    letters = await rig.letters()
    took_ms = {what: _decision_ms(ids[what], entry) for what, entry in corpus.items()}
    longest = max(took_ms, key=took_ms.__getitem__)
    changed = [
        what
        for what, entry in corpus.items()
        if await _kept(rig, ids[what]) != {_bytes(k): _bytes(v) for k, v in entry.items()}
    ]
    row.figure(
        redis=kind,
        kinds=len(corpus),
        slowest=slowest[0],
        slowest_s=slowest[1],  # sent, read and kept: of the big one, 64 MB through three sockets
        decision=longest,
        decision_ms=took_ms[longest],
    )
    assert took_ms[longest] <= 50
    assert alive
    assert sorted(letters) == sorted(ids.values())
    assert {letter.reason for letter in letters.values()} == {"malformed"}
    assert {letter.attempts for letter in letters.values()} == {1}
    assert changed == []
    assert not set(odd) & set(letters)


@pytest.mark.row("E7")
@both_in_full
async def test_trimming_never_takes_what_is_unread_or_pending(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    A producer faster than the processor, and a stream that is trimmed all the while.
    """
    rig = make_event_rig(lease_s=2, kind=kind)
    count = sized(20_000, 2_000)
    await rig.started(rig.start(CONCURRENCY="4", BATCH_SIZE="100"))
    group = EventGroup(rig.redis, rig.redis, stream=STREAM, group=GROUP, consumer="trimmer")
    trimmed, looks, robbed = 0, 0, 0

    async def trim() -> None:
        """Trim, and look whether anything pending is gone: the processor has read it, a heir could not."""
        nonlocal trimmed, looks, robbed
        trimmed += await group.trim(sized(1_000, 200))
        (first, _), *_ = await rig.redis.xrange(STREAM, count=1)
        oldest = (await group.pending(own=False, idle_ms=0))[:1]
        looks += len(oldest)
        robbed += any(_parts(one.id) < _parts(first) for one in oldest)

    for _ in range(count // 500):
        await rig.publish([fields("count.me", {"seconds": 0.0005}) for _ in range(500)])
        await trim()
    while not await rig.is_settled():
        await trim()
        await asyncio.sleep(0.01)
    await trim()
    length = await rig.redis.xlen(STREAM)
    await rig.stop()

    done = ledger.counts(rig.entries(), "done")
    row.figure(
        redis=kind,
        events=count,
        trimmed=trimmed,
        left=length,
        lost=count - len(done),
        looks=looks,
        robbed=robbed,
    )
    assert set(done) == set(rig.acked)
    assert trimmed > 0
    assert length < count
    assert looks > 0
    assert robbed == 0


@pytest.mark.row("E8")
@both_versions
async def test_pending_entries_that_were_deleted_are_counted_and_reported(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    rig = make_event_rig(lease_s=0.5, kind=kind)
    cache = connect(rig.server.database(0))
    ids = await rig.work(sized(1_000, 60))
    await rig.redis.xgroup_create(STREAM, GROUP, "0")
    await rig.redis.xreadgroup(GROUP, "gone", {STREAM: ">"}, count=len(ids))
    deleted = ids[1::3]
    await rig.redis.xdel(STREAM, *deleted)
    await rig.redis.xtrim(STREAM, minid=ids[10], approximate=False)
    deleted = sorted({*deleted, *ids[:10]})
    for one in deleted:
        del rig.acked[one]
    rig.start()
    await rig.settled()

    async def is_reported() -> list[str]:
        raw = await cast(Any, cache.lrange(keys.DLQ_ALERTS, 0, -1))
        return [one for one in raw if "event-trimmed" in one]

    await rig.holds(is_reported)
    await rig.stop()
    verdict, totals = await rig.verdict(), await rig.totals()
    await cache.aclose()
    row.figure(redis=kind, deleted=len(deleted), counted=totals["trimmed"], **verdict.figures())
    assert verdict.holds, verdict.said()
    assert totals["trimmed"] == len(deleted)


@pytest.mark.row("E10")
async def test_events_older_than_the_first_processor_are_handled(
    make_event_rig: MakeRig, row: Row
) -> None:
    rig = make_event_rig()
    ids = await rig.work(sized(1_000, 100))
    rig.start()
    await rig.has("done", len(ids))
    await rig.settled()
    await rig.stop()

    verdict = await rig.verdict()
    row.figure(before=len(ids), **verdict.figures())
    assert verdict.holds, verdict.said()


@pytest.mark.row("E13")
def test_a_hostile_pattern_or_type_costs_no_time(row: Row) -> None:
    registry = Registry()
    registry.on("a.*")(lambda event, context: None)
    with pytest.raises(SettingsError):
        registry.on("(a+)+$")
    took_ms = []
    for hostile in ("a" * 1_000_000 + "!", "a." * 500_000, "a" * 127 + "!"):
        began = time.thread_time()
        with pytest.raises(BadRecord):
            Event.from_entry("1-1", {"type": hostile, "data": "{}"})
        took_ms.append((time.thread_time() - began) * 1000)
    deep = ".".join("a" * 64)
    began = time.thread_time()
    assert registry.matching(deep)
    took_ms.append((time.thread_time() - began) * 1000)

    row.figure(slowest_ms=max(took_ms))
    assert max(took_ms) < 5


@pytest.mark.row("E16")
@both_in_full
async def test_order_does_not_depend_on_the_clock_of_redis(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    An entry two hours ahead leaves Redis as a clock set back by two hours would: ids go on from it.
    """
    rig = make_event_rig(kind=kind)
    rig.start()
    await rig.publish([fields("count.me", {"n": 0}, workspaceId="w")])
    seconds, _ = await rig.redis.time()
    ahead = f"{(seconds + 7200) * 1000}-0"
    await rig.redis.xadd(STREAM, cast(Any, fields("count.me", workspaceId="w")), id=ahead)
    rig.acked[ahead] = "count.me"
    for _ in range(sized(50, 5)):
        # each sooner through than the one before, were they not one partition
        await rig.publish(
            [
                fields("count.me", {"seconds": 0.0002 * left}, workspaceId="w")
                for left in range(20, 0, -1)
            ]
        )
    await rig.has("done", len(rig.acked))
    await rig.settled()
    await rig.stop()

    order = [entry.id for entry in rig.entries("done")]
    wrong = sum(a != b for a, b in zip(order, rig.acked, strict=True))
    row.figure(redis=kind, events=len(order), order_violations=wrong)
    assert order == list(rig.acked)
