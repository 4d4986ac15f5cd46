"""What the collector knows between two samples: what a sample asks for and what answers mean.

Reads through ``readings``; the rows it makes are ``sample_rows``, the frames of them ``album``.
"""

import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from app.alerts import Alert
from app.letters.causes import Cause
from app.operations import Operation
from app.placement import HOME
from app.records import JobRun
from app.sampling import readings, record_rows, stream_readings
from app.sampling.clock import Passed
from app.sampling.latency import Latency
from app.sampling.listings import Letters, ask_alerts
from app.sampling.sample import Rows, Sample
from app.sampling.sample_rows import (
    aborted,
    depth_row,
    foreign_row,
    function_rows,
    group_row,
    redis_row,
    stream_history_rows,
    workers_row,
)
from app.sampling.turns import Rates, Rota
from app.settings import Settings
from app.wire.batch import Batch, server_info, sort_command

log = logging.getLogger("arqscope.collector")

#: samples between two looks at what changes slowly and without a counter telling
SLOW_EVERY: Final = 5
#: commands a timed sample may send to all three Redis together (TARGETS T4); what must be read every
#: time comes first, what changes slowly shares the rest in turn
COMMANDS: Final = 70
#: of those samples, the one that reads the causes: not the one that asks for INFO
CAUSES_TURN: Final = 3
#: and the one that reads the operations
OPERATIONS_TURN: Final = 1
#: and the one that reads the alerts
ALERTS_TURN: Final = 2
_DUE_KEPT: Final = 2000
RUNS_SHOWN: Final = 1000
#: functions listed, over all queues
MAX_FUNCTIONS: Final = 500
EVENTS_SHOWN: Final = 200
_LETTER_TOTALS: Final = ("dead", "redriven", "resolved", "discarded", "archived", "undone")


class Observation:
    """The collector's memory of one queue server (and, with the home, of streams and cache)."""

    def __init__(
        self, settings: Settings, *, server: str = HOME, runs: deque[JobRun] | None = None
    ) -> None:
        """*server*: the queue server it is of; *runs*: where the runs it reads go, beside others'."""
        self.settings = settings
        self.server = server
        self.queues: tuple[str, ...] = settings.placement.held_by(server, settings.queue_names)
        self.streams: tuple[str, ...] = settings.stream_names if server == HOME else ()
        self.foreign: frozenset[str] = frozenset()  #: queues of stock arq: most is unknown
        self.commands = 0
        self._tick = 0
        self._full = True
        self._at = pd.Timestamp(0, tz="UTC")
        self._redis_ahead_s = 0.0  #: the queue Redis' clock minus our monotonic one
        self._queue_line = Passed()
        self._stream_line = Passed()
        self._heard = readings.Heard()
        self._shown = (0, 0)  #: which heartbeats, and how many of them, the workers shown are of
        self._new_due = True
        self._queue: readings.QueueReading | None = None
        self._stream: stream_readings.StreamReading | None = None
        self._after: dict[str, str] = {}
        self._jump: set[str] = set()
        self._running_due_ms: dict[str, float] = {}
        self._events_after: dict[str, str] = {}
        self._delivered: dict[tuple[str, str], str] = {}
        self._registered: set[str] = set()
        self._paused: set[str] = set()
        self._letters: dict[str, Letters] = {}
        self._causes: list[tuple[Cause, float, float]] = []
        self._operations: list[Operation] = []
        self._alerts: list[Alert] = []
        self._may_read_alerts = True
        self._functions: dict[str, Rows] = {}
        self._letter_totals: dict[str, tuple[int, ...]] = {}
        self._letter_rota = Rota()
        self._minute_rota = Rota()
        self._totals_rota = Rota()
        self._totals: dict[str, dict[str, int]] = {}
        self._latency: dict[str, Latency] = {}
        self.runs: deque[JobRun] = deque(maxlen=RUNS_SHOWN) if runs is None else runs
        self.has_new_runs = True
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_SHOWN)
        self._groups: list[tuple[str, str]] = []
        self._infos: dict[str, Mapping[str, str]] = {}
        self._rates = Rates()
        self._stale = {"letters", "events", "causes", "operations", "functions", "alerts"}

    # -- reading -----------------------------------------------------------------------------

    def begin(self, at: pd.Timestamp, *, full: bool) -> None:
        """Start a sample taken at *at*."""
        self._at = at
        self._full = full
        self._tick += 1
        self.commands = 0
        self._queue = None
        self._stream = None

    @property
    def _now_ms(self) -> int:
        """Now by the queue Redis' clock, which all its scores and times are of."""
        if not self._redis_ahead_s:
            return int(self._at.timestamp() * 1000)
        return int((time.monotonic() + self._redis_ahead_s) * 1000)

    def _turn(self, rota: Rota, names: Iterable[str], limit: int, every: int) -> list[str]:
        return list(names) if self._full else rota.take(names, self._tick, limit, every)

    @property
    def _spare(self) -> int:
        """Commands left for what is read in turn: 4 per queue and stream and 11 more are fixed."""
        return max(8, COMMANDS - 4 * (len(self.queues) + len(self.streams)) - 11)

    @property
    def _is_tight(self) -> bool:
        """Whether letters and minutes must take turns so that a sample keeps to COMMANDS."""
        return self._spare < 20

    def _wants_info(self, source: str) -> bool:
        turn = {"queue": 0, "streams": 2, "cache": 4}[source]
        return self._full or source not in self._infos or self._tick % SLOW_EVERY == turn

    async def read_queue(self, redis: Redis, also: Callable[[Batch], None] | None = None) -> None:
        """Take one sample of the queue Redis; *also* adds commands to its round trip."""
        letters: list[str] = []
        minutes: list[str] = []
        if self._full or not self._is_tight or self._tick % 2 == 0:
            at_once = max(1, (self._spare - 4) // 8)
            letters = self._turn(self._letter_rota, self.queues, at_once, SLOW_EVERY)
        if self._full or self._tick % 4 == 3 or (self._tick % 2 and not self._is_tight):
            at_once = max(1, (self._spare - 2) // 3)
            minutes = self._turn(self._minute_rota, self.queues, at_once, SLOW_EVERY)
        strangers = [queue for queue in self.queues if queue not in self._registered]
        strangers = self._turn(self._totals_rota, strangers, 2, 1)
        at_home = self.server == HOME
        sent_s = time.monotonic()
        reading = await readings.queue_reading(
            redis,
            self.queues,
            now_ms=self._now_ms,
            after=self._after,
            jump=self._jump,
            registered=set(self.queues) - set(strangers),
            letters=letters,
            minutes=minutes,
            causes=at_home and (self._full or self._tick % SLOW_EVERY == CAUSES_TURN),
            operations=at_home and (self._full or self._tick % SLOW_EVERY == OPERATIONS_TURN),
            info=self._wants_info("queue"),
            sort=self._sort("queue") or await sort_command(redis),
            heard=self._heard,
            also=also,
        )
        self._queue = reading
        self.commands += reading.commands
        self._letter_rota.done(letters, self._tick)
        self._minute_rota.done(minutes, self._tick)
        self._totals_rota.done(strangers, self._tick)
        self._totals.update(reading.totals)
        self._registered = reading.registered or self._registered
        if reading.paused is not None:
            self._paused = reading.paused
        if reading.info is not None:
            self._infos["queue"] = reading.info
        heard_s = time.monotonic()
        if reading.time_s is not None and heard_s - sent_s < 0.25:
            self._redis_ahead_s = reading.time_s - (sent_s + heard_s) / 2
        self._queue_line.note(sent_s, heard_s, reading.time_s)
        for queue, histogram in ((q, reading.minutes.get(q, {})) for q in minutes):
            self._latency.setdefault(queue, Latency()).histogram = histogram
            self._functions[queue] = function_rows(queue, histogram)
        if minutes:
            self._stale.add("functions")
            self._new_due = True
            self._running_due_ms = dict(
                [*self._running_due_ms.items(), *reading.due_ms.items()][-_DUE_KEPT:]
            )
        self._take_runs(reading)
        self._take_letters(reading.letters, reading.totals)
        if reading.causes is not None and reading.causes != self._causes:
            self._causes = reading.causes
            self._stale.add("causes")
        if reading.operations is not None and reading.operations != self._operations:
            self._operations = reading.operations
            self._stale.add("operations")
        self.foreign -= reading.registered
        fresh = [
            name
            for name in (*sorted(reading.registered), *sorted(self.foreign))
            if name not in self.queues
        ]
        fresh = list(self.settings.placement.held_by(self.server, fresh))
        self.queues = (*self.queues, *fresh)[: readings.MAX_QUEUES]

    def _sort(self, source: str) -> str:
        """SORT or SORT_RO by the version last told: a failover may have changed it; empty: not told yet."""
        told = str(self._infos.get(source, {}).get("redis_version", ""))
        major = told.partition(".")[0]
        return ("SORT_RO" if int(major) >= 7 else "SORT") if major.isdecimal() else ""

    async def read_runs(self, redis: Redis) -> None:
        """Read the new run reports only: what a follower reads for itself."""
        reading = await readings.runs_reading(
            redis, self.queues, after=self._after, jump=self._jump
        )
        self.commands += reading.commands
        self._take_runs(reading)

    def _take_runs(self, reading: readings.QueueReading) -> None:
        self._after.update(reading.after)
        for queue, runs in reading.runs.items():
            if runs:
                latency = self._latency.setdefault(queue, Latency())
                latency.add(runs, skipped=queue in reading.skipped)
        self._jump = reading.skipped  # too busy to read every run: next time its newest
        new = sorted(
            (r for runs in reading.runs.values() for r in runs), key=lambda run: run.finished_ms
        )
        self.runs.extend(new)
        self.has_new_runs = self.has_new_runs or bool(new)

    def _take_letters(
        self,
        letters: Mapping[str, Letters],
        totals: Mapping[str, Mapping[str, int]],
    ) -> None:
        self._letters.update(letters)
        if letters:
            self._stale.add("letters")
        for source, counters in totals.items():
            now = tuple(counters.get(name, 0) for name in _LETTER_TOTALS)
            if self._letter_totals.get(source, now) != now and source not in letters:
                self._letter_rota.marked.add(source)
            self._letter_totals[source] = now

    async def read_streams(self, redis: Redis) -> None:
        """Take one sample of the streams Redis."""
        sent_s = time.monotonic()
        letters: list[str] = []
        if self._full or self._tick % 4 == 1 or not (self._tick % 2 or self._is_tight):
            letters = self._turn(self._letter_rota, self.streams, 1, SLOW_EVERY)
        reading = await stream_readings.stream_reading(
            redis,
            self.streams,
            after=self._events_after,
            delivered=self._delivered,
            letters=letters,
            info=self._wants_info("streams"),
            sort=self._sort("streams") or await sort_command(redis),
        )
        self._stream = reading
        self._stream_line.note(sent_s, time.monotonic(), reading.time_s)
        self.commands += reading.commands
        self._letter_rota.done(letters, self._tick)
        if reading.info is not None:
            self._infos["streams"] = reading.info
        if reading.events:
            self._events.extend(reading.events)
            self._stale.add("events")
        self._events_after.update(reading.after)
        self._take_letters(reading.letters, reading.totals)
        behind = [
            ((stream, str(group["name"])), str(group["last-delivered-id"]))
            for stream, groups in reading.groups.items()
            for group in groups
            if str(group["last-delivered-id"]) != self._last_id(stream)
        ]
        self._delivered = dict(behind[: max(2, self._spare // 8)])

    def _last_id(self, stream: str) -> str:
        reading = self._stream
        return "" if reading is None else str(reading.streams[stream].get("last-generated-id", ""))

    async def read_cache(self, redis: Redis) -> None:
        """Take one sample of the cache Redis."""
        wants_info = self._wants_info("cache")
        wants_alerts = self._may_read_alerts and (
            self._full or self._tick % SLOW_EVERY == ALERTS_TURN
        )
        if wants_alerts:
            wants_alerts = await self._read_alerts(redis)
        if wants_info or not wants_alerts:  # else it has answered already
            info = await server_info(redis, full=wants_info)
            if info is not None:
                self._infos["cache"] = info
            self.commands += 1

    async def _read_alerts(self, redis: Redis) -> bool:
        """Read the alerts that go on; False: this login may not, and is not asked to again."""
        found: list[Alert] = []
        batch = Batch(redis)
        ask_alerts(batch, found.extend, [], self._sort("cache") or await sort_command(redis))
        self.commands += 1
        try:
            await batch.run()
        except NoPermissionError as error:
            self._may_read_alerts = False
            log.warning("alerts cannot be counted", extra={"reason": str(error)[:200]})
            return False
        if found != self._alerts:
            self._alerts = found
            self._stale.add("alerts")
        return True

    # -- rows --------------------------------------------------------------------------------

    def sample(self, problems: Mapping[str, str]) -> Sample:
        """Return what was read since ``begin``; unknown numbers are None or NaN."""
        reading = self._queue
        workers = None if reading is None else reading.workers
        shown = (id(self._heard.workers), 0 if workers is None else len(workers))
        if workers is not None and shown == self._shown and not self._new_due:
            workers = None  # as at the sample before
        elif workers is not None:
            self._shown, self._new_due = shown, False
        stream_rows, group_rows = self._stream_rows()
        stale, self._stale = self._stale, set()
        newest = (letter for found in self._letters.values() for letter in found.newest)
        return Sample(
            at_us=self._at.value // 1000,  # ns
            now_ms=self._now_ms,
            queue_answered=reading is not None,
            queues=self._queue_rows(),
            streams=stream_rows,
            groups=group_rows,
            redis=self._redis_rows(problems),
            stream_history=stream_history_rows(stream_rows, group_rows),
            workers=None if workers is None else record_rows.worker_rows(workers),
            running=None
            if workers is None
            else record_rows.running_rows(workers, self._running_due_ms),
            letters=record_rows.letter_rows(newest) if "letters" in stale else None,
            causes=[(c.to_fields(), hour, day) for c, hour, day in self._causes]
            if "causes" in stale
            else None,
            events=list(self._events) if "events" in stale else None,
            functions=self._function_rows() if "functions" in stale else None,
            operations=record_rows.operation_rows(self._operations)
            if "operations" in stale
            else None,
            alerts=record_rows.alert_rows(self._alerts) if "alerts" in stale else None,
        )

    def _redis_rows(self, problems: Mapping[str, str]) -> Rows:
        roles = {HOME: self.server}
        if self.server == HOME:
            roles |= {"streams": "streams", "cache": "cache"}
        return [
            redis_row(role, self._infos.get(source, {}), problems.get(role))
            for source, role in roles.items()
        ]

    def _queue_rows(self) -> list[dict[str, Any]]:
        reading = self._queue
        now_s = self._queue_line.at_s
        if reading is None:
            return [{"queue": queue, "paused": queue in self._paused} for queue in self.queues]
        rows = []
        for queue in self.queues:
            totals = self._totals.get(queue, {})
            letters = self._letters.get(queue, Letters())
            latency = self._latency.setdefault(queue, Latency())
            row = depth_row(reading, queue, self._now_ms) | {
                "queue": queue,
                "accepted": totals.get("accepted"),
                "complete": totals.get("complete"),
                "failed": totals.get("failed"),
                "retried": totals.get("retried"),
                "dead_total": totals.get("dead"),
                "aborted": aborted(totals),
                "resolved": totals.get("resolved"),
                "discarded": totals.get("discarded"),
                "redriven": totals.get("redriven"),
                "dead_open": letters.open,
                "dead_retrying": letters.retrying,
                "paused": queue in self._paused,
                "complete_per_s": self._rates.per_s(
                    f"{queue}|complete", totals.get("complete"), now_s
                ),
                "failed_per_s": self._rates.per_s(f"{queue}|failed", totals.get("failed"), now_s),
            }
            serving = workers_row(reading.workers, queue, row.get("running"))
            row |= serving | latency.row(self._now_ms)
            rows.append(foreign_row(row) if queue in self.foreign else row)
        return rows

    def _function_rows(self) -> Rows:
        """Those of the busiest functions of all queues."""
        rows = [row for queue in self.queues for row in self._functions.get(queue, ())]
        return heapq.nlargest(MAX_FUNCTIONS, rows, key=lambda row: row["runs"])

    def _stream_rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        reading = self._stream
        if reading is None:
            groups = [{"stream": stream, "group": group} for stream, group in self._groups]
            return [{"stream": stream} for stream in self.streams], groups
        rows, group_rows = [], []
        for stream in self.streams:
            info, totals = reading.streams[stream], reading.totals.get(stream, {})
            letters = self._letters.get(stream, Letters())
            first = info.get("first-entry")
            rows.append(
                {
                    "stream": stream,
                    "length": info.get("length", 0),
                    "first_id": first[0] if first else "",
                    "last_id": info.get("last-generated-id", ""),
                    "processed": totals.get("processed", 0),
                    "dead": totals.get("dead", 0),
                    "unmatched": totals.get("unmatched", 0),
                    "per_s": self._rates.per_s(
                        f"{stream}|processed", totals.get("processed", 0), self._stream_line.at_s
                    ),
                    "dead_open": letters.open,
                    "dead_retrying": letters.retrying,
                    "resolved": totals.get("resolved", 0),
                    "discarded": totals.get("discarded", 0),
                }
            )
            now_ms = self._at.timestamp() * 1000
            for group in reading.groups[stream]:
                waiting = reading.undelivered.get((stream, str(group["name"])))
                group_rows.append(group_row(stream, info, group, waiting, now_ms))
        self._groups = [(row["stream"], row["group"]) for row in group_rows]
        return rows, group_rows
