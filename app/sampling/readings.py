"""What one sample reads of the queue Redis: one pipeline, its commands independent of how much is stored.

Part of ``reader`` in all but length: it decodes, never writes, never unpickles. A command that
Redis refuses leaves its value out (the collector makes it NaN) and is told in ``trouble``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis

from app import keys
from app.letters.causes import Cause
from app.operations import Operation
from app.records import TOTALS, JobRun, WorkerInfo
from app.sampling.listings import (
    BEAT_MS,
    MAX_WORKERS,
    WORKER_FIELDS,
    Letters,
    ask_causes,
    ask_letters,
    ask_operations,
    decoded,
    decoded_workers,
    number,
)
from app.wire.batch import Batch, info_of, rows_of, seconds_of, sorted_records

#: run reports read per queue and sample; a busier queue skips to its newest
RUNS_PER_TICK: Final = 500
MAX_QUEUES: Final = 1_000
#: claims sampled per queue for the due times of running jobs
MAX_CLAIMS: Final = 200

#: the counters, with those by which only dead letters change
_COUNTERS: Final = (*TOTALS, "unaborted")


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
    batch.ask_raw(lambda reply: setattr(reading, "time_s", seconds_of(reply)), "TIME")
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
        ask_causes(batch, lambda found: setattr(reading, "causes", found), now_ms, bad, sort)
    if operations:
        ask_operations(batch, lambda found: setattr(reading, "operations", found), bad, sort)
    if info:
        batch.ask_raw(lambda reply: setattr(reading, "info", info_of(reply)), "INFO")
    if also is not None:
        also(batch)
    reading.commands = await batch.run()
    reading.bad = sum(bad)
    reading.trouble = batch.trouble
    return reading


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
        runs, wrong = decoded(
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


def _totals_taker(reading: QueueReading, queue: str) -> Callable[[Any], None]:
    def take(reply: Mapping[str, str]) -> None:
        reading.totals[queue] = {name: number(reply.get(name, 0)) for name in _COUNTERS}

    return take


def _take_totals(reading: QueueReading, rows: Iterable[Mapping[str, str]]) -> None:
    for row in rows:
        queue = row["#"]
        reading.registered.add(queue)
        reading.totals[queue] = {name: number(row.get(name, 0)) for name in _COUNTERS}


def _minute_taker(reading: QueueReading, queue: str) -> Callable[[Any], None]:
    def take(reply: Mapping[str, str]) -> None:
        merged = reading.minutes.setdefault(queue, {})
        for name, count in reply.items():
            merged[name] = merged.get(name, 0) + number(count)

    return take


def _claims_taker(reading: QueueReading) -> Callable[[Any], None]:
    def take(reply: Sequence[str]) -> None:
        for job_id, claim in zip(reply[::2], reply[1::2], strict=False):
            parts = str(claim).split(":", 3)  # started_ms:due_ms:attempt:worker
            if len(parts) == 4 and parts[1].isdecimal():
                reading.due_ms[job_id] = float(parts[1])

    return take
