"""Events under fault, rows of FAULTS.md: processors that die, entries that kill, groups that vanish."""

import asyncio
import itertools
import json
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, cast

import pytest

from app import keys
from app.connections import connect
from app.errors import BadRecord, SettingsError
from app.events import Event
from app.settings import Settings
from tests.faults import ledger
from tests.faults.conftest import Row
from tests.faults.event_rig import GROUP, STREAM, EventRig
from tests.faults.fault_events import fields
from tests.faults.proxy import ChaosProxy
from tests.faults.rig import sized
from workers.event_group import EventGroup
from workers.event_router import Registry

MakeRig = Callable[..., EventRig]
both_versions = pytest.mark.parametrize("kind", ["system", "bundled"])
#: rows whose slice would tell nothing new on the embedded 6.2; `make faults` runs them on both
both_in_full = pytest.mark.parametrize("kind", sized(["system", "bundled"], ["system"]))
#: why an event of these types must be a dead letter
BAD = {"poison.always": "attempts", "crash.always": "crash", "broken.entry": "malformed"}


def _mixed(rig: EventRig, count: int, poison: int, crash: int, malformed: int) -> list[Any]:
    """Good events over ten workspaces with bad ones strewn in."""
    rows: list[Any] = [
        fields("work.made", {"n": n}, workspaceId=f"w{n % 10}") for n in range(count)
    ]
    bad: list[Any] = [fields("poison.always") for _ in range(poison)]
    bad += [fields("crash.always") for _ in range(crash)]
    bad += [{"type": "broken.entry", "data": '{"n":'} for _ in range(malformed)]
    for row in bad:
        rows.insert(rig.random.randrange(len(rows)), row)
    return rows


@pytest.mark.row("E1")
@pytest.mark.seeded
@both_versions
async def test_no_event_is_lost_or_doubled_while_processors_and_redis_die(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    Three processors, one of them killed again and again; poison, crash-poison and malformed entries
    strewn in; Redis itself killed.
    """
    rig = make_event_rig(lease_s=sized(1.0, 0.5), kind=kind)
    kills, count = sized(100, 4), sized(20_000, 300)
    rows = _mixed(rig, count, *sized((40, 4, 40), (3, 1, 3)))
    share = -(-len(rows) // kills)
    redis_kills = 0
    for number in range(kills):
        rig.keep_alive(3)
        await rig.publish(rows[number * share : (number + 1) * share])
        await asyncio.sleep(rig.random.uniform(*sized((0.1, 0.5), (0.1, 0.3))))
        if rig.alive:
            rig.random.choice(rig.alive).kill()
        if number % sized(25, 3) == 2:
            redis_kills += 1
            rig.server.kill()
            await asyncio.to_thread(rig.server.start)
    took_s = await _outlast(rig)
    codes = await rig.stop()

    verdict, totals = await rig.verdict(BAD), await rig.totals()
    length = await rig.redis.xlen(STREAM)
    row.figure(
        redis=kind,
        events=len(rig.acked),
        kills=kills,
        crashes=len(rig.processors) - kills - 3,
        redis_kills=redis_kills,
        settled_after_s=took_s,
        **verdict.figures(),
    )
    assert verdict.holds, verdict.said()
    assert set(codes) == {0}
    assert (totals["processed"], totals["dead"]) == (
        length - len(verdict.letters),
        len(verdict.letters),
    )
    assert len(verdict.letters) >= sized(84, 7)


async def _outlast(rig: EventRig, limit_s: float = 90) -> float:
    """Replace processors that die until everything is settled; return the seconds it took."""
    began = time.monotonic()

    async def is_over() -> bool:
        rig.keep_alive(3)
        return await rig.is_settled()

    await rig.holds(is_over, limit_s)
    return time.monotonic() - began


@pytest.mark.row("E2")
@both_in_full
async def test_an_effect_is_not_repeated_when_its_acknowledgement_is_lost_with_the_processor(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    Each of these events kills its processor once, after its effect.
    """
    rig = make_event_rig(lease_s=0.5, kind=kind)
    count = sized(60, 3)
    await rig.publish([fields("failpoint.hit", {"at": "after"}) for _ in range(count)])
    await rig.work(sized(500, 50))
    await _outlast(rig, 120)
    deaths = len(list(rig.ledger.glob("died-*")))
    await rig.stop()

    verdict = await rig.verdict()
    row.figure(redis=kind, kills=deaths, **verdict.figures())
    assert verdict.holds, verdict.said()
    assert deaths == count
    # beside the event that died, others may have been through and not yet acknowledged
    assert verdict.external_repeats <= deaths * 10


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


@pytest.mark.row("E4")
@both_in_full
async def test_poison_is_tried_exactly_n_times_and_holds_nobody_up(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    Neighbours of the same partition keep their order around it.
    """
    rig = make_event_rig(lease_s=5, kind=kind)
    rows = [fields("count.me", {"n": n}, workspaceId="w") for n in range(sized(500, 40))]
    for place in (5, 15, 25):
        rows.insert(place, fields("poison.always", workspaceId="w"))
    ids = await rig.publish(rows)
    rig.start()
    await rig.settled()
    await rig.stop()

    letters = await rig.letters()
    poison = [i for i, r in zip(ids, rows, strict=True) if r["type"] == "poison.always"]
    tries = ledger.counts(rig.entries(), "attempt")
    order = [entry.id for entry in rig.entries("done")]
    row.figure(redis=kind, poison=len(poison), attempts=sorted(set(tries.values())))
    assert sorted(letters) == sorted(poison)
    assert {letter.attempts for letter in letters.values()} == {3}
    assert dict(tries) == dict.fromkeys(poison, 3)
    assert order == [one for one in ids if one not in poison]
    assert await rig.redis.hlen(keys.event_attempts(STREAM)) == 0  # type: ignore[misc]


@pytest.mark.row("E5")
@both_in_full
async def test_only_the_event_that_kills_is_buried_of_a_batch_of_fifty(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    rig = make_event_rig(lease_s=0.5, kind=kind)
    rounds = sized(10, 1)
    rows = []
    for _ in range(rounds):
        batch = [fields("work.made", {"n": n}) for n in range(49)]
        batch.insert(rig.random.randrange(49), fields("crash.always"))
        rows += batch
    ids = await rig.publish(rows)
    took_s = await _outlast(rig, 120)
    await rig.stop()

    verdict = await rig.verdict(BAD)
    killers = {i for i, r in zip(ids, rows, strict=True) if r["type"] == "crash.always"}
    runs = ledger.counts(rig.entries(), "attempt")
    row.figure(
        redis=kind,
        killers=len(killers),
        innocents=len(set(verdict.letters) - killers),
        crash_runs_max=max(runs.values()),
        settled_after_s=took_s,
        **verdict.figures(),
    )
    assert verdict.holds, verdict.said()
    assert set(verdict.letters) == killers
    assert max(runs.values()) <= 4


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
        "10,000 fields": {**kind, "data": "{}", **{f"f{n}": "v" for n in range(10_000)}},
        "type with spaces": {"type": "no such form", "data": "{}"},
        "type of 1 MB": {"type": "a." + "b" * 1_000_000, "data": "{}"},
        "long user": {**kind, "data": "{}", "userId": "u" * 10_000},
        "redrive of nothing": {**kind, "data": "{}", "redrivenFrom": "evil"},
        "NUL and line feed": {**kind, "data": "\x00\n"},
        "field without name": {"": "", "type": "broken.entry"},
    }


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
    changed = [
        what
        for what, entry in corpus.items()
        if await _kept(rig, ids[what]) != {_bytes(k): _bytes(v) for k, v in entry.items()}
    ]
    row.figure(redis=kind, kinds=len(corpus), slowest=slowest[0], slowest_s=slowest[1])
    assert alive
    assert sorted(letters) == sorted(ids.values())
    assert {letter.reason for letter in letters.values()} == {"malformed"}
    assert {letter.attempts for letter in letters.values()} == {1}
    assert changed == []
    assert not set(odd) & set(letters)


async def _has_letters(rig: EventRig, count: int) -> bool:
    return bool(await rig.redis.zcard(keys.dead_open(STREAM)) >= count)


async def _kept(rig: EventRig, letter_id: str) -> dict[bytes, bytes]:
    raw = await rig.redis.get(keys.dead_payload(STREAM, letter_id))
    return {_bytes(k): _bytes(v) for k, v in json.loads(cast(str, raw))["raw"].items()}


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


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
    rig.start(CONCURRENCY="4", BATCH_SIZE="100")
    group = EventGroup(rig.redis, rig.redis, stream=STREAM, group=GROUP, consumer="trimmer")
    trimmed = 0
    for _ in range(count // 500):
        await rig.publish([fields("count.me", {"seconds": 0.0005}) for _ in range(500)])
        trimmed += await group.trim(sized(1_000, 200))
    while not await rig.is_settled():
        trimmed += await group.trim(sized(1_000, 200))
        await asyncio.sleep(0.01)
    trimmed += await group.trim(sized(1_000, 200))
    length = await rig.redis.xlen(STREAM)
    await rig.stop()

    done = ledger.counts(rig.entries(), "done")
    row.figure(redis=kind, events=count, trimmed=trimmed, left=length, lost=count - len(done))
    assert set(done) == set(rig.acked)
    assert trimmed > 0
    assert length < count


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
    await asyncio.sleep(0.5)
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


@pytest.mark.row("E9")
@both_versions
@pytest.mark.parametrize("fault", sized(["destroy", "delete", "flush"], ["destroy", "flush"]))
async def test_a_group_that_vanishes_is_made_again_where_it_was(
    make_event_rig: MakeRig, row: Row, kind: str, fault: str
) -> None:
    rig = make_event_rig(lease_s=5, kind=kind)
    cache = connect(rig.server.database(0))
    for _ in range(2):
        rig.start()
    await rig.holds(lambda: _reading(rig, 2))
    recoveries = []
    handled = 0
    for _ in range(sized(10, 2)):
        ids = await rig.work(20, kind="count.me")
        handled += len(ids)
        await rig.has("done", handled)
        await rig.settled()
        match fault:
            case "destroy":
                await rig.redis.xgroup_destroy(STREAM, GROUP)
            case "delete":
                await rig.redis.delete(STREAM)
            case _:
                await rig.redis.flushdb()
        began = time.monotonic()
        handled += len(await rig.work(20, kind="count.me"))
        await rig.has("done", handled)
        recoveries.append(time.monotonic() - began)
    await rig.settled()
    alive = [one.is_alive for one in rig.processors]
    alerts: Any = await cast(Any, cache.lrange(keys.DLQ_ALERTS, 0, -1))
    await rig.stop()
    await cache.aclose()

    done = ledger.counts(rig.entries(), "done")
    row.figure(
        redis=kind,
        fault=fault,
        recovery_max_s=max(recoveries),
        alerts=len(alerts),
        repeated=sum(n - 1 for n in done.values()),
    )
    assert alive == [True, True]
    assert set(done) == set(rig.acked)
    assert max(recoveries) <= 2
    assert len(alerts) == sized(10, 2)


async def _reading(rig: EventRig, count: int) -> bool:
    """Whether so many processors wait for entries."""
    info: Any = await rig.redis.info("clients")
    return bool(info["blocked_clients"] >= count)


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


@pytest.mark.row("E11")
@both_in_full
async def test_names_of_dead_consumers_do_not_pile_up(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    A thousand restarts without a goodbye; some left entries behind.
    """
    rig = make_event_rig(lease_s=0.5, kind=kind)
    ids = await rig.work(20)
    await rig.redis.xgroup_create(STREAM, GROUP, "0")
    names = [f"gone-{number}" for number in range(sized(1_000, 100))]
    for name in names[:10]:
        await rig.redis.xreadgroup(GROUP, name, {STREAM: ">"}, count=2)
    for name in names[10:]:
        await rig.redis.xgroup_createconsumer(STREAM, GROUP, name)
    fleet = [rig.start() for _ in range(2)]
    await rig.has("done", len(ids))
    group = EventGroup(rig.redis, rig.redis, stream=STREAM, group=GROUP, consumer="-")

    async def are_few() -> bool:
        await group.prune_consumers(1_500)  # what the processors do every half minute
        return len(await rig.redis.xinfo_consumers(STREAM, GROUP)) <= len(fleet)

    await rig.holds(are_few, 10)
    await rig.stop()

    verdict = await rig.verdict()
    left = len(await rig.redis.xinfo_consumers(STREAM, GROUP))
    row.figure(redis=kind, names=len(names), left=left, **verdict.figures())
    assert verdict.holds, verdict.said()
    assert left == 0


@pytest.mark.row("E12")
async def test_every_handler_of_an_event_is_through_once_whatever_the_others_do(
    make_event_rig: MakeRig, row: Row
) -> None:
    """
    0, 1 and 2 handlers; one raises until its attempts are used up, or for good at once.
    """
    rig = make_event_rig()
    cases = {
        "none": fields("nobody.cares"),
        "one": fields("matrix.one"),
        "two": fields("matrix.two"),
        "raises": fields("matrix.two", {"raises": True}),
        "gives up": fields("matrix.two", {"raises": True, "final": True}),
    }
    number = sized(20, 2)
    ids = {what: await rig.publish([entry] * number) for what, entry in cases.items()}
    rig.start()
    await rig.settled()
    await rig.stop()

    counts = {effect: ledger.counts(rig.entries(), effect) for effect in ("first", "second")}
    ran = {
        what: {(counts["first"][one], counts["second"][one]) for one in some}
        for what, some in ids.items()
    }
    totals, letters = await rig.totals(), await rig.letters()
    row.figure(events=5 * number, **{what.replace(" ", "_"): sorted(s) for what, s in ran.items()})
    assert ran == {
        "none": {(0, 0)},
        "one": {(1, 0)},
        "two": {(1, 1)},
        "raises": {(1, 3)},
        "gives up": {(1, 1)},
    }
    assert sorted(letters) == sorted(ids["raises"] + ids["gives up"])
    assert (totals["unmatched"], totals["processed"]) == (number, 3 * number)


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


@pytest.mark.row("E14")
@pytest.mark.seeded
@both_versions
async def test_an_event_makes_one_job_however_its_processor_dies_between_the_servers(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    Streams and queue are two servers; a worker runs the jobs meanwhile.
    """
    rig = make_event_rig(lease_s=0.5, kind=kind, apart=True)
    kills = sized(100, 3)
    where = itertools.cycle(("between", "after", "before"))
    rows = [fields("failpoint.hit", {"at": next(where)}) for _ in range(kills)]
    rows += [fields("failpoint.hit", {"at": ""}) for _ in range(kills * 2)]
    rig.random.shuffle(rows)
    worker = rig.start(queue="async-processing", ARQSCOPE_LEASE_S="5")
    ids = await rig.publish(rows)

    async def is_over() -> bool:
        rig.keep_alive(4)  # three processors and the worker
        return await rig.is_settled() and not await rig.queue.zcard("async-processing")

    await rig.holds(is_over, sized(150, 30))
    deaths = len(list(rig.ledger.glob("died-*")))
    accepted: Any = await cast(Any, rig.queue.hget(keys.totals("async-processing"), "accepted"))
    alive = worker.is_alive
    await rig.stop()

    wanted = {f"evt-{one}-failpoint" for one in ids}
    jobs = Counter(e.id for e in rig.entries("done") if e.id.startswith("evt-"))
    verdict = await rig.verdict()
    row.figure(
        redis=kind,
        kills=deaths,
        events=len(ids),
        missing=len(wanted - set(jobs)),
        jobs_doubled=sum(n > 1 for n in jobs.values()),
        accepted=int(accepted),
        **verdict.figures(),
    )
    assert alive
    assert deaths == kills
    assert jobs == Counter(wanted)
    assert int(accepted) == len(ids)
    assert verdict.holds, verdict.said()


@pytest.mark.row("E15")
@pytest.mark.seeded
@both_in_full
async def test_no_two_processors_handle_an_event_at_the_same_time(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    One is frozen for longer than the lease, in the middle of its events, and goes on.
    """
    rig = make_event_rig(lease_s=sized(1.0, 0.5), kind=kind)
    fleet = [rig.start(CONCURRENCY="5") for _ in range(2)]
    for one in fleet:
        await rig.started(one)
    pauses: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for number in range(sized(15, 1)):
        await rig.work(sized(100, 30), seconds=0.02)
        begun = await rig.has("start", sized(100, 30) * number + 10)
        paused = next(one for one in fleet if one.pid == begun[-1].pid)
        paused.send(signal.SIGSTOP)
        since = time.time()
        await asyncio.sleep(3 * rig.lease_s)
        pauses[paused.pid].append((since, time.time()))
        paused.send(signal.SIGCONT)
    await rig.settled()
    alive = [one.is_alive for one in fleet]
    await rig.stop()

    verdict = await rig.verdict()
    taken_over, together = _overlaps(rig, pauses)
    row.figure(
        redis=kind,
        pauses=sum(map(len, pauses.values())),
        taken_over=taken_over,
        handled_together=together,
        **verdict.figures(),
    )
    assert alive == [True, True]
    assert verdict.holds, verdict.said()
    assert taken_over > 0
    assert together == 0


def _overlaps(rig: EventRig, pauses: dict[int, list[tuple[float, float]]]) -> tuple[int, int]:
    """Events that two processes began, and those both worked on while neither was frozen."""
    spans: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for entry in rig.entries():
        if entry.effect in ("start", "done", "cancelled"):
            spans[entry.id].setdefault(entry.pid, []).append(entry.at)
    taken_over = together = 0
    for by_pid in spans.values():
        if len(by_pid) < 2:
            continue
        taken_over += 1
        active = [
            span
            for pid, at in by_pid.items()
            for span in _without(min(at), max(at), pauses.get(pid, []))
        ]
        active.sort()
        together += any(b[0] < a[1] for a, b in itertools.pairwise(active))
    return taken_over, together


def _without(
    begin: float, end: float, pauses: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """The parts of a span in which the process was not frozen."""
    parts = []
    for since, until_ in pauses:
        if begin < until_ and end > since:
            if begin < since:
                parts.append((begin, since))
            begin = max(begin, until_)
    return [*parts, (begin, max(begin, end))]


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
    for n in range(sized(50, 5)):
        await rig.publish([fields("count.me", {"n": n}, workspaceId="w") for _ in range(20)])
    await rig.has("done", len(rig.acked))
    await rig.settled()
    await rig.stop()

    order = [entry.id for entry in rig.entries("done")]
    wrong = sum(a != b for a, b in zip(order, rig.acked, strict=True))
    row.figure(redis=kind, events=len(order), order_violations=wrong)
    assert order == list(rig.acked)


@pytest.mark.row("R1")
@pytest.mark.seeded
async def test_events_outlive_every_redis_that_is_killed(make_event_rig: MakeRig, row: Row) -> None:
    """
    Streams and queue Redis are two servers, killed in turn under load.
    """
    rig = make_event_rig(lease_s=3, apart=True)
    fleet = [rig.start() for _ in range(2)]
    recoveries = []
    await rig.publish([fields("failpoint.none") for _ in range(5)])
    await rig.has("done", 5)
    for number in range(sized(20, 2)):
        server = rig.server if number % 2 == 0 else rig.queue_server
        server.kill()
        await asyncio.sleep(rig.random.uniform(0.2, 1.0))
        await asyncio.to_thread(server.start)
        began = time.monotonic()
        before = len(rig.acked)
        await rig.publish([fields("failpoint.none") for _ in range(20)])
        await rig.has("done", before + 20)
        recoveries.append(time.monotonic() - began)
    await rig.settled()
    alive = [one.is_alive for one in fleet]
    codes = await rig.stop()

    verdict = await rig.verdict()
    jobs = await rig.queue.zcard("async-processing")
    row.figure(
        redis_kills=len(recoveries),
        exits=alive.count(False),
        event_recovery_max_s=max(recoveries),
        jobs=jobs,
        **verdict.figures(),
    )
    assert verdict.holds, verdict.said()
    assert (alive, codes) == ([True, True], [0, 0])
    assert jobs >= len(rig.acked)
    assert max(recoveries) <= 2.5


@pytest.mark.row("R12")
@pytest.mark.seeded
async def test_a_slow_redis_takes_no_event_from_a_living_processor(
    make_event_rig: MakeRig, row: Row
) -> None:
    """
    Latency, a pause and a freeze shorter than the lease: what is held is renewed in time.
    """
    rig = make_event_rig(lease_s=sized(30.0, 4.0))
    delay_s, slow_s, pause_s, freeze_s = sized((0.2, 2.0, 5.0, 10.0), (0.1, 0.2, 0.3, 0.5))
    async with ChaosProxy(rig.server.port, rig.seed) as proxy:
        through = f"redis://:{rig.server.password}@127.0.0.1:{proxy.port}/1"
        fleet = [rig.start({"REDIS_STREAMS_URL": through}) for _ in range(2)]
        for one in fleet:
            await rig.started(one)
        await rig.work(10, seconds=sized(40.0, 2.0))
        await rig.has("start", 10)
        proxy.delay_s, proxy.jitter_s = delay_s, delay_s / 2
        await rig.work(sized(200, 20))
        await asyncio.sleep(sized(8.0, 0.3))
        proxy.delay_s, proxy.jitter_s = slow_s, 0.0
        await rig.work(sized(50, 5))
        await asyncio.sleep(sized(12.0, 0.3))
        proxy.delay_s = 0.0
        await rig.redis.execute_command("CLIENT", "PAUSE", int(pause_s * 1000), "ALL")
        await asyncio.sleep(pause_s)
        process = rig.server.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(freeze_s)
        process.send_signal(signal.SIGCONT)
        await rig.settled(120)
        alive = [one.is_alive for one in fleet]
        await rig.stop()

    verdict = await rig.verdict()
    begun = ledger.counts(rig.entries(), "start")
    row.figure(
        event_lease_s=rig.lease_s,
        false_takeovers=sum(n - 1 for n in begun.values()),
        **verdict.figures(),
    )
    assert alive == [True, True]
    assert verdict.holds, verdict.said()
    assert set(begun.values()) == {1}


@pytest.mark.row("R17")
async def test_a_listener_that_stops_reading_holds_no_event_up_and_misses_no_state(
    make_event_rig: MakeRig, row: Row
) -> None:
    """
    Notifications are hints: Redis drops the deaf listener, the counters and recent events tell all.
    """
    rig = make_event_rig(lease_s=5)
    count = sized(60_000, 1_500)
    await rig.redis.config_set("client-output-buffer-limit", "pubsub 1mb 512kb 1")
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port, limit=1024)
    writer.write(f"AUTH {rig.server.password}\r\nSUBSCRIBE user:u1\r\n".encode())
    await reader.readuntil(b"subscribe")
    rig.start()
    rows = [fields("tell.me", {"n": n}) for n in range(count)]
    for start in range(0, count, 1_000):
        await rig.publish(rows[start : start + 1_000])
    await rig.settled(120)

    resumed = time.monotonic()
    settings = Settings(redis_streams_url=rig.server.database(1))
    streams = connect(settings.url("streams"))
    processed = int(await cast(Any, streams.hget(keys.event_totals(STREAM), "processed")) or 0)
    recent = await streams.xrevrange(keys.recent_events(STREAM), count=1)
    converged_s = time.monotonic() - resumed
    await streams.aclose()
    writer.close()
    await rig.stop()

    row.figure(messages=count, converged_s=converged_s, processed=processed)
    assert processed == count
    assert recent[0][1]["type"] == "tell.me"
    assert converged_s <= 2
