"""Back-test of alert rules: which alerts stored history would have raised. Frame in, frame out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from app import frames
from app.alerts.rules import MIN_RUNS, AlertRule, RuleState, step
from app.columns import TIME
from app.errors import InvalidRequest

#: One row per firing, oldest first; ``resolved`` is NaT when the history ends before.
FIRING_COLUMNS: Final[Mapping[str, Any]] = {
    "rule": "str",
    "source": "str",
    "severity": "str",
    "fired": TIME,
    "resolved": TIME,
    "duration_s": "float64",
    "peak": "float64",
}
#: metrics the history frame holds under another name
_COLUMN_OF: Final = {"backlog": "waiting"}
_WINDOW: Final = "60s"


def backtest(history: pd.DataFrame, rules: Sequence[AlertRule]) -> pd.DataFrame:
    """Firings of *rules* over *history* (``HISTORY_COLUMNS`` or ``STREAM_HISTORY_COLUMNS``).

    Rules about metrics the frame does not hold are left out; InvalidRequest when none is left.
    Returns FIRING_COLUMNS.
    """
    name = "queue" if "queue" in history.columns else "stream"
    kept = [rule for rule in rules if _has(history, rule.metric)]
    if rules and not kept:
        asked = ", ".join(sorted({rule.metric for rule in rules}))
        raise InvalidRequest(
            f"the history holds no {asked}",
            field="metric",
            hint=f"it has {', '.join(map(str, history.columns))}",
        )
    rows = [
        row
        for source, part in history.groupby(name, observed=True)
        for rule in kept
        if rule.watches(str(source))
        for row in _firings(rule, str(source), part)
    ]
    rows.sort(key=lambda row: row["fired"])
    return frames.frame_of(rows, FIRING_COLUMNS)


def _has(history: pd.DataFrame, metric: str) -> bool:
    if metric == "failure_share":
        return {"complete_per_s", "failed_per_s"} <= set(history.columns)
    if metric == "workers_missing":
        return {"workers", "waiting"} <= set(history.columns)
    return _COLUMN_OF.get(metric, metric) in history.columns


def metric_values(history: pd.DataFrame, metric: str) -> pd.Series:
    """Values of *metric* for the rows of one source, NaN where unknown."""
    if metric == "failure_share":
        timed = history.set_index("at")[["complete_per_s", "failed_per_s"]].rolling(_WINDOW).mean()
        total = timed["complete_per_s"] + timed["failed_per_s"]
        enough = total * 60 >= MIN_RUNS
        return (timed["failed_per_s"] / total).where(enough).reset_index(drop=True)
    if metric == "workers_missing":
        missing = ((history["workers"] == 0) & (history["waiting"] > 0)).astype("float64")
        return missing.where(history["workers"].notna() & history["waiting"].notna())
    return history[_COLUMN_OF.get(metric, metric)].astype("float64")


def _firings(rule: AlertRule, source: str, part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    ordered = part.sort_values("at", kind="stable")
    at_s = ordered["at"].astype("int64").to_numpy() / _ticks_per_s(ordered["at"])
    state, row = RuleState(), None
    values = metric_values(ordered, rule.metric).to_numpy("float64", na_value=np.nan)
    for when, value in zip(at_s.tolist(), values.tolist(), strict=True):
        peak = state.peak
        state, turn = step(rule, state, when, value)
        if turn == "fired":
            row = {
                "rule": rule.name,
                "source": source,
                "severity": rule.severity,
                "fired": when * 1000,
                "peak": state.peak,
            }
        elif turn == "resolved" and row is not None:
            ended = {"resolved": when * 1000, "duration_s": when - row["fired"] / 1000}
            yield row | ended | {"peak": peak}
            row = None
    if row is not None:
        yield row | {"peak": state.peak}


def _ticks_per_s(times: pd.Series) -> int:
    return {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[times.dt.unit]
