"""What a snapshot adds up to: totals, the last minute, and whether all is well. Pure."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import pandas as pd

from app import palette
from app.pages.made import once
from app.palette import Verdict
from app.placement import HOME
from app.snapshot import Snapshot

#: s over which Done/min and Failed/min are counted
MINUTE_S: Final = 60
#: s a due job may wait before the page calls it trouble
LATE_S: Final = 60.0
#: s an event may wait for its group before the page calls it trouble
LAG_S: Final = 30.0
#: alerts the verdict names, the gravest
ALERTS_NAMED: Final = 5
#: s without a sample after which the numbers are called old
OLD_S: Final = 10.0

SOURCE_WORDS: Final[Mapping[str, str]] = {
    "queue": "queue Redis",
    "streams": "streams Redis",
    "cache": "cache Redis",
}


@dataclass(frozen=True, slots=True)
class PerMinute:
    """Runs of the last minute; *spans_s* is how much of it was sampled."""

    complete: float
    failed: float
    spans_s: float

    @property
    def is_estimate(self) -> bool:
        """Whether less than the whole minute was seen."""
        return self.spans_s < MINUTE_S * 0.9


_NOTHING: Final = PerMinute(math.nan, math.nan, 0.0)


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of the strip; NaN is unknown."""

    waiting: float
    running: float
    deferred: float
    oldest_wait_s: float
    slots: float
    busy: float
    minute: PerMinute
    dead: float
    dead_retrying: float
    lag: float
    lag_s: float
    lag_is_estimate: bool


def held(now: Snapshot, before: Snapshot | None) -> Snapshot:
    """*now*, with the last known numbers of a lost source in place of nothing."""
    if before is None or not now.problems:
        return now
    kept: dict[str, Any] = {}
    if any(_is_of_queues(source) for source in now.problems) and not before.queues.empty:
        kept["queues"] = _held_rows(now.queues, before.queues)
    if "streams" in now.problems:
        if not before.streams.empty:
            kept["streams"] = before.streams
        if not before.groups.empty:
            kept["groups"] = before.groups
    return replace(now, **kept)


#: attribute of the queues frame: names whose numbers are those of before their server was lost
LOST: Final = "lost"


def _is_of_queues(source: str) -> bool:
    return source.partition("-")[0] == HOME


def _held_rows(now: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """*before* with the rows of the queues whose server answers, where some do."""
    answered = now[now["waiting"].notna()]
    if answered.empty:
        return before
    lost = before[~before["queue"].isin(answered["queue"])]
    whole = pd.concat([answered, lost], ignore_index=True)
    place = {name: number for number, name in enumerate(now["queue"])}
    whole = whole.sort_values(
        "queue", key=lambda names: names.map(place), kind="stable", ignore_index=True
    )
    whole.attrs[LOST] = tuple(lost["queue"])
    return whole


def lost_queues(snapshot: Snapshot) -> frozenset[str]:
    """Queues whose server does not answer while others do: their numbers are the last known ones."""
    return frozenset(snapshot.queues.attrs.get(LOST, ()))


def source_words(source: str) -> str:
    """What a page calls *source*: ``queue-2`` is one of several queue servers."""
    return SOURCE_WORDS.get(source, f"queue server {source.rpartition('-')[2]}")


def total(values: pd.Series) -> float:
    """Sum of *values*; unknown when one of them is, or when there is none."""
    return float("nan") if values.empty else float(values.sum(skipna=False))


def per_minute(history: pd.DataFrame, now: pd.Timestamp, queue: str | None = None) -> PerMinute:
    """Runs in the minute before *now*, of one *queue* or of all; unknown samples are left out."""
    of_all, of_each = _minutes(history, now)
    return of_all if queue is None else of_each.get(queue, _NOTHING)


def minute_of(snapshot: Snapshot, queue: str | None = None) -> PerMinute:
    """``per_minute`` of *snapshot*, counted once for all queues."""
    counted: tuple[PerMinute, Mapping[str, PerMinute]] = once(
        snapshot, ("minutes",), lambda: _minutes(snapshot.history, snapshot.taken_at)
    )
    of_all, of_each = counted
    return of_all if queue is None else of_each.get(queue, _NOTHING)


def _minutes(history: pd.DataFrame, now: pd.Timestamp) -> tuple[PerMinute, Mapping[str, PerMinute]]:
    """Of all queues together, and of each."""
    rows = since(history, now, MINUTE_S)
    complete = rows["complete_per_s"].to_numpy("float64")
    known = ~np.isnan(complete)
    if not known.any():
        return _NOTHING, {}
    step_s = float(history.attrs.get("step_s", 1))  # stored minutes, where the page is of the past
    at = rows["at"].to_numpy("datetime64[us]").astype("int64")
    weights = _since_the_one_before(at / 1e6, pd.factorize(rows["queue"])[0], step_s)[known]
    complete, failed = complete[known], rows["failed_per_s"].to_numpy("float64")[known]
    at = at[known]
    names, codes = np.unique(rows["queue"].to_numpy(object)[known], return_inverse=True)
    told = ~np.isnan(failed)
    with np.errstate(invalid="ignore", divide="ignore"):
        completes = np.bincount(codes, complete * weights) / np.bincount(codes, weights) * MINUTE_S
        fails = (
            np.bincount(codes[told], (failed * weights)[told], len(names))
            / np.bincount(codes[told], weights[told], len(names))
            * MINUTE_S
        )
    first, last = np.full(len(names), at.max()), np.full(len(names), at.min())
    np.minimum.at(first, codes, at)
    np.maximum.at(last, codes, at)

    def spans_s(begin: int, end: int) -> float:
        return min((end - begin) / 1e6 + step_s, MINUTE_S)

    of_each = {
        str(name): PerMinute(float(completes[n]), float(fails[n]), spans_s(first[n], last[n]))
        for n, name in enumerate(names)
    }
    spans = spans_s(at[0], at[-1])
    return PerMinute(float(completes.sum()), float(fails.sum()), spans), of_each


def since(history: pd.DataFrame, now: pd.Timestamp, span_s: float) -> pd.DataFrame:
    """The rows of *history*, which is in order of time, of the *span_s* before *now*."""
    at = history["at"].to_numpy("datetime64[us]").astype("int64")
    limit = int((now - pd.Timedelta(seconds=span_s)).as_unit("us").asm8.astype("int64"))
    return history.iloc[int(np.searchsorted(at, limit, side="right")) :]


def _since_the_one_before(at_s: Any, codes: Any, step_s: float) -> Any:
    """How long before each row the one before it of the same code was, s.

    A rate is of just that time. Samples come late when the machine is busy: a mean that does not weigh them
    takes the short ones, in which much ended, for as much as the long ones.
    """
    order = np.argsort(codes, kind="stable")
    gaps = np.diff(at_s[order], prepend=np.nan)
    gaps[np.diff(codes[order], prepend=-1) != 0] = np.nan
    known = gaps[~np.isnan(gaps)]
    weights = np.empty(len(gaps))
    weights[order] = np.where(np.isnan(gaps), np.median(known) if len(known) else step_s, gaps)
    return weights


def summarise(snapshot: Snapshot) -> Summary:
    """Add up *snapshot*."""
    return cast(Summary, once(snapshot, ("summary",), lambda: _summarise(snapshot)))


def _summarise(snapshot: Snapshot) -> Summary:
    queues, streams, groups = snapshot.queues, snapshot.streams, snapshot.groups
    dead_events = total(streams["dead_open"]) if not streams.empty else np.nan
    return Summary(
        waiting=total(queues["waiting"]),
        running=total(queues["running"]),
        deferred=total(queues["deferred"]),
        oldest_wait_s=float(queues["oldest_wait_s"].max()) if not queues.empty else np.nan,
        slots=total(queues["slots"]),
        busy=total(queues["busy"]),
        minute=minute_of(snapshot),
        dead=total(queues["dead_open"]) + dead_events,
        dead_retrying=total(queues["dead_retrying"])
        + (total(streams["dead_retrying"]) if not streams.empty else np.nan),
        lag=total(groups["lag"]),
        lag_s=float(groups["lag_s"].max()) if not groups.empty else np.nan,
        lag_is_estimate=bool(groups["lag_is_estimate"].any()),
    )


def verdict(snapshot: Snapshot, most: int | None = None) -> tuple[Verdict, list[str]]:
    """Whether all is well, and why not, gravest first: *most* reasons, then how many more there are.

    Without *most* five alerts and every other reason are named.
    """
    state, others, alerts = once(snapshot, ("verdict",), lambda: _verdict(snapshot))
    if most is None:
        named, rest = alerts[:ALERTS_NAMED], len(alerts) - ALERTS_NAMED
        more = f"{rest} more {'alerts fire' if rest > 1 else 'alert fires'}."
        return state, [*others, *named, *([more] if rest > 0 else [])]
    every = [*others, *alerts]
    left = len(every) - most
    return state, every if left <= 0 else [*every[:most], f"and {left} more"]


#: why a demo is never well for long
DEMO: Final = (
    "This is the demo: some of its jobs fail on purpose, so that there is something to find. "
    "Their causes raise alerts until somebody acknowledges them."
)


def firing(snapshot: Snapshot) -> pd.DataFrame:
    """The alerts that fire, whoever is told; acknowledged ones are in somebody's hands."""
    return snapshot.alerts[snapshot.alerts["state"] == "firing"]


def _calling(snapshot: Snapshot) -> pd.DataFrame:
    """Of the alerts that fire, those nobody silenced and that are more than a remark, gravest first."""
    found = firing(snapshot)
    until = found["silenced_until"]
    heard = found[(until.isna() | (until <= snapshot.taken_at)) & (found["severity"] != "info")]
    return heard.sort_values("severity", kind="stable")  # critical stands before warning


def _alert_reasons(snapshot: Snapshot) -> list[str]:
    said = []
    for row in _rows(_calling(snapshot)):
        where = f" on {row.source}" if row.source and row.source not in row.title else ""
        said.append(f"An alert fires{where}: {row.title.rstrip('.')}.")
    return said


#: what a process is called in a sentence, by its role
_PROCESS: Final = {"events": "Event processor", "dead-letters": "Dead-letter processor"}


def _verdict(snapshot: Snapshot) -> tuple[Verdict, list[str], list[str]]:
    """The verdict, its reasons but for alerts, and the alerts."""
    if snapshot.number == 0:
        return Verdict.UNKNOWN, ["The first sample has not been taken yet."], []
    reasons = [
        f"The {source_words(source)} does not answer: {text}"
        for source, text in snapshot.problems.items()
    ]
    is_down = "queue" in snapshot.problems
    for row in _rows(snapshot.queues):
        if is_idle(row.waiting, row.workers):
            reasons.append(
                f"No worker takes jobs of {row.queue}: {palette.count(row.waiting)} wait."
            )
        elif row.oldest_wait_s > LATE_S and not row.paused:
            waited = palette.duration(row.oldest_wait_s)
            reasons.append(f"The oldest job of {row.queue} has waited {waited}.")
    reasons += [
        f"{_PROCESS.get(row.role, 'Worker')} {row.host}:{row.pid} is degraded: "
        f"{(row.trouble or 'no reason given').rstrip('.')}."
        for row in _rows(snapshot.workers)
        if row.state == "degraded"
    ]
    reasons += [
        f"Group {row.group} is {palette.duration(row.lag_s)} behind on {row.stream}."
        for row in _rows(snapshot.groups)
        if row.lag_s > LAG_S
    ]
    reasons += [
        f"Redis ({row.role}): {row.problem}"
        for row in _rows(snapshot.redis)
        if row.problem and row.role not in snapshot.problems
    ]
    alerts = _alert_reasons(snapshot)
    if is_down:
        return Verdict.DOWN, reasons, alerts
    return Verdict.DEGRADED if reasons or alerts else Verdict.OK, reasons, alerts


def _rows(frame: pd.DataFrame) -> Iterator[Any]:
    """Rows by column name; pandas types them as everything at once."""
    return iter(frame.itertuples())


def is_idle(waiting: float, workers: float) -> bool:
    """Whether jobs wait and it is known that nobody takes them."""
    return waiting > 0 and workers == 0
