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
from app.settings import Settings, masked_url
from app.snapshot import Snapshot
from app.wire.batch import Batch
from app.wire.connections import connect

log = logging.getLogger("arqscope.collector")

SOURCES: Final = ("queue", "streams", "cache")
#: a healthy Redis gets this long to answer a sample
TIMEOUT_S: Final = 1.5
#: one with a problem gets less, so that the others keep their pace
PROBE_S: Final = 0.3
#: and is asked beside the samples, each time for this long
PROBE_PATIENCE_S: Final = 5.0
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
        self._pace = Pace(settings.sample_interval_s)
        self._costs: deque[float] = deque(maxlen=COSTS_KEPT)
        self._probes: dict[str, asyncio.Task[float]] = {}
        self._clients: dict[str, Redis] = {}
        self._problems: dict[str, str] = {}
        self._good_at: dict[str, pd.Timestamp] = {}
        self._stale_since: dict[str, pd.Timestamp] = {}
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
            *self._probes.values(),
            *(task for task in (self._writing, self._looking) if task is not None),
        ]
        self._looking = None
        for one in beside:
            one.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        self._probes.clear()
        if "queue" in self._clients and "queue" not in self._problems:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_S):
                    await self._sharing.resign(self._clients["queue"])
        clients, self._clients = self._clients, {}
        await asyncio.gather(
            *(client.aclose(close_connection_pool=True) for client in clients.values()),
            return_exceptions=True,
        )

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
            interval = self._pace.interval_s
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
            redis = self._client(server) if clients is None else clients[server]
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
                await self._historian.write(self._client(HOME), now_ms, self._holding)
        except (RedisError, OSError, TimeoutError) as error:
            if not self._unwritten:  # once: it is tried again with every sample
                log.warning("history not written", extra={"error": str(error)[:200]})
            self._unwritten = True
        else:
            self._unwritten = False

    async def _look(self, at: pd.Timestamp, *, full: bool) -> Shared:
        """Sample for ourselves, and store it when others follow us."""
        observation, sharing = self._observation, self._sharing

        def reader_of(server: str) -> Callable[[Redis], Any]:
            return lambda redis: observation.read_server(server, redis, also=sharing.ask)

        reads: dict[str, Callable[[Redis], Any]] = {
            **{server: reader_of(server) for server in observation.servers},
            "streams": observation.read_streams,
            "cache": observation.read_cache,
        }
        took_s = await asyncio.gather(
            *(self._read(source, read, at, is_timed=not full) for source, read in reads.items())
        )
        self._pace.note(max(took_s))
        shared = Shared(
            sample=observation.sample(self._problems),
            problems=dict(self._problems),
            stale_ms={s: t.timestamp() * 1000 for s, t in self._stale_since.items()},
        )
        if "queue" not in self._problems:
            try:
                async with asyncio.timeout(PROBE_S):
                    await sharing.settle(self._clients["queue"])
                    observation.commands += await sharing.store(self._clients["queue"], shared)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("sample not shared", extra={"error": str(error)[:200]})
        else:
            sharing.forget()
        return shared

    async def _follow(self) -> Shared | None:
        """Read what the leader stored; None: there is nothing fresh, so we must look ourselves."""
        observation, redis = self._observation, self._client("queue")
        try:
            async with asyncio.timeout(PROBE_S):
                shared, commands = await self._sharing.fetch(redis)
                observation.commands += commands
                if shared is not None:
                    clients = {server: self._client(server) for server in observation.servers}
                    queues = [row["queue"] for row in shared.sample.queues]
                    await observation.follow(queues, clients, shared.problems)
        except (RedisError, OSError, TimeoutError):
            shared = None
        if shared is None:
            self._sharing.forget()
            return None
        self._problems = dict(shared.problems)
        self._stale_since = {
            source: pd.Timestamp(int(ms * 1000), unit="us", tz="UTC")
            for source, ms in shared.stale_ms.items()
        }
        return shared

    def _publish(self, shared: Shared, began: float) -> None:
        observation = self._observation
        runs, observation.has_new_runs = observation.has_new_runs, False
        made = self._album.add(shared.sample, observation.runs if runs else None)
        cost_ms = (time.perf_counter() - began) * 1000
        self._costs.append(cost_ms)
        ordered = sorted(self._costs)
        self.snapshot = Snapshot(
            taken_at=pd.Timestamp(shared.sample.at_us, unit="us", tz="UTC"),
            problems=MappingProxyType(dict(self._problems)),
            stale_since=MappingProxyType(dict(self._stale_since)),
            cost_commands=observation.commands,
            cost_ms=cost_ms,
            cost_p95_ms=ordered[math.ceil(0.95 * len(ordered)) - 1],
            interval_s=self._pace.interval_s,
            role=self._sharing.role,
            number=self.snapshot.number + 1,
            **made,
        )

    def _holding(self, queue: str) -> Redis:
        return self._client(self.settings.placement.server_of(queue))

    def _client(self, source: str) -> Redis:
        if source not in self._clients:
            # the collector times a whole sample; a time-out per reply would cost more than the reply
            self._clients[source] = connect(
                self.settings.url(source),
                timeout_s=TIMEOUT_S,
                retries=0,
                max_connections=4,
                protocol=2,
                socket_timeout=None,
            )
        return self._clients[source]

    async def _read(
        self, source: str, read: Callable[[Redis], Any], at: pd.Timestamp, *, is_timed: bool
    ) -> float:
        """Read one source; return the seconds it took, 0 when it did not answer."""
        url = self.settings.url(source)
        client = self._client(source)
        began = time.monotonic()
        patience = self._patience(source, is_timed=is_timed)
        try:
            if not patience:
                raise TimeoutError(self._silence(source, at))
            async with asyncio.timeout(patience):
                await read(client)
        except Exception as error:
            if source not in self._problems:
                self._stale_since[source] = self._good_at.get(source, at)
                log.warning(
                    "source lost",
                    extra={"source": source, "url": masked_url(url), "error": str(error)[:200]},
                )
            if patience:
                text = str(error)[:200] or f"no answer within {patience:g} s"
                self._problems[source] = f"{masked_url(url)}: {type(error).__name__}: {text}"
            return 0.0
        self._good_at[source] = at
        if self._problems.pop(source, None):
            log.info("source back", extra={"source": source})
        self._stale_since.pop(source, None)
        self._probes.pop(source, None)
        return time.monotonic() - began

    def _patience(self, source: str, *, is_timed: bool) -> float:
        """Seconds a source gets for this sample; 0: it is known not to answer, do not wait for it.

        A timed sample does not wait for a source with a problem: a probe beside it finds out when,
        and how fast, it answers again, so that the others keep their pace.
        """
        if not is_timed:
            return PROBE_S if source in self._problems else TIMEOUT_S
        if source not in self._problems:
            return min(TIMEOUT_S, max(0.5, 0.8 * self._pace.interval_s))
        probe = self._probes.get(source)
        if probe is None or (probe.done() and not _answered(probe)):
            self._probes[source] = asyncio.get_running_loop().create_task(
                self._probe(self._client(source)), name=f"arqscope-probe-{source}"
            )
            return 0.0
        if not probe.done():
            return 0.0
        self._pace.note(probe.result())
        return min(TIMEOUT_S, max(PROBE_S, 3 * probe.result()))

    async def _probe(self, redis: Redis) -> float:
        """Return the seconds Redis takes to answer; what redis-py raises when it does not."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_PATIENCE_S):
                batch = Batch(redis)
                batch.ask(_heard, "PING")
                await batch.run()
        except BaseException:
            await redis.connection_pool.disconnect(inuse_connections=False)
            raise
        return time.monotonic() - began

    def _silence(self, source: str, at: pd.Timestamp) -> str:
        since = self._stale_since.get(source, at)
        return f"no answer for {(at - since).total_seconds():.0f} s"


def _heard(reply: object) -> None:
    """Take the answer to a PING."""


def _answered(probe: "asyncio.Task[float]") -> bool:
    return not probe.cancelled() and probe.exception() is None


class Pace:
    """How long to wait between samples: longer, up to three times, while Redis is slow.

    Three times, because charts call more than 3.5 intervals without a sample a gap.
    """

    def __init__(self, interval_s: float) -> None:
        self._base_s = interval_s
        self._factor = 1.0

    @property
    def interval_s(self) -> float:
        """Seconds between two samples now."""
        return self._base_s * self._factor

    def note(self, took_s: float) -> None:
        """Take the seconds the slowest source took for a sample."""
        if took_s > 0.4 * self.interval_s:
            self._factor = min(3.0, self._factor * 1.5)
        elif took_s < 0.1 * self.interval_s:
            self._factor = max(1.0, self._factor / 1.2)


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
