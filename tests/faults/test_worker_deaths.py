"""Workers that are killed, frozen or cannot renew: no job is lost, none has two endings (W1-W3, W18)."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from app.enqueue import JobRequest
from app.records import Outcome
from tests.faults import ledger
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.rig import Rig, WorkerProcess, percentile, sized

MakeRig = Callable[..., Rig]


async def _feed(rig: Rig, count: int, over_s: float) -> None:
    """Enqueue *count* jobs of 20 to 80 ms, spread over *over_s*, as a producer under load does."""
    batches = max(1, int(over_s / 0.1))
    sizes = [count // batches + (1 if n < count % batches else 0) for n in range(batches)]
    started, first = time.monotonic(), 0
    for number, size in enumerate(sizes):
        requests = [
            JobRequest(name="work", args=(rig.random.uniform(0.02, 0.08),), id=f"j{first + n}")
            for n in range(size)
        ]
        first += size
        await rig.submit(requests, limit_s=60)
        await asyncio.sleep(max(0.0, started + (number + 1) * over_s / batches - time.monotonic()))


async def _kill_at_random(
    rig: Rig, fleet: list[WorkerProcess], kills: int, redis_kills: int
) -> dict[int, float]:
    """SIGKILL a random worker, start another, *kills* times; in between kill Redis. Pid → when."""
    killed: dict[int, float] = {}
    every = max(1, kills // (redis_kills + 1))
    for number in range(kills):
        await asyncio.sleep(rig.random.uniform(0.25, 0.5))
        victim = rig.random.choice(fleet)
        victim.kill()
        killed[victim.pid] = time.time()
        fleet[fleet.index(victim)] = rig.start()
        if number % every == every - 1 and redis_kills:
            redis_kills -= 1
            await crash(rig.server)
            await asyncio.sleep(0.3)
            await asyncio.get_running_loop().run_in_executor(None, rig.server.start)
    return killed


@pytest.mark.row("W1")
@pytest.mark.seeded
async def test_no_job_is_lost_when_workers_and_redis_are_killed_at_random(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Three workers, one of them always about to be killed, and Redis killed in between.
    """
    jobs, kills, redis_kills = sized((10_000, 200, 4), (250, 6, 1))
    rig = make_rig(lease_s=sized(3.0, 1.0))
    fleet = [rig.start() for _ in range(3)]
    feeding = asyncio.create_task(_feed(rig, jobs, kills * 0.36))
    killed = await _kill_at_random(rig, fleet, kills, redis_kills)
    await feeding
    await rig.emptied(15 + 3 * rig.lease_s)
    await rig.stop()

    verdict = await rig.verdict()
    takeovers = [
        second.at - killed[first.pid]
        for entries in ledger.by_job(rig.entries("start")).values()
        for first, second in pairwise(entries)
        if first.pid in killed
    ]
    starts = Counter(ledger.counts(rig.entries("start"), "start").values())
    row.figure(
        **verdict.figures(),
        started_3_times=starts[3],
        started_4_times=starts[4],
        started_5_times=sum(n for times, n in starts.items() if times >= 5),
        kills=len(killed),
        redis_kills=redis_kills,
        unknown_enqueues=rig.unknown,
        takeovers=len(takeovers),
        takeover_p50_s=percentile(takeovers, 0.5),
        takeover_p99_s=percentile(takeovers, 0.99),
    )
    assert verdict.holds, describe(verdict)
    assert len(killed) == kills
    assert verdict.acked == jobs
    assert verdict.dead == 0  # no job did anything wrong
    assert verdict.duplicates <= len(killed) * 10
    assert percentile(takeovers, 0.99) <= rig.lease_s + 1 + 1  # the second 1: Redis was away


@pytest.mark.row("W2")
async def test_a_job_of_the_hour_long_queue_runs_again_soon_after_its_worker_died(
    make_rig: MakeRig, row: Row
) -> None:
    """
    The timeout of 3,600 s must not be what an orphan waits for; stock arq waits 3,610 s.
    """
    rig = make_rig(lease_s=sized(3.0, 1.0))
    rig.queue = "long-running-jobs"
    rig.policy(rig.queue, timeout_s=3600, crashes=100)
    gaps = []
    heir = rig.start()
    await rig.work(1, 0.3, prefix="last")
    await rig.emptied()
    for number in range(sized(8, 1)):
        worker = heir
        await rig.work(1, 1.0, prefix=f"r{number}-")
        await rig.has("start", 2 + 2 * number)
        heir = rig.start()
        worker.kill()
        killed_at = time.time()
        await rig.has("start", 3 + 2 * number)
        gaps.append(rig.entries("start")[-1].at - killed_at)
        await rig.emptied()
    await rig.stop()

    verdict = await rig.verdict()
    row.figure(restart_max_s=max(gaps), lease_s=rig.lease_s, **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert max(gaps) <= rig.lease_s + 1


@pytest.mark.row("W3")
async def test_a_worker_frozen_past_its_lease_cannot_finish_the_job_its_heir_has(
    make_rig: MakeRig, row: Row
) -> None:
    """
    The fence refuses the short job's ending; the long one, still running, is cancelled.
    """
    rig = make_rig(lease_s=sized(2.0, 0.6))
    frozen = rig.start()
    await rig.submit(
        [
            JobRequest(name="work", args=(rig.lease_s * 1.5,), id="short"),
            JobRequest(name="work", args=(rig.lease_s * 5,), id="long"),
        ]
    )
    await rig.has("start", 2)

    frozen.send(signal.SIGSTOP)
    heir = rig.start()
    await rig.has("start", 4)
    await rig.has("done")  # the short one, by the heir
    frozen.send(signal.SIGCONT)
    await rig.emptied()
    said = frozen.said()
    await rig.stop()

    verdict = await rig.verdict()
    finishes = Counter(run.job_id for run in await rig.runs() if run.outcome is Outcome.COMPLETE)
    by_frozen = [e.effect for e in rig.entries() if e.pid == frozen.pid and e.id == "long"]
    row.figure(finishes=dict(finishes), **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert finishes == {"short": 1, "long": 1}
    assert {run.worker.split(":")[1] for run in await rig.runs()} == {str(heir.pid)}
    assert by_frozen == ["start", "cancelled"]
    assert "lease lost" in said or "lease is lost" in said


@pytest.mark.row("W18")
async def test_a_worker_that_cannot_renew_stops_and_leaves_its_jobs_to_others(
    make_rig: MakeRig, row: Row
) -> None:
    """
    The renewing thread dies: nothing new is accepted, and what runs is cancelled and laid back.
    """
    rig = make_rig(lease_s=sized(3.0, 0.9))
    broken = rig.start()
    await rig.work(3, rig.lease_s * 1.5)
    await rig.has("start", 3)
    await rig.submit([JobRequest(name="stop_renewals", id="saboteur")])
    await rig.has("done")
    stopped_at = time.time()
    await rig.has("cancelled", 3, limit_s=10)
    detected_s = max(e.at for e in rig.entries("cancelled")) - stopped_at
    rig.start()
    await rig.emptied()
    again = [
        e for e in rig.entries("start") if e.at > stopped_at + detected_s and e.id != "saboteur"
    ]
    await rig.stop()

    verdict = await rig.verdict()
    row.figure(detected_s=detected_s, lease_s=rig.lease_s, **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert detected_s <= rig.lease_s / 3 + 0.5
    assert {e.pid for e in again} != {broken.pid}
