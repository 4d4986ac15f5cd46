"""Queues with much at their head, or much in all (W15, W19)."""

import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app import keys
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.rig import Rig, sized
from tests.waiting import until

MakeRig = Callable[..., Rig]


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
