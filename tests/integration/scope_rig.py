"""A scope of a private Redis, and runs and letters to put there."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis as SyncRedis

from app import keys
from app.notebook import Scope, connect
from app.records import DeadLetter, JobRun, LetterState, Outcome
from app.settings import Settings

QUEUE = "async-processing"
NOW_MS = int(time.time() * 1000)


def run_of(number: int, **more: Any) -> JobRun:
    """A run that ended *number* seconds ago."""
    end = NOW_MS - number * 1000
    said: dict[str, Any] = {
        "job_id": f"j{number}", "queue": QUEUE, "function": "data-sync", "outcome": Outcome.COMPLETE,
        "attempt": 1, "worker": "w", "enqueued_ms": end - 90, "due_ms": end - 80,
        "started_ms": end - 50, "finished_ms": end,
    }  # fmt: skip
    return JobRun(**said | more)


def letter_of(number: int, **more: Any) -> DeadLetter:
    said: dict[str, Any] = {
        "id": f"d{number}", "kind": "job", "source": QUEUE, "name": "data-sync",
        "state": LetterState.NEW, "reason": "attempts", "error_type": "TimeoutError",
        "error": "no answer", "fingerprint": "f1", "attempts": 3, "died_ms": NOW_MS - number * 1000,
    }  # fmt: skip
    return DeadLetter(**said | more)


@pytest.fixture
def queue_server(settings: Settings) -> Iterator[Any]:
    client: Any = SyncRedis.from_url(settings.url("queue"), decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def scope(settings: Settings, queue_server: Any) -> Iterator[Scope]:
    """A scope whose collector keeps still, over a queue with runs, jobs and letters."""
    dead = run_of(40, outcome=Outcome.DEAD, error="TimeoutError: no answer")
    put_runs(queue_server, [*(run_of(n) for n in range(1, 31)), dead])
    for number in range(5):
        put_letter(queue_server, letter_of(number))
    put_letter(queue_server, letter_of(9, name="notification", fingerprint="f2", error="<b>&"))
    with connect(settings, sample_interval_s=60, keep_history=False) as made:
        made.enqueue(QUEUE, "generic", {"n": 1, "password": "hunter2"}, id="w1")
        made.enqueue(QUEUE, "data-sync", {"n": 2}, id="w2")
        made.enqueue(QUEUE, "data-sync", {"n": 3}, id="later", delay_s=600)
        yield made.refresh()


def put_runs(client: Any, runs: list[JobRun]) -> None:
    for run in sorted(runs, key=lambda one: one.finished_ms):
        client.xadd(keys.runs(run.queue), {"r": run.to_json()}, id=f"{run.finished_ms}-0")


def put_letter(client: Any, letter: DeadLetter) -> None:
    client.hset(keys.dead_record(letter.source, letter.id), mapping=letter.to_fields())
    client.zadd(keys.dead_open(letter.source), {letter.id: letter.died_ms})
    client.set(keys.dead_payload(letter.source, letter.id), '{"v":1}')
    client.sadd(keys.QUEUES, letter.source)
