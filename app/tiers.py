"""Rows of history: one per queue or stream and minute (or hour), merged, packed and framed. Pure.

A row holds levels (means, maxima, last values), counts (exact where workers are ours) and the log
buckets of wait, run and end-to-end times, so that rows merge without losing the percentiles' error
bound. A level nobody saw is missing; a period nobody saw has no row: a gap, never zeros.
"""

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from app import frames
from app.errors import BadRecord
from app.records import BUCKET_GAMMA

#: how a level of several rows becomes one: weighted by samples, the greatest, or the newest
LEVELS: Final[Mapping[str, str]] = {
    "waiting": "mean",
    "waiting_max": "max",
    "deferred": "last",
    "running": "mean",
    "oldest_wait_s": "max",
    "slots": "mean",
    "workers": "mean",
    "dead_open": "last",
    "held": "last",
}
COUNTS: Final = (
    "samples", "accepted", "complete", "retried", "dead", "aborted", "shutdown",
)  # fmt: skip
HISTOGRAMS: Final = ("wait", "run", "e2e")
_VERSION: Final = 1
_DIGITS: Final = 5
QUANTILES: Final = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))

#: One row per step of the asked range and source, oldest first, gaps as NaN. For a stream ``waiting``
#: is its lag, ``oldest_wait_s`` its lag in seconds, ``complete`` the events processed.
TIER_COLUMNS: Final[frames.Columns] = {
    "at": frames.TIME,  #: start of the step
    "source": "str",
    "samples": "float64",  #: looks at Redis in the step; 0: the counts are known, the levels are not
    "waiting": "float64",  #: mean
    "waiting_max": "float64",
    "deferred": "float64",  #: at the end
    "running": "float64",  #: mean
    "held": "float64",  #: waiting, deferred and running at the end
    "oldest_wait_s": "float64",  #: greatest
    "slots": "float64",  #: mean
    "workers": "float64",  #: mean
    "dead_open": "float64",  #: at the end
    "accepted": "float64",
    "complete": "float64",
    "retried": "float64",
    "dead": "float64",
    "aborted": "float64",
    "shutdown": "float64",
    "complete_per_s": "float64",
    "failed_per_s": "float64",  #: runs that were retried or died
    **{f"{kind}_{name}_s": "float64" for kind in HISTOGRAMS for name, _ in QUANTILES},
}


@dataclass(slots=True)
class TierRow:
    """One period of one source."""

    levels: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, dict[int, int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Encode one row."""
        levels = {name: _short(value) for name, value in self.levels.items()}
        return json.dumps([levels, self.counts, self.histograms], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "TierRow":
        """Decode one row; BadRecord when it is not one."""
        try:
            levels, counts, histograms = json.loads(text)
            return cls(
                {name: float(levels[name]) for name in LEVELS if name in levels},
                {name: int(counts[name]) for name in COUNTS if name in counts},
                {
                    name: {int(b): int(n) for b, n in histograms[name].items()}
                    for name in HISTOGRAMS
                    if name in histograms
                },
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRecord(f"not a row of history: {error}") from error


def _short(value: float) -> float:
    """Five significant digits: what a mean of a minute is worth."""
    return float(f"{value:.{_DIGITS}g}")


def merged_rows(rows: Iterable[TierRow]) -> TierRow:
    """One row for several consecutive periods, oldest first."""
    total = TierRow()
    weights: dict[str, int] = {}
    for row in rows:
        samples = row.counts.get("samples", 0)
        for name, value in row.levels.items():
            how, before = LEVELS[name], total.levels.get(name)
            if before is None:
                total.levels[name], weights[name] = value, samples
            elif how == "max":
                total.levels[name] = max(before, value)
            elif how == "last":
                total.levels[name] = value
            else:
                weight = weights[name] + samples
                total.levels[name] = (
                    (before * weights[name] + value * samples) / weight if weight else value
                )
                weights[name] = weight
        for name, count in row.counts.items():
            total.counts[name] = total.counts.get(name, 0) + count
        for name, histogram in row.histograms.items():
            into = total.histograms.setdefault(name, {})
            for bucket, count in histogram.items():
                into[bucket] = into.get(bucket, 0) + count
    return total


def joined(older: TierRow, newer: TierRow) -> TierRow:
    """What two writers know of one period: levels of whoever saw more, counts of whoever has more."""
    saw_more = max((older, newer), key=lambda row: row.counts.get("samples", 0))
    names = older.counts.keys() | newer.counts.keys()
    histograms = max(
        (newer, older), key=lambda row: sum(map(len, row.histograms.values()))
    ).histograms
    return TierRow(
        dict(saw_more.levels),
        {name: max(older.counts.get(name, 0), newer.counts.get(name, 0)) for name in names},
        histograms,
    )


def pack(rows: Mapping[int, TierRow]) -> bytes:
    """Rows by their place in the chunk (minute of the hour, hour of the day), compressed columns."""
    places = sorted(rows)
    ordered = [rows[place] for place in places]
    columns: dict[str, Any] = {"v": _VERSION, "i": places, "l": {}, "c": {}, "h": {}}
    for name in LEVELS:
        values = [row.levels.get(name) for row in ordered]
        if any(value is not None for value in values):
            columns["l"][name] = [None if v is None else _compact(v) for v in values]
    for name in COUNTS:
        counts = [row.counts.get(name, 0) for row in ordered]
        if any(counts):
            columns["c"][name] = counts
    for name in HISTOGRAMS:
        cells = [
            (n, bucket, count)
            for n, row in enumerate(ordered)
            for bucket, count in sorted(row.histograms.get(name, {}).items())
        ]
        if cells:
            columns["h"][name] = [list(column) for column in zip(*cells, strict=True)]
    return zlib.compress(json.dumps(columns, separators=(",", ":")).encode(), 9)


def _compact(value: float) -> float | int:
    short = _short(value)
    return int(short) if short == int(short) else short


def unpack(raw: bytes) -> dict[int, TierRow]:
    """Decode ``pack``; BadRecord when it is not one."""
    chunk = Chunk.of(raw)
    rows = {place: TierRow() for place in chunk.places}
    ordered = list(rows.values())
    for name, values in chunk.levels.items():
        for row, value in zip(ordered, values, strict=True):
            if value is not None:
                row.levels[name] = float(value)
    for name, counts in chunk.counts.items():
        for row, count in zip(ordered, counts, strict=True):
            if count:
                row.counts[name] = int(count)
    for name, (numbers, buckets, amounts) in chunk.histograms.items():
        for n, bucket, amount in zip(numbers, buckets, amounts, strict=True):
            ordered[n].histograms.setdefault(name, {})[bucket] = amount
    return rows


@dataclass(frozen=True, slots=True)
class Chunk:
    """A packed chunk as columns, which is how a range is read: a week is 168 of them."""

    places: list[int]
    levels: dict[str, list[float | None]]
    counts: dict[str, list[int]]
    histograms: dict[str, list[list[int]]]  #: row numbers, buckets, counts

    @classmethod
    def of(cls, raw: bytes) -> "Chunk":
        """Decode; BadRecord when it is not a chunk of this version."""
        try:
            found = json.loads(zlib.decompress(raw))
            if found["v"] != _VERSION:
                raise ValueError(f"version {found['v']}")
            return cls(found["i"], found["l"], found["c"], found["h"])
        except (ValueError, TypeError, KeyError, zlib.error) as error:
            raise BadRecord(f"not a chunk of history: {error}") from error

    @classmethod
    def of_rows(cls, rows: Mapping[int, TierRow]) -> "Chunk":
        """The same from rows that are not packed yet."""
        return cls.of(pack(rows))


class Canvas:
    """A regular grid that chunks are put on, from any tier; ``frame`` fills a step from what it holds."""

    def __init__(self, start_s: int, step_s: int, steps: int) -> None:
        self.start_s, self.step_s, self.steps = start_s, step_s, steps
        self._seen = np.zeros(steps, "int64")
        self._weights = {name: np.zeros(steps) for name in LEVELS}
        self._levels = {name: np.full(steps, np.nan) for name in LEVELS}
        self._counts = {name: np.zeros(steps, "int64") for name in COUNTS}
        self._cells: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in HISTOGRAMS}

    def put(self, chunk: Chunk, chunk_start_s: int, row_s: int) -> None:
        """Put a chunk whose first place begins at *chunk_start_s*; a place is *row_s* long.

        Chunks are put oldest first.
        """
        at = chunk_start_s + row_s * np.asarray(chunk.places, "int64")
        steps = (at - self.start_s) // self.step_s
        inside = (steps >= 0) & (steps < self.steps)
        if not inside.any():
            return
        np.add.at(self._seen, steps[inside], 1)
        samples = np.asarray(chunk.counts.get("samples") or [0] * len(at), "float64")
        for name, values in chunk.levels.items():
            self._put_level(name, np.array(values, "float64"), samples, steps, inside)
        for name, counts in chunk.counts.items():
            if name in self._counts:
                np.add.at(self._counts[name], steps[inside], np.asarray(counts, "int64")[inside])
        for name, columns in chunk.histograms.items():
            cells = np.asarray(columns, "int64")
            cells = cells[:, inside[cells[0]]]
            cells[0] = steps[cells[0]]
            if name in self._cells:
                self._cells[name].append(cells)

    def _put_level(
        self,
        name: str,
        values: npt.NDArray[np.float64],
        samples: npt.NDArray[np.float64],
        steps: npt.NDArray[np.int64],
        inside: npt.NDArray[np.bool_],
    ) -> None:
        if name not in LEVELS:
            return
        known = inside & ~np.isnan(values)
        where, values, weights = steps[known], values[known], np.maximum(samples[known], 1e-9)
        level, how = self._levels[name], LEVELS[name]
        if how == "last":
            level[where] = values  # oldest first: the newest stays
        elif how == "max":
            np.fmax.at(level, where, values)
        else:
            total = np.where(np.isnan(level), 0.0, level) * self._weights[name]
            np.add.at(total, where, values * weights)
            np.add.at(self._weights[name], where, weights)
            weight = self._weights[name]
            level[:] = np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)

    def frame(self, source: str) -> pd.DataFrame:
        """Return the grid as TIER_COLUMNS; a step nobody saw is NaN throughout."""
        seen = self._seen > 0
        at = (self.start_s + self.step_s * np.arange(self.steps, dtype="int64")) * 1_000_000
        columns: dict[str, Any] = {
            "at": pd.DatetimeIndex(at.view("datetime64[us]")).tz_localize("UTC"),
            "source": pd.array([source] * self.steps, dtype="str"),
        }
        for name in COUNTS:
            columns[name] = np.where(seen, self._counts[name].astype("float64"), np.nan)
        columns |= self._levels
        columns["complete_per_s"] = columns["complete"] / self.step_s
        columns["failed_per_s"] = (columns["retried"] + columns["dead"]) / self.step_s
        for kind in HISTOGRAMS:
            found = self._quantiles(kind)
            columns |= {f"{kind}_{name}_s": found[name] for name, _ in QUANTILES}
        return pd.DataFrame({name: columns[name] for name in TIER_COLUMNS})

    def _quantiles(self, kind: str) -> dict[str, npt.NDArray[np.float64]]:
        unknown = {name: np.full(self.steps, np.nan) for name, _ in QUANTILES}
        if not self._cells[kind]:
            return unknown
        where, buckets, amounts = np.concatenate(self._cells[kind], axis=1)
        counts = np.zeros((self.steps, int(buckets.max()) + 1))
        np.add.at(counts, (where, buckets), amounts)
        cumulated = counts.cumsum(axis=1)
        total = cumulated[:, -1]
        for name, quantile in QUANTILES:
            rank = np.maximum(1, np.ceil(quantile * total))[:, None]
            bucket = (cumulated >= rank).argmax(axis=1)
            value = 2 * BUCKET_GAMMA**bucket / (BUCKET_GAMMA + 1) / 1000
            unknown[name] = np.where(total > 0, value, math.nan)
        return unknown
