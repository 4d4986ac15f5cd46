"""Workers that are told to stop: drained, laid back at no cost, ended in time (W4-W7, W10)."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from app import keys
from app.enqueue import JobRequest
from app.records import Outcome
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.rig import Rig, sized
from tests.waiting import until

MakeRig = Callable[..., Rig]


@pytest.mark.row("W4")
async def test_a_stopping_worker_finishes_what_it_runs_and_starts_nothing(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Leases far shorter than the jobs are renewed while draining, so nobody else takes them.
    """
    rig = make_rig(lease_s=1.0)
    length_s = sized(5.0, 1.2)
    stopping = rig.start(ARQSCOPE_DRAIN_S=30)
    first = await rig.work(10, length_s, prefix="first")
    await rig.has("start", 10)

    stopping.terminate()
    asked_at = time.monotonic()
    other = rig.start()
    second = await rig.work(10, 0.05, prefix="second")
    code = await stopping.ended(length_s + 3)
    exit_s = time.monotonic() - asked_at
    await rig.emptied()
    await rig.stop()

    verdict = await rig.verdict()
    pids = {e.id: e.pid for e in rig.entries("done")}
    row.figure(exit_s=exit_s, code=code, **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert {pids[i] for i in first} == {stopping.pid}
    assert {pids[i] for i in second} == {other.pid}
    assert verdict.duplicates == 0
    assert len(rig.entries("start")) == 20
    assert (code, exit_s <= length_s + 1) == (0, True)


@pytest.mark.row("W5")
async def test_a_job_longer_than_the_drain_time_goes_back_without_costing_a_try(
    make_rig: MakeRig, row: Row
) -> None:
    rig = make_rig()
    worker = rig.start(ARQSCOPE_DRAIN_S=0.5)
    await rig.work(1, 60)
    await rig.has("start")

    worker.terminate()
    asked_at = time.monotonic()
    code = await worker.ended(10)
    exit_s = time.monotonic() - asked_at

    verdict = await rig.verdict(must_be_empty=False)
    tries = await cast(Any, rig.client.hget(keys.attempts(rig.queue), "j0"))
    row.figure(exit_s=exit_s, code=code, tries=tries.decode(), waiting=verdict.waiting)
    assert verdict.holds, describe(verdict)
    assert (verdict.waiting, verdict.running, code) == (1, 0, 0)
    assert tries.startswith(b"1:0:1:0|")
    assert exit_s <= 0.5 + 2


@pytest.mark.row("W6")
async def test_many_restarts_during_one_long_job_cost_it_no_attempt_and_no_step(
    make_rig: MakeRig, row: Row
) -> None:
    """
    "One hour", scaled to 60 steps with a checkpoint each; stock arq buries it at the fifth restart.
    """
    restarts, steps, step_s = sized((20, 60, 1.0), (4, 12, 0.1))
    rig = make_rig()
    await rig.submit([JobRequest(name="count_steps", args=(steps, step_s), id="hour")])
    for number in range(restarts):
        worker = rig.start(ARQSCOPE_DRAIN_S=0)
        await rig.has(f"step {(number + 1) * (steps - 2) // restarts - 1}")
        worker.terminate()
        assert await worker.ended(10) == 0
    rig.start()
    await rig.emptied()
    await rig.stop()

    verdict = await rig.verdict()
    done = Counter(e.effect for e in rig.entries() if e.effect.startswith("step "))
    totals = await rig.totals()
    row.figure(restarts=restarts, shutdowns=totals.get("shutdown", 0), **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert (verdict.dead, verdict.complete) == (0, 1)
    assert len(done) == steps
    assert sum(done.values()) <= steps + restarts  # a step whose checkpoint the stop cut off
    assert totals == {"accepted": 1, "complete": 1, "shutdown": restarts}


@pytest.mark.row("W6")
async def test_a_built_in_job_is_not_cut_short_by_a_stopping_worker(
    make_rig: MakeRig, row: Row
) -> None:
    """
    A job that took none of its time when the worker was asked to stop has not done its work.
    """
    rig = make_rig()
    length_s = 3.5
    request = JobRequest(name="generic", args=({"duration": length_s * 1000},), id="built-in")
    await rig.submit([request])
    worker = rig.start(ARQSCOPE_DRAIN_S=0.5)
    await until(lambda: cast(Any, rig.client.hexists(keys.running(rig.queue), "built-in")))
    await asyncio.sleep(0.37)
    worker.terminate()
    await worker.ended(10)
    rig.start()
    await rig.emptied()
    await rig.stop()

    runs = await rig.runs()
    worked_s = sum(run.runtime_s for run in runs)
    row.figure(worked_s=worked_s, outcomes=[run.outcome.value for run in runs])
    assert [run.outcome for run in runs] == [Outcome.SHUTDOWN, Outcome.COMPLETE]
    # resumed from its checkpoint: not cut short, and not all over again
    assert length_s - 0.2 <= worked_s <= length_s + 2.2


@pytest.mark.row("W7")
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_a_second_signal_ends_the_drain_at_once(
    make_rig: MakeRig, row: Row, second: signal.Signals
) -> None:
    rig = make_rig()
    worker = rig.start(ARQSCOPE_DRAIN_S=30)
    await rig.work(3, 60)
    await rig.has("start", 3)

    worker.terminate()
    await until(lambda: asyncio.sleep(0, "stopping" in worker.said()))
    worker.send(second)
    asked_at = time.monotonic()
    code = await worker.ended(10)
    exit_s = time.monotonic() - asked_at

    verdict = await rig.verdict(must_be_empty=False)
    row.figure(second=second.name, exit_s=exit_s, code=code, lost=len(verdict.lost))
    assert verdict.holds, describe(verdict)
    assert verdict.waiting + verdict.running == 3
    assert exit_s <= 2
    assert code == (-signal.SIGQUIT if second is signal.SIGQUIT else 0)


@pytest.mark.row("W10")
async def test_a_job_that_ignores_its_cancellation_cannot_hold_its_worker(
    make_rig: MakeRig, row: Row
) -> None:
    rig = make_rig()
    worker = rig.start(ARQSCOPE_DRAIN_S=sized(1.0, 0.0))
    await rig.submit([JobRequest(name="ignore_cancellation", args=(60,), id="stubborn")])
    await rig.has("start")

    worker.terminate()
    asked_at = time.monotonic()
    code = await worker.ended(15)
    exit_s = time.monotonic() - asked_at

    verdict = await rig.verdict(must_be_empty=False)
    row.figure(exit_s=exit_s, code=code, waiting=verdict.waiting)
    assert verdict.holds, describe(verdict)
    assert (verdict.waiting, code) == (1, 0)
    assert exit_s <= sized(1.0, 0.0) + 2
