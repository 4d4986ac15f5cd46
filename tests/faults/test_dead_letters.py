"""Dead letters under fault, rows D2 to D6 and D9 to D11 of FAULTS.md, with real workers where jobs run."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final, cast

import pytest
from arq.worker import func

from app import actions, audit, keys, operations
from app.actions import Connections
from app.enqueue import JobRequest
from app.errors import ActionRefused, ArqscopeError
from app.letters import redrive, spill
from app.letters.edit import LetterEdit
from app.letters.redrive import POLICY, Shelf, Verdict
from app.operations import OperationState
from app.payloads.codec import Codec
from app.settings import Settings
from app.wire.connections import connect
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.nursery import ROOT, plain_environment
from tests.faults.rig import QUEUE, Rig, sized
from tests.letters import ANN, BOB, bury, bury_many
from tests.waiting import until
from workers.alerts.notices import Alerts
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.letters.overflow import relieve
from workers.policies import BUILT_IN_RULES, Action, decide
from workers.retry_policy import RetryPolicy

MakeRig = Callable[..., Rig]
DRIVER: Final = """
import asyncio, sys
from app.wire.connections import Connections, connect
from workers.operations import OperationRunner
async def main(url):
    redis = connect(url, timeout_s=5.0)
    await OperationRunner(
        Connections(queue=redis, streams=redis, cache=redis), lease_ms=500
    ).run(asyncio.Event())
asyncio.run(main(sys.argv[1]))
"""


async def work(ctx: dict[str, Any], seconds: float = 0.0) -> None:
    """A function that takes no argument ``renamed``."""


def settings_of(rig: Rig, **more: Any) -> Settings:
    """Settings as the rig's workers have them."""
    return Settings(
        redis_url=rig.server.database(0),
        redis_streams_url=rig.server.database(1),
        redis_queue_url=rig.server.database(2),
        data_dir=rig.directory / "data",
        config_file=rig.directory / "none.toml",
        **more,
    )


@pytest.fixture
async def at(make_rig: MakeRig) -> AsyncIterator[tuple[Rig, Connections, Settings]]:
    """A rig, connections to its Redis and its settings."""
    rig = make_rig()
    settings = settings_of(rig)
    clients = {
        role: connect(settings.url(role), timeout_s=5.0) for role in ("queue", "streams", "cache")
    }
    yield rig, Connections(**clients), settings
    for client in clients.values():
        await client.aclose()


async def die(rig: Rig, connections: Connections, job_id: str, **more: Any) -> None:
    """Let a job run out of attempts on a real worker."""
    await rig.submit([JobRequest(name="permanent", id=job_id, **more)])
    await died(connections, job_id)


async def died(connections: Connections, job_id: str, redrives: int = 0) -> None:
    """Wait until the letter is open after so many redrives."""

    async def is_open() -> bool:
        record = keys.dead_record(QUEUE, job_id)
        state, times = await cast(Any, connections.queue.hmget(record, ["state", "redrives"]))
        return bool(state == "new" and int(times or 0) == redrives)

    await until(is_open, timeout_s=20)


@pytest.mark.row("D2")
async def test_two_users_and_the_automatic_retry_make_one_job(
    at: tuple[Rig, Connections, Settings], row: Row
) -> None:
    """
    Three press at once on each letter; the losers are told which retry runs.
    """
    _, connections, settings = at
    races = sized(200, 60)
    shelf = Shelf(connections.queue, QUEUE, "job")
    policy = Verdict(actor=POLICY, decision="RETRY", reason="rule", seen_redrives=0)
    await bury_many(connections.queue, (f"j{n}" for n in range(races)))
    told: Counter[str] = Counter()
    for n in range(races):
        press: list[Any] = [
            actions.retry_letter(connections, settings, ANN, QUEUE, f"j{n}"),
            actions.retry_letter(connections, settings, BOB, QUEUE, f"j{n}"),
            redrive.redrive(shelf, f"j{n}", policy),
        ]
        done = await asyncio.gather(*press[n % 3 :], *press[: n % 3])
        winners = [one for one in done if one.changed]
        told[str(len(winners))] += 1
        for one in done:
            assert (one.detail["id"] if hasattr(one, "detail") else one.id) in ("", f"j{n}~r1")

    jobs = await connections.queue.zcard(QUEUE)
    redriven = await cast(Any, connections.queue.hget(keys.totals(QUEUE), "redriven"))
    row.figure(races=races, jobs=jobs, redriven=int(redriven), one_winner=told["1"])
    assert jobs == int(redriven) == told["1"] == races


@pytest.mark.row("D3")
async def test_a_retry_runs_although_the_old_result_is_kept(
    at: tuple[Rig, Connections, Settings], row: Row
) -> None:
    rig, connections, settings = at
    rig.start()
    await die(rig, connections, "j1")
    kept = await connections.queue.exists(keys.arq_result("j1"))
    before = len(await rig.runs())

    report = await actions.retry_letter(connections, settings, ANN, QUEUE, "j1")
    await died(connections, "j1", redrives=1)

    runs = [run for run in (await rig.runs())[before:] if run.job_id == report.detail["id"]]
    row.figure(old_result=kept, runs=len(runs))
    assert kept == 1
    assert len(runs) == 1


@pytest.mark.row("D4")
async def test_a_letter_that_fails_again_and_again_stays_one_letter(
    at: tuple[Rig, Connections, Settings], row: Row
) -> None:
    """
    Twenty cycles of retry and death; the processor's rules stop after their budget.
    """
    rig, connections, settings = at
    rig.start()
    await die(rig, connections, "j1")
    cycles = sized(20, 6)
    automatic, backoffs = 0, []
    shelf = Shelf(connections.queue, QUEUE, "job")
    transient = [rule for rule in BUILT_IN_RULES if rule.action is Action.RETRY][-1]
    unbounded = replace(transient, retries=None, backoff=2.0)  # by the settings' budget alone
    for n in range(1, cycles + 1):
        letter = await redrive.read_letter(shelf, "j1")
        assert letter is not None
        decision = decide(letter, [unbounded], settings)
        if decision.action is Action.RETRY:
            automatic += 1
            backoffs.append(decision.delay_s)
        report = await actions.retry_letter(connections, settings, ANN, QUEUE, "j1")
        assert report.detail["id"] == f"j1~r{n}"
        await died(connections, "j1", redrives=n)

    letters = await connections.queue.zcard(keys.dead_open(QUEUE))
    record = await cast(Any, connections.queue.hgetall(keys.dead_record(QUEUE, "j1")))
    lineage = [json.loads(record[f"redrive:{n}"])["actor"] for n in range(1, cycles + 1)]
    row.figure(cycles=cycles, letters=letters, lineage=len(lineage), automatic=automatic)
    assert letters == 1
    assert record["redrives"] == str(cycles)
    assert automatic == settings.retry_attempts < cycles
    assert backoffs == [backoffs[0] * 2.0**n for n in range(automatic)]
    assert await connections.queue.zcard(QUEUE) == 0


def start_driver(rig: Rig, number: int) -> subprocess.Popen[bytes]:
    """Start a runner of operations in a process of its own."""
    with (rig.directory / f"driver-{number}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, rig.server.database(2)],
            cwd=ROOT,
            env={**plain_environment(), "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )


@pytest.mark.row("D5")
async def test_a_redrive_of_all_that_is_killed_half_way_takes_each_letter_once(
    at: tuple[Rig, Connections, Settings], row: Row
) -> None:
    """
    The runner is killed again and again, and "retry all" is pressed again each time.
    """
    rig, connections, settings = at
    redis = connections.queue
    letters, rate, kills = sized((10_000, 1_000.0, 10), (600, 600.0, 1))
    await bury_many(redis, (f"j{n:05}" for n in range(letters)))
    pressed: set[str] = set()
    growth: list[tuple[float, int]] = []
    driver: subprocess.Popen[bytes] | None = None
    try:
        for number in range(kills + 1):
            press = await actions.start_operation(
                connections, settings, ANN, "retry_letters", QUEUE, rate_per_s=rate
            )
            pressed.add(str(press.detail["operation"]))
            driver = start_driver(rig, number)
            goal = letters * (number + 1) // (kills + 1)

            async def grown(goal: int = goal) -> bool:
                depth = await redis.zcard(QUEUE)
                growth.append((time.monotonic(), depth))
                return depth >= goal

            await until(grown, timeout_s=60)
            if number < kills:
                driver.send_signal(signal.SIGKILL)
                driver.wait(20)
        [operation_id] = pressed

        async def is_done() -> bool:
            return (await operations.read(redis, operation_id)).state is OperationState.DONE

        await until(is_done, timeout_s=30)
    finally:
        if driver is not None and driver.poll() is None:
            driver.kill()
            driver.wait(20)

    ended = await operations.read(redis, operation_id)
    jobs = await redis.zcard(QUEUE)
    pipe = redis.pipeline(transaction=False)
    for n in range(letters):
        pipe.hget(keys.dead_record(QUEUE, f"j{n:05}"), "redrives")
    redrives = Counter(await pipe.execute())
    fastest = _fastest(growth)
    row.figure(letters=letters, kills=kills, jobs=jobs, counted=ended.done, fastest_per_s=fastest)
    assert redrives == {"1": letters}
    assert jobs == ended.done == letters
    assert fastest <= rate * 1.3


def _fastest(growth: list[tuple[float, int]]) -> float:
    """Letters per second in the fastest second and a half of *growth*."""
    best, start = 0.0, 0
    for end, (at, depth) in enumerate(growth):
        while at - growth[start][0] > 1.5:
            start += 1
        first_at, first_depth = growth[max(0, start - 1)]
        if end and at - first_at > 0.5:
            best = max(best, (depth - first_depth) / (at - first_at))
    return best


@pytest.mark.row("D6")
async def test_a_queue_over_the_cap_keeps_every_letter(
    at: tuple[Rig, Connections, Settings], row: Row
) -> None:
    """
    The process that spills is killed between any two of its steps; all letters come back.
    """
    _, connections, settings = at
    redis = connections.queue
    count, cap = sized((50_000, 10_000), (2_000, 500))
    ids = await bury_many(redis, (f"j{n:06}" for n in range(count)), died_ms=lambda n: 1_000 + n)
    settings = settings.model_copy(update={"dead_letter_cap": cap})
    shelf = Shelf(redis, QUEUE, "job")
    points = [
        f"{when} {step}" for step in ("take", "append", "gone") for when in ("before", "after")
    ]
    kills, run, append = len(points), spill._run, spill.append

    class Killed(BaseException):
        pass

    def die_at(point: str) -> None:
        if point in points:
            points.remove(point)
            raise Killed

    async def run_or_die(on: Shelf, verb: str, *rest: Any) -> Any:
        die_at(f"before {verb}")
        answer = await run(on, verb, *rest)
        die_at(f"after {verb}")
        return answer

    def append_or_die(*args: Any) -> None:
        die_at("before append")
        append(*args)
        die_at("after append")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_run", run_or_die)
        patch.setattr(spill, "append", append_or_die)
        while True:
            try:
                if not await relieve(shelf, settings, Alerts(connections.cache)):
                    break
            except Killed:
                continue
    left = set(await redis.zrange(keys.dead_open(QUEUE), 0, -1))
    files = sorted((settings.data_dir / "dead-letters").iterdir())
    filed = {line.id for file in files for line in spill.read_lines(file)}
    alerts = await cast(Any, connections.cache.llen(keys.DLQ_ALERTS))
    began = time.monotonic()
    for file in files:
        await actions.import_letters(connections, settings, ANN, file)
    back = set(await redis.zrange(keys.dead_open(QUEUE), 0, -1))
    row.figure(
        letters=count, cap=cap, left=len(left), filed=len(filed), kills=kills, alerts=alerts,
        missing=len(set(ids) - back), import_per_s=round(len(filed) / (time.monotonic() - began)),
    )  # fmt: skip
    assert points == []
    assert len(left) == cap
    assert left.isdisjoint(filed)
    assert left | filed == back == set(ids)
    assert alerts == 1


@pytest.mark.row("D9")
async def test_a_retry_nobody_can_run_any_more_lands_back_with_its_lineage(
    at: tuple[Rig, Connections, Settings], row: Row
) -> None:
    """
    Half of the letters call a function that is gone, half carry arguments it no longer takes.
    """
    _, connections, settings = at
    redis = connections.queue
    each = sized(50, 3)
    for n in range(each):
        gone = Codec().encode_job("no_such_function", (), {}, enqueued_ms=1)
        changed = Codec().encode_job("work", (), {"renamed": 1}, enqueued_ms=1)
        await bury(redis, f"gone{n}", gone, name="no_such_function")
        await bury(redis, f"changed{n}", changed, name="work")
    ids = [f"{what}{n}" for n in range(each) for what in ("gone", "changed")]

    for letter_id in ids:
        await actions.retry_letter(connections, settings, ANN, QUEUE, letter_id)
    options = EngineOptions(
        url=settings.url("queue"),
        policy=RetryPolicy(attempts=1),
        codec=Codec(),
        unknown_grace_s=0.0,
    )
    worker = Worker(
        functions=[func(work, name="work")],
        queue_name=QUEUE,
        handle_signals=False,
        burst=True,
        ctx={"arqscope": options},
    )
    await worker.main()
    await worker.close()

    pipe = redis.pipeline(transaction=False)
    for letter_id in ids:
        pipe.hmget(keys.dead_record(QUEUE, letter_id), "redrives", "error_type", "redrive:1")
    rows = await pipe.execute()
    whole = sum(1 for redrives, error, lineage in rows if redrives == "1" and error and lineage)
    row.figure(letters=len(ids), landed_back=whole, errors=dict(Counter(r[1] for r in rows)))
    assert whole == len(ids)
    assert await redis.zcard(keys.dead_open(QUEUE)) == len(ids)


@pytest.mark.row("D10")
async def test_an_edited_retry_is_checked_and_audited_first(
    at: tuple[Rig, Connections, Settings], row: Row
) -> None:
    """
    Refused edits change nothing; an edit whose audit line cannot be written does not happen.
    """
    rig, connections, settings = at
    redis = connections.queue
    original = Codec().encode_job("work", ("not a number",), {}, enqueued_ms=1)
    count = sized(100, 10)
    await bury_many(redis, (f"j{n}" for n in range(count)), original, name="work")
    refused = 0
    for edit in (
        LetterEdit(args=[float("nan")]),
        LetterEdit(args=["x" * 300_000]),
        LetterEdit(name="no/name"),
        LetterEdit(data={}),
    ):
        with pytest.raises(ArqscopeError):
            await actions.retry_letter(connections, settings, ANN, QUEUE, "j0", edit=edit)
        refused += 1
    await redis.set(keys.AUDIT, "in the way")
    with pytest.raises(ArqscopeError):
        await actions.retry_letter(
            connections, settings, ANN, QUEUE, "j0", edit=LetterEdit(args=[0.01])
        )
    assert await redis.zcard(QUEUE) == 0
    await redis.delete(keys.AUDIT)

    rig.start()
    for n in range(count):
        await actions.retry_letter(
            connections, settings, ANN, QUEUE, f"j{n}", edit=LetterEdit(args=[0.001])
        )

    async def resolved() -> bool:
        return bool(await redis.zcard(keys.dead_closed(QUEUE)) == count)

    await until(resolved, timeout_s=30)
    lines = [line for line in await audit.recent(redis, 1_000) if line.action == "retry_letter"]
    raw = connect(settings.url("queue"), decode_responses=False)
    payloads = await raw.mget([keys.dead_payload(QUEUE, f"j{n}") for n in range(count)])
    kept = payloads.count(original)
    await raw.aclose()
    row.figure(edited=count, refused=refused, audited=len(lines), originals_kept=kept)
    assert len(lines) == kept == count
    assert all(line.detail["before"] != line.detail["after"] for line in lines)
    with pytest.raises(ActionRefused):
        await actions.retry_letter(connections, settings, ANN, QUEUE, "j0")


@pytest.mark.row("D11")
async def test_a_job_that_dies_while_redis_is_away_is_kept(
    at: tuple[Rig, Connections, Settings], row: Row
) -> None:
    """
    Redis is killed while jobs fail for good; each becomes a dead letter once it is back.
    """
    rig, connections, _ = at
    redis = connections.queue
    count, kills = sized((500, 5), (40, 1))
    rig.start()
    for round_number in range(kills):
        ids = [f"j{round_number}-{n}" for n in range(count)]
        await rig.submit([JobRequest(name="permanent", id=job_id) for job_id in ids])
        await crash(rig.server)
        await asyncio.get_running_loop().run_in_executor(None, rig.server.start)
    wanted = kills * count

    async def all_dead() -> bool:
        return bool(await redis.zcard(keys.dead_open(QUEUE)) == wanted)

    await until(all_dead, timeout_s=60)
    found = set(await redis.zrange(keys.dead_open(QUEUE), 0, -1))
    pipe = redis.pipeline(transaction=False)
    for letter_id in found:
        pipe.exists(keys.dead_payload(QUEUE, letter_id), keys.dead_record(QUEUE, letter_id))
    whole = Counter(await pipe.execute())
    row.figure(
        jobs=wanted, kills=kills, dead=len(found), lost=len(rig.acked - found), whole=whole[2]
    )
    assert found == rig.acked
    assert whole == {2: wanted}
    assert rig.workers[0].is_alive
