"""Frames: what each is, its columns with dtypes, units and meanings; rows to frames. Pure.

Every frame's columns and dtypes are a constant here; an empty frame has them too. Times are
``datetime64[us, UTC]``, sizes bytes, durations seconds unless the name says otherwise. A number
nobody could read is NaN, never 0. Percentiles are nearest-rank: exact where all runs are at hand,
else from log buckets and within ``records.BUCKET_ERROR`` (4.8 %; the method is cited there).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from app.columns import TIME, Column, Schema, flag, moment, named, number, text, whole
from app.records import Outcome

#: fixed to the enum, so that a colour does not move when an outcome is absent
OUTCOME: Final = pd.CategoricalDtype([outcome.value for outcome in Outcome])

_NAT: Final = np.iinfo("int64").min

Columns = Mapping[str, Any]


QUEUE_COLUMNS: Final = Schema(
    "One row per queue: depths now, counters since ever, rates over the last tick, its workers.",
    queue=text("name of the queue"),
    waiting=number("jobs", "due now and not claimed; jobs whose lease ran out included"),
    deferred=number("jobs", "due later; retries that wait included"),
    running=number("jobs", "claimed by a worker whose lease holds"),
    accepted=number("jobs", "enqueued by our producers since ever, redrives included"),
    complete=number("jobs", "ended well since ever"),
    failed=number("runs", "raised or timed out since ever, whatever came of it"),
    retried=number("runs", "scheduled again since ever"),
    dead_total=number("jobs", "became dead letters since ever"),
    aborted=number("jobs", "aborted and left so"),
    dead_open=number("letters", "dead letters that wait for a decision"),
    dead_retrying=number("letters", "dead letters whose retry is under way"),
    resolved=number("letters", "dead letters whose retry ended well"),
    discarded=number("letters", "dead letters given up, less those taken back"),
    oldest_wait_s=number("s", "since when the job waits that is due longest; 0: none is due"),
    complete_per_s=number("jobs/s", "ended well since the sample before"),
    failed_per_s=number("runs/s", "raised or timed out since the sample before"),
    workers=number("workers", "live workers that serve it"),
    slots=number("slots", "jobs its workers may run at once"),
    busy=number("slots", "of these, taken"),
    paused=flag("whether its workers were told to take no new job"),
)
JOB_COLUMNS: Final = Schema(
    "One row per job of a page: jobs of one queue in one state, read when asked for.",
    job_id=text("id of the job"),
    queue=text("queue it is of"),
    state=text("queued, deferred, retrying, running, complete, failed, dead or aborted"),
    function=text("name of its function; empty: its payload cannot be decoded"),
    arguments=text("its positional and keyword arguments as JSON, at most 2 KB"),
    note=text("why its payload could not be decoded, or how it was; empty: it is ours"),
    due=moment("when it is due, or was when it was claimed"),
    started=moment("when its run began"),
    finished=moment("when its run ended"),
    attempt=whole("", "number of the run, 1 is the first; 0: it did not run yet"),
    worker=text("id of the worker that runs or ran it"),
    error=text("type and message of what ended its run, at most 300 characters"),
)
FUNCTION_COLUMNS: Final = Schema(
    "One row per queue and function with runs since the full minute before this one (60 to 120 s).",
    queue=text("name of the queue"),
    function=text("name of the function"),
    runs=number("runs", "ended in the window, whatever came of them"),
    complete=number("runs", "of these, ended well"),
    retried=number("runs", "of these, scheduled again"),
    dead=number("runs", "of these, the job became a dead letter"),
    aborted=number("runs", "of these, aborted"),
    shutdown=number("runs", "of these, interrupted by a stopping worker"),
    wait_p50_s=number("s", "from due to started, median; within 4.8 %"),
    wait_p95_s=number("s", "from due to started, 95th percentile; within 4.8 %"),
    run_p50_s=number("s", "from started to ended, median; within 4.8 %"),
    run_p95_s=number("s", "from started to ended, 95th percentile; within 4.8 %"),
    run_p99_s=number("s", "from started to ended, 99th percentile; within 4.8 %"),
    run_mean_s=number("s", "from started to ended, mean; within 4.8 %"),
    e2e_p50_s=number("s", "from accepted to ended for good, median; within 4.8 %"),
    e2e_p95_s=number("s", "from accepted to ended for good, 95th percentile; within 4.8 %"),
)
WORKER_COLUMNS: Final = Schema(
    "One row per live process, as its last heartbeat told (every 5 s).",
    id=text("host, pid and a random part"),
    role=text("worker, events or dead-letters"),
    host=text("name of its machine"),
    pid=whole("", "its process id there"),
    source=text("queue or stream it serves"),
    version=text("version of the deployment it runs"),
    since=moment("when it started"),
    beat=moment("when it was heard of last"),
    slots=whole("slots", "jobs it may run at once"),
    busy=whole("slots", "of these, taken"),
    state=text("running, quiet, draining or degraded"),
    trouble=text("why it is degraded"),
    rss_bytes=whole("bytes", "memory it has resident"),
    cpu_s=number("s", "CPU time it has used since it started"),
    loop_lag_ms=number("ms", "how late its event loop woke up last"),
    jobs=text("what it runs: JSON list of {id, function, started_ms, attempt}"),
    schedules=text("its cron jobs: JSON list as app.schedules reads it; empty: none"),
)
RUNNING_COLUMNS: Final = Schema(
    "One row per running job that a heartbeat told of, longest first, at most 200.",
    job_id=text("id of the job"),
    queue=text("queue it is of"),
    function=text("name of its function"),
    attempt=whole("", "number of the run, 1 is the first"),
    worker=text("id of the worker that runs it"),
    started=moment("when the run began"),
    due=moment("when it was due; NaT: not looked up yet"),
    running_s=number("s", "for how long it runs"),
)
RUN_COLUMNS: Final = Schema(
    "One row per finished run, the newest 1,000 that were read, newest last.",
    job_id=text("id of the job"),
    queue=text("queue it is of"),
    function=text("name of its function"),
    outcome=Column(OUTCOME, "", "complete, retry, dead, aborted or shutdown"),
    attempt=whole("", "number of the run, 1 is the first"),
    worker=text("id of the worker that ran it"),
    enqueued=moment("when the job was accepted"),
    due=moment("when the run was due"),
    started=moment("when the run began"),
    finished=moment("when the run ended"),
    wait_s=number("s", "from due to started"),
    run_s=number("s", "from started to ended"),
    error=text("type and message of what it raised, at most 300 characters"),
)
DEAD_LETTER_COLUMNS: Final = Schema(
    "One row per open or retrying dead letter, newest first, at most 500 per source and state.",
    id=text("id of the job or entry that died"),
    kind=text("job or event"),
    source=text("queue or stream it died on"),
    name=text("function or event type"),
    state=text("new or retrying"),
    reason=text(
        "attempts, permanent, timeout, crash, expired, malformed, unknown-function, aborted"
    ),
    error_type=text("type of the last error"),
    error=text("message of the last error"),
    fingerprint=text("hash that letters of one cause share"),
    attempts=whole("runs", "runs it had"),
    redrives=whole("retries", "times it was retried since it died first"),
    died=moment("when it died"),
    decision=text("what the dead-letter processor decided"),
    decision_reason=text("why"),
    correlation_id=text("id shared by event, job, letter and retry"),
)
CAUSE_COLUMNS: Final = Schema(
    "One row per fingerprint among the dead letters listed and per cause seen lately, most letters first.",
    fingerprint=text("hash that letters of one cause share"),
    state=text("new, known, ignored, resolved or regressed"),
    error_type=text("type of the newest error"),
    error=text("message of the newest error"),
    count=whole("letters", "open and retrying letters among those listed"),
    functions=text("functions and event types, comma separated"),
    first_seen=moment("when it struck first"),
    last_seen=moment("when it struck last"),
    total=number("deaths", "since it was first seen; NaN: not counted yet"),
    this_hour=number("deaths", "since the full hour (UTC)"),
    today=number("deaths", "since midnight (UTC)"),
    regressions=number("times", "it struck again after it was resolved"),
    sources=text("queues and streams, comma separated"),
    owner=text("who looks after it"),
    note=text("what was said about it"),
)
TALLY_COLUMNS: Final = Schema(
    "One row per cause and period (1h, 3h, 24h, 3d, 7d), read when asked for.",
    fingerprint=text("hash that letters of one cause share"),
    error_type=text("type of its newest error"),
    functions=text("functions and event types, comma separated"),
    period=text("1h, 3h, 24h, 3d or 7d before now"),
    hours=whole("h", "length of the period"),
    deaths=number(
        "deaths", "in the period, the hour or day it begins in spread evenly; NaN: unknown"
    ),
    at_least=number("deaths", "that certainly lie in it; NaN: unknown"),
    at_most=number("deaths", "that may lie in it; NaN: unknown"),
    note=text("why the number is unknown or no exact count; empty: it is exact"),
)
STREAM_COLUMNS: Final = Schema(
    "One row per event stream.",
    stream=text("name of the stream"),
    length=number("entries", "held now"),
    first_id=text("id of the oldest entry held"),
    last_id=text("id of the newest entry ever"),
    processed=number("events", "handled since ever"),
    dead=number("events", "became dead letters since ever"),
    unmatched=number("events", "no handler wanted, since ever"),
    per_s=number("events/s", "handled since the sample before"),
    dead_open=number("letters", "dead letters that wait for a decision"),
    dead_retrying=number("letters", "dead letters whose replay is under way"),
    resolved=number("letters", "dead letters whose replay ended well"),
    discarded=number("letters", "dead letters given up, less those taken back"),
)
GROUP_COLUMNS: Final = Schema(
    "One row per consumer group of a stream.",
    stream=text("name of the stream"),
    group=text("name of the group"),
    consumers=number("consumers", "known to the group"),
    pending=number("entries", "given to a consumer and not acknowledged yet"),
    lag=number("entries", "the group has not been given yet"),
    lag_is_estimate=flag("whether Redis could not tell the lag and it is estimated from ids"),
    lag_s=number("s", "age of the oldest entry the group has not been given; 0: none"),
)
EVENT_COLUMNS: Final = Schema(
    "One row per handled event, the newest 200 that were read, newest last.",
    id=text("id of the stream entry"),
    at=moment("when it was appended"),
    type=text("type of the event"),
    handlers=text("handlers that had it, comma separated"),
    outcome=text("what became of it"),
    ms=number("ms", "that its handlers took"),
    correlation_id=text("id shared by event, job, letter and retry"),
)
REDIS_COLUMNS: Final = Schema(
    "One row per Redis role.",
    role=text("queue, streams or cache; queue-2 … of further queue servers"),
    up=flag("whether it answered this sample"),
    version=text("its version"),
    memory_bytes=number("bytes", "memory its data takes"),
    max_memory_bytes=number("bytes", "limit of its memory; NaN: none, or unknown"),
    policy=text("what it evicts when the limit is reached"),
    aof=flag("whether it keeps an append-only file"),
    clients=number("connections", "open now"),
    ops_per_s=number("commands/s", "it executes, by its own count"),
    uptime_s=number("s", "since it was started"),
    problem=text("why it did not answer, passwords masked"),
)
OPERATION_COLUMNS: Final = Schema(
    "One row per bulk operation, newest first, at most 50.",
    id=text("id of the operation"),
    kind=text("what it does"),
    source=text("queue or stream it acts on"),
    filter=text("what it is about, as JSON"),
    state=text("waiting, canary, running, paused, done, aborted or stopped"),
    matched=whole("items", "it was about when it was asked for"),
    done=whole("items", "acted on"),
    skipped=whole("items", "looked at and not matching any more"),
    failed=whole("items", "that could not be acted on, or whose canary failed"),
    rate_per_s=number("items/s", "its limit; NaN: none"),
    canary=whole("items", "sent first; 0: no canary"),
    actor=text("who asked for it"),
    reason=text("why"),
    created=moment("when it was asked for"),
    started=moment("when it was taken up"),
    finished=moment("when it ended"),
    note=text("why it stands where it stands"),
)
ALERT_COLUMNS: Final = Schema(
    "One row per alert that fires or was acknowledged, those told last first, of the newest 200.",
    id=text("id of the alert: one per cause, or per rule and source"),
    kind=text("cause, rule or cap"),
    state=text("firing or acknowledged"),
    severity=text("info, warning or critical"),
    title=text("what it is about"),
    detail=text("what was told last"),
    source=text("queue or stream"),
    name=text("fingerprint of the cause, or the rule's name"),
    since=moment("when it began"),
    last=moment("when it was told last"),
    silenced_until=moment("until when nobody is told of it; NaT: it is not silenced"),
    times=whole("times", "it was told since it began"),
    actor=text("who acknowledged or silenced it"),
)
HISTORY_COLUMNS: Final = Schema(
    "One row per queue and sample of the last hour, oldest first.",
    at=moment("when the sample was taken"),
    queue=named("name of the queue"),
    waiting=number("jobs", "due and not claimed"),
    running=number("jobs", "claimed by a worker whose lease holds"),
    deferred=number("jobs", "due later"),
    complete_per_s=number("jobs/s", "ended well since the sample before"),
    failed_per_s=number("runs/s", "raised or timed out since the sample before"),
    wait_p50_s=number("s", "from due to started, median of the last minute's runs"),
    wait_p95_s=number("s", "from due to started, 95th percentile of the last minute's runs"),
    run_p50_s=number("s", "from started to ended, median of the last minute's runs"),
    run_p95_s=number("s", "from started to ended, 95th percentile of the last minute's runs"),
    dead_open=number("letters", "dead letters that wait for a decision"),
)
STREAM_HISTORY_COLUMNS: Final = Schema(
    "One row per stream and sample of the last hour, oldest first; lag of the slowest group.",
    at=moment("when the sample was taken"),
    stream=named("name of the stream"),
    processed_per_s=number("events/s", "handled since the sample before"),
    lag=number("entries", "the slowest group has not been given yet"),
    lag_s=number("s", "age of the oldest of these"),
)

#: every frame of a snapshot by name
FRAMES: Final[Mapping[str, Schema]] = {
    "queues": QUEUE_COLUMNS,
    "functions": FUNCTION_COLUMNS,
    "workers": WORKER_COLUMNS,
    "running": RUNNING_COLUMNS,
    "runs": RUN_COLUMNS,
    "dead_letters": DEAD_LETTER_COLUMNS,
    "causes": CAUSE_COLUMNS,
    "streams": STREAM_COLUMNS,
    "groups": GROUP_COLUMNS,
    "events": EVENT_COLUMNS,
    "redis": REDIS_COLUMNS,
    "operations": OPERATION_COLUMNS,
    "alerts": ALERT_COLUMNS,
    "history": HISTORY_COLUMNS,
    "stream_history": STREAM_HISTORY_COLUMNS,
}
#: frames that are read when asked for, a page or a range at a time; ``tiers`` and ``past`` have more
ASKED_FRAMES: Final[Mapping[str, Schema]] = {
    "jobs": JOB_COLUMNS,
    "cause_periods": TALLY_COLUMNS,
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
    shown = value if isinstance(value, str) else str(value)
    try:
        shown.encode()
    except UnicodeEncodeError:
        return shown.encode("utf-8", "replace").decode()
    return shown
