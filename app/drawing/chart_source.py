"""What charts draw from: frames to columns of plain lists, with a row of NaN in each gap. Pure.

Every chart of a page reads the same ColumnDataSource; a sample adds one row to it. A moment without a
sample, or with an unknown number, is a gap, not a zero. A row is of the time from ``since`` to ``until``:
a sample of what passed since the sample before, a stored step of all of itself. ``at`` is where it is drawn:
a sample at its moment, a step in its middle.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource

#: samples a chart keeps
WINDOW: Final = 600
#: intervals without a sample that make a gap
GAP: Final = 3.5
#: ms of a stored minute
MINUTE_MS: Final = 60_000.0

#: columns of ``history`` that charts show per queue
QUEUE_SERIES: Final = (
    "waiting", "complete_per_s", "failed_per_s", "wait_p50_s", "wait_p95_s", "run_p50_s", "run_p95_s",
)  # fmt: skip
#: columns of ``stream_history`` that charts show per stream
STREAM_SERIES: Final = ("processed_per_s", "lag", "lag_s")
#: columns over all queues; ``top`` is complete and failed together
TOTALS: Final = ("complete", "failed", "top")
#: digits after the point of a rate: times the longest step it still gives the number it was made of
RATE_DIGITS: Final = 6
#: the least latency a log axis shows, s: what is faster stands here
FLOOR_S: Final = 0.001


def source_columns(names: Sequence[str], series: Sequence[str] = QUEUE_SERIES) -> list[str]:
    """Names of the columns of a source of *names*; ``waiting:0`` is of the first queue."""
    each = [f"{column}:{n}" for n in range(len(names)) for column in series]
    return ["at", "since", "until", *(TOTALS if series is QUEUE_SERIES else ()), *each]


def columns_of(
    history: pd.DataFrame,
    names: Sequence[str],
    after: pd.Timestamp | None = None,
    interval_s: float = 1.0,
    limit: int = WINDOW,
    series: Sequence[str] = QUEUE_SERIES,
    *,
    is_stored: bool = False,
) -> dict[str, list[Any]]:
    """Columns of what *history* holds after *after*, oldest first, a row of NaN in each gap.

    The second column of *history* names a queue or stream; *names* get columns of their own, the
    totals are over all. Times are epoch ms. A total is unknown when one of its parts is. Rows that are
    *is_stored* are of the *interval_s* that begins at their moment.
    """
    times = history["at"].to_numpy("datetime64[us]").astype("int64")
    start = 0
    if after is not None:
        start = int(np.searchsorted(times, _epoch_us(after), side="right"))
    moments = np.unique(times[start:])
    begun = (
        moments[-limit - 1] if len(moments) > limit else None
    )  # the moment before the first kept
    moments = moments[-limit:]
    wanted = source_columns(names, series)
    if not len(moments):
        return {name: [] for name in wanted}
    start += int(np.searchsorted(times[start:], moments[0]))
    rows = history.iloc[start:]
    whose = rows.iloc[:, 1].to_numpy(dtype=object)
    places = np.searchsorted(moments, times[start:])
    before_ms = None if after is None else _epoch_us(after) / 1000
    if begun is not None:
        before_ms = int(begun) / 1000
    at = [int(us) / 1000 for us in moments]
    out: dict[str, list[Any]] = {"at": at, **_lengths(at, before_ms, interval_s * 1000, is_stored)}
    for n, name in enumerate(names):
        mine = whose == name
        for column in series:
            values = np.full(len(moments), np.nan)
            values[places[mine]] = rows[column].to_numpy("float64")[mine]
            out[f"{column}:{n}"] = [_plain(column, value) for value in values.tolist()]
    if series is QUEUE_SERIES:
        for total, column in (("complete", "complete_per_s"), ("failed", "failed_per_s")):
            added = np.zeros(len(moments))
            np.add.at(added, places, rows[column].to_numpy("float64"))
            out[total] = [round(value, RATE_DIGITS) for value in added.tolist()]
        out["top"] = [a + b for a, b in zip(out["complete"], out["failed"], strict=True)]
    made = _with_gaps({name: out[name] for name in wanted}, interval_s, after)
    if is_stored:
        made["at"] = [at + interval_s * 500 for at in made["at"]]
    return made


def _lengths(
    at: Sequence[float], before_ms: float | None, interval_ms: float, is_stored: bool
) -> dict[str, list[Any]]:
    """What time each row is of."""
    if is_stored:
        return {"since": list(at), "until": [ms + interval_ms for ms in at]}
    since, last = [], before_ms
    for ms in at:
        is_next = last is not None and ms - last <= GAP * interval_ms
        since.append(last if is_next else ms - interval_ms)
        last = ms
    return {"since": since, "until": list(at)}


def before(
    columns: dict[str, list[Any]],
    minutes: pd.DataFrame,
    names: Sequence[str],
    span_s: float,
    series: Sequence[str] = QUEUE_SERIES,
) -> dict[str, list[Any]]:
    """*columns* of samples with the stored *minutes* of the *span_s* before their first one.

    A minute stands in its middle, and only when it was over before the first sample.
    """
    if minutes.empty:
        return columns
    first = columns["at"][0] if columns["at"] else None
    told = columns_of(minutes, names, interval_s=MINUTE_MS / 1000, series=series, is_stored=True)
    half = MINUTE_MS / 2
    end = told["at"][-1] + half if first is None else columns["since"][0]
    kept = [
        n
        for n, at in enumerate(told["at"])
        if at + half <= end and at - half >= end - span_s * 1000
    ]
    if not kept:
        return columns
    out = {name: [values[n] for n in kept] for name, values in told.items()}
    if first is not None and first - out["at"][-1] > GAP * MINUTE_MS:
        for name, values in out.items():
            values.append((values[-1] + first) / 2 if name == "at" else math.nan)
    return {name: out[name] + values for name, values in columns.items()}


def _epoch_us(moment: pd.Timestamp) -> int:
    return int(moment.as_unit("us").asm8.astype("int64"))


def _plain(series: str, value: float) -> float:
    if math.isnan(value):
        return math.nan
    is_latency = series.startswith(("wait_p", "run_p", "e2e_p"))
    if is_latency:
        return round(max(value, FLOOR_S), 4)
    return round(value, RATE_DIGITS if series.endswith("_per_s") else 3)


def _with_gaps(
    columns: dict[str, list[Any]], interval_s: float, after: pd.Timestamp | None
) -> dict[str, list[Any]]:
    limit_ms = GAP * interval_s * 1000
    last = None if after is None else after.timestamp() * 1000
    out: dict[str, list[Any]] = {name: [] for name in columns}
    for number, now in enumerate(columns["at"]):
        if last is not None and now - last > limit_ms:
            for name, values in out.items():
                values.append((last + now) / 2 if name == "at" else math.nan)
        for name, values in out.items():
            values.append(columns[name][number])
        last = now
    return out


def make_source(
    history: pd.DataFrame,
    names: Sequence[str],
    interval_s: float = 1.0,
    series: Sequence[str] = QUEUE_SERIES,
    limit: int = WINDOW,
    *,
    is_stored: bool = False,
) -> ColumnDataSource:
    """Return the shared source of a page, filled with what *history* holds."""
    columns: dict[str, Any] = columns_of(
        history, names, interval_s=interval_s, series=series, limit=limit, is_stored=is_stored
    )
    return ColumnDataSource(columns, name="history")


__all__ = [
    "FLOOR_S",
    "QUEUE_SERIES",
    "STREAM_SERIES",
    "WINDOW",
    "before",
    "columns_of",
    "make_source",
    "source_columns",
]
