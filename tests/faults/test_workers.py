"""Workers under fault, rows of FAULTS.md: processes that die, freeze, stop and are overloaded."""

import asyncio
import contextlib
import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, cast

import pytest

from app import keys
from app.enqueue import JobRequest
from app.records import Outcome
from tests.faults import ledger
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.rig import Rig, WorkerProcess, percentile, sized
from tests.waiting import until

MakeRig = Callable[..., Rig]
YESTERDAY: Final = datetime.now(UTC) - timedelta(days=1)


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
    await asyncio.sleep(rig.lease_s * 2)
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


async def _keep_alive(rig: Rig, count: int, **how: Any) -> None:
    """Replace workers that die, as a supervisor does."""
    fleet = [rig.start(**how) for _ in range(count)]
    while True:
        await asyncio.sleep(0.05)
        fleet = [worker if worker.is_alive else rig.start(**how) for worker in fleet]


@pytest.mark.row("W8")
async def test_a_job_that_kills_its_worker_is_buried_alone(make_rig: MakeRig, row: Row) -> None:
    """
    It is a dead letter after three crashes; what ran beside it is not, and ends well.
    """
    innocents = sized(600, 40)
    rig = make_rig(lease_s=sized(1.5, 0.6))
    rig.policy(crashes=3)
    poison = [JobRequest(name="kill_worker", id=f"poison{n}") for n in range(sized(3, 1))]
    await rig.work(innocents // 2, 0.1, prefix="before")
    await rig.submit(poison)
    await rig.work(innocents // 2, 0.1, prefix="after")
    supervisor = asyncio.create_task(_keep_alive(rig, 2))
    await rig.emptied(90)
    supervisor.cancel()
    await rig.stop()

    verdict = await rig.verdict()
    buried = await rig.client.zrange(keys.dead_open(rig.queue), 0, -1)
    crash_runs = Counter(e.id for e in rig.entries("start") if e.id.startswith("poison"))
    row.figure(crash_runs=max(crash_runs.values()), **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert {b.decode() for b in buried} == {request.id for request in poison}
    assert set(crash_runs.values()) == {3}
    record = await cast(Any, rig.client.hgetall(keys.dead_record(rig.queue, "poison0")))
    assert record[b"reason"] == b"crash"


@pytest.mark.row("W8")
async def test_a_job_that_must_run_alone_gets_its_turn_on_a_busy_worker(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Under load no worker is ever idle by itself: it makes room.
    """
    rig = make_rig(lease_s=1.0)
    await rig.client.hset(keys.attempts(rig.queue), "suspect", "2:0:0:2|")
    await rig.work(sized(2_000, 800), 0.05)
    rig.start(CONCURRENCY=20)
    rig.start(CONCURRENCY=20)
    await rig.has("start", 100)
    started_at = time.time()
    await rig.submit([JobRequest(name="work", args=(0.1,), id="suspect", due=YESTERDAY)])
    await rig.emptied()
    await rig.stop()

    verdict = await rig.verdict()
    begun, ended = (
        next(e for e in rig.entries(effect) if e.id == "suspect") for effect in ("start", "done")
    )
    beside = [e for e in rig.entries("done") if e.pid == begun.pid and begun.at < e.at < ended.at]
    row.figure(turn_s=begun.at - started_at, beside=len(beside), **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert begun.at - started_at < 1.5
    assert beside == []


#: bytes of memory a worker may have
_MEMORY_BYTES = 64 << 20


def _kernels_limit() -> Path | None:
    """A new control group of 64 MB, of either version; None where we may make none."""
    name = f"arqscope-test-{os.getpid()}"
    for place, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        path = place / name
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            path.joinpath(limit).write_text(str(_MEMORY_BYTES), encoding="ascii")
        except OSError:
            path.rmdir()
        else:
            return path
    return None


def _resident_pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])


async def _kill_who_eats(rig: Rig) -> None:
    """Where the kernel sets no limit for us: SIGKILL who takes too much, as systemd-oomd does."""
    page, began_with = os.sysconf("SC_PAGE_SIZE"), dict[int, int]()
    while True:
        for worker in rig.workers:
            with contextlib.suppress(OSError, IndexError):  # it is gone
                has = _resident_pages(worker.pid) * page
                if has - began_with.setdefault(worker.pid, has) > _MEMORY_BYTES:
                    worker.kill()
        await asyncio.sleep(0.02)


@pytest.mark.row("W8")
async def test_a_job_that_runs_its_worker_out_of_memory_is_buried_alone(
    make_rig: MakeRig, row: Row
) -> None:
    group = _kernels_limit()
    innocents = sized(20, 3)
    rig = make_rig(lease_s=0.6)
    rig.policy(crashes=3)
    await rig.submit([JobRequest(name="eat_memory", args=(200,), id="glutton")])
    await rig.work(innocents, 0.1)
    supervisor = asyncio.create_task(_keep_alive(rig, 1, cgroup=str(group or "")))
    killer = asyncio.create_task(_kill_who_eats(rig) if group is None else asyncio.sleep(0))
    await rig.emptied(60)
    supervisor.cancel()
    killer.cancel()
    await rig.stop()

    verdict = await rig.verdict()
    record = await cast(Any, rig.client.hgetall(keys.dead_record(rig.queue, "glutton")))
    row.figure(
        fault="the kernel" if group else "a watcher",
        oom_kills=len(rig.workers) - 1,
        **verdict.figures(),
    )
    await rig.close_workers()
    if group is not None:
        group.rmdir()
    assert verdict.holds, describe(verdict)
    assert (verdict.dead, verdict.complete) == (1, innocents)
    assert record[b"reason"] == b"crash"


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


@pytest.mark.row("W15")
async def test_running_jobs_at_the_head_of_the_queue_hide_no_new_job(
    make_rig: MakeRig, row: Row
) -> None:
    """
    150 jobs run; stock arq looks at the first hundred ids and sees only those.

    Several short jobs, one after the other: their median is what the queue costs, whatever the machine
    does to one of them. At full size each counts.
    """
    rig = make_rig(lease_s=5)
    for _ in range(sized(8, 2)):
        rig.start(CONCURRENCY=sized(20, 80))
    await rig.work(150, 30, prefix="long")
    await rig.has("start", 150)

    waits_s = []
    for number in range(7):
        enqueued_at = time.time()
        await rig.work(1, 0, prefix=f"short{number}-")
        await rig.holds(lambda n=number: rig.client.exists(keys.arq_result(f"short{n}-0")))  # type: ignore[misc]
        started = next(e for e in rig.entries("start") if e.id == f"short{number}-0")
        waits_s.append(started.at - enqueued_at)
    row.figure(wait_median_s=statistics.median(waits_s), wait_max_s=max(waits_s))
    assert sized(max, statistics.median)(waits_s) <= 1


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


@pytest.mark.row("W19")
async def test_a_long_queue_is_drained_in_bounded_memory(make_rig: MakeRig, row: Row) -> None:
    jobs, workers = sized((100_000, 4), (2_000, 2))
    rig = make_rig(lease_s=10)
    for start in range(0, jobs, 5_000):
        await rig.work(min(5_000, jobs - start), 0.0, prefix=f"b{start}-")
    fleet = [rig.start(CONCURRENCY=50) for _ in range(workers)]
    await until(lambda: asyncio.sleep(0, all("started" in w.said() for w in fleet)))
    before = [_rss(worker.pid) for worker in fleet]
    started_at = time.monotonic()
    peak = before

    while not await rig.is_empty():
        peak = [max(old, _rss(worker.pid)) for old, worker in zip(peak, fleet, strict=True)]
        assert time.monotonic() - started_at < 100
        await asyncio.sleep(0.1)
    elapsed_s = time.monotonic() - started_at
    await rig.stop()

    verdict = await rig.verdict()
    growth = max(after - first for first, after in zip(before, peak, strict=True))
    row.figure(**verdict.figures(), rss_growth_mb=growth / 1_048_576, jobs_per_s=jobs / elapsed_s)
    assert verdict.holds, describe(verdict)
    assert verdict.acked == jobs
    assert growth < 50 * 1_048_576


def _rss(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_the_slice_keeps_no_results() -> None:
    """
    results.json tells only of runs at the sizes of FAULTS.md, each row with what it measured.
    """
    path = Path(__file__).with_name("results.json")
    for entry in json.loads(path.read_text(encoding="utf-8")) if path.exists() else []:
        assert set(entry) == {"id", "passed", "seed", "figures", "date"}
