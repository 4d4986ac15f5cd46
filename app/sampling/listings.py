"""Lists that a sample reads by one SORT each: workers, letters, causes, operations, alerts. Decodes only."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from app import keys
from app.alerts import Alert, AlertState
from app.errors import BadRecord
from app.letters.causes import Cause
from app.operations import Operation
from app.records import DeadLetter, LetterState, WorkerInfo
from app.wire.batch import Batch, rows_of, sorted_records

R = TypeVar("R")

MAX_WORKERS: Final = 500
#: dead letters listed per source and state
MAX_LETTERS: Final = 500
#: causes listed, those seen last
MAX_CAUSES: Final = 200
#: bulk operations listed, the newest
MAX_OPERATIONS: Final = 50
#: alerts looked at, those told last
MAX_ALERTS: Final = 200
#: a heartbeat this old is of a dead process (its hash lives 20 s)
BEAT_MS: Final = 20_000

WORKER_FIELDS: Final = (
    "id", "role", "host", "pid", "source", "version", "since_ms", "beat_ms", "slots", "busy",
    "state", "trouble", "rss_bytes", "cpu_s", "loop_lag_ms", "functions", "jobs", "schedules",
)  # fmt: skip
_LETTER_FIELDS: Final = (
    "id", "kind", "source", "name", "state", "reason", "error_type", "error", "fingerprint",
    "attempts", "died_ms", "changed_ms", "redrives", "decision", "decision_reason", "actor",
    "correlation_id",
)  # fmt: skip
_CAUSE_FIELDS: Final = (
    "fingerprint", "state", "owner", "note", "error_type", "error", "functions", "sources",
    "first_ms", "last_ms", "count", "regressions", "changed_ms", "actor",
)  # fmt: skip
_OPERATION_FIELDS: Final = tuple(Operation.__slots__)
_ALERT_FIELDS: Final = (
    "id", "kind", "state", "severity", "title", "detail", "source", "name", "since_ms", "last_ms",
    "silenced_until_ms", "times", "actor",
)  # fmt: skip


def decoded(rows: Iterable[Mapping[str, str]], decode: Callable[..., R]) -> tuple[list[R], int]:
    """The records of *rows*, and how many were not readable."""
    good: list[R] = []
    bad = 0
    for row in rows:
        if not row:  # the hash expired or was removed meanwhile
            continue
        try:
            good.append(decode(row))
        except BadRecord:
            bad += 1
    return good, bad


def decoded_workers(reply: Sequence[Any]) -> tuple[list[WorkerInfo], int]:
    """The workers of a SORT that joined WORKER_FIELDS, and how many were not readable."""
    return decoded(rows_of(reply, WORKER_FIELDS), WorkerInfo.from_fields)


@dataclass(slots=True, kw_only=True)
class Letters:
    """The dead letters of one source: how many, and the newest of each state."""

    open: float | None = None
    retrying: float | None = None
    newest: list[DeadLetter] = field(default_factory=list)


def ask_letters(
    batch: Batch, source: str, into: dict[str, Letters], bad: list[int], sort: str
) -> None:
    """Ask for the counts of *source* and for the newest open and retrying letters."""
    letters = into.setdefault(source, Letters())
    pattern = keys.dead_record(source, "*->")

    def take(reply: Any, state: LetterState | None = None) -> None:
        found, wrong = decoded(rows_of(reply, _LETTER_FIELDS), DeadLetter.from_fields)
        letters.newest += [x for x in found if state is None or x.state is state]
        bad.append(wrong)

    batch.ask(lambda n: setattr(letters, "open", float(n)), "ZCARD", keys.dead_open(source))
    batch.ask(lambda n: setattr(letters, "retrying", float(n)), "ZCARD", keys.dead_retrying(source))
    for key in (keys.dead_open(source), keys.dead_retrying(source)):
        batch.ask(take, *sorted_records(key, pattern, _LETTER_FIELDS, MAX_LETTERS, sort=sort))


def ask_causes(
    batch: Batch,
    into: Callable[[list[tuple[Cause, float, float]]], None],
    now_ms: int,
    bad: list[int],
    sort: str,
) -> None:
    """Ask for the causes seen last, with their deaths of this hour and of today."""
    pattern, counts = keys.cause("*->"), keys.cause_counts("*->")
    gets = [part for name in _CAUSE_FIELDS for part in ("GET", pattern + name)]
    for field_name in (f"h{now_ms // 3_600_000}", f"d{now_ms // 86_400_000}"):
        gets += ["GET", counts + field_name]
    names = (*_CAUSE_FIELDS, "hour", "day")

    def take(reply: Any) -> None:
        found: list[tuple[Cause, float, float]] = []
        for row in rows_of(reply, names):
            try:
                cause = Cause.from_fields(row)
            except BadRecord:
                bad.append(bool(row))
                continue
            today = (float(number(row.get("hour", 0))), float(number(row.get("day", 0))))
            found.append((cause, *today))
        into(found)

    batch.ask(take, sort, keys.CAUSES, "BY", "nosort", "LIMIT", 0, MAX_CAUSES, *gets, "DESC")


def ask_operations(
    batch: Batch, into: Callable[[list[Operation]], None], bad: list[int], sort: str
) -> None:
    """Ask for the newest operations."""

    def take(reply: Any) -> None:
        found, wrong = decoded(rows_of(reply, _OPERATION_FIELDS), Operation.from_fields)
        into(found)
        bad.append(wrong)

    pattern = keys.operation("*->")
    batch.ask(
        take,
        *sorted_records(keys.OPERATIONS, pattern, _OPERATION_FIELDS, MAX_OPERATIONS, sort=sort),
    )


def ask_alerts(
    batch: Batch, into: Callable[[list[Alert]], None], bad: list[int], sort: str
) -> None:
    """Ask for the alerts that fire or were acknowledged, those told last first."""

    def take(reply: Any) -> None:
        found, wrong = decoded(rows_of(reply, _ALERT_FIELDS), Alert.from_fields)
        into([alert for alert in found if alert.state is not AlertState.RESOLVED])
        bad.append(wrong)

    pattern = keys.alert("*->")
    batch.ask(take, *sorted_records(keys.ALERTS, pattern, _ALERT_FIELDS, MAX_ALERTS, sort=sort))


def number(text: object) -> int:
    """A counter of a hash; 0 where it is none."""
    try:
        return int(str(text))
    except ValueError:
        return 0
