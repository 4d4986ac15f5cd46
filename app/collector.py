"""The collector: samples every Redis once per interval and publishes one immutable Snapshot.

One per process and event loop (``collector_for``); however many pages look, Redis is read once. A
source that is down costs its own numbers only: they become NaN, the rest goes on.
"""

import asyncio
import contextlib
import logging
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.annals.historian import Historian
from app.placement import HOME
from app.sampling.album import Album
from app.sampling.clock import Clock
from app.sampling.foreign import Look, look_around, remember, remembered
from app.sampling.queue_servers import QueueServers
from app.sampling.sharing import Shared, Sharing
from app.sampling.sources import PROBE_S, Sources
from app.settings import Settings
from app.snapshot import Snapshot

log = logging.getLogger("arqscope.collector")

SOURCES: Final = ("queue", "streams", "cache")
#: writing a minute of history may take this long
WRITE_S: Final = 20.0
#: samples the collector's own cost speaks about
COSTS_KEPT: Final = 60

Callback = Callable[[Snapshot], object]


class Collector:
    """Samples, remembers an hour, tells subscribers. Belongs to the event loop it is started in."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.snapshot = Snapshot.empty()
        self._observation = QueueServers(settings)
        self._album = Album()
        self._unwritten = False
        self._sharing = Sharing(may_write=settings.keep_history)
        self._historian = Historian()
        self._writing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[Look] | None = None
        self.look = Look()
        self._clock = Clock()
        self._sources = Sources(settings)
        self._costs: deque[float] = deque(maxlen=COSTS_KEPT)
        self._subscribers: dict[int, Callable[[], Callback | None]] = {}
        self._next_key = 1
        self._task: asyncio.Task[None] | None = None
        self._lock: asyncio.Lock | None = None

    # -- life --------------------------------------------------------------------------------

    def ensure_started(self) -> None:
        """Start sampling in the running event loop; does nothing when it already runs."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="arqscope-collector"
            )

    async def start(self) -> None:
        """Start sampling and return when the first snapshot is there."""
        if self._task is None or self._task.done():
            await self.sample()
        self.ensure_started()

    async def stop(self) -> None:
        """Stop sampling and close the clients; may be started again."""
        task, self._task = self._task, None
        if task is not None:
            while not task.done():  # redis-py may swallow a cancellation: ask until it has ended
                task.cancel()
                await asyncio.wait({task}, timeout=0.2)
        beside: list[asyncio.Task[Any]] = [
            *self._sources.forget_probes(),
            *(task for task in (self._writing, self._looking) if task is not None),
        ]
        self._looking = None
        for one in beside:
            one.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        sources = self._sources
        if "queue" in sources.clients and "queue" not in sources.problems:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_S):
                    await self._sharing.resign(sources.clients["queue"])
        await sources.close()

    @property
    def is_running(self) -> bool:
        """Whether the sampling loop runs."""
        return self._task is not None and not self._task.done()

    # -- subscribers -------------------------------------------------------------------------

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with every new snapshot; the key returned unsubscribes.

        A bound method is held weakly: its object may be forgotten. One that raises is dropped.
        """
        key = self._next_key
        self._next_key += 1
        if hasattr(callback, "__self__") and hasattr(callback, "__func__"):
            self._subscribers[key] = weakref.WeakMethod(callback)
        else:
            self._subscribers[key] = lambda: callback
        return key

    def unsubscribe(self, key: int) -> None:
        """Forget the subscriber *key*; it may be gone already."""
        self._subscribers.pop(key, None)

    def _tell(self, snapshot: Snapshot) -> None:
        for key, reference in list(self._subscribers.items()):
            callback = reference()
            if callback is None:
                self.unsubscribe(key)
                continue
            try:
                callback(snapshot)
            except Exception:
                log.exception("subscriber dropped", extra={"subscriber": key})
                self.unsubscribe(key)

    # -- sampling ----------------------------------------------------------------------------

    async def _run(self) -> None:
        due = time.monotonic()
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(
                self.look_around(), name="arqscope-look"
            )
        while True:
            try:
                await self.sample(full=self.snapshot.number == 0)
            except Exception:
                log.exception("sample failed")
            interval = self._sources.pace.interval_s
            due += interval
            behind = time.monotonic() - due
            if behind > 0:  # ticks that were missed are skipped, not caught up
                due += math.ceil(behind / interval) * interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def look_around(self, clients: Mapping[str, Redis] | None = None) -> Look:
        """Look once, within a window, for queues of stock arq; they are sampled from then on.

        With *clients*, by server, it is for somebody who waits: those answer in time, and their errors are
        raised.
        """
        look = self.look = Look()
        for server in self._observation.servers:
            mine = look if server == HOME else Look()
            redis = self._sources.client(server) if clients is None else clients[server]
            try:
                await self._look_around(server, redis, mine)
            except (RedisError, OSError) as error:
                mine.ended = True
                if clients is not None:
                    raise
                log.warning("no look around", extra={"server": server, "error": str(error)[:200]})
            look.queues |= mine.queues
        return look

    async def _look_around(self, server: str, redis: Redis, look: Look) -> None:
        observation = self._observation
        known = observation.known
        observation.note_strangers(server, await remembered(redis) - known)
        await look_around(redis, known, look=look)
        observation.note_strangers(server, look.queues)
        if self.settings.keep_history:
            await remember(redis, look.queues)

    @property
    def durations(self) -> dict[str, dict[str, dict[int, int]]]:
        """Queue → ``wait``, ``run``, ``e2e`` → log buckets of what ended since this server leads."""
        return self._historian.durations

    @property
    def foreign(self) -> frozenset[str]:
        """Queues of stock arq that were found."""
        return self._observation.strangers

    async def sample(self, *, full: bool = True) -> Snapshot:
        """Read all sources once, publish and return the new snapshot.

        *full* reads everything; the timer's samples read slowly changing things (dead letters,
        histograms, INFO) in turn, or at once after their counters moved, and a server that follows
        another reads what that one stored. Never raises for a Redis that is down: ``problems`` says
        so.
        """
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            began = time.perf_counter()
            at = pd.Timestamp(int(self._clock.now_s() * 1_000_000), unit="us", tz="UTC")
            self._observation.begin(at, full=full)
            shared = None
            if self._sharing.role == "follower" and not full:
                shared = await self._follow()
            if shared is None:
                shared = await self._look(at, full=full)
            self._publish(shared, began)
            self._historian.see(shared.sample)
            if self._sharing.leads and self._historian.is_due(shared.sample.now_ms):
                self._begin_writing(shared.sample.now_ms)
        self._tell(self.snapshot)
        return self.snapshot

    def _begin_writing(self, now_ms: float) -> None:
        """Write the minutes that are over, beside the samples."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(
                self._write(now_ms), name="arqscope-history"
            )

    async def _write(self, now_ms: float) -> None:
        try:
            async with asyncio.timeout(WRITE_S):
                await self._historian.write(self._sources.client(HOME), now_ms, self._holding)
        except (RedisError, OSError, TimeoutError) as error:
            if not self._unwritten:  # once: it is tried again with every sample
                log.warning("history not written", extra={"error": str(error)[:200]})
            self._unwritten = True
        else:
            self._unwritten = False

    async def _look(self, at: pd.Timestamp, *, full: bool) -> Shared:
        """Sample for ourselves, and store it when others follow us."""
        observation, sharing, sources = self._observation, self._sharing, self._sources

        def reader_of(server: str) -> Callable[[Redis], Any]:
            return lambda redis: observation.read_server(server, redis, also=sharing.ask)

        reads: dict[str, Callable[[Redis], Any]] = {
            **{server: reader_of(server) for server in observation.servers},
            "streams": observation.read_streams,
            "cache": observation.read_cache,
        }
        took_s = await asyncio.gather(
            *(sources.read(source, read, at, is_timed=not full) for source, read in reads.items())
        )
        sources.pace.note(max(took_s))
        shared = Shared(
            sample=observation.sample(sources.problems),
            problems=dict(sources.problems),
            stale_ms={s: t.timestamp() * 1000 for s, t in sources.stale_since.items()},
        )
        if "queue" not in sources.problems:
            try:
                async with asyncio.timeout(PROBE_S):
                    await sharing.settle(sources.clients["queue"])
                    observation.commands += await sharing.store(sources.clients["queue"], shared)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("sample not shared", extra={"error": str(error)[:200]})
        else:
            sharing.forget()
        return shared

    async def _follow(self) -> Shared | None:
        """Read what the leader stored; None: there is nothing fresh, so we must look ourselves."""
        observation, sources = self._observation, self._sources
        try:
            async with asyncio.timeout(PROBE_S):
                shared, commands = await self._sharing.fetch(sources.client("queue"))
                observation.commands += commands
                if shared is not None:
                    clients = {server: sources.client(server) for server in observation.servers}
                    queues = [row["queue"] for row in shared.sample.queues]
                    await observation.follow(queues, clients, shared.problems)
        except (RedisError, OSError, TimeoutError):
            shared = None
        if shared is None:
            self._sharing.forget()
            return None
        sources.take(shared.problems, shared.stale_ms)
        return shared

    def _publish(self, shared: Shared, began: float) -> None:
        observation, sources = self._observation, self._sources
        runs, observation.has_new_runs = observation.has_new_runs, False
        made = self._album.add(shared.sample, observation.runs if runs else None)
        cost_ms = (time.perf_counter() - began) * 1000
        self._costs.append(cost_ms)
        ordered = sorted(self._costs)
        self.snapshot = Snapshot(
            taken_at=pd.Timestamp(shared.sample.at_us, unit="us", tz="UTC"),
            problems=MappingProxyType(dict(sources.problems)),
            stale_since=MappingProxyType(dict(sources.stale_since)),
            cost_commands=observation.commands,
            cost_ms=cost_ms,
            cost_p95_ms=ordered[math.ceil(0.95 * len(ordered)) - 1],
            interval_s=sources.pace.interval_s,
            role=self._sharing.role,
            number=self.snapshot.number + 1,
            **made,
        )

    def _holding(self, queue: str) -> Redis:
        return self._sources.client(self.settings.placement.server_of(queue))


_collectors: (
    "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, ...], Collector]]"
)
_collectors = weakref.WeakKeyDictionary()


def collector_for(settings: Settings) -> Collector:
    """Return the one collector of the running event loop for these Redis URLs and queues."""
    of_loop = _collectors.setdefault(asyncio.get_running_loop(), {})
    key = (
        *(settings.url(source) for source in (*SOURCES, *settings.placement.names[1:])),
        *(repr(server.queues) for server in settings.placement.servers),
        *settings.stream_names,
        *settings.queue_names,
    )
    if key not in of_loop:
        of_loop[key] = Collector(settings)
    return of_loop[key]
