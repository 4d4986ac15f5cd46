"""Rows of frames from records: runs, workers, letters, causes, operations, alerts; frames of them. Pure."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from app.alerts import Alert
from app.frames import (
    ALERT_COLUMNS,
    CAUSE_COLUMNS,
    DEAD_LETTER_COLUMNS,
    OPERATION_COLUMNS,
    RUN_COLUMNS,
    RUNNING_COLUMNS,
    WORKER_COLUMNS,
    frame_of,
)
from app.letters.causes import Cause
from app.operations import Operation
from app.records import DeadLetter, JobRun, WorkerInfo


def _time(ms: float) -> float | None:
    """Epoch ms, or None for 0 and for what no timestamp can hold."""
    return ms if 0 < ms < 253_402_300_800_000 else None


def runs_frame(runs: Iterable[JobRun]) -> pd.DataFrame:
    """One row per run, oldest first by the time it finished."""
    ordered = sorted(runs, key=lambda run: run.finished_ms)
    return frame_of(
        (
            {
                "job_id": run.job_id,
                "queue": run.queue,
                "function": run.function,
                "outcome": run.outcome.value,
                "attempt": run.attempt,
                "worker": run.worker,
                "enqueued": _time(run.enqueued_ms),
                "due": _time(run.due_ms),
                "started": _time(run.started_ms),
                "finished": _time(run.finished_ms),
                "wait_s": run.wait_s,
                "run_s": run.runtime_s,
                "error": run.error,
            }
            for run in ordered
        ),
        RUN_COLUMNS,
    )


def worker_rows(workers: Iterable[WorkerInfo]) -> list[dict[str, Any]]:
    """Rows of the workers frame, by role, source and id; times are epoch ms."""
    ordered = sorted(workers, key=lambda w: (w.role, w.source, w.id))
    return [
        {name: getattr(w, name) for name in WORKER_COLUMNS if hasattr(w, name)}
        | {"since": _time(w.since_ms), "beat": _time(w.beat_ms)}
        for w in ordered
    ]


def workers_frame(workers: Iterable[WorkerInfo]) -> pd.DataFrame:
    """One row per live process, by role, source and id."""
    return frame_of(worker_rows(workers), WORKER_COLUMNS)


def running_rows(
    workers: Iterable[WorkerInfo], due_ms: Mapping[str, float] | None = None, limit: int = 200
) -> list[dict[str, Any]]:
    """Rows of the running frame without ``running_s``, longest first; ``due`` where it is known."""
    due_ms = due_ms or {}
    rows = [
        {
            "job_id": job.get("id"),
            "queue": worker.source,
            "function": job.get("function"),
            "attempt": int(job.get("attempt") or 0),
            "worker": worker.id,
            "started": _time(float(job.get("started_ms") or 0)),
            "due": due_ms.get(str(job.get("id"))),
        }
        for worker in workers
        for job in running_jobs(worker)
    ]
    rows.sort(key=lambda row: row["started"] or math.inf)
    return rows[:limit]


def running_since(rows: Iterable[Mapping[str, Any]], now_ms: float) -> pd.DataFrame:
    """The running frame of *rows* at *now_ms*."""
    return frame_of(
        (
            {
                **row,
                "running_s": None
                if row["started"] is None
                else max(0.0, (now_ms - row["started"]) / 1000),
            }
            for row in rows
        ),
        RUNNING_COLUMNS,
    )


def running_frame(
    workers: Iterable[WorkerInfo],
    now_ms: float,
    due_ms: Mapping[str, float] | None = None,
    limit: int = 200,
) -> pd.DataFrame:
    """One row per job a live worker says it runs, longest first; ``due`` where it is known."""
    return running_since(running_rows(workers, due_ms, limit), now_ms)


def running_jobs(worker: WorkerInfo) -> list[dict[str, Any]]:
    """The jobs a heartbeat lists; none when it cannot be read."""
    try:
        jobs = json.loads(worker.jobs)
    except ValueError:
        return []
    return [job for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []


def letter_rows(letters: Iterable[DeadLetter]) -> list[dict[str, Any]]:
    """Rows of the dead letters frame, newest first; times are epoch ms."""
    ordered = sorted(letters, key=lambda letter: -letter.died_ms)
    return [
        {name: getattr(letter, name) for name in DEAD_LETTER_COLUMNS if hasattr(letter, name)}
        | {"state": letter.state.value, "died": _time(letter.died_ms)}
        for letter in ordered
    ]


def dead_letters_frame(letters: Iterable[DeadLetter]) -> pd.DataFrame:
    """One row per dead letter, newest first."""
    return frame_of(letter_rows(letters), DEAD_LETTER_COLUMNS)


def operation_rows(operations: Iterable[Operation]) -> list[dict[str, Any]]:
    """Rows of the operations frame, newest first; times are epoch ms."""
    ordered = sorted(operations, key=lambda o: (o.created_at, o.id), reverse=True)
    return [
        {name: getattr(o, name) for name in OPERATION_COLUMNS if hasattr(o, name)}
        | {
            "filter": json.dumps(dict(o.filter), sort_keys=True),
            "state": o.state.value,
            **{
                name: None if at is None else at.timestamp() * 1000
                for name, at in (
                    ("created", o.created_at),
                    ("started", o.started_at),
                    ("finished", o.finished_at),
                )
            },
        }
        for o in ordered
    ]


def alert_rows(alerts: Iterable[Alert]) -> list[dict[str, Any]]:
    """Rows of the alerts frame, in the order given; times are epoch ms."""
    return [
        {name: getattr(alert, name) for name in ALERT_COLUMNS if hasattr(alert, name)}
        | {
            "state": alert.state.value,
            "since": _time(alert.since_ms),
            "last": _time(alert.last_ms),
            "silenced_until": _time(alert.silenced_until_ms),
        }
        for alert in alerts
    ]


def causes_frame(
    dead_letters: pd.DataFrame, kept: Iterable[tuple[Cause, float, float]] = ()
) -> pd.DataFrame:
    """One row per fingerprint of *dead_letters* and of *kept*, most letters first.

    *kept*: causes with their deaths of this hour and of today. The newest error speaks.
    """
    known = {cause.fingerprint: (cause, hour, day) for cause, hour, day in kept}
    rows: dict[str, dict[str, Any]] = {}
    for letter in dead_letters.itertuples(index=False):
        row = rows.setdefault(
            str(letter.fingerprint),
            {"count": 0, "functions": [], "sources": [], "first": letter.died, "last": letter.died}
            | {"error_type": letter.error_type, "error": letter.error},
        )
        row["count"] += 1
        row["functions"].append(letter.name)
        row["sources"].append(letter.source)
        if letter.died > row["last"]:
            row |= {"last": letter.died, "error_type": letter.error_type, "error": letter.error}
        row["first"] = min(row["first"], letter.died)
    made = [_cause_row(name, rows.get(name), known.get(name)) for name in {**rows, **known}]
    made.sort(key=lambda row: (-row["count"], -(row["last_seen"] or 0)))
    return frame_of(made, CAUSE_COLUMNS)


def _cause_row(
    name: str, row: Mapping[str, Any] | None, kept: tuple[Cause, float, float] | None
) -> dict[str, Any]:
    """One cause: *row* of its listed letters, *kept* of what was counted."""
    made: dict[str, Any] = {"fingerprint": name, "state": "new", "count": 0}
    first: list[float] = []
    last: list[float] = []
    functions: set[str] = set()
    sources: set[str] = set()
    if row is not None:
        made |= {"count": row["count"], "error_type": row["error_type"], "error": row["error"]}
        first += [row["first"].timestamp() * 1000] if row["first"] is not pd.NaT else []
        last += [row["last"].timestamp() * 1000] if row["last"] is not pd.NaT else []
        functions |= set(row["functions"])
        sources |= set(row["sources"])
    if kept is not None:
        cause, hour, day = kept
        made |= {"state": cause.state.value, "total": cause.count, "this_hour": hour, "today": day}
        made |= {"regressions": cause.regressions, "owner": cause.owner, "note": cause.note}
        if row is None:
            made |= {"error_type": cause.error_type, "error": cause.error}
        first += [cause.first_ms] if cause.first_ms else []
        last += [cause.last_ms] if cause.last_ms else []
        functions |= set(cause.functions)
        sources |= set(cause.sources)
    return made | {
        "functions": ", ".join(sorted(functions)),
        "sources": ", ".join(sorted(sources)),
        "first_seen": min(first, default=None),
        "last_seen": max(last, default=None),
    }
