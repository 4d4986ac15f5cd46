"""What is asked: rows of one kind, of some sources and some time, under conditions. Pure."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pandas as pd

from app import frames
from app.annals.tiers import TIER_COLUMNS
from app.columns import TIME
from app.errors import InvalidRequest
from app.letters.filters import age_s, moment_ms

#: rows looked at per source where a condition is checked here; Redis keeps about as many runs
WINDOW: Final = 10_000
#: waiting jobs read per queue when nothing else is asked: each costs three commands
JOBS: Final = 500
OPERATIONS: Final = 100

ENDED: Final[Mapping[str, tuple[str, ...]]] = {
    "complete": ("complete",),
    "failed": ("retry", "dead"),
    "aborted": ("aborted",),
}
JOB_STATES: Final = ("waiting", "deferred", "running", *ENDED)
LETTER_STATES: Final = ("open", "retrying", "closed")
#: the column that says where a row comes from, and when it was, of what is not a plain frame
_SOURCE: Final = {"runs": "queue", "jobs": "queue", "dead_letters": "source", "history": "source"}
_TIME: Final = {
    "runs": "finished",
    "dead_letters": "died",
    "history": "at",
    "operations": "created",
}
_METRICS: Final = {"backlog": "waiting", "throughput": "complete_per_s", "failures": "failed_per_s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition on the rows: a column is one of some values, or a pandas expression holds."""

    column: str = ""
    values: tuple[Any, ...] = ()
    expression: str = ""

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of *frame* it holds for."""
        if self.column:
            return frame[frame[self.column].isin(list(self.values))]
        try:
            found: pd.DataFrame = frame.query(self.expression)
        except Exception as error:  # pandas raises what the expression makes it raise
            raise InvalidRequest(
                f"{self.expression!r} cannot be evaluated: {error}",
                field="where",
                hint=f"columns: {', '.join(map(str, frame.columns))}",
            ) from error
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked: rows of one kind, from some sources, of some time, that meet all conditions."""

    what: str  #: a frame of the snapshot, or ``jobs runs dead_letters history operations``
    sources: tuple[str, ...] = ()  #: queues or streams; empty: all
    state: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    conditions: tuple[Condition, ...] = ()
    limit: int | None = None  #: rows wanted
    metric: str = ""
    span_s: float = 3600.0  #: of history, where since_ms is not given

    @property
    def is_snapshot(self) -> bool:
        """Whether the last sample answers it, without a command."""
        return self.what not in _SOURCE and self.what != "operations"

    @property
    def columns(self) -> frames.Columns:
        """Columns of the answer."""
        match self.what:
            case "jobs":
                return frames.JOB_COLUMNS
            case "operations":
                return frames.OPERATION_COLUMNS
            case "history":
                names = ("at", "source", self.metric) if self.metric else tuple(TIER_COLUMNS)
                return {name: TIER_COLUMNS[name] for name in names}
            case name:
                return frames.FRAMES[name]

    def where(self, expression: str, conditions: Mapping[str, Any]) -> "Ask":
        """Ask for fewer rows; InvalidRequest names a column there is not."""
        made = self
        for column, value in conditions.items():
            check_column(column, self.columns)
            many = isinstance(value, Collection) and not isinstance(value, str | bytes)
            values = tuple(value) if many else (value,)
            if column == _SOURCE.get(self.what) and not self.sources and values:
                made = replace(made, sources=tuple(map(str, values)))
            else:
                condition = Condition(column=column, values=values)
                made = replace(made, conditions=(*made.conditions, condition))
        if expression:
            made = replace(made, conditions=(*made.conditions, Condition(expression=expression)))
        return made

    @property
    def time_column(self) -> str:
        """The column ``since`` and ``until`` are about; empty: there is none."""
        if self.what == "jobs":
            return {"running": "started"}.get(
                self.state, "finished" if self.state in ENDED else "due"
            )
        if self.what in _TIME:
            return _TIME[self.what]
        return next((n for n, kind in self.columns.items() if kind == TIME), "")

    @property
    def reads(self) -> int:
        """Rows read per source: as many as are wanted, or a window where conditions are left to us."""
        most = {"jobs": JOBS, "operations": OPERATIONS}.get(self.what, WINDOW)
        if self.what == "jobs" and (self.state in ENDED or self.conditions):
            most = WINDOW
        is_partial = self.conditions or (self.what == "jobs" and self.state in ENDED)
        return most if self.limit is None or is_partial else min(most, self.limit)

    def finish(self, frame: pd.DataFrame) -> pd.DataFrame:
        """What is asked for, out of the rows that were read."""
        column = self.time_column
        attrs = frame.attrs
        for bound_ms, is_low in ((self.since_ms, True), (self.until_ms, False)):
            if bound_ms is not None and column in frame:
                bound = pd.Timestamp(bound_ms, unit="ms", tz="UTC")
                keep = frame[column] >= bound if is_low else frame[column] <= bound
                frame = frame[keep]
        for condition in self.conditions:
            frame = condition.of(frame)
        if self.limit is not None:
            frame = frame.head(self.limit)
        frame = frame.reset_index(drop=True)
        frame.attrs.update(attrs)
        return frame


def moment(name: str, said: str | float | pd.Timestamp, now_ms: float) -> int:
    """Epoch ms of ``2h`` (ago), ``2026-11-23T12:00Z``, ``03:40`` (UTC, the last one) or a timestamp.

    InvalidRequest names *name*.
    """
    if isinstance(said, pd.Timestamp):
        return int((said if said.tzinfo else said.tz_localize("UTC")).timestamp() * 1000)
    text = str(said).strip()
    try:
        ago = age_s(name, text)
    except InvalidRequest:
        ago = None
    if ago is not None and not text.isdecimal():
        return int(now_ms - ago * 1000)
    if len(text) in (4, 5, 7, 8) and ":" in text:
        today = pd.Timestamp(int(now_ms), unit="ms", tz="UTC").strftime("%Y-%m-%d")
        found = _parsed(name, f"{today}T{text if text[2] == ':' else '0' + text}")
        return found if found <= now_ms else found - 86_400_000
    return _parsed(name, text)


def _parsed(name: str, text: str) -> int:
    try:
        found = moment_ms(name, text)
    except InvalidRequest as error:
        hint = "2h (ago), 03:40 (today, UTC), 2026-11-23T12:00Z or epoch ms"
        raise InvalidRequest(str(error), field=name, hint=hint) from error
    if found is None:
        raise InvalidRequest(f"{name} is empty", field=name, hint="2h, 03:40, 2026-11-23T12:00Z")
    return found


def metric_column(metric: str) -> str:
    """The column of history *metric* names (``wait_p95``: ``wait_p95_s``); InvalidRequest else."""
    if not metric:
        return ""
    for name in (metric, f"{metric}_s", _METRICS.get(metric, "")):
        if name in TIER_COLUMNS and name not in ("at", "source"):
            return name
    known = [*_METRICS, *(name for name in TIER_COLUMNS if name not in ("at", "source"))]
    raise InvalidRequest(
        f"metric={metric!r} is not known", field="metric", hint=f"one of {', '.join(known)}"
    )


def check_column(name: str, columns: Iterable[str]) -> None:
    """Raise InvalidRequest, with the nearest known names, for a column there is not."""
    known = list(columns)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InvalidRequest(
            f"there is no column {name!r}", field=name, hint=f"{hint}columns: {', '.join(known)}"
        )
