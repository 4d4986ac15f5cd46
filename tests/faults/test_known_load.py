"""A load known to the last job, through real workers and collectors: every figure shown is the truth.

Not a row of FAULTS.md; kept as K1. At full size real minutes pass and two deploys happen; the slice is one
minute or two, written before it is over.
"""

import asyncio
import math
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from app.analyses.conservation import conservation
from app.analyses.percentiles import exact_s
from app.annals.historian import Historian
from app.annals.past import annotations, history
from app.collector import Collector
from app.enqueue import JobRequest
from app.records import BUCKET_ERROR
from app.settings import Settings
from tests.faults.conftest import Row
from tests.faults.rig import FULL, QUEUE, Rig, sized
from tests.waiting import until

WORKING, FAILING, GIVING_UP = 60, 4, 6  #: jobs of a phase
ATTEMPTS = 3


def settings_of(rig: Rig) -> Settings:
    return Settings(
        redis_url=rig.server.database(0),
        redis_streams_url=rig.server.database(1),
        redis_queue_url=rig.server.database(2),
        config_file=rig.directory / "none.toml",
        sample_interval_s=sized(1.0, 0.25),
    )


async def phase(rig: Rig, number: int) -> None:
    """Submit what a phase consists of and wait until all of it has ended."""
    jobs = [
        JobRequest(name="work", id=f"w{number}-{n}", kwargs={"seconds": 0.02 + 0.005 * (n % 7)})
        for n in range(WORKING)
    ]
    jobs += [JobRequest(name="always_fail", id=f"f{number}-{n}") for n in range(FAILING)]
    jobs += [JobRequest(name="permanent", id=f"p{number}-{n}") for n in range(GIVING_UP)]
    await rig.submit(jobs)
    await rig.emptied(60)


@pytest.mark.row("K1")
@pytest.mark.timeout(600)
async def test_every_figure_equals_the_truth_through_a_restart_an_outage_and_deploys(
    make_rig: Callable[..., Rig], row: Row
) -> None:
    rig = make_rig(lease_s=30.0)
    rig.policy(attempts=ATTEMPTS, backoff_s=0.05, backoff_cap_s=0.2)
    settings = settings_of(rig)
    began_s = (await rig.producer.time())[0]
    worker = rig.start(ARQSCOPE_RELEASE="1.0")
    first = Collector(settings)
    await first.start()
    await phase(rig, 0)
    await first.stop()
    await phase(rig, 1)  # nobody looks
    second = Collector(settings)
    await second.start()
    phases = 2
    for release in ("2.0", "3.0") if FULL else ():
        minute = (await rig.producer.time())[0] // 60
        await until(lambda m=minute: _is_later(rig, m), timeout_s=80)  # type: ignore[misc]
        worker.terminate()
        await worker.ended()
        worker = rig.start(ARQSCOPE_RELEASE=release)
        await phase(rig, phases)
        phases += 1
    seen: list[Any] = []
    second.subscribe(lambda snapshot: seen.append(snapshot))
    process = rig.server.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    await until(lambda: asyncio.sleep(0, len(seen) >= sized(20, 6)), timeout_s=90)
    os.kill(process.pid, signal.SIGCONT)
    hung = [one for one in seen if "queue" in one.problems]
    await until(lambda: asyncio.sleep(0, not second.snapshot.problems), timeout_s=30)
    await phase(rig, phases)
    phases += 1
    snapshot = await second.sample()
    ended = (await rig.producer.time())[0] // 60  # the minute the last job ended in
    if FULL:
        await until(lambda: _is_written(rig, ended), timeout_s=90)
    else:
        historian = Historian()
        historian.minutes.queues.add(QUEUE)
        await historian.write(rig.producer, (ended + 1) * 60_000 + 4_000)
    span = (began_s // 60 * 60_000, (ended + 1) * 60_000)
    minutes = await history(rig.producer, QUEUE, *span, now_ms=span[1])
    step = one_step(began_s // 60, ended + 1)
    whole = await history(rig.producer, QUEUE, *step, now_ms=span[1], points=1)
    assert len(whole) == 1
    deploys = sized(2, 0)

    async def are_marked() -> bool:  # after the minute's rows, in the same write
        return len(await annotations(rig.producer, *spread)) >= deploys

    spread = (began_s * 1000, span[1] + 60_000)
    await until(are_marked, timeout_s=30)
    marks = await annotations(rig.producer, *spread)
    reports = await rig.runs()
    await second.stop()

    truth = {
        "accepted": phases * (WORKING + FAILING + GIVING_UP),
        "complete": phases * WORKING,
        "retried": phases * FAILING * (ATTEMPTS - 1),
        "dead": phases * (FAILING + GIVING_UP),
    }
    shown = snapshot.queues.set_index("queue").loc[QUEUE]
    columns = {
        "accepted": "accepted",
        "complete": "complete",
        "retried": "retried",
        "dead": "dead_total",
    }
    # a report holds whole milliseconds, cut: the truth lies within one of what it says
    errors = {
        (kind, quantile): max(0.0, abs(whole[f"{kind}_{quantile}_s"].iloc[0] - exact) - 0.001)
        / max(0.001, exact)
        for kind, durations in (
            ("run", [run.runtime_s for run in reports]),
            ("wait", [run.wait_s for run in reports]),
        )
        for quantile, exact in zip(
            ("p50", "p95", "p99"), exact_s(durations, (0.5, 0.95, 0.99)), strict=True
        )
    }
    row.figure(
        jobs=truth["accepted"], runs=len(reports), minutes=len(minutes), hung_samples=len(hung),
        worst_percentile_error=max(errors.values()), bound=BUCKET_ERROR, deploys=len(marks),
    )  # fmt: skip
    assert {name: shown[column] for name, column in columns.items()} == truth
    assert shown["failed"] == truth["retried"] + truth["dead"]
    assert shown[["waiting", "deferred", "running"]].to_list() == [0, 0, 0]
    told = conservation(snapshot.queues).set_index("queue")["verdict"]
    assert told[QUEUE] == "holds"
    outcomes = Counter(snapshot.runs["outcome"].astype(str))
    assert outcomes == {
        "complete": truth["complete"], "retry": truth["retried"], "dead": truth["dead"]
    }  # fmt: skip
    assert {name: minutes[name].sum() for name in truth} == truth
    assert max(errors.values()) <= BUCKET_ERROR * 1.001
    assert hung
    assert all(one.queues["waiting"].isna().all() for one in hung)
    log = second.snapshot.history
    waiting = log[log["queue"] == QUEUE]["waiting"]
    assert waiting.isna().sum() >= len(hung)
    assert all(rate >= 0 or math.isnan(rate) for rate in log["complete_per_s"])
    if FULL:
        assert marks["text"].to_list() == ["2.0 (before: 1.0)", "3.0 (before: 2.0)"]
        assert (minutes["samples"] > 0).sum() >= 3
    else:
        functions = snapshot.functions.set_index("function")
        assert functions.loc["work", ["runs", "complete"]].to_list() == [truth["complete"]] * 2
        assert functions.loc["always_fail", ["retried", "dead"]].to_list() == [
            truth["retried"], phases * FAILING
        ]  # fmt: skip


def one_step(first: int, end: int) -> tuple[float, float]:
    """A range, epoch ms, that holds the minutes from *first* to before *end* as one step of the grid."""
    length = next(n for n in range(end - first, 1440) if first // n == (end - 1) // n)
    start = first // length * length
    return start * 60_000.0, (start + length) * 60_000.0


async def _is_later(rig: Rig, minute: int) -> bool:
    """Whether another minute has begun, a few seconds ago."""
    now = (await rig.producer.time())[0]
    return bool(now // 60 > minute and now % 60 >= 5)


async def _is_written(rig: Rig, minute: int) -> bool:
    """Whether the collector wrote *minute*."""
    span = (minute * 60_000.0, (minute + 1) * 60_000.0)
    frame: pd.DataFrame = await history(rig.producer, QUEUE, *span, now_ms=span[1])
    return bool(frame["samples"].notna().any())
