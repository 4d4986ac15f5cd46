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

from app.columns import Schema, moment, number, text
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
#: kinds of durations, and between what they lie
HISTOGRAMS: Final[Mapping[str, str]] = {
    "wait": "from due to started",
    "run": "from started to ended",
    "e2e": "from accepted to ended for good",
}
#: places of a packed hour of minutes, and of a packed day of hours, that share their histograms
MINUTES_GROUP: Final = 5
HOURS_GROUP: Final = 3
_VERSION: Final = 2
_DIGITS: Final = 5
QUANTILES: Final = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))

TIER_COLUMNS: Final = Schema(
    "One row per step of the asked range and source, oldest first; a step nobody saw is NaN throughout.",
    at=moment("start of the step"),
    source=text("queue or stream; of a stream, what is said of jobs is said of entries"),
    samples=number("samples", "looks at Redis in the step; 0: counts are known, levels are not"),
    waiting=number("jobs", "due and not claimed, mean; of a stream: lag of its slowest group"),
    waiting_max=number("jobs", "the same, greatest"),
    deferred=number("jobs", "due later, at the end"),
    running=number("jobs", "claimed by a worker whose lease holds, mean"),
    held=number("jobs", "waiting, deferred and running, at the end; of a stream: its length"),
    oldest_wait_s=number("s", "age of the oldest due job, greatest; of a stream: lag in seconds"),
    slots=number("slots", "jobs its workers may run at once, mean"),
    workers=number("workers", "live workers, mean"),
    dead_open=number("letters", "dead letters that wait for a decision, at the end"),
    accepted=number("jobs", "enqueued by our producers, redrives included"),
    complete=number("jobs", "ended well; of a stream: events handled"),
    retried=number("runs", "scheduled again"),
    dead=number("jobs", "became dead letters"),
    aborted=number("jobs", "aborted"),
    shutdown=number("runs", "interrupted by a stopping worker"),
    complete_per_s=number("jobs/s", "ended well, mean of the step"),
    failed_per_s=number("runs/s", "retried or dead, mean of the step"),
    **{
        f"{kind}_{name}_s": number("s", f"{told}, {quantile * 100:.0f}th percentile; within 4.8 %")
        for kind, told in HISTOGRAMS.items()
        for name, quantile in QUANTILES
    },
)


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


def pack(rows: Mapping[int, TierRow], group: int = 1) -> bytes:
    """Rows by their place in the chunk (minute of the hour, hour of the day), compressed columns.

    Histograms of *group* places are added up and lie with the first of them: percentiles of packed
    minutes are those of their five minutes, of packed hours those of their three hours. What is
    compressed: length of the head (4 bytes), the head (JSON), then per histogram the places, the
    buckets and the four bytes of the counts, each as a run of bytes.
    """
    places = sorted(rows)
    ordered = [rows[place] for place in places]
    head: dict[str, Any] = {"v": _VERSION, "g": group, "i": places, "l": {}, "c": {}, "h": {}}
    for name in LEVELS:
        values = [row.levels.get(name) for row in ordered]
        if any(value is not None for value in values):
            head["l"][name] = [None if v is None else _compact(v) for v in values]
    for name in COUNTS:
        counts = [row.counts.get(name, 0) for row in ordered]
        if any(counts):
            head["c"][name] = counts
    body = b""
    for name in HISTOGRAMS:
        cells: dict[tuple[int, int], int] = {}
        first: dict[int, int] = {}
        for n, (place, row) in enumerate(zip(places, ordered, strict=True)):
            lead = first.setdefault(place // group, n)
            for bucket, count in row.histograms.get(name, {}).items():
                cell = (lead, min(bucket, 255))
                cells[cell] = cells.get(cell, 0) + count
        if cells:
            keys_of = sorted(cells)
            numbers = np.array([n for n, _ in keys_of], "<u2")
            buckets = np.array([bucket for _, bucket in keys_of], "u1")
            amounts = np.array([min(cells[key], 2**32 - 1) for key in keys_of], "<u4")
            planes = amounts.view("u1").reshape(-1, 4).T
            body += numbers.tobytes() + buckets.tobytes() + planes.tobytes()
            head["h"][name] = len(keys_of)
    text = json.dumps(head, separators=(",", ":")).encode()
    return zlib.compress(len(text).to_bytes(4, "little") + text + body, 9)


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
    for name, cells in chunk.histograms.items():
        for n, bucket, amount in cells.T.tolist():
            ordered[n].histograms.setdefault(name, {})[bucket] = amount
    return rows


@dataclass(frozen=True, slots=True)
class Chunk:
    """A packed chunk as columns, which is how a range is read: a week is 168 of them."""

    places: list[int]
    levels: dict[str, list[float | None]]
    counts: dict[str, list[int]]
    histograms: dict[str, npt.NDArray[np.int64]]  #: row numbers, buckets, counts
    group: int = 1  #: places whose histograms lie with the first

    @classmethod
    def of(cls, raw: bytes) -> "Chunk":
        """Decode; BadRecord when it is not a chunk of this version."""
        try:
            plain = zlib.decompress(raw)
            at = 4 + int.from_bytes(plain[:4], "little")
            head = json.loads(plain[4:at])
            if head["v"] != _VERSION:
                raise ValueError(f"version {head['v']}")
            histograms = {}
            for name, count in head["h"].items():
                body = np.frombuffer(plain, "u1", 7 * count, at)
                at += 7 * count
                planes = body[3 * count :].reshape(4, count).T
                histograms[name] = np.stack(
                    (
                        body[: 2 * count].view("<u2").astype("int64"),
                        body[2 * count : 3 * count].astype("int64"),
                        np.ascontiguousarray(planes).view("<u4")[:, 0].astype("int64"),
                    )
                )
            return cls(head["i"], head["l"], head["c"], histograms, head["g"])
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
        self._rows = 0
        self._at: list[npt.NDArray[np.int64]] = []
        self._columns: dict[str, list[float | None]] = {name: [] for name in (*LEVELS, *COUNTS)}
        self._cells: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in HISTOGRAMS}

    def put(self, chunk: Chunk, chunk_start_s: int, row_s: int) -> None:
        """Put a chunk whose first place begins at *chunk_start_s*; a place is *row_s* long.

        Chunks are put oldest first.
        """
        count = len(chunk.places)
        at = chunk_start_s + row_s * np.asarray(chunk.places, "int64")
        self._at.append(at)
        self._rows += count
        for name, column in self._columns.items():
            column += chunk.levels.get(name) or chunk.counts.get(name) or [None] * count
        for name, cells in chunk.histograms.items():
            if name not in self._cells:
                continue
            places = np.asarray(chunk.places, "int64")[cells[0]] // chunk.group * chunk.group
            begins = chunk_start_s + row_s * places - self.start_s
            first, last = begins // self.step_s, (begins + chunk.group * row_s - 1) // self.step_s
            for n in range(int((last - first).max()) + 1 if len(first) else 0):
                inside = (first + n <= last) & (first + n >= 0) & (first + n < self.steps)
                self._cells[name].append(
                    np.stack((first[inside] + n, cells[1][inside], cells[2][inside]))
                )

    def _levels_of(
        self, steps: npt.NDArray[np.int64], inside: npt.NDArray[np.bool_]
    ) -> dict[str, npt.NDArray[np.float64]]:
        samples = np.nan_to_num(np.array(self._columns["samples"], "float64"))
        made = {}
        for name, how in LEVELS.items():
            values = np.array(self._columns[name], "float64")
            known = inside & ~np.isnan(values)
            where, found = steps[known], values[known]
            level = np.full(self.steps, np.nan)
            if how == "last":
                level[where] = found  # oldest first: the newest stays
            elif how == "max":
                np.fmax.at(level, where, found)
            else:
                weights = np.maximum(samples[known], 1e-9)
                total = np.bincount(where, found * weights, self.steps)
                weight = np.bincount(where, weights, self.steps)
                np.divide(total, weight, out=level, where=weight > 0)
            made[name] = level
        return made

    def frame(self, source: str) -> pd.DataFrame:
        """Return the grid as TIER_COLUMNS; a step nobody saw is NaN throughout."""
        times = np.concatenate(self._at) if self._at else np.empty(0, "int64")
        steps = (times - self.start_s) // self.step_s
        inside = (steps >= 0) & (steps < self.steps)
        seen = np.bincount(steps[inside], minlength=self.steps) > 0
        at = (self.start_s + self.step_s * np.arange(self.steps, dtype="int64")) * 1_000_000
        columns: dict[str, Any] = {
            "at": pd.DatetimeIndex(at.view("datetime64[us]")).tz_localize("UTC"),
            "source": pd.array([source] * self.steps, dtype="str"),
        }
        for name in COUNTS:
            values = np.nan_to_num(np.array(self._columns[name], "float64"))
            total = np.bincount(steps[inside], values[inside], self.steps)
            columns[name] = np.where(seen, total, np.nan)
        columns |= self._levels_of(steps, inside)
        columns["complete_per_s"] = columns["complete"] / self.step_s
        columns["failed_per_s"] = (columns["retried"] + columns["dead"]) / self.step_s
        for kind in HISTOGRAMS:
            found = self._quantiles(kind, seen)
            columns |= {f"{kind}_{name}_s": found[name] for name, _ in QUANTILES}
        return pd.DataFrame({name: columns[name] for name in TIER_COLUMNS})

    def _quantiles(
        self, kind: str, seen: npt.NDArray[np.bool_]
    ) -> dict[str, npt.NDArray[np.float64]]:
        unknown = {name: np.full(self.steps, np.nan) for name, _ in QUANTILES}
        if not self._cells[kind]:
            return unknown
        where, buckets, amounts = np.concatenate(self._cells[kind], axis=1)
        if not len(where):
            return unknown
        width = int(buckets.max()) + 1
        counts = np.bincount(where * width + buckets, amounts, self.steps * width)
        counts = counts.reshape(self.steps, width)
        cumulated = counts.cumsum(axis=1)
        total = cumulated[:, -1]
        for name, quantile in QUANTILES:
            rank = np.maximum(1, np.ceil(quantile * total))[:, None]
            bucket = (cumulated >= rank).argmax(axis=1)
            value = 2 * BUCKET_GAMMA**bucket / (BUCKET_GAMMA + 1) / 1000
            unknown[name] = np.where(seen & (total > 0), value, math.nan)
        return unknown
