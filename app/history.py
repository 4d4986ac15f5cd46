"""The last hour, one row per sample: append-only columns in memory, read without copying.

Also what latency was lately: exact from the runs at hand, or from the minute histograms.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from app import frames
from app.records import JobRun, bucket_value

SPAN_S: Final = 3600
#: runs kept per queue for the exact percentiles and the runs frame
RUNS_KEPT: Final = 1000
#: percentiles speak about the runs of this long
WINDOW_MS: Final = 60_000
QUANTILES: Final = (0.50, 0.95)


class ColumnLog:
    """Rows appended at the end, the oldest forgotten after *span_s*; a frame is a view, not a copy.

    The buffers are written once per row and replaced, never shifted, when they are full: frames
    handed out before keep seeing what they saw. The first two columns are ``at`` and a name.
    """

    def __init__(self, columns: frames.Columns, span_s: float = SPAN_S) -> None:
        self._columns = columns
        self._at, self._name, *self._numbers = columns
        self._span_us = int(span_s * 1_000_000)
        self._names: list[str] = []
        self._codes: dict[str, int] = {}
        self._length = 0
        self._start = 0
        self._allocate(1024)

    def _allocate(self, capacity: int) -> None:
        kept = slice(self._start, self._length)
        times = np.empty(capacity, "int64")
        codes = np.empty(capacity, "int16")
        numbers = np.empty((len(self._numbers), capacity), "float64")
        if self._length:
            count = self._length - self._start
            times[:count] = self._times[kept]
            codes[:count] = self._name_codes[kept]
            numbers[:, :count] = self._values[:, kept]
            self._length, self._start = count, 0
        self._times: npt.NDArray[np.int64] = times
        self._name_codes: npt.NDArray[np.int16] = codes
        self._values: npt.NDArray[np.float64] = numbers

    def append(self, at_us: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add one sample's rows, taken at *at_us* (epoch µs); a missing number is NaN."""
        for row in rows:
            if self._length == len(self._times):
                self._allocate(max(1024, 2 * (self._length - self._start)))
            name = frames.printable(row[self._name])
            if name not in self._codes:
                self._codes[name] = len(self._names)
                self._names = [*self._names, name]
            index = self._length
            self._times[index] = at_us
            self._name_codes[index] = self._codes[name]
            self._values[:, index] = [
                math.nan if (value := row.get(column)) is None else value
                for column in self._numbers
            ]
            self._length += 1
        recent = self._times[self._start : self._length]
        self._start += int(np.searchsorted(recent, at_us - self._span_us))

    def frame(self) -> pd.DataFrame:
        """Return the rows of the last *span_s* seconds, oldest first; read-only views."""
        if self._length == self._start:
            return frames.empty_frame(self._columns)
        kept = slice(self._start, self._length)
        times = self._times[kept].view("datetime64[us]")
        codes = self._name_codes[kept]
        numbers = self._values[:, kept]
        numbers.flags.writeable = False
        columns: dict[str, Any] = {
            self._at: pd.DatetimeIndex(times).tz_localize("UTC"),
            self._name: pd.Categorical.from_codes(codes, categories=pd.Index(self._names)),
        }
        columns.update(zip(self._numbers, numbers, strict=True))
        return pd.DataFrame(columns, copy=False)


class Latency:
    """Wait and run times of one queue's last minute."""

    def __init__(self) -> None:
        self.runs: deque[JobRun] = deque(maxlen=RUNS_KEPT)
        self.histogram: dict[str, int] = {}
        self._forgot_ms = 0  #: a run that finished then is no longer in ``runs``

    def add(self, runs: Sequence[JobRun], *, skipped: bool = False) -> None:
        """Take in new runs, oldest first; *skipped*: there were more of them than were read."""
        overflow = len(self.runs) + len(runs) - RUNS_KEPT
        if skipped and runs:
            self._forgot_ms = runs[0].finished_ms
        if overflow > 0 and self.runs:
            last = min(overflow, len(self.runs)) - 1
            self._forgot_ms = max(self._forgot_ms, self.runs[last].finished_ms)
        self.runs.extend(runs)

    def row(self, now_ms: float) -> dict[str, float]:
        """Percentiles at *now_ms*: exact when all runs of the window are at hand, else estimated.

        The estimate comes from the histograms of this minute and the one before and is within
        records.BUCKET_ERROR of the truth.
        """
        since = now_ms - WINDOW_MS
        if self._forgot_ms > since and self.histogram:
            wait = histogram_percentiles_s(self.histogram, "w")
            run = histogram_percentiles_s(self.histogram, "r")
        else:
            recent = [r for r in self.runs if r.finished_ms > since]
            wait = frames.percentiles_s([r.wait_s for r in recent], QUANTILES)
            run = frames.percentiles_s([r.runtime_s for r in recent], QUANTILES)
        return {
            "wait_p50_s": wait[0],
            "wait_p95_s": wait[1],
            "run_p50_s": run[0],
            "run_p95_s": run[1],
        }


def histogram_percentiles_s(
    fields: Mapping[str, int], kind: str, quantiles: Sequence[float] = QUANTILES
) -> list[float]:
    """Quantiles in seconds from ``function|kind|bucket`` counts, all functions together.

    *kind* is ``w`` (wait) or ``r`` (run). NaN when nothing was counted.
    """
    counts: dict[int, int] = {}
    for name, count in fields.items():
        _, _, rest = name.partition("|")
        what, _, bucket = rest.partition("|")
        if what == kind and bucket.isdigit():
            counts[int(bucket)] = counts.get(int(bucket), 0) + count
    total = sum(counts.values())
    if total <= 0:
        return [math.nan] * len(quantiles)
    ordered = sorted(counts)
    cumulated = np.cumsum([counts[bucket] for bucket in ordered])
    ranks = [max(1, math.ceil(q * total)) for q in quantiles]
    return [bucket_value(ordered[int(np.searchsorted(cumulated, r))]) / 1000 for r in ranks]
