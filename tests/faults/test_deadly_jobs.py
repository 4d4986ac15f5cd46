"""Jobs that kill their worker, by signal or by memory: buried alone (W8)."""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from app import keys
from app.enqueue import JobRequest
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.rig import Rig, sized

MakeRig = Callable[..., Rig]
YESTERDAY: Final = datetime.now(UTC) - timedelta(days=1)


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
    record = await rig.letter("poison0")
    assert record["reason"] == "crash"


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
    record = await rig.letter("glutton")
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
    assert record["reason"] == "crash"
