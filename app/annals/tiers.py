"""Rows of history: one per queue or stream and minute (or hour), and how they merge. Pure.

A row holds levels (means, maxima, last values), counts (exact where workers are ours) and the log
buckets of wait, run and end-to-end times, so that rows merge without losing the percentiles' error
bound. A level nobody saw is missing; a period nobody saw has no row: a gap, never zeros.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from app.columns import Schema, moment, number, text
from app.errors import BadRecord

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
