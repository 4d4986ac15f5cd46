"""Percentiles from log-bucket histograms: mergeable, bounded, with a stated error. Pure.

Buckets and their error: ``records`` (Masson, Rim, Lee, "DDSketch", VLDB 2019, section 2.1). A
quantile from a histogram is off by at most BUCKET_ERROR (4.8 %) of the exact nearest-rank quantile,
however many histograms were merged; durations up to 1 ms count as 1 ms.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from app.records import Outcome, bucket_value

#: bucket index → count
Histogram = Mapping[int, int]
_KINDS: Final = {"w": "wait", "r": "run", "e": "e2e"}
_OUTCOMES: Final = frozenset(outcome.value for outcome in Outcome)


@dataclass(slots=True)
class MinuteCounts:
    """What the hash of one minute (``keys.minute``) says, functions added up."""

    wait: dict[int, int] = field(default_factory=dict)
    run: dict[int, int] = field(default_factory=dict)
    e2e: dict[int, int] = field(default_factory=dict)  #: accepted to ended, of jobs that ended
    outcomes: dict[str, int] = field(default_factory=dict)  #: Outcome value → runs
    accepted: int = 0


def split_minute(fields: Mapping[str, int], function: str | None = None) -> MinuteCounts:
    """Sort the fields of a minute hash; of one *function* when it is named.

    Fields are ``function|w|bucket`` (wait), ``|r|`` (run), ``|e|`` (end to end), ``function|o|outcome``
    and ``|a|accepted``. What is none of these is passed over.
    """
    counts = MinuteCounts()
    for name, count in fields.items():
        parts = name.rsplit("|", 2)
        if len(parts) != 3 or (function is not None and parts[0] != function):
            continue
        _, kind, rest = parts
        if kind == "o" and rest in _OUTCOMES:
            counts.outcomes[rest] = counts.outcomes.get(rest, 0) + count
        elif kind == "a" and rest == "accepted":
            counts.accepted += count
        elif kind in _KINDS and rest.isdecimal():
            target: dict[int, int] = getattr(counts, _KINDS[kind])
            target[int(rest)] = target.get(int(rest), 0) + count
    return counts


def merged(histograms: Iterable[Histogram]) -> dict[int, int]:
    """Add histograms up; merging loses nothing."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def quantiles_s(histogram: Histogram, quantiles: Sequence[float]) -> list[float]:
    """Nearest-rank quantiles in seconds; NaN when nothing was counted."""
    total = sum(histogram.values())
    if total <= 0:
        return [math.nan] * len(quantiles)
    ordered = sorted(histogram)
    cumulated = np.cumsum([histogram[bucket] for bucket in ordered])
    ranks = [max(1, math.ceil(q * total)) for q in quantiles]
    return [bucket_value(ordered[int(np.searchsorted(cumulated, r))]) / 1000 for r in ranks]


def mean_s(histogram: Histogram) -> float:
    """Mean in seconds, within BUCKET_ERROR; NaN when nothing was counted."""
    total = sum(histogram.values())
    if total <= 0:
        return math.nan
    return sum(bucket_value(bucket) * count for bucket, count in histogram.items()) / total / 1000


def exact_s(
    values_s: Sequence[float] | npt.NDArray[np.float64], quantiles: Sequence[float]
) -> list[float]:
    """Exact nearest-rank quantiles of durations in seconds; NaN when there is none."""
    if not len(values_s):
        return [math.nan] * len(quantiles)
    ordered = np.sort(np.asarray(values_s, "float64"))
    ranks = [max(0, math.ceil(q * len(ordered)) - 1) for q in quantiles]
    return [float(ordered[rank]) for rank in ranks]
