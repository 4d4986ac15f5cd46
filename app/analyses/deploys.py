"""Deploys: marks of one as one line; did failures, run times or waits change, or is it chance? Pure.

Failure share: two-proportion z test with pooled variance; its interval is Newcombe's (method 10,
"Interval estimation for the difference between independent proportions", Stat. Med. 17 (1998)) from
two Wilson intervals. Times: the medians of the minutes before and after, Mann and Whitney's U with the
normal approximation and correction for ties (Ann. Math. Statist. 18 (1947)). Minutes are not quite
independent, so a verdict needs p < 0.01.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from app.analyses.explain import DEPLOY_S, in_words

#: p below which a change is called one
SIGNIFICANT: Final = 0.01
#: minutes on each side below which nothing is said
LEAST_MINUTES: Final = 5
#: packed minutes share their percentiles: they count once (``chunks.MINUTES_GROUP``)
BLOCK_MINUTES: Final = 5
_Z95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure before and after. ``p``: chance of such a difference without a change."""

    metric: str
    before: float
    after: float
    p: float  #: NaN: too little to test
    low: float = math.nan  #: 95 % interval of the difference, of shares only
    high: float = math.nan

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``no change seen`` or ``unknown``; less is better in every metric."""
        if math.isnan(self.p):
            return "unknown"
        if self.p >= SIGNIFICANT or self.before == self.after:
            return "no change seen"
        return "worse" if self.after > self.before else "better"


def told_once(marks: pd.DataFrame) -> pd.DataFrame:
    """Annotations with one row per deploy: at its first queue's moment, ``source`` names its queues.

    One deploy: the same version by the same actor, within 15 minutes of its first mark.
    """
    kept: list[dict[str, Any]] = []
    deploys: dict[tuple[str, str], tuple[dict[str, Any], list[str]]] = {}
    rows: list[dict[Any, Any]] = marks.sort_values("at", kind="stable").to_dict("records")
    for row in rows:
        if row["kind"] != "deploy":
            kept.append(row)
            continue
        version = str(row["text"]).partition(" (before: ")[0]
        first, sources = deploys.get((version, row["actor"]), (row, []))
        if not sources or (row["at"] - first["at"]).total_seconds() > DEPLOY_S:
            first, sources = deploys[version, row["actor"]] = row, []
            kept.append(first)
        if row["source"] not in sources:
            sources.append(row["source"])
        first["source"] = "" if "" in sources else in_words(sources)
        if first["text"] != row["text"]:  # queues ran different versions before
            first["text"] = version
    made = pd.DataFrame(kept, columns=marks.columns).astype(marks.dtypes.to_dict())
    made.attrs.update(marks.attrs)
    return made


def deploy_changes(minutes: pd.DataFrame, deployed: pd.Timestamp) -> list[Change]:
    """Compare *minutes* (TIER_COLUMNS of one queue) before and after *deployed*, its minute left out.

    Times of minutes that were packed together are one value, and those of the deploy's own five
    minutes are left out: they are of both sides.
    """
    before = minutes[minutes["at"] + pd.Timedelta(minutes=1) <= deployed]
    after = minutes[minutes["at"] > deployed]
    changes = [_failures(before, after)]
    block = f"{BLOCK_MINUTES}min"
    apart = minutes["at"].dt.floor(block) != deployed.floor(block)
    for metric in ("run_p50_s", "run_p95_s", "wait_p50_s", "wait_p95_s", "e2e_p95_s"):
        a, b = (_told_once(part[apart[part.index]], metric) for part in (before, after))
        known = min(len(a), len(b)) >= LEAST_MINUTES
        changes.append(
            Change(
                metric=metric,
                before=float(np.median(a)) if len(a) else math.nan,
                after=float(np.median(b)) if len(b) else math.nan,
                p=rank_p(a, b) if known else math.nan,
            )
        )
    return changes


def _told_once(minutes: pd.DataFrame, metric: str) -> npt.NDArray[np.float64]:
    """The values of *metric*, those that minutes of one block share once."""
    known = minutes[["at", metric]].dropna()
    block = known["at"].dt.floor(f"{BLOCK_MINUTES}min")
    is_same = (block == block.shift()) & (known[metric] == known[metric].shift())
    told: npt.NDArray[np.float64] = known.loc[~is_same, metric].to_numpy(dtype="float64")
    return told


def _failures(before: pd.DataFrame, after: pd.DataFrame) -> Change:
    counted = []
    for part in (before, after):
        failed = float(part[["retried", "dead"]].sum().sum())
        counted.append((failed, failed + float(part["complete"].sum())))
    (bad_1, all_1), (bad_2, all_2) = counted
    if min(all_1, all_2) < 1 or min(len(before), len(after)) < LEAST_MINUTES:
        shares = [bad / total if total else math.nan for bad, total in counted]
        return Change(metric="failed_share", before=shares[0], after=shares[1], p=math.nan)
    low, high = share_difference(bad_1, all_1, bad_2, all_2)
    return Change(
        metric="failed_share",
        before=bad_1 / all_1,
        after=bad_2 / all_2,
        p=shares_p(bad_1, all_1, bad_2, all_2),
        low=low,
        high=high,
    )


def shares_p(bad_1: float, all_1: float, bad_2: float, all_2: float) -> float:
    """Two-sided p of two equal shares."""
    pooled = (bad_1 + bad_2) / (all_1 + all_2)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / all_1 + 1 / all_2))
    if spread == 0:
        return 1.0
    return math.erfc(abs(bad_1 / all_1 - bad_2 / all_2) / spread / math.sqrt(2))


def wilson(bad: float, total: float, z: float = _Z95) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share = bad / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2)) / (1 + z * z / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_difference(bad_1: float, all_1: float, bad_2: float, all_2: float) -> tuple[float, float]:
    """95 % interval of the second share minus the first."""
    first, second = bad_1 / all_1, bad_2 / all_2
    low_1, high_1 = wilson(bad_1, all_1)
    low_2, high_2 = wilson(bad_2, all_2)
    difference = second - first
    return (
        difference - math.hypot(second - low_2, high_1 - first),
        difference + math.hypot(high_2 - second, first - low_1),
    )


def rank_p(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Two-sided p of two samples of one distribution."""
    n, m = len(a), len(b)
    joined = np.concatenate([a, b])
    _, place, counts = np.unique(joined, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    ranks = (ends - (counts - 1) / 2)[place]
    u = ranks[:n].sum() - n * (n + 1) / 2
    total = n + m
    ties = float((counts**3 - counts).sum()) / (total * (total - 1))
    spread = math.sqrt(n * m / 12 * (total + 1 - ties))
    if spread == 0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / spread
    return math.erfc(z / math.sqrt(2))
