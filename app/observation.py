"""What the collector knows between two samples, and the frames it makes of it.

Reads through ``readings``; decides what a sample asks for and what its answers mean.
"""

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis

from app import frames, readings
from app.causes import Cause
from app.history import ColumnLog, Latency
from app.records import JobRun, WorkerInfo
from app.settings import Settings

#: samples between two looks at what changes slowly and without a counter telling
SLOW_EVERY: Final = 5
#: commands a timed sample may send to all three Redis together (TARGETS T4); what must be read every
#: time comes first, what changes slowly shares the rest in turn
COMMANDS: Final = 70
#: of those samples, the one that reads the causes: not the one that asks for INFO
CAUSES_TURN: Final = 3
_DUE_KEPT: Final = 2000
RUNS_SHOWN: Final = 1000
EVENTS_SHOWN: Final = 200
_LETTER_TOTALS: Final = ("dead", "redriven", "resolved", "discarded", "archived", "undone")
_NAN: Final = math.nan


class Rates:
    """Counters to rates by monotonic time; a counter that went back gives NaN, never less than 0."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def per_s(self, name: str, value: float | None, now_s: float) -> float:
        """Rate of *name* since it was last told; NaN when there is nothing to compare with."""
        if value is None:
            return _NAN
        before = self._last.get(name)
        self._last[name] = (value, now_s)
        if before is None or now_s <= before[1] or value < before[0]:
            return _NAN
        return (value - before[0]) / (now_s - before[1])


class Rota:
    """Which of many names have their turn: those marked, then those longest not seen."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self.marked: set[str] = set()

    def take(self, names: Iterable[str], tick: int, limit: int, every: int) -> list[str]:
        """Return up to *limit* names that are marked or were last taken *every* ticks ago."""
        due = [
            name
            for name in names
            if name in self.marked or tick - self._seen.get(name, -every) >= every
        ]
        due.sort(key=lambda name: (name not in self.marked, self._seen.get(name, -1)))
        return due[:limit]

    def done(self, names: Iterable[str], tick: int) -> None:
        """Note that *names* were read."""
        for name in names:
            self._seen[name] = tick
            self.marked.discard(name)


class Observation:
    """The collector's memory: resume ids, counters, the last lists, the hour's history."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queues: tuple[str, ...] = settings.queue_names
        self.streams: tuple[str, ...] = settings.stream_names
        self.commands = 0
        self._tick = 0
        self._full = True
        self._at = pd.Timestamp(0, tz="UTC")
        self._skew_ms = 0.0
        self._queue: readings.QueueReading | None = None
        self._stream: readings.StreamReading | None = None
        self._after: dict[str, str] = {}
        self._jump: set[str] = set()
        self._running_due_ms: dict[str, float] = {}
        self._events_after: dict[str, str] = {}
        self._delivered: dict[tuple[str, str], str] = {}
        self._registered: set[str] = set()
        self._paused: set[str] = set()
        self._letters: dict[str, readings.Letters] = {}
        self._causes: list[tuple[Cause, float, float]] = []
        self._letter_totals: dict[str, tuple[int, ...]] = {}
        self._letter_rota = Rota()
        self._minute_rota = Rota()
        self._totals_rota = Rota()
        self._totals: dict[str, dict[str, int]] = {}
        self._latency: dict[str, Latency] = {}
        self._runs: deque[JobRun] = deque(maxlen=RUNS_SHOWN)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_SHOWN)
        self._infos: dict[str, dict[str, Any]] = {}
        self._rates = Rates()
        self._log = ColumnLog(frames.HISTORY_COLUMNS)
        self._stream_log = ColumnLog(frames.STREAM_HISTORY_COLUMNS)
        self._kept: dict[str, pd.DataFrame] = {
            name: frames.empty_frame(columns) for name, columns in frames.FRAMES.items()
        }
        self._stale = set(frames.FRAMES)

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
        return int(self._at.timestamp() * 1000 + self._skew_ms)

    def _turn(self, rota: Rota, names: Iterable[str], limit: int, every: int) -> list[str]:
        return list(names) if self._full else rota.take(names, self._tick, limit, every)

    @property
    def _spare(self) -> int:
        """Commands left for what is read in turn: 4 per queue and stream and 8 more are fixed."""
        return max(8, COMMANDS - 4 * (len(self.queues) + len(self.streams)) - 8)

    def _wants_info(self, source: str) -> bool:
        turn = 0 if source == "queue" else 2
        return self._full or source not in self._infos or self._tick % SLOW_EVERY == turn

    def _sort(self, source: str) -> str:
        """SORT_RO where it exists (7.0): SORT counts as a write, which a viewer may not."""
        major = str(self._infos.get(source, {}).get("redis_version", "0")).partition(".")[0]
        return "SORT_RO" if major.isdigit() and int(major) >= 7 else "SORT"

    async def read_queue(self, redis: Redis) -> None:
        """Take one sample of the queue Redis."""
        at_once = max(1, (self._spare - 4) // 8)
        letters = self._turn(self._letter_rota, self.queues, at_once, SLOW_EVERY)
        minutes: list[str] = []
        if self._full or self._tick % 2 == 0:
            at_once = max(1, self._spare // 6)
            minutes = self._turn(self._minute_rota, self.queues, at_once, SLOW_EVERY)
        strangers = [queue for queue in self.queues if queue not in self._registered]
        strangers = self._turn(self._totals_rota, strangers, 2, 1)
        asked = time.time()
        reading = await readings.queue_reading(
            redis,
            self.queues,
            now_ms=self._now_ms,
            after=self._after,
            jump=self._jump,
            registered=set(self.queues) - set(strangers),
            letters=letters,
            minutes=minutes,
            causes=self._full or self._tick % SLOW_EVERY == CAUSES_TURN,
            info=self._wants_info("queue"),
            sort=self._sort("queue"),
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
            self._note_skew(reading.info, (asked + time.time()) / 2)
        for queue, histogram in ((q, reading.minutes.get(q, {})) for q in minutes):
            self._latency.setdefault(queue, Latency()).histogram = histogram
        if minutes:
            self._running_due_ms = dict(
                [*self._running_due_ms.items(), *reading.due_ms.items()][-_DUE_KEPT:]
            )
        self._take_runs(reading)
        self._take_letters(reading.letters, reading.totals)
        if reading.causes is not None and reading.causes != self._causes:
            self._causes = reading.causes
            self._stale.add("causes")
        if reading.workers is not None:
            self._stale |= {"workers", "running"}
        fresh = [name for name in sorted(reading.registered) if name not in self.queues]
        self.queues = (*self.queues, *fresh)[: readings.MAX_QUEUES]

    def _note_skew(self, info: Mapping[str, Any], local_s: float) -> None:
        server_us = info.get("server_time_usec")
        if server_us is not None:
            skew_ms = float(server_us) / 1000 - local_s * 1000
            self._skew_ms = skew_ms if abs(skew_ms) > 250 else 0.0  # less is the way there and back

    def _take_runs(self, reading: readings.QueueReading) -> None:
        self._after.update(reading.after)
        for queue, runs in reading.runs.items():
            if runs:
                latency = self._latency.setdefault(queue, Latency())
                latency.add(runs, skipped=queue in reading.skipped)
                self._stale.add("runs")
        self._jump = reading.skipped  # too busy to read every run: next time its newest
        new = sorted((r for runs in reading.runs.values() for r in runs), key=_finished)
        self._runs.extend(new)

    def _take_letters(
        self,
        letters: Mapping[str, readings.Letters],
        totals: Mapping[str, Mapping[str, int]],
    ) -> None:
        self._letters.update(letters)
        if letters:
            self._stale |= {"dead_letters", "causes"}
        for source, counters in totals.items():
            now = tuple(counters.get(name, 0) for name in _LETTER_TOTALS)
            if self._letter_totals.get(source, now) != now and source not in letters:
                self._letter_rota.marked.add(source)
            self._letter_totals[source] = now

    async def read_streams(self, redis: Redis) -> None:
        """Take one sample of the streams Redis."""
        letters: list[str] = []
        if self._full or self._tick % 2:
            letters = self._turn(self._letter_rota, self.streams, 1, SLOW_EVERY)
        reading = await readings.stream_reading(
            redis,
            self.streams,
            after=self._events_after,
            delivered=self._delivered,
            letters=letters,
            info=self._wants_info("streams"),
            sort=self._sort("streams"),
        )
        self._stream = reading
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
        self._delivered = dict(behind[: max(2, self._spare // 6)])

    def _last_id(self, stream: str) -> str:
        reading = self._stream
        return "" if reading is None else str(reading.streams[stream].get("last-generated-id", ""))

    async def read_cache(self, redis: Redis) -> None:
        """Take one sample of the cache Redis."""
        self._infos["cache"] = await readings.server_info(redis)
        self.commands += 1

    # -- frames ------------------------------------------------------------------------------

    def frames(self, problems: Mapping[str, str]) -> dict[str, Any]:
        """Return every frame of the snapshot; what did not change is the frame of before."""
        kept = self._kept
        reading = self._queue
        if reading is not None and reading.workers is not None and "workers" in self._stale:
            kept["workers"] = frames.workers_frame(reading.workers)
            kept["running"] = frames.running_frame(
                reading.workers, self._now_ms, self._running_due_ms
            )
        if "runs" in self._stale:
            kept["runs"] = frames.runs_frame(self._runs)
        if "dead_letters" in self._stale:
            newest = (letter for found in self._letters.values() for letter in found.newest)
            kept["dead_letters"] = frames.dead_letters_frame(newest)
        if "causes" in self._stale:
            kept["causes"] = frames.causes_frame(kept["dead_letters"], self._causes)
        if "events" in self._stale:
            kept["events"] = frames.frame_of(self._events, frames.EVENT_COLUMNS)
        self._stale.clear()
        rows = self._queue_rows()
        kept["queues"] = frames.frame_of(rows, frames.QUEUE_COLUMNS)
        at_us = self._at.value // 1000  # ns
        self._log.append(at_us, rows)
        kept["history"] = self._log.frame()
        stream_rows, group_rows = self._stream_rows()
        kept["streams"] = frames.frame_of(stream_rows, frames.STREAM_COLUMNS)
        kept["groups"] = frames.frame_of(group_rows, frames.GROUP_COLUMNS)
        self._stream_log.append(at_us, _stream_history(stream_rows, group_rows))
        kept["stream_history"] = self._stream_log.frame()
        kept["redis"] = frames.frame_of(
            [redis_row(role, self._infos.get(role, {}), problems.get(role)) for role in
             ("queue", "streams", "cache")],
            frames.REDIS_COLUMNS,
        )  # fmt: skip
        return dict(kept)

    def _queue_rows(self) -> list[dict[str, Any]]:
        reading = self._queue
        now_s = time.monotonic()
        if reading is None:
            return [{"queue": queue, "paused": queue in self._paused} for queue in self.queues]
        rows = []
        for queue in self.queues:
            totals = self._totals.get(queue, {})
            letters = self._letters.get(queue, readings.Letters())
            latency = self._latency.setdefault(queue, Latency())
            row = depth_row(reading, queue, self._now_ms) | {
                "queue": queue,
                "accepted": totals.get("accepted"),
                "complete": totals.get("complete"),
                "failed": totals.get("failed"),
                "retried": totals.get("retried"),
                "dead_total": totals.get("dead"),
                "aborted": _aborted(totals),
                "resolved": totals.get("resolved"),
                "discarded": totals.get("discarded"),
                "dead_open": letters.open,
                "dead_retrying": letters.retrying,
                "paused": queue in self._paused,
                "complete_per_s": self._rates.per_s(
                    f"{queue}|complete", totals.get("complete"), now_s
                ),
                "failed_per_s": self._rates.per_s(f"{queue}|failed", totals.get("failed"), now_s),
            }
            serving = workers_row(reading.workers, queue, row.get("running"))
            rows.append(row | serving | latency.row(self._now_ms))
        return rows

    def _stream_rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        reading = self._stream
        if reading is None:
            kept = self._kept["groups"][["stream", "group"]].itertuples(index=False)
            groups = [{"stream": stream, "group": group} for stream, group in kept]
            return [{"stream": stream} for stream in self.streams], groups
        rows, group_rows = [], []
        for stream in self.streams:
            info, totals = reading.streams[stream], reading.totals.get(stream, {})
            letters = self._letters.get(stream, readings.Letters())
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
                        f"{stream}|processed", totals.get("processed", 0), time.monotonic()
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
        return rows, group_rows


def _aborted(totals: Mapping[str, int]) -> int | None:
    """Jobs aborted and left so; None when the counters are unknown."""
    if "aborted" not in totals:
        return None
    return max(0, totals["aborted"] - totals.get("unaborted", 0))


def _finished(run: JobRun) -> int:
    return run.finished_ms


def depth_row(reading: readings.QueueReading, queue: str, now_ms: float) -> dict[str, Any]:
    """Waiting, running and deferred of one queue: they add up to what the queue holds."""
    queued, due = reading.queued.get(queue), reading.due.get(queue)
    if queued is None or due is None:
        return {}
    # A claimed job whose lease ran out is due again: it waits, its claim only lingers.
    running = min(reading.claimed.get(queue, 0), max(0, queued - due))
    first = reading.first_due_ms.get(queue)
    return {
        "waiting": due,
        "running": running,
        "deferred": max(0, queued - due - running),
        "oldest_wait_s": max(0.0, (now_ms - first) / 1000) if due and first is not None else 0.0,
    }


def workers_row(
    workers: Iterable[WorkerInfo] | None, queue: str, running: float | None
) -> dict[str, Any]:
    """How many workers serve *queue*, with how many slots, how many of them busy.

    Busy are as many as jobs run: a heartbeat's own figure is up to 5 s old, and would contradict it.
    """
    if workers is None:
        return {}
    serving = [w for w in workers if w.source == queue and w.role == "worker"]
    slots = sum(w.slots for w in serving)
    return {
        "workers": len(serving),
        "slots": slots,
        "busy": None if running is None else min(running, slots),
    }


def group_row(
    stream: str,
    info: Mapping[str, Any],
    group: Mapping[str, Any],
    undelivered: str | None,
    now_ms: float,
) -> dict[str, Any]:
    """One consumer group; its lag is Redis' own number, or (6.2, or after XDEL) an estimate."""
    last = str(info.get("last-generated-id", "0-0"))
    delivered = str(group["last-delivered-id"])
    lag: float | None = group.get("lag")
    estimate = lag is None
    if lag is None:
        lag = _estimated_lag(info, last, delivered)
    oldest_ms = readings.id_ms(delivered)
    if undelivered is not None:
        oldest_ms = max(oldest_ms, readings.id_ms(undelivered))
    return {
        "stream": stream,
        "group": str(group["name"]),
        "consumers": group.get("consumers"),
        "pending": group.get("pending"),
        "lag": lag,
        "lag_is_estimate": estimate,
        "lag_s": max(0.0, (now_ms - (oldest_ms or readings.id_ms(last))) / 1000) if lag else 0.0,
    }


def _estimated_lag(info: Mapping[str, Any], last: str, delivered: str) -> float:
    """Entries after *delivered*, as if they had come evenly over the stream's time."""
    length = float(info.get("length", 0))
    if delivered == last or not length:
        return 0.0
    if delivered == "0-0":
        return length
    first = info.get("first-entry")
    first_ms = readings.id_ms(first[0]) if first else readings.id_ms(last)
    span = readings.id_ms(last) - first_ms
    share = (readings.id_ms(last) - readings.id_ms(delivered)) / span if span > 0 else 1.0
    return max(1.0, round(length * min(1.0, max(0.0, share))))


def redis_row(role: str, info: Mapping[str, Any], problem: str | None) -> dict[str, Any]:
    """One Redis server; numbers are NaN while it does not answer."""
    row: dict[str, Any] = {
        "role": role,
        "up": problem is None,
        "version": info.get("redis_version", ""),
        "policy": info.get("maxmemory_policy", ""),
        "aof": bool(info.get("aof_enabled", 0)),
        "problem": problem or "",
    }
    if problem is not None:
        return row
    return row | {
        "memory_bytes": info.get("used_memory"),
        "max_memory_bytes": info.get("maxmemory") or None,
        "clients": info.get("connected_clients"),
        "ops_per_s": info.get("instantaneous_ops_per_sec"),
        "uptime_s": info.get("uptime_in_seconds"),
    }


def _stream_history(
    streams: Iterable[Mapping[str, Any]], groups: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    groups = list(groups)
    rows = []
    for row in streams:
        own = [group for group in groups if group["stream"] == row["stream"]]
        slowest: Mapping[str, Any] = max(own, key=lambda g: g.get("lag") or 0.0, default={})
        rows.append(
            {
                "stream": row["stream"],
                "processed_per_s": row.get("per_s"),
                "lag": slowest.get("lag"),
                "lag_s": slowest.get("lag_s"),
            }
        )
    return rows
