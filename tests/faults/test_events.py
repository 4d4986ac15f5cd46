"""Events under fault, rows of FAULTS.md: processors that die, and events that kill or fail."""

import asyncio
import itertools
import signal
import time
from collections import Counter, defaultdict
from typing import Any, cast

import pytest

from app import keys
from tests.faults import ledger
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.event_rig import STREAM, EventRig, MakeRig, both_in_full, both_versions
from tests.faults.fault_events import fields
from tests.faults.rig import sized

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


async def _outlast(rig: EventRig, limit_s: float = 90) -> float:
    """Replace processors that die until everything is settled; return the seconds it took."""
    began = time.monotonic()

    async def is_over() -> bool:
        rig.keep_alive(3)
        return await rig.is_settled()

    await rig.holds(is_over, limit_s)
    return time.monotonic() - began


async def _is_taken_over(rig: EventRig, held: set[str], pid: int) -> bool:
    """Whether another process than *pid* began one of the events it holds; so too when it holds none."""
    return not held or any(e.id in held and e.pid != pid for e in rig.entries("start"))


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


def _begun_late(rig: EventRig, pauses: dict[int, list[tuple[float, float]]]) -> int:
    """Times a process began, after it had been frozen, what another had done meanwhile."""
    return sum(
        begun.effect == "start"
        and any(
            done.effect == "done" and done.pid != begun.pid and since < done.at < until_ < begun.at
            for done in entries
            for since, until_ in pauses.get(begun.pid, [])
        )
        for entries in ledger.by_job(rig.entries()).values()
        for begun in entries
    )


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
            await crash(rig.server)
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
    order = [one for one, _ in itertools.groupby(entry.id for entry in rig.entries())]
    row.figure(redis=kind, poison=len(poison), attempts=sorted(set(tries.values())))
    assert sorted(letters) == sorted(poison)
    assert {letter.attempts for letter in letters.values()} == {3}
    assert dict(tries) == dict.fromkeys(poison, 3)
    assert order == ids  # who comes after it waits for its last attempt
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
        await rig.work(sized(100, 30), seconds=sized(0.02, 0.3))
        begun = await rig.has("start", sized(100, 30) * number + 10)
        paused = next(one for one in fleet if one.pid == begun[-1].pid)
        paused.send(signal.SIGSTOP)
        since = time.time()
        held = {e.id for e in rig.entries("start") if e.pid == paused.pid}
        held -= {e.id for e in rig.entries("done")}
        await asyncio.sleep(3 * rig.lease_s)
        await rig.holds(lambda held=held, pid=paused.pid: _is_taken_over(rig, held, pid))
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
        begun_late=_begun_late(rig, pauses),
        **verdict.figures(),
    )
    assert alive == [True, True]
    assert verdict.holds, verdict.said()
    assert taken_over > 0
    assert together == 0
    assert _begun_late(rig, pauses) == 0
