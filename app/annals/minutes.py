"""Samples added up per minute and source, until the minute is over. Pure: no Redis, no clock."""

import math
from collections.abc import Mapping
from typing import Any, Final

from app.analyses.percentiles import split_minute
from app.annals.tiers import LEVELS, TierRow
from app.sampling.sample import Sample

#: minutes kept open; older ones are forgotten when nobody takes them
_KEPT: Final = 5
_OUTCOMES: Final = {
    "complete": "complete",
    "retry": "retried",
    "dead": "dead",
    "aborted": "aborted",
    "shutdown": "shutdown",
}


class _Sum:
    """What was seen of one source in one minute."""

    def __init__(self) -> None:
        self.samples = 0
        self._sums: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def add(self, levels: Mapping[str, float | None], counters: Mapping[str, float | None]) -> None:
        self.samples += 1
        for name, value in levels.items():
            if value is None or math.isnan(value):
                continue
            how = LEVELS[name]
            if how == "mean":
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._seen[name] = self._seen.get(name, 0) + 1
            elif how == "max":
                self._sums[name] = max(self._sums.get(name, value), value)
            else:
                self._sums[name] = value
        for name, value in counters.items():
            if value is not None and not math.isnan(value):
                before = self._last.get(name)
                if before is not None and value < before:  # Redis lost its counters
                    self._first[name] = value - (before - self._first[name])
                self._first.setdefault(name, value)
                self._last[name] = value

    def levels(self) -> dict[str, float]:
        return {name: total / self._seen.get(name, 1) for name, total in self._sums.items()}

    def last(self, name: str) -> float | None:
        return self._last.get(name)

    def grown(self, name: str, since: float | None) -> int:
        """How much the counter grew in the minute, from what it was at the end of the one before."""
        if name not in self._last:
            return 0
        first = self._first[name] if since is None else min(since, self._first[name])
        return max(0, round(self._last[name] - first))


class Minutes:
    """The minutes that are not over yet, of every queue and stream."""

    def __init__(self) -> None:
        self._sums: dict[int, dict[str, _Sum]] = {}
        self.queues: set[str] = set()
        self.streams: set[str] = set()

    def add(self, sample: Sample) -> None:
        """Take one sample; rows of a source that did not answer are left out."""
        minute = int(sample.now_ms // 60_000)
        sums = self._sums.setdefault(minute, {})
        for row in sample.queues:
            self.queues.add(row["queue"])
            if row.get("waiting") is None:
                continue
            held = row["waiting"] + row["deferred"] + (row.get("running") or 0)
            levels = {name: row.get(name) for name in LEVELS if name in row}
            levels |= {"waiting_max": row["waiting"], "held": held}
            counters = {"redriven": row.get("redriven")}
            sums.setdefault(row["queue"], _Sum()).add(levels, counters)
        lags = {row["stream"]: row for row in sample.stream_history}
        for row in sample.streams:
            self.streams.add(row["stream"])
            if row.get("length") is None:
                continue
            lag = lags.get(row["stream"], {})
            levels = {
                "waiting": lag.get("lag"),
                "waiting_max": lag.get("lag"),
                "oldest_wait_s": lag.get("lag_s"),
                "dead_open": row.get("dead_open"),
                "held": row.get("length"),
            }
            counters = {"complete": row.get("processed"), "dead": row.get("dead")}
            sums.setdefault(row["stream"], _Sum()).add(levels, counters)
        for old in sorted(self._sums)[:-_KEPT]:
            del self._sums[old]

    def row(self, source: str, minute: int, counted: Mapping[str, int]) -> TierRow | None:
        """The row of a minute that is over; None when nobody saw anything of it.

        *counted* is the minute's hash, exact whoever looked: it alone makes a row without levels.
        """
        seen = self._sums.get(minute, {}).get(source)
        if seen is None and not counted:
            return None
        row = TierRow()
        before = self._sums.get(minute - 1, {}).get(source)
        if seen is not None:
            row.levels = seen.levels()
            row.counts["samples"] = seen.samples
        if source in self.streams:
            for name in ("complete", "dead"):
                if seen is not None:
                    row.counts[name] = seen.grown(name, before.last(name) if before else None)
            return row
        counts = split_minute(counted)
        for outcome, name in _OUTCOMES.items():
            if counts.outcomes.get(outcome):
                row.counts[name] = counts.outcomes[outcome]
        redriven = (
            0
            if seen is None
            else seen.grown("redriven", before.last("redriven") if before else None)
        )
        row.counts["accepted"] = counts.accepted + redriven
        row.histograms = {
            name: dict(histogram)
            for name, histogram in (
                ("wait", counts.wait),
                ("run", counts.run),
                ("e2e", counts.e2e),
            )
            if histogram
        }
        return row


def numbers(reply: Mapping[str, Any]) -> dict[str, int]:
    """A hash of counters as integers; what is no number is passed over."""
    return {name: int(value) for name, value in reply.items() if str(value).isdecimal()}
