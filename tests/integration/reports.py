"""What workers and processors report, written to a Redis by hand."""

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from app import keys
from app.records import DeadLetter, JobRun, LetterState, Outcome, WorkerInfo
from app.snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd

QUEUE = "async-processing"
BOTH = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


def now_ms() -> int:
    return int(time.time() * 1000)


def make_run(job_id: str, outcome: Outcome = Outcome.COMPLETE, **more: Any) -> JobRun:
    now = now_ms()
    values: dict[str, Any] = {
        "job_id": job_id, "queue": QUEUE, "function": "generic", "outcome": outcome, "attempt": 1,
        "worker": "w0", "enqueued_ms": now - 4000, "due_ms": now - 4000, "started_ms": now - 3000,
        "finished_ms": now - 1000,
    }  # fmt: skip
    return JobRun(**{**values, **more})


async def add_runs(redis: Redis, *runs: JobRun) -> None:
    for run in runs:
        await redis.xadd(keys.runs(run.queue), {"r": run.to_json()})


async def add_letter(redis: Redis, source: str, letter_id: str, **more: Any) -> None:
    values: dict[str, Any] = {
        "id": letter_id, "kind": "job", "source": source, "name": "data-sync",
        "state": LetterState.NEW, "reason": "attempts", "error_type": "ValueError",
        "error": "no base", "fingerprint": "f" * 16, "attempts": 3, "died_ms": now_ms(),
    }  # fmt: skip
    letter = DeadLetter(**{**values, **more})
    index = keys.dead_retrying if letter.state is LetterState.RETRYING else keys.dead_open
    await redis.hset(keys.dead_record(source, letter_id), mapping=letter.to_fields())
    await redis.zadd(index(source), {letter_id: letter.died_ms})


async def add_worker(redis: Redis, worker_id: str, queue: str, *job_ids: str) -> None:
    now = now_ms()
    jobs = [
        {"id": i, "function": "generic", "started_ms": now - 2000, "attempt": 1} for i in job_ids
    ]
    info = WorkerInfo(
        id=worker_id, role="worker", host="h", pid=7, source=queue, version="1", since_ms=now - 60_000,
        beat_ms=now, slots=5, busy=len(jobs), jobs=json.dumps(jobs),
    )  # fmt: skip
    await redis.hset(keys.worker(worker_id), mapping=info.to_fields())
    await redis.zadd(keys.WORKERS, {worker_id: now})
    for job_id in job_ids:  # as the claim script does
        await redis.zadd(queue, {job_id: now + 30_000})
        claim = f"{now - 2000}:{now - 2500}:1:{worker_id}"
        await redis.hset(keys.running(queue), job_id, claim)


def of_queue(snapshot: Snapshot, queue: str = QUEUE) -> "pd.Series[Any]":
    return snapshot.queues.set_index("queue").loc[queue]
