"""What one sample reads: one pipeline per Redis, its commands independent of how much is stored.

Part of ``reader`` in all but length: it decodes, never writes, never unpickles. A command that
Redis refuses leaves its value out (the collector makes it NaN) and is told in ``trouble``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.causes import Cause
from app.errors import BadRecord
from app.records import TOTALS, DeadLetter, JobRun, LetterState, WorkerInfo

R = TypeVar("R")

#: run reports read per queue and sample; a busier queue skips to its newest
RUNS_PER_TICK: Final = 500
MAX_WORKERS: Final = 200
MAX_QUEUES: Final = 200
#: dead letters listed per source and state
MAX_LETTERS: Final = 500
#: causes listed, those seen last
MAX_CAUSES: Final = 200
#: claims sampled per queue for the due times of running jobs
MAX_CLAIMS: Final = 200
EVENTS_PER_TICK: Final = 200
#: a heartbeat this old is of a dead process (its hash lives 20 s)
BEAT_MS: Final = 20_000

#: the counters, with those by which only dead letters change
_COUNTERS: Final = (*TOTALS, "unaborted")
_WORKER_FIELDS: Final = (
    "id", "role", "host", "pid", "source", "version", "since_ms", "beat_ms", "slots", "busy",
    "state", "trouble", "rss_bytes", "cpu_s", "loop_lag_ms", "functions", "jobs",
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


class Batch:
    """The commands of one round trip, each with the function that takes its reply."""

    def __init__(self, redis: Redis) -> None:
        self._pipe = redis.pipeline(transaction=False)
        self._takers: list[Callable[[Any], None]] = []
        self.trouble: list[str] = []

    def ask(self, take: Callable[[Any], None], *command: Any) -> None:
        """Add one command; *take* gets its reply, or nothing when Redis refused it."""
        self._pipe.execute_command(*command)
        self._takers.append(take)

    async def run(self) -> int:
        """Send all, hand out the replies, return the number of commands."""
        if not self._takers:
            return 0
        replies = await self._pipe.execute(raise_on_error=False)
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if len(errors) == len(replies):
            raise errors[0]
        for take, reply in zip(self._takers, replies, strict=True):
            if isinstance(reply, Exception):
                if not (isinstance(reply, RedisError) and "no such key" in str(reply)):
                    self.trouble.append(str(reply)[:200])
            else:
                take(reply)
        return len(replies)


def sorted_records(
    key: str, pattern: str, names: Sequence[str], limit: int, *, sort: str, newest: bool = True
) -> list[Any]:
    """Arguments of the SORT that joins the newest *limit* members of *key* with their hashes.

    ``BY nosort`` with LIMIT walks only what it returns: one command, whatever the set holds.
    """
    gets = [part for name in names for part in ("GET", name if name == "#" else pattern + name)]
    order = ["DESC"] if newest else []
    return [sort, key, "BY", "nosort", "LIMIT", 0, limit, *gets, *order]


def rows_of(reply: Sequence[Any], names: Sequence[str]) -> list[dict[str, str]]:
    """Cut a SORT's flat reply into one mapping per member, absent fields left out."""
    width = len(names)
    return [
        {k: v for k, v in zip(names, reply[i : i + width], strict=True) if v is not None}
        for i in range(0, len(reply), width)
    ]


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
    info: dict[str, Any] | None = None
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
    info: bool = True,
    sort: str = "SORT",
) -> QueueReading:
    """Read everything about *queues* in one round trip, runs from the ids in *after* on.

    *jump*: queues with more runs than one read takes, of which only the newest are wanted.
    *letters* and *minutes*: the queues whose dead letters, and whose minute histograms and due
    times of running jobs, are wanted now.
    """
    reading = QueueReading()
    batch = Batch(redis)
    bad: list[int] = []
    known = set(registered)
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
        found, wrong = _decoded(rows_of(reply, _WORKER_FIELDS), WorkerInfo.from_fields)
        reading.workers = [w for w in found if w.beat_ms >= now_ms - BEAT_MS]
        bad.append(wrong)

    workers = sorted_records(
        keys.WORKERS, keys.worker("*->"), _WORKER_FIELDS, MAX_WORKERS, sort=sort
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
    if info:
        batch.ask(lambda reply: setattr(reading, "info", reply), "INFO")
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
    info: dict[str, Any] | None = None
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
    for stream in streams:
        _ask_stream(batch, stream, reading, after.get(stream))
    for (stream, group), entry_id in delivered.items():
        taker = _undelivered_taker(reading, stream, group)
        batch.ask(taker, "XRANGE", stream, f"({entry_id}", "+", "COUNT", 1)
    for stream in letters:
        ask_letters(batch, stream, reading.letters, bad, sort)
    if info:
        batch.ask(lambda reply: setattr(reading, "info", reply), "INFO")
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


async def server_info(redis: Redis) -> dict[str, Any]:
    """INFO of a Redis; one command."""
    info: dict[str, Any] = await redis.info()
    return info
