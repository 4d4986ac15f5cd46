"""Query plans: what is asked of a deployment as a value, and the commands that answer it. Pure.

A plan is made before anything is sent, from the question and the last sample; reading carries out
exactly that plan. So ``explain()`` cannot differ from what Redis sees.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Final

import numpy as np
import pandas as pd
from pydantic_core import from_json

from app import frames, keys
from app.annals import past
from app.annals.tiers import TIER_COLUMNS
from app.columns import TIME
from app.cursors import letter_of
from app.errors import BadRecord, InvalidRequest
from app.jobs import lists
from app.jobs import rows as job_rows
from app.letters.filters import age_s, moment_ms
from app.operations import Operation
from app.payloads.codec import Codec
from app.records import DeadLetter, JobRun
from app.sampling import record_rows
from app.snapshot import Snapshot
from app.wire.batch import rows_of, sorted_records

#: rows looked at per source where a condition is checked here; Redis keeps about as many runs
WINDOW: Final = 10_000
#: waiting jobs read per queue when nothing else is asked: each costs three commands
JOBS: Final = 500
#: letters joined with their records by one SORT
LETTERS_AT_ONCE: Final = 1_000
OPERATIONS: Final = 100
#: epoch ms no timestamp goes beyond
LAST_MS: Final = 253_402_300_800_000
#: bytes one row takes on the wire, about: measured on 2026-11-26 with the demo load
_ROW_BYTES: Final = {
    "runs": 420,
    "dead_letters": 520,
    "jobs": 400,
    "history": 70,
    "operations": 600,
}

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
_LETTER_FIELDS: Final = (
    *("id", "kind", "source", "name", "state", "reason", "error_type", "error", "fingerprint"),
    *("attempts", "redrives", "died_ms", "decision", "decision_reason", "correlation_id"),
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command or request, or several that differ by id (written ``<id>``), ``times`` at most."""

    where: str  #: queue, streams, or http
    command: tuple[Any, ...]
    times: int = 1
    rows: int = 0  #: it answers with at most
    as_bytes: bool = False  #: whether the answer is not made text: JSON is read as it is
    queue: str = ""  #: whose keys it asks for: the server that holds it answers; empty: the home

    @property
    def text(self) -> str:
        """The command as one line."""
        return " ".join(map(str, self.command))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be sent, and what to make of the answers."""

    what: str
    steps: tuple[Step, ...] = ()
    later: tuple[Step, ...] = ()  #: sent after the answers to *steps*
    make: Callable[[Sequence[Any]], pd.DataFrame] | None = None
    #: the second plan, made of the answers to this one
    follow: Callable[[Sequence[Any]], "Plan"] | None = None
    note: str = ""

    @property
    def commands(self) -> list[str]:
        """Every command as one line, ``<id>`` where it depends on an answer."""
        return [step.text for step in (*self.steps, *self.later)]

    @property
    def sent(self) -> int:
        """Commands sent at most."""
        return sum(step.times for step in (*self.steps, *self.later))

    @property
    def round_trips(self) -> int:
        """Times an answer is waited for."""
        http = [s for s in self.steps if s.where == "http"]
        return sum(s.times for s in http) if http else bool(self.steps) + bool(self.later)

    @property
    def rows(self) -> int:
        """Rows read at most."""
        return sum(step.rows for step in self.steps)

    @property
    def cost(self) -> str:
        """The cost in words."""
        if not self.steps:
            return f"nothing is sent: {self.note}"
        size = self.rows * _ROW_BYTES.get(self.what, 300) / 1e6
        trips = "1 round trip" if self.round_trips == 1 else f"{self.round_trips} round trips"
        at_most = "at most " if self.later or any(s.times > 1 for s in self.steps) else ""
        word = "request" if self.steps[0].where == "http" else "command"
        return (
            f"{at_most}{self.sent:,} {word}{'' if self.sent == 1 else 's'}, {trips}, "
            f"at most {self.rows:,} rows (≈ {size:.1f} MB)"
            + (f"; {self.note}" if self.note else "")
        )

    def df(self) -> pd.DataFrame:
        """One row per command: where it goes, how often at most, rows it may answer with."""
        return pd.DataFrame(
            [(s.where, s.text, s.times, s.rows) for s in (*self.steps, *self.later)],
            columns=["where", "command", "times", "rows"],
        )

    def __str__(self) -> str:
        lines = [f"{s.where}: {s.text}{f'  (≤ {s.times:,} times)' if s.times > 1 else ''}"
                 for s in (*self.steps, *self.later)]  # fmt: skip
        return "\n".join([*lines, self.cost])

    __repr__ = __str__


# -- times ---------------------------------------------------------------------------------------


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


# -- plans ---------------------------------------------------------------------------------------


def plan_of(ask: Ask, snapshot: Snapshot, *, now_ms: float, codec: Codec | None = None) -> Plan:
    """The commands that answer *ask*; counts of *snapshot* say how many pages are worth asking for."""
    match ask.what:
        case "runs":
            return _runs_plan(ask, snapshot)
        case "jobs" if ask.state in ENDED:
            return _ended_plan(ask, snapshot)
        case "jobs":
            return _jobs_plan(ask, snapshot, now_ms, codec)
        case "dead_letters":
            return _letters_plan(ask, snapshot)
        case "history":
            return _history_plan(ask, snapshot, now_ms)
        case "operations":
            return _operations_plan(ask)
        case name:
            return snapshot_plan(name, snapshot, now_ms)


def snapshot_plan(name: str, snapshot: Snapshot, now_ms: float) -> Plan:
    """The plan of a frame that the last sample holds."""
    age_s_ = max(0.0, now_ms / 1000 - snapshot.taken_at.timestamp())
    note = (
        f"the sample of {age_s_:.1f} s ago holds it ({snapshot.cost_commands} commands per "
        f"{snapshot.interval_s:g} s serve all who look)"
    )
    return Plan(what=name, note=note, make=lambda _: snapshot.frame(name).copy())


def _queues(ask: Ask, snapshot: Snapshot) -> list[str]:
    return list(ask.sources) or [str(name) for name in snapshot.queues["queue"]]


def _runs_steps(ask: Ask, snapshot: Snapshot) -> tuple[Step, ...]:
    newest = "+" if ask.until_ms is None else str(ask.until_ms)
    oldest = "-" if ask.since_ms is None else str(ask.since_ms)
    return tuple(
        Step(
            where="queue",
            command=("XREVRANGE", keys.runs(queue), newest, oldest, "COUNT", ask.reads),
            rows=ask.reads,
            as_bytes=True,
            queue=queue,
        )
        for queue in _queues(ask, snapshot)
    )


def _runs_plan(ask: Ask, snapshot: Snapshot) -> Plan:
    steps = _runs_steps(ask, snapshot)
    return Plan(what="runs", steps=steps, make=runs_of, note="Redis keeps about 10,000 per queue")


def runs_of(replies: Sequence[Any]) -> pd.DataFrame:
    """The runs of several XREVRANGE replies (bytes, as sent), newest first."""
    texts = [entry[1][1] for reply in replies for entry in reply or () if entry[1]]
    rows = _decoded(texts)
    rows.sort(key=_finished_ms, reverse=True)
    return _runs_frame(rows)


def _finished_ms(row: Mapping[str, Any]) -> float:
    return float(row.get("finished_ms") or 0)


def _runs_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """RUN_COLUMNS, column by column: a hundred thousand runs within a second."""
    times = {
        name: np.array(_values(rows, f"{name}_ms", 0), "float64")
        for name in ("enqueued", "due", "started", "finished")
    }
    columns: dict[str, Any] = {}
    for name, kind in frames.RUN_COLUMNS.items():
        if name in times:
            ms = times[name]
            is_known = (ms > 0) & (ms < LAST_MS)
            us = np.where(is_known, ms * 1000, 0).astype("int64")
            at = us.view("datetime64[us]")
            at[~is_known] = np.datetime64("NaT")
            columns[name] = pd.DatetimeIndex(at).tz_localize("UTC")
        elif name == "wait_s":
            columns[name] = np.maximum(0.0, times["started"] - times["due"]) / 1000
        elif name == "run_s":
            columns[name] = np.maximum(0.0, times["finished"] - times["started"]) / 1000
        elif kind == frames.OUTCOME:
            columns[name] = pd.Categorical(_values(rows, name, None), dtype=kind)
        elif kind == "str":
            columns[name] = _texts(_values(rows, name, ""))
        else:
            columns[name] = np.array(_values(rows, name, 0), kind)
    return pd.DataFrame(columns)


def _values(rows: Sequence[Mapping[str, Any]], name: str, missing: Any) -> list[Any]:
    try:
        return list(map(itemgetter(name), rows))
    except KeyError:  # reports of an older release lack what came later
        return [row.get(name, missing) for row in rows]


def _texts(values: list[Any]) -> Any:
    try:
        return pd.array(values, dtype="str")
    except (UnicodeEncodeError, TypeError, ValueError):  # bytes a producer wrote, or no texts
        return pd.array([frames.printable(value) for value in values], dtype="str")


def _decoded(texts: Sequence[bytes]) -> list[dict[str, Any]]:
    """Run reports as plain mappings, in one go; one by one where something among them is no report."""
    try:
        rows: list[Any] = from_json(b"[" + b",".join(texts) + b"]", cache_strings="keys")
        if len(rows) == len(texts) and all(type(row) is dict and "outcome" in row for row in rows):
            return rows
    except ValueError:
        pass
    found = []
    for text in texts:
        try:
            run = JobRun.from_json(text)
        except BadRecord:
            continue
        found.append({name: getattr(run, name) for name in run.__slots__})
    return found


def _ended_plan(ask: Ask, snapshot: Snapshot) -> Plan:
    outcomes = ENDED[ask.state]

    def make(replies: Sequence[Any]) -> pd.DataFrame:
        runs = runs_of(replies)
        runs = runs[runs["outcome"].isin(list(outcomes))]
        return ended_jobs(runs, ask.state)

    return Plan(
        what="runs", steps=_runs_steps(ask, snapshot), make=make,
        note="of the last 10,000 runs per queue",
    )  # fmt: skip


def ended_jobs(runs: pd.DataFrame, state: str) -> pd.DataFrame:
    """Runs as the jobs frame."""
    made = runs.assign(state=state, arguments="", note="")
    return made[list(frames.JOB_COLUMNS)].astype(
        {"state": "str", "arguments": "str", "note": "str"}
    )


def _jobs_plan(ask: Ask, snapshot: Snapshot, now_ms: float, codec: Codec | None) -> Plan:
    counts = dict(
        zip(snapshot.queues["queue"].astype(str), snapshot.queues.get(ask.state, ()), strict=False)
    )
    steps, most = [], 0
    names = _queues(ask, snapshot)
    for queue in names:
        count = counts.get(queue)
        expected = ask.reads if count is None or count != count else min(ask.reads, int(count) + 1)
        most += expected
        if ask.state == "running":
            command: tuple[Any, ...] = ("HSCAN", keys.running(queue), 0, "COUNT", ask.reads)
        else:
            low, high = _bounds(ask, int(now_ms))
            command = (
                "ZRANGEBYSCORE", queue, low, high, "WITHSCORES", "LIMIT", 0, ask.reads,
            )  # fmt: skip
        steps.append(Step(where="queue", command=command, rows=expected, queue=queue))

    def follow(replies: Sequence[Any]) -> Plan:
        found = [
            (queue, *_pairs_and_claims(ask.state, reply))
            for queue, reply in zip(names, replies, strict=True)
        ]
        asked = [
            Step(where="queue", command=command, queue=queue)
            for queue, pairs, claims in found
            for command in lists.row_commands(queue, pairs, claims)
        ]

        def make(answers: Sequence[Any]) -> pd.DataFrame:
            rows, at = [], 0
            for queue, pairs, claims in found:
                width = len(lists.row_commands(queue, pairs, claims))
                made = lists.rows_from(
                    queue, pairs, claims, answers[at : at + width], int(now_ms), codec
                )
                at += width
                rows += [row for row in made if ask.state != "deferred" or row.state != "running"]
            return job_rows.jobs_frame(rows)

        return Plan(what="jobs", steps=tuple(asked), make=make)

    later = [
        Step(where="queue", command=command, times=most)
        for command in lists.row_commands("<queue>", [("<id>", 0.0)], {})
        if ask.state != "running" or command[0] not in ("HGET", "EXISTS")
    ]
    return Plan(what="jobs", steps=tuple(steps), later=tuple(later), follow=follow)


def _bounds(ask: Ask, now_ms: int) -> tuple[str, str]:
    low = None if ask.state == "waiting" else now_ms + 1
    high = now_ms if ask.state == "waiting" else None
    if ask.since_ms is not None:
        low = max(ask.since_ms, low or ask.since_ms)
    if ask.until_ms is not None:
        high = min(ask.until_ms, high or ask.until_ms)
    return "-inf" if low is None else str(low), "+inf" if high is None else str(high)


def _pairs_and_claims(state: str, reply: Any) -> tuple[list[tuple[str, float]], Mapping[str, str]]:
    if state != "running":
        flat = list(reply or ())
        return [(str(i), float(s)) for i, s in zip(flat[::2], flat[1::2], strict=True)], {}
    flat = list(reply[1]) if reply else []
    claims = {str(i): str(c) for i, c in zip(flat[::2], flat[1::2], strict=True)}
    return [(job_id, 0.0) for job_id in claims], claims


def _letters_plan(ask: Ask, snapshot: Snapshot) -> Plan:
    index = {
        "open": keys.dead_open, "retrying": keys.dead_retrying, "closed": keys.dead_closed,
    }  # fmt: skip
    counted = {"open": "dead_open", "retrying": "dead_retrying"}
    steps = []
    shelves = [
        ("queue", snapshot.queues, "queue"), ("streams", snapshot.streams, "stream"),
    ]  # fmt: skip
    for where, frame, column in shelves:
        for row in frame.to_dict("records"):
            source = str(row[column])
            if ask.sources and source not in ask.sources:
                continue
            for state in (ask.state,) if ask.state else ("open", "retrying"):
                count = row.get(counted.get(state, ""), float("nan"))
                most = ask.reads if count != count else min(ask.reads, int(count) + 1)
                for first in range(0, max(most, 1), LETTERS_AT_ONCE):
                    size = min(LETTERS_AT_ONCE, ask.reads - first)
                    pattern = keys.dead_record(source, "*->")
                    tail = sorted_records(
                        index[state](source), pattern, _LETTER_FIELDS, size, sort="SORT"
                    )
                    tail[tail.index("LIMIT") + 1] = first
                    held = source if where == "queue" else ""
                    steps.append(Step(where=where, command=tuple(tail), rows=size, queue=held))

    def make(replies: Sequence[Any]) -> pd.DataFrame:
        letters = [
            letter
            for reply in replies
            for raw in rows_of(reply or (), _LETTER_FIELDS)
            if (letter := letter_of(raw)) is not None
        ]
        return letters_frame(letters)

    return Plan(what="dead_letters", steps=tuple(steps), make=make)


def letters_frame(letters: Iterable[DeadLetter]) -> pd.DataFrame:
    """The dead letters frame of *letters*, each once."""
    once = {(letter.source, letter.id): letter for letter in letters}
    return record_rows.dead_letters_frame(once.values())


def _history_plan(ask: Ask, snapshot: Snapshot, now_ms: float) -> Plan:
    end_ms = now_ms if ask.until_ms is None else ask.until_ms
    start_ms = end_ms - ask.span_s * 1000 if ask.since_ms is None else ask.since_ms
    names = _queues(ask, snapshot)
    grid = past.grid_of(start_ms, end_ms, now_ms=now_ms)
    steps = [
        Step(where="queue", command=command, rows=grid.steps)
        for name in names
        for command in grid.commands(name)
    ]

    def make(replies: Sequence[Any]) -> pd.DataFrame:
        parts = [
            grid.frame(name, replies[2 * n], _mapping(replies[2 * n + 1]))
            for n, name in enumerate(names)
        ]
        made = pd.concat(parts, ignore_index=True) if parts else frames.empty_frame(TIER_COLUMNS)
        made.attrs.update(grid.attrs)
        return made[list(ask.columns)]

    return Plan(
        what="history", steps=tuple(steps), make=make,
        note=f"{grid.attrs['tier']}, a row per {grid.attrs['step_s']} s",
    )  # fmt: skip


def _mapping(reply: Any) -> Mapping[str, str]:
    """HGETALL's flat reply as a mapping."""
    flat = list(reply or ())
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _operations_plan(ask: Ask) -> Plan:
    def follow(replies: Sequence[Any]) -> Plan:
        steps = [
            Step(where="queue", command=("HGETALL", keys.operation(str(one))))
            for one in replies[0] or ()
        ]

        def make(answers: Sequence[Any]) -> pd.DataFrame:
            found = []
            for answer in answers:
                try:
                    found.append(Operation.from_fields(_mapping(answer)))
                except BadRecord:
                    continue
            return operations_frame(found)

        return Plan(what="operations", steps=tuple(steps), make=make)

    first = Step(
        where="queue", command=("ZREVRANGE", keys.OPERATIONS, 0, ask.reads - 1), rows=ask.reads
    )
    each = Step(where="queue", command=("HGETALL", keys.operation("<id>")), times=ask.reads)
    return Plan(what="operations", steps=(first,), later=(each,), follow=follow)


def operations_frame(operations: Iterable[Operation]) -> pd.DataFrame:
    """The operations frame of *operations*, newest first."""
    return frames.frame_of(record_rows.operation_rows(operations), frames.OPERATION_COLUMNS)
