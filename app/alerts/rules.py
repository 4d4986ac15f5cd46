"""Metric rules of alerts: read from ``[[alerts]]`` of arqscope.toml, stepped through time. Pure.

The same steps run live in the dead-letter process and over stored history (``alerts.backtest``).
"""

import fnmatch
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from app.errors import SettingsError

#: what can be watched, per queue or stream, and what it says
METRICS: Final[Mapping[str, str]] = {
    "failure_share": "share of finished runs that failed, last one to two minutes (0 to 1)",
    "backlog": "jobs that wait",
    "oldest_wait_s": "s the oldest waiting job has been due",
    "wait_p95_s": "95th percentile of the wait, s",
    "run_p95_s": "95th percentile of the run time, s",
    "workers_missing": "1 when jobs wait and no worker serves the queue, else 0",
    "dead_open": "dead letters that await a decision",
    "lag": "events of the stream its slowest group has not been given",
    "lag_s": "s that group is behind",
}
#: fewer finished runs than this say nothing about their share of failures
MIN_RUNS: Final = 20
#: a known value further back than this no longer counts towards ``for_s``
GAP_S: Final = 120.0
#: s a value must be well again before its alert is over
CLEAR_S: Final = 60.0

Turn = Literal["", "fired", "resolved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """Fire when a metric is above (or below) a threshold for ``for_s``."""

    name: str
    metric: str
    above: float | None = None
    below: float | None = None
    resolve: float | None = None  #: well again at or beyond this value; None: at the threshold
    for_s: float = 60.0
    clear_s: float = CLEAR_S
    severity: str = "warning"
    source: tuple[str, ...] = ("*",)  #: globs over queue or stream

    def watches(self, source: str) -> bool:
        """Whether the rule is about *source*."""
        return any(fnmatch.fnmatchcase(source.casefold(), glob.casefold()) for glob in self.source)

    def is_bad(self, value: float) -> bool:
        """Whether *value* breaks the threshold."""
        return (self.above is not None and value > self.above) or (
            self.below is not None and value < self.below
        )

    def is_well(self, value: float) -> bool:
        """Whether *value* ends the alert."""
        if self.is_bad(value):
            return False
        if self.resolve is None:
            return True
        return value <= self.resolve if self.above is not None else value >= self.resolve

    def told(self, value: float) -> str:
        """Return a sentence about *value*."""
        sign, limit = ("above", self.above) if self.above is not None else ("below", self.below)
        return f"{self.metric} is {value:,.4g}, {sign} {limit:,.4g} for {self.for_s:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleState:
    """How one rule stands with one source. Times are epoch s; 0 means never."""

    firing: bool = False
    bad_since_s: float = 0.0
    well_since_s: float = 0.0
    known_s: float = 0.0  #: the last time the value was known
    fired_s: float = 0.0
    peak: float = 0.0  #: the worst value since it turned bad

    def to_json(self) -> str:
        """Encode for Redis."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Decode; what does not decode starts anew."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return cls()


#: always watched; a rule of the same name in arqscope.toml replaces one
BUILT_IN_ALERTS: Final = (
    AlertRule(name="no worker", metric="workers_missing", above=0.5, for_s=60, severity="critical"),
    AlertRule(name="most runs fail", metric="failure_share", above=0.5, resolve=0.25, for_s=120),
)


def step(rule: AlertRule, state: RuleState, at_s: float, value: float) -> tuple[RuleState, Turn]:
    """Take one value (NaN: unknown) at *at_s*; returns the new state and what it means.

    An unknown value neither fires nor ends an alert: it is not zero.
    """
    if math.isnan(value):
        return state, ""
    if state.known_s and at_s - state.known_s > GAP_S:
        state = replace(state, bad_since_s=0.0, well_since_s=0.0)
    state = replace(state, known_s=at_s)
    if rule.is_bad(value):
        since_s = state.bad_since_s or at_s
        worst = value if not state.bad_since_s else _worse(rule, state.peak, value)
        state = replace(state, bad_since_s=since_s, well_since_s=0.0, peak=worst)
        if not state.firing and at_s - since_s >= rule.for_s:
            return replace(state, firing=True, fired_s=at_s), "fired"
        return state, ""
    if not state.firing:
        return replace(state, bad_since_s=0.0, peak=0.0), ""
    if not rule.is_well(value):
        return replace(state, well_since_s=0.0), ""
    well_s = state.well_since_s or at_s
    if at_s - well_s >= rule.clear_s:
        return RuleState(known_s=at_s), "resolved"
    return replace(state, well_since_s=well_s), ""


def _worse(rule: AlertRule, one: float, other: float) -> float:
    return max(one, other) if rule.above is not None else min(one, other)


def load_alert_rules(path: Path) -> tuple[AlertRule, ...]:
    """Read ``[[alerts]]`` of *path* and the built-in rules it does not replace.

    Raises SettingsError, naming the entry, its field and the remedy.
    """
    if not path.is_file():
        return BUILT_IN_ALERTS
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return alert_rules(table.get("alerts", []), str(path))


def alert_rules(entries: object, where: str) -> tuple[AlertRule, ...]:
    """Check *entries* (a list of tables) and add the built-in rules they do not replace."""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise SettingsError(f"{where}: write each alert as [[alerts]], with two brackets")
    own = tuple(_rule(f"{where}, [[alerts]] {n}", entry) for n, entry in enumerate(entries, 1))
    names = {rule.name for rule in own}
    if len(names) < len(own):
        raise SettingsError(f"{where}: two [[alerts]] have the same name")
    return (*own, *(rule for rule in BUILT_IN_ALERTS if rule.name not in names))


_NUMBERS: Final = {
    "above": (-1e15, 1e15),
    "below": (-1e15, 1e15),
    "resolve": (-1e15, 1e15),
    "for_s": (0, 86_400),
    "clear_s": (0, 86_400),
}


def _rule(where: str, entry: object) -> AlertRule:
    if not isinstance(entry, Mapping):
        raise SettingsError(f"{where} is not a table")
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name in _NUMBERS:
            low, high = _NUMBERS[name]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SettingsError(f"{where}: {name}={value!r} is not a number")
            if not low <= value <= high:
                raise SettingsError(f"{where}: {name}={value!r} is not between {low} and {high}")
            values[name] = float(value)
        elif name == "source":
            globs = [value] if isinstance(value, str) else value
            if not isinstance(globs, list) or not all(
                isinstance(g, str) and 0 < len(g) <= 200 for g in globs
            ):
                raise SettingsError(f"{where}: source must be a glob or a list of globs")
            values[name] = tuple(globs)
        elif name in ("name", "metric", "severity"):
            values[name] = str(value)[:80]
        else:
            known = ", ".join(("name", "metric", *_NUMBERS, "severity", "source"))
            raise SettingsError(f"{where}: {name!r} is not a field; known: {known}")
    if values.get("metric") not in METRICS:
        raise SettingsError(f"{where}: metric must be one of {', '.join(METRICS)}")
    if ("above" in values) == ("below" in values):
        raise SettingsError(f"{where}: give either above or below")
    if values.get("severity", "warning") not in ("info", "warning", "critical"):
        raise SettingsError(f"{where}: severity must be info, warning or critical")
    rule = AlertRule(**{"name": f"{values['metric']} {where.rpartition(' ')[2]}", **values})
    edge = cast(float, rule.above if rule.above is not None else rule.below)
    if rule.resolve is not None and rule.is_bad(rule.resolve):
        raise SettingsError(f"{where}: resolve={rule.resolve:g} is beyond the threshold {edge:g}")
    return rule
