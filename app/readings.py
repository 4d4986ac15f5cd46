"""What one sample reads: one pipeline per Redis, its commands independent of how much is stored.

Part of ``reader`` in all but length: it decodes, never writes, never unpickles. A command that
Redis refuses leaves its value out (the collector makes it NaN) and is told in ``trouble``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from redis.asyncio import Redis

from app import keys
from app.batch import Batch, info_of, rows_of, sorted_records
from app.causes import Cause
from app.errors import BadRecord
from app.operations import Operation
from app.records import TOTALS, DeadLetter, JobRun, LetterState, WorkerInfo

R = TypeVar("R")

#: run reports read per queue and sample; a busier queue skips to its newest
RUNS_PER_TICK: Final = 500
MAX_WORKERS: Final = 500
MAX_QUEUES: Final = 1_000
#: dead letters listed per source and state
MAX_LETTERS: Final = 500
#: causes listed, those seen last
MAX_CAUSES: Final = 200
#: bulk operations listed, the newest
MAX_OPERATIONS: Final = 50
#: claims sampled per queue for the due times of running jobs
MAX_CLAIMS: Final = 200
EVENTS_PER_TICK: Final = 200
#: a heartbeat this old is of a dead process (its hash lives 20 s)
BEAT_MS: Final = 20_000

#: the counters, with those by which only dead letters change
_COUNTERS: Final = (*TOTALS, "unaborted")
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


def _decoded(rows: Iterable[Mapping[str, str]], decode: Callable[..., R]) -> tuple[list[R], int]:
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
    return _decoded(rows_of(reply, WORKER_FIELDS), WorkerInfo.from_fields)


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
        found, wrong = _decoded(rows_of(reply, _LETTER_FIELDS), DeadLetter.from_fields)
        letters.newest += [x for x in found if state is None or x.state is state]
        bad.append(wrong)

    batch.ask(lambda n: setattr(letters, "open", float(n)), "ZCARD", keys.dead_open(source))
    batch.ask(lambda n: setattr(letters, "retrying", float(n)), "ZCARD", keys.dead_retrying(source))
    for key in (keys.dead_open(source), keys.dead_retrying(source)):
        batch.ask(take, *sorted_records(key, pattern, _LETTER_FIELDS, MAX_LETTERS, sort=sort))


@dataclass(slots=True)
class Heard:
    """The last heartbeats as Redis sent them, and decoded: they change every 5 s only."""

    reply: Any = None
    workers: list[WorkerInfo] = field(default_factory=list)
    bad: int = 0


@dataclass(slots=True, kw_only=True)
class QueueReading:
    """What the queue Redis answered; absent keys are unknown."""

    queued: dict[str, int] = field(default_factory=dict)  #: ZCARD: waiting, deferred and running
    due: dict[str, int] = field(default_factory=dict)
    claimed: dict[str, int] = field(default_factory=dict)
    first_due_ms: dict[str, float | None] = field(default_factory=dict)
    totals: dict[str, dict[str, int]] = field(default_factory=dict)
    registered: set[str] = field(default_factory=set)
    paused: set[str] | None = None
    workers: list[WorkerInfo] | None = None
    runs: dict[str, list[JobRun]] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)  #: id to resume each queue's runs from
    skipped: set[str] = field(default_factory=set)  #: queues that had more runs than one read takes
    minutes: dict[str, dict[str, int]] = field(default_factory=dict)  #: the last two, merged
    due_ms: dict[str, float] = field(default_factory=dict)  #: of running jobs
    letters: dict[str, Letters] = field(default_factory=dict)
    #: causes seen last, with their deaths of this hour and today; None: not asked for
    causes: list[tuple[Cause, float, float]] | None = None
    operations: list[Operation] | None = None  #: the newest; None: not asked for
    info: Mapping[str, str] | None = None
    time_s: float | None = None  #: epoch seconds by Redis' clock
    commands: int = 0
    bad: int = 0  #: records that did not decode
    trouble: list[str] = field(default_factory=list)


async def queue_reading(
    redis: Redis,
    queues: Sequence[str],
    *,
    now_ms: int,
    after: Mapping[str, str],
    registered: Iterable[str] = (),
    jump: Iterable[str] = (),
    letters: Iterable[str] = (),
    minutes: Iterable[str] = (),
    causes: bool = False,
    operations: bool = False,
    info: bool = True,
    sort: str = "SORT",
    heard: Heard | None = None,
    also: Callable[[Batch], None] | None = None,
) -> QueueReading:
    """Read everything about *queues* in one round trip, runs from the ids in *after* on.

    *jump*: queues with more runs than one read takes, of which only the newest are wanted.
    *letters* and *minutes*: the queues whose dead letters, and whose minute histograms and due
    times of running jobs, are wanted now. *heard*: heartbeats decoded before. *also* adds commands.
    """
    heard = heard or Heard()
    reading = QueueReading()
    batch = Batch(redis)
    bad: list[int] = []
    known = set(registered)
    batch.ask_raw(lambda reply: setattr(reading, "time_s", _seconds(reply)), "TIME")
    for queue in queues:
        _ask_depth(batch, queue, reading, now_ms)
        if queue not in known:
            batch.ask(_totals_taker(reading, queue), "HGETALL", keys.totals(queue))
    names = ("#", *_COUNTERS)
    pattern = "arqscope:{*}:totals->"
    batch.ask(
        lambda reply: _take_totals(reading, rows_of(reply, names)),
        *sorted_records(keys.QUEUES, pattern, names, MAX_QUEUES, sort=sort, newest=False),
    )
    batch.ask(lambda reply: setattr(reading, "paused", set(reply)), "SMEMBERS", keys.PAUSED_QUEUES)

    def take_workers(reply: Any) -> None:
        if reply != heard.reply:
            heard.workers, heard.bad = decoded_workers(reply)
            heard.reply = reply
        reading.workers = [w for w in heard.workers if w.beat_ms >= now_ms - BEAT_MS]
        bad.append(heard.bad)

    workers = sorted_records(
        keys.WORKERS, keys.worker("*->"), WORKER_FIELDS, MAX_WORKERS, sort=sort
    )
    batch.ask(take_workers, *workers)
    _ask_runs(batch, queues, after, set(jump), reading, bad)
    for queue in minutes:
        for minute in (now_ms // 60_000, now_ms // 60_000 - 1):
            batch.ask(_minute_taker(reading, queue), "HGETALL", keys.minute(queue, minute))
        batch.ask(
            _claims_taker(reading), "HRANDFIELD", keys.running(queue), MAX_CLAIMS, "WITHVALUES"
        )
    for queue in letters:
        ask_letters(batch, queue, reading.letters, bad, sort)
    if causes:
        _ask_causes(batch, reading, now_ms, bad, sort)
    if operations:
        _ask_operations(batch, reading, bad, sort)
    if info:
        batch.ask_raw(lambda reply: setattr(reading, "info", info_of(reply)), "INFO")
    if also is not None:
        also(batch)
    reading.commands = await batch.run()
    reading.bad = sum(bad)
    reading.trouble = batch.trouble
    return reading


def _ask_causes(
    batch: Batch, reading: QueueReading, now_ms: int, bad: list[int], sort: str
) -> None:
    """Ask for the causes seen last, with their deaths of this hour and of today."""
    pattern, counts = keys.cause("*->"), keys.cause_counts("*->")
    gets = [part for name in _CAUSE_FIELDS for part in ("GET", pattern + name)]
    for field_name in (f"h{now_ms // 3_600_000}", f"d{now_ms // 86_400_000}"):
        gets += ["GET", counts + field_name]
    names = (*_CAUSE_FIELDS, "hour", "day")

    def take(reply: Any) -> None:
        reading.causes = []
        for row in rows_of(reply, names):
            try:
                cause = Cause.from_fields(row)
            except BadRecord:
                bad.append(bool(row))
                continue
            today = (float(_number(row.get("hour", 0))), float(_number(row.get("day", 0))))
            reading.causes.append((cause, *today))

    batch.ask(take, sort, keys.CAUSES, "BY", "nosort", "LIMIT", 0, MAX_CAUSES, *gets, "DESC")


def _ask_operations(batch: Batch, reading: QueueReading, bad: list[int], sort: str) -> None:
    def take(reply: Any) -> None:
        rows = rows_of(reply, _OPERATION_FIELDS)
        reading.operations, wrong = _decoded(rows, Operation.from_fields)
        bad.append(wrong)

    pattern = keys.operation("*->")
    batch.ask(
        take,
        *sorted_records(keys.OPERATIONS, pattern, _OPERATION_FIELDS, MAX_OPERATIONS, sort=sort),
    )


async def runs_reading(
    redis: Redis, queues: Sequence[str], *, after: Mapping[str, str], jump: Iterable[str] = ()
) -> QueueReading:
    """Read only the runs of *queues*, from the ids in *after* on."""
    reading = QueueReading()
    batch = Batch(redis)
    bad: list[int] = []
    _ask_runs(batch, queues, after, set(jump), reading, bad)
    reading.commands = await batch.run()
    reading.bad = sum(bad)
    return reading


def _ask_depth(batch: Batch, queue: str, reading: QueueReading, now_ms: int) -> None:
    def take_first(reply: Any) -> None:
        reading.first_due_ms[queue] = float(reply[1]) if reply else None

    batch.ask(lambda n: reading.queued.__setitem__(queue, n), "ZCARD", queue)
    batch.ask(lambda n: reading.due.__setitem__(queue, n), "ZCOUNT", queue, "-inf", now_ms)
    batch.ask(lambda n: reading.claimed.__setitem__(queue, n), "HLEN", keys.running(queue))
    batch.ask(take_first, "ZRANGE", queue, 0, 0, "WITHSCORES")


def _ask_runs(
    batch: Batch,
    queues: Sequence[str],
    after: Mapping[str, str],
    jump: set[str],
    reading: QueueReading,
    bad: list[int],
) -> None:
    streams = {keys.runs(queue): queue for queue in queues}

    def take(queue: str, entries: Sequence[Any]) -> None:
        runs, wrong = _decoded(
            [fields for _, fields in entries if fields], lambda f: JobRun.from_json(f.get("r", ""))
        )
        reading.runs[queue] = runs
        bad.append(wrong)
        if entries:
            reading.after[queue] = entries[-1][0]
        elif queue not in after:
            reading.after[queue] = "0-0"
        if len(entries) >= RUNS_PER_TICK:
            reading.skipped.add(queue)

    def newest_taker(queue: str) -> Callable[[Any], None]:
        return lambda reply: take(queue, list(reversed(reply)))

    def take_streams(reply: Any) -> None:
        for stream, entries in reply or ():
            take(streams[stream], entries)

    resumed = [queue for queue in queues if queue in after and queue not in jump]
    for queue in queues:
        if queue not in resumed:
            since = f"({after[queue]}" if queue in after else "-"
            newest = ("XREVRANGE", keys.runs(queue), "+", since, "COUNT", RUNS_PER_TICK)
            batch.ask(newest_taker(queue), *newest)
    if resumed:
        names = [keys.runs(queue) for queue in resumed]
        ids = [after[queue] for queue in resumed]
        batch.ask(take_streams, "XREAD", "COUNT", RUNS_PER_TICK, "STREAMS", *names, *ids)


def _seconds(reply: Sequence[str]) -> float:
    return int(reply[0]) + int(reply[1]) / 1_000_000


def _number(text: object) -> int:
    try:
        return int(str(text))
    except ValueError:
        return 0


def _totals_taker(reading: QueueReading, queue: str) -> Callable[[Any], None]:
    def take(reply: Mapping[str, str]) -> None:
        reading.totals[queue] = {name: _number(reply.get(name, 0)) for name in _COUNTERS}

    return take


def _take_totals(reading: QueueReading, rows: Iterable[Mapping[str, str]]) -> None:
    for row in rows:
        queue = row["#"]
        reading.registered.add(queue)
        reading.totals[queue] = {name: _number(row.get(name, 0)) for name in _COUNTERS}


def _minute_taker(reading: QueueReading, queue: str) -> Callable[[Any], None]:
    def take(reply: Mapping[str, str]) -> None:
        merged = reading.minutes.setdefault(queue, {})
        for name, count in reply.items():
            merged[name] = merged.get(name, 0) + _number(count)

    return take


def _claims_taker(reading: QueueReading) -> Callable[[Any], None]:
    def take(reply: Sequence[str]) -> None:
        for job_id, claim in zip(reply[::2], reply[1::2], strict=False):
            parts = str(claim).split(":", 3)  # started_ms:due_ms:attempt:worker
            if len(parts) == 4 and parts[1].isdigit():
                reading.due_ms[job_id] = float(parts[1])

    return take


@dataclass(slots=True, kw_only=True)
class StreamReading:
    """What the streams Redis answered; absent keys are unknown."""

    streams: dict[str, dict[str, Any]] = field(default_factory=dict)  #: XINFO STREAM
    groups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  #: XINFO GROUPS
    totals: dict[str, dict[str, int]] = field(default_factory=dict)
    #: (stream, group) -> id of an entry the group had not been given at the sample before
    undelivered: dict[tuple[str, str], str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    after: dict[str, str] = field(default_factory=dict)
    letters: dict[str, Letters] = field(default_factory=dict)
    info: Mapping[str, str] | None = None
    time_s: float | None = None  #: epoch seconds by Redis' clock
    commands: int = 0
    bad: int = 0
    trouble: list[str] = field(default_factory=list)


async def stream_reading(
    redis: Redis,
    streams: Sequence[str],
    *,
    after: Mapping[str, str],
    delivered: Mapping[tuple[str, str], str],
    letters: Iterable[str] = (),
    info: bool = True,
    sort: str = "SORT",
) -> StreamReading:
    """Read everything about *streams* in one round trip.

    *delivered*: last id each lagging group had been given at the sample before; the entry after it
    tells how long the group is behind.
    """
    reading = StreamReading()
    batch = Batch(redis)
    bad: list[int] = []
    batch.ask_raw(lambda reply: setattr(reading, "time_s", _seconds(reply)), "TIME")
    for stream in streams:
        _ask_stream(batch, stream, reading, after.get(stream))
    for (stream, group), entry_id in delivered.items():
        taker = _undelivered_taker(reading, stream, group)
        batch.ask(taker, "XRANGE", stream, f"({entry_id}", "+", "COUNT", 1)
    for stream in letters:
        ask_letters(batch, stream, reading.letters, bad, sort)
    if info:
        batch.ask_raw(lambda reply: setattr(reading, "info", info_of(reply)), "INFO")
    reading.commands = await batch.run()
    reading.bad = sum(bad)
    reading.trouble = batch.trouble
    return reading


def _ask_stream(batch: Batch, stream: str, reading: StreamReading, after: str | None) -> None:
    recent = keys.recent_events(stream)

    def take_totals(reply: Mapping[str, str]) -> None:
        reading.totals[stream] = {name: _number(n) for name, n in reply.items()}

    def take_events(entries: Sequence[Any]) -> None:
        reading.events += [event_row(entry_id, fields) for entry_id, fields in entries if fields]
        reading.after[stream] = entries[-1][0] if entries else (after or "0-0")

    reading.streams[stream] = {}  # a stream nobody wrote to yet: "no such key", length 0
    reading.groups[stream] = []
    batch.ask(lambda r: reading.streams.__setitem__(stream, r), "XINFO STREAM", stream)
    batch.ask(lambda r: reading.groups.__setitem__(stream, r), "XINFO GROUPS", stream)
    batch.ask(take_totals, "HGETALL", keys.event_totals(stream))
    newest = ("XREVRANGE", recent, "+", f"({after}" if after else "-", "COUNT", EVENTS_PER_TICK)
    batch.ask(lambda reply: take_events(list(reversed(reply))), *newest)


def _undelivered_taker(reading: StreamReading, stream: str, group: str) -> Callable[[Any], None]:
    def take(entries: Sequence[Any]) -> None:
        if entries:
            reading.undelivered[stream, group] = entries[0][0]

    return take


def id_ms(entry_id: str) -> float:
    """Milliseconds of a stream id; 0 when it is not one."""
    head = str(entry_id).partition("-")[0]
    return float(head) if head.isdigit() else 0.0


def event_row(entry_id: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """One handled event as a row of the events frame."""
    original = fields.get("id", entry_id)
    try:
        ms = float(fields.get("ms", "nan"))
    except ValueError:
        ms = float("nan")
    return {
        "id": original,
        "at": id_ms(original) or id_ms(entry_id) or None,
        "type": fields.get("type", ""),
        "handlers": fields.get("handlers", ""),
        "outcome": fields.get("outcome", ""),
        "ms": ms,
        "correlation_id": fields.get("correlationId", ""),
    }


async def server_info(redis: Redis, *, full: bool = True) -> Mapping[str, str] | None:
    """INFO of a Redis, or None for a mere PING (not *full*); one command either way."""
    batch = Batch(redis)
    told: list[str] = []
    batch.ask_raw(lambda reply: told.append(str(reply)), "INFO" if full else "PING")
    await batch.run()
    return info_of(told[0]) if full else None
