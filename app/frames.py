"""Records to frames, and frames to frames. Pure: no Redis, no clock, no global.

Every frame's columns and dtypes are a constant here; an empty frame has them too. Times are
``datetime64[us, UTC]``, sizes bytes, durations seconds unless the name says otherwise. A number
nobody could read is NaN, never 0.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from app.causes import Cause
from app.records import DeadLetter, JobRun, Outcome, WorkerInfo

TIME: Final = "datetime64[us, UTC]"
#: fixed to the enum, so that a colour does not move when an outcome is absent
OUTCOME: Final = pd.CategoricalDtype([outcome.value for outcome in Outcome])

_NAT: Final = np.iinfo("int64").min

Columns = Mapping[str, Any]

#: One row per queue: depths now, counters since ever, rates over the last tick, its workers.
QUEUE_COLUMNS: Final[Columns] = {
    "queue": "str",
    "waiting": "float64",  #: due now, not claimed (jobs whose lease ran out included)
    "deferred": "float64",  #: due later
    "running": "float64",  #: claimed by a worker whose lease holds
    "accepted": "float64",
    "complete": "float64",
    "failed": "float64",  #: runs that raised or timed out
    "retried": "float64",
    "dead_total": "float64",
    "aborted": "float64",
    "dead_open": "float64",
    "dead_retrying": "float64",
    "resolved": "float64",
    "discarded": "float64",
    "oldest_wait_s": "float64",
    "complete_per_s": "float64",
    "failed_per_s": "float64",
    "workers": "float64",
    "slots": "float64",
    "busy": "float64",
    "paused": "bool",
}
#: One row per live process.
WORKER_COLUMNS: Final[Columns] = {
    "id": "str",
    "role": "str",
    "host": "str",
    "pid": "int64",
    "source": "str",
    "version": "str",
    "since": TIME,
    "beat": TIME,
    "slots": "int64",
    "busy": "int64",
    "state": "str",
    "trouble": "str",
    "rss_bytes": "int64",
    "cpu_s": "float64",
    "loop_lag_ms": "float64",
    "jobs": "str",  #: JSON list of {id, function, started_ms, attempt}
}
#: One row per running job, at most 200.
RUNNING_COLUMNS: Final[Columns] = {
    "job_id": "str",
    "queue": "str",
    "function": "str",
    "attempt": "int64",
    "worker": "str",
    "started": TIME,
    "due": TIME,
    "running_s": "float64",
}
#: One row per finished run, the last 1000, newest last.
RUN_COLUMNS: Final[Columns] = {
    "job_id": "str",
    "queue": "str",
    "function": "str",
    "outcome": OUTCOME,
    "attempt": "int64",
    "worker": "str",
    "enqueued": TIME,
    "due": TIME,
    "started": TIME,
    "finished": TIME,
    "wait_s": "float64",
    "run_s": "float64",
    "error": "str",
}
#: One row per open or retrying dead letter, newest first, at most 500 per source and state.
DEAD_LETTER_COLUMNS: Final[Columns] = {
    "id": "str",
    "kind": "str",
    "source": "str",
    "name": "str",
    "state": "str",
    "reason": "str",
    "error_type": "str",
    "error": "str",
    "fingerprint": "str",
    "attempts": "int64",
    "redrives": "int64",
    "died": TIME,
    "decision": "str",
    "decision_reason": "str",
    "correlation_id": "str",
}
#: One row per fingerprint among the dead letters above and per cause seen lately, most open letters
#: first.
CAUSE_COLUMNS: Final[Columns] = {
    "fingerprint": "str",
    "state": "str",  #: causes.CauseState
    "error_type": "str",
    "error": "str",
    "count": "int64",  #: open and retrying letters among those listed
    "functions": "str",  #: names, comma separated
    "first_seen": TIME,
    "last_seen": TIME,
    "total": "float64",  #: deaths since it was first seen; NaN: not counted yet
    "this_hour": "float64",  #: deaths since the full hour (UTC)
    "today": "float64",  #: deaths since midnight (UTC)
    "regressions": "float64",
    "sources": "str",  #: queues and streams, comma separated
    "owner": "str",
    "note": "str",
}
STREAM_COLUMNS: Final[Columns] = {
    "stream": "str",
    "length": "float64",
    "first_id": "str",
    "last_id": "str",
    "processed": "float64",
    "dead": "float64",
    "unmatched": "float64",
    "per_s": "float64",
    "dead_open": "float64",
    "dead_retrying": "float64",
    "resolved": "float64",
    "discarded": "float64",
}
#: One row per consumer group; ``lag`` is what the group has not been given yet.
GROUP_COLUMNS: Final[Columns] = {
    "stream": "str",
    "group": "str",
    "consumers": "float64",
    "pending": "float64",
    "lag": "float64",
    "lag_is_estimate": "bool",
    "lag_s": "float64",
}
#: One row per handled event, the last 200, newest last.
EVENT_COLUMNS: Final[Columns] = {
    "id": "str",
    "at": TIME,
    "type": "str",
    "handlers": "str",
    "outcome": "str",
    "ms": "float64",
    "correlation_id": "str",
}
#: One row per Redis role.
REDIS_COLUMNS: Final[Columns] = {
    "role": "str",
    "up": "bool",
    "version": "str",
    "memory_bytes": "float64",
    "max_memory_bytes": "float64",  #: NaN: no limit, or unknown
    "policy": "str",
    "aof": "bool",
    "clients": "float64",
    "ops_per_s": "float64",
    "uptime_s": "float64",
    "problem": "str",
}
#: One row per queue and sample of the last hour, oldest first.
HISTORY_COLUMNS: Final[Columns] = {
    "at": TIME,
    "queue": "category",
    "waiting": "float64",
    "running": "float64",
    "deferred": "float64",
    "complete_per_s": "float64",
    "failed_per_s": "float64",
    "wait_p50_s": "float64",
    "wait_p95_s": "float64",
    "run_p50_s": "float64",
    "run_p95_s": "float64",
    "dead_open": "float64",
}
#: One row per stream and sample of the last hour, oldest first; lag of the slowest group.
STREAM_HISTORY_COLUMNS: Final[Columns] = {
    "at": TIME,
    "stream": "category",
    "processed_per_s": "float64",
    "lag": "float64",
    "lag_s": "float64",
}

#: every frame of a snapshot by name
FRAMES: Final[Mapping[str, Columns]] = {
    "queues": QUEUE_COLUMNS,
    "workers": WORKER_COLUMNS,
    "running": RUNNING_COLUMNS,
    "runs": RUN_COLUMNS,
    "dead_letters": DEAD_LETTER_COLUMNS,
    "causes": CAUSE_COLUMNS,
    "streams": STREAM_COLUMNS,
    "groups": GROUP_COLUMNS,
    "events": EVENT_COLUMNS,
    "redis": REDIS_COLUMNS,
    "history": HISTORY_COLUMNS,
    "stream_history": STREAM_HISTORY_COLUMNS,
}


def empty_frame(columns: Columns) -> pd.DataFrame:
    """Return a frame without rows that keeps its columns and dtypes."""
    return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in columns.items()})


def frame_of(rows: Iterable[Mapping[str, Any]], columns: Columns) -> pd.DataFrame:
    """One row per mapping; what a row lacks is NaN, NaT, "" or False by the column's dtype."""
    rows = list(rows)
    if not rows:
        return empty_frame(columns)
    return pd.DataFrame(
        {name: _column([row.get(name) for row in rows], kind) for name, kind in columns.items()}
    )


def _column(values: list[Any], kind: Any) -> Any:
    """Return an array, not a Series: the collector builds six frames a second."""
    if kind == "str":
        return pd.array([printable(value) for value in values], dtype="str")
    if kind == TIME:  # given as epoch ms
        us = np.array([_NAT if v is None else int(v * 1000) for v in values], "int64")
        return pd.DatetimeIndex(us.view("datetime64[us]")).tz_localize("UTC")
    if kind == "float64":
        return np.array([np.nan if v is None else v for v in values], kind)
    if kind in ("int64", "bool"):
        return np.array([v or 0 for v in values], kind)
    return pd.Categorical(values, dtype=kind)


def printable(value: object) -> str:
    """Text that Arrow, JSON and a browser accept, whatever bytes a producer wrote."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


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


def workers_frame(workers: Iterable[WorkerInfo]) -> pd.DataFrame:
    """One row per live process, by role, source and id."""
    ordered = sorted(workers, key=lambda w: (w.role, w.source, w.id))
    return frame_of(
        (
            {name: getattr(w, name) for name in WORKER_COLUMNS if hasattr(w, name)}
            | {"since": _time(w.since_ms), "beat": _time(w.beat_ms)}
            for w in ordered
        ),
        WORKER_COLUMNS,
    )


def running_frame(
    workers: Iterable[WorkerInfo],
    now_ms: float,
    due_ms: Mapping[str, float] | None = None,
    limit: int = 200,
) -> pd.DataFrame:
    """One row per job a live worker says it runs, longest first; ``due`` where it is known."""
    due_ms = due_ms or {}
    rows: list[dict[str, Any]] = []
    for worker in workers:
        for job in running_jobs(worker):
            started = _time(float(job.get("started_ms") or 0))
            rows.append(
                {
                    "job_id": job.get("id"),
                    "queue": worker.source,
                    "function": job.get("function"),
                    "attempt": int(job.get("attempt") or 0),
                    "worker": worker.id,
                    "started": started,
                    "due": due_ms.get(str(job.get("id"))),
                    "running_s": None if started is None else max(0.0, (now_ms - started) / 1000),
                }
            )
    rows.sort(key=lambda row: -(row["running_s"] or 0.0))
    return frame_of(rows[:limit], RUNNING_COLUMNS)


def running_jobs(worker: WorkerInfo) -> list[dict[str, Any]]:
    """The jobs a heartbeat lists; none when it cannot be read."""
    try:
        jobs = json.loads(worker.jobs)
    except ValueError:
        return []
    return [job for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []


def dead_letters_frame(letters: Iterable[DeadLetter]) -> pd.DataFrame:
    """One row per dead letter, newest first."""
    ordered = sorted(letters, key=lambda letter: -letter.died_ms)
    return frame_of(
        (
            {name: getattr(letter, name) for name in DEAD_LETTER_COLUMNS if hasattr(letter, name)}
            | {"state": letter.state.value, "died": _time(letter.died_ms)}
            for letter in ordered
        ),
        DEAD_LETTER_COLUMNS,
    )


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


def percentiles_s(values_s: Sequence[float], quantiles: Sequence[float]) -> list[float]:
    """Exact quantiles of durations by nearest rank; NaN when there is none."""
    if not len(values_s):
        return [np.nan] * len(quantiles)
    ordered = np.sort(np.asarray(values_s, "float64"))
    ranks = [max(0, int(np.ceil(q * len(ordered))) - 1) for q in quantiles]
    return [float(ordered[rank]) for rank in ranks]
