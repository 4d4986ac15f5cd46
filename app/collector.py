"""The collector: samples every Redis once per interval and publishes one immutable Snapshot.

One per process and event loop (``collector_for``); however many pages look, Redis is read once. A
source that is down costs its own numbers only: they become NaN, the rest goes on.
"""

import asyncio
import logging
import math
import time
import weakref
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis

from app.connections import connect
from app.observation import Observation
from app.settings import Settings, masked_url
from app.snapshot import Snapshot

log = logging.getLogger("arqscope.collector")

SOURCES: Final = ("queue", "streams", "cache")
#: a healthy Redis gets this long to answer a sample
TIMEOUT_S: Final = 1.5
#: one with a problem gets less, so that the others keep their pace
PROBE_S: Final = 0.3

Callback = Callable[[Snapshot], object]


class Collector:
    """Samples, remembers an hour, tells subscribers. Belongs to the event loop it is started in."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.snapshot = Snapshot.empty()
        self._observation = Observation(settings)
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
        interval = self.settings.sample_interval_s
        due = time.monotonic()
        while True:
            try:
                await self.sample(full=self.snapshot.number == 0)
            except Exception:
                log.exception("sample failed")
            due += interval
            behind = time.monotonic() - due
            if behind > 0:  # ticks that were missed are skipped, not caught up
                due += math.ceil(behind / interval) * interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def sample(self, *, full: bool = True) -> Snapshot:
        """Read all sources once, publish and return the new snapshot.

        *full* reads everything; the timer's samples read slowly changing things (dead letters,
        histograms, INFO) in turn, or at once after their counters moved. Never raises for a Redis
        that is down: ``problems`` says so.
        """
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            began = time.perf_counter()
            at = pd.Timestamp.now("UTC").as_unit("us")
            observation = self._observation
            observation.begin(at, full=full)
            reads = (observation.read_queue, observation.read_streams, observation.read_cache)
            await asyncio.gather(
                *(self._read(source, read, at) for source, read in zip(SOURCES, reads, strict=True))
            )
            self.snapshot = Snapshot(
                taken_at=at,
                problems=MappingProxyType(dict(self._problems)),
                stale_since=MappingProxyType(dict(self._stale_since)),
                cost_commands=observation.commands,
                number=self.snapshot.number + 1,
                **observation.frames(self._problems),
                cost_ms=(time.perf_counter() - began) * 1000,
            )
        self._tell(self.snapshot)
        return self.snapshot

    async def _read(self, source: str, read: Callable[[Redis], Any], at: pd.Timestamp) -> None:
        url = self.settings.url(source)
        if source not in self._clients:
            self._clients[source] = connect(
                url, timeout_s=TIMEOUT_S, retries=0, max_connections=4, protocol=2
            )
        patience = PROBE_S if source in self._problems else TIMEOUT_S
        try:
            async with asyncio.timeout(patience):
                await read(self._clients[source])
        except Exception as error:
            if source not in self._problems:
                self._stale_since[source] = self._good_at.get(source, at)
                log.warning("source lost", extra={"source": source, "url": masked_url(url)})
            text = str(error)[:200] or f"no answer within {patience:g} s"
            self._problems[source] = f"{masked_url(url)}: {type(error).__name__}: {text}"
        else:
            self._good_at[source] = at
            if self._problems.pop(source, None):
                log.info("source back", extra={"source": source})
            self._stale_since.pop(source, None)


_collectors: (
    "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, ...], Collector]]"
)
_collectors = weakref.WeakKeyDictionary()


def collector_for(settings: Settings) -> Collector:
    """Return the one collector of the running event loop for these Redis URLs and queues."""
    of_loop = _collectors.setdefault(asyncio.get_running_loop(), {})
    key = (
        *(settings.url(source) for source in SOURCES),
        *settings.stream_names,
        *settings.queue_names,
    )
    if key not in of_loop:
        of_loop[key] = Collector(settings)
    return of_loop[key]
