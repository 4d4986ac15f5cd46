"""Rows of one sample: what the answers of Redis mean, as plain values. Pure.

Every function returns what one row of a frame (see ``frames``) is made of; None is unknown.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.analyses.percentiles import Histogram, mean_s, quantiles_s, split_minute
from app.records import WorkerInfo
from app.sampling.readings import QueueReading
from app.sampling.stream_readings import id_ms


def aborted(totals: Mapping[str, int]) -> int | None:
    """Jobs aborted and left so; None when the counters are unknown."""
    if "aborted" not in totals:
        return None
    return max(0, totals["aborted"] - totals.get("unaborted", 0))


def depth_row(reading: QueueReading, queue: str, now_ms: float) -> dict[str, Any]:
    """Waiting, running and deferred of one queue: they add up to what the queue holds."""
    queued, due = reading.queued.get(queue), reading.due.get(queue)
    if queued is None or due is None:
        return {}
    # A claimed job whose lease ran out is due again: it waits, its claim only lingers.
    running = min(reading.claimed.get(queue, 0), max(0, queued - due))
    first = reading.first_due_ms.get(queue)
    return {
        "waiting": due,
        "running": running,
        "deferred": max(0, queued - due - running),
        "oldest_wait_s": max(0.0, (now_ms - first) / 1000) if due and first is not None else 0.0,
    }


def foreign_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A stock queue's row: only what is due and deferred is known; due are running jobs too."""
    known = ("queue", "waiting", "deferred", "oldest_wait_s", "paused")
    return {name: row[name] for name in known if name in row}


def workers_row(
    workers: Iterable[WorkerInfo] | None, queue: str, running: float | None
) -> dict[str, Any]:
    """How many workers serve *queue*, with how many slots, how many of them busy.

    Busy are as many as jobs run: a heartbeat's own figure is up to 5 s old, and would contradict it.
    """
    if workers is None:
        return {}
    serving = [w for w in workers if w.source == queue and w.role == "worker"]
    slots = sum(w.slots for w in serving)
    return {
        "workers": len(serving),
        "slots": slots,
        "busy": None if running is None else min(running, slots),
    }


def function_rows(queue: str, minutes: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row per function with runs in *minutes*, the fields of minute hashes added up."""
    rows = []
    for function in sorted({name.rsplit("|", 2)[0] for name in minutes if name.count("|") > 1}):
        counts = split_minute(minutes, function)
        runs = sum(counts.outcomes.values())
        if not runs:
            continue
        rows.append(
            {
                "queue": queue,
                "function": function,
                "runs": runs,
                "complete": counts.outcomes.get("complete", 0),
                "retried": counts.outcomes.get("retry", 0),
                "dead": counts.outcomes.get("dead", 0),
                "aborted": counts.outcomes.get("aborted", 0),
                "shutdown": counts.outcomes.get("shutdown", 0),
                "run_mean_s": mean_s(counts.run),
            }
            | _quantiles("wait", counts.wait, (50, 95))
            | _quantiles("run", counts.run, (50, 95, 99))
            | _quantiles("e2e", counts.e2e, (50, 95))
        )
    return rows


def _quantiles(kind: str, histogram: Histogram, percents: Sequence[int]) -> dict[str, float]:
    found = quantiles_s(histogram, [percent / 100 for percent in percents])
    return {f"{kind}_p{n}_s": value for n, value in zip(percents, found, strict=True)}


def group_row(
    stream: str,
    info: Mapping[str, Any],
    group: Mapping[str, Any],
    undelivered: str | None,
    now_ms: float,
) -> dict[str, Any]:
    """One consumer group; its lag is Redis' own number, or (6.2, or after XDEL) an estimate."""
    last = str(info.get("last-generated-id", "0-0"))
    delivered = str(group["last-delivered-id"])
    lag: float | None = group.get("lag")
    estimate = lag is None
    if lag is None:
        lag = _estimated_lag(info, last, delivered)
    oldest_ms = id_ms(delivered)
    if undelivered is not None:
        oldest_ms = max(oldest_ms, id_ms(undelivered))
    return {
        "stream": stream,
        "group": str(group["name"]),
        "consumers": group.get("consumers"),
        "pending": group.get("pending"),
        "lag": lag,
        "lag_is_estimate": estimate,
        "lag_s": max(0.0, (now_ms - (oldest_ms or id_ms(last))) / 1000) if lag else 0.0,
    }


def _estimated_lag(info: Mapping[str, Any], last: str, delivered: str) -> float:
    """Entries after *delivered*, as if they had come evenly over the stream's time."""
    length = float(info.get("length", 0))
    if delivered == last or not length:
        return 0.0
    if delivered == "0-0":
        return length
    first = info.get("first-entry")
    first_ms = id_ms(first[0]) if first else id_ms(last)
    span = id_ms(last) - first_ms
    share = (id_ms(last) - id_ms(delivered)) / span if span > 0 else 1.0
    return max(1.0, round(length * min(1.0, max(0.0, share))))


def redis_row(role: str, info: Mapping[str, Any], problem: str | None) -> dict[str, Any]:
    """One Redis server; numbers are NaN while it does not answer."""
    row: dict[str, Any] = {
        "role": role,
        "up": problem is None,
        "version": info.get("redis_version", ""),
        "policy": info.get("maxmemory_policy", ""),
        "aof": info.get("aof_enabled", "0") != "0",
        "problem": problem or "",
    }
    if problem is not None:
        return row
    return row | {
        "memory_bytes": _float(info.get("used_memory")),
        "max_memory_bytes": _float(info.get("maxmemory")) or None,
        "clients": _float(info.get("connected_clients")),
        "ops_per_s": _float(info.get("instantaneous_ops_per_sec")),
        "uptime_s": _float(info.get("uptime_in_seconds")),
    }


def _float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def stream_history_rows(
    streams: Iterable[Mapping[str, Any]], groups: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row per stream for the hour\'s log: its rate and the lag of its slowest group."""
    groups = list(groups)
    rows = []
    for row in streams:
        own = [group for group in groups if group["stream"] == row["stream"]]
        slowest: Mapping[str, Any] = max(own, key=lambda g: g.get("lag") or 0.0, default={})
        rows.append(
            {
                "stream": row["stream"],
                "processed_per_s": row.get("per_s"),
                "lag": slowest.get("lag"),
                "lag_s": slowest.get("lag_s"),
            }
        )
    return rows
