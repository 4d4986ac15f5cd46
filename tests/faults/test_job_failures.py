"""What a job may raise, and when it is tried again (W11, W12)."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from app.enqueue import JobRequest
from app.records import MAX_ERROR_BYTES
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.fault_jobs import EXCEPTIONS
from tests.faults.rig import Rig, sized

MakeRig = Callable[..., Rig]


@pytest.mark.row("W11")
async def test_no_exception_a_job_raises_harms_its_worker(make_rig: MakeRig, row: Row) -> None:
    """
    Each is retried by the policy, then kept, cut to a bearable size.
    """
    rig = make_rig()
    rig.policy(attempts=2, backoff_s=0.01, backoff_cap_s=0.02)
    worker = rig.start()
    await rig.submit([JobRequest(name="raise_this", args=(k,), id=k) for k in EXCEPTIONS])
    try:
        await rig.emptied(15)
    finally:
        left = [raw.decode() for raw in await rig.client.zrange(rig.queue, 0, -1)]
        tries = Counter(entry.id for entry in rig.entries("start"))
        row.figure(left=left, most_tries=max(tries.values(), default=0))
    records = {kind: await rig.letter(kind) for kind in EXCEPTIONS}
    sizes = {
        kind: max(len(record[f].encode()) for f in ("error", "traceback", "history"))
        for kind, record in records.items()
    }
    await rig.work(1, 0, prefix="after")
    await rig.emptied()

    verdict = await rig.verdict()
    row.figure(**verdict.figures(), stored_max_bytes=max(sizes.values()))
    assert worker.is_alive
    assert verdict.holds, describe(verdict)
    assert set(tries.values()) == {2}
    assert {kind: record["attempts"] for kind, record in records.items()} == dict.fromkeys(
        EXCEPTIONS, "2"
    )
    assert max(sizes.values()) <= MAX_ERROR_BYTES


@pytest.mark.row("W12")
async def test_retries_of_a_job_that_always_fails_follow_the_schedule(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Full jitter: the n-th delay lies within [0, min(cap, base * 2^(n-1))]; then a dead letter.
    """
    base_s, cap_s, tries = sized((0.5, 8.0, 8), (0.05, 0.4, 8))
    rig = make_rig()
    rig.policy(attempts=tries, backoff_s=base_s, backoff_cap_s=cap_s)
    rig.start()
    await rig.submit([JobRequest(name="always_fail", id=f"j{n}") for n in range(sized(20, 5))])
    await rig.emptied(60)

    verdict = await rig.verdict(effect="start")
    runs: dict[str, list[Any]] = {}
    for run in await rig.runs():
        runs.setdefault(run.job_id, []).append(run)
    # what a run was due at is what the failure before it scheduled
    delays = [
        (number, (later.due_ms - before.finished_ms) / 1000)
        for of_job in runs.values()
        for number, (before, later) in enumerate(pairwise(of_job))
    ]
    over = [(n, s) for n, s in delays if not -0.01 <= s <= min(cap_s, base_s * 2**n) + 0.1]
    kept = [json.loads((await rig.letter(i))["history"]) for i in runs]
    row.figure(delays=len(delays), outside=len(over), **verdict.figures())
    assert verdict.lost == verdict.doubled == verdict.stray == ()
    assert over == []
    assert {len(of_job) for of_job in runs.values()} == {tries}
    assert {len(history) for history in kept} == {tries}


@pytest.mark.row("W12")
async def test_a_thousand_failures_at_once_do_not_come_back_at_once(
    make_rig: MakeRig, row: Row
) -> None:
    failures = sized(1_000, 400)
    rig = make_rig()
    rig.policy(attempts=8, backoff_s=20, backoff_cap_s=600)
    rig.start(CONCURRENCY=50)
    await rig.submit([JobRequest(name="always_fail", id=f"j{n}") for n in range(failures)])
    await rig.has("start", failures)
    await rig.stop()

    scores = [score for _, score in await rig.client.zrange(rig.queue, 0, -1, withscores=True)]
    buckets = Counter(int(score // 1000) for score in scores)
    share = max(buckets.values()) / len(scores)
    row.figure(failures=len(scores), max_share_in_1_s=share)
    assert len(scores) == failures
    assert share <= 0.10
