"""The same system in a notebook: ``connect()`` gives live frames, charts and the dashboard object.

Everything that talks to Redis runs in a thread with an event loop of its own, so that the same calls
work in a script, in a plain interpreter and inside Jupyter's running loop.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import pandas as pd

from app import actions
from app.actions import ActionReport, Actor, Connections
from app.alert_history import backtest
from app.alert_rules import alert_rules
from app.causes import known_queues
from app.collector import Callback, Collector
from app.connections import connect as connect_redis
from app.enqueue import Enqueued, JobRequest
from app.errors import InvalidRequest, RedisUnavailable
from app.explanation import Explanation, explanation
from app.settings import Settings
from app.snapshot import Snapshot

__all__ = ["Scope", "connect"]

T = TypeVar("T")
#: s that one call may take before it is given up
PATIENCE_S: Final = 15.0


def connect(settings: Settings | None = None, **changes: Any) -> "Scope":
    """Connect to the three Redis of *settings* (default: the environment) and take a first sample.

    *changes* replace single settings (``redis_queue_url="redis://…"``). Raises SettingsError for
    malformed settings and RedisUnavailable when the queue Redis does not answer.
    """
    base = settings or Settings.load()
    return Scope(Settings(**{**base.model_dump(), **changes}) if changes else base)


def _connections(settings: Settings) -> Connections:
    return Connections(
        queue=connect_redis(settings.url("queue")),
        streams=connect_redis(settings.url("streams")),
        cache=connect_redis(settings.url("cache")),
    )


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="arqscope-notebook", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* in the thread's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def close(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


class KernelRelay:
    """A collector as components in a notebook see it: snapshots arrive on the kernel's own loop."""

    def __init__(self, collector: Collector, loop: asyncio.AbstractEventLoop | None) -> None:
        self._collector = collector
        self._loop = loop
        self.settings = collector.settings

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""
        return self._collector.snapshot

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with each snapshot, on the kernel's loop where there is one."""
        loop = self._loop
        if loop is None:
            return self._collector.subscribe(callback)

        def relay(snapshot: Snapshot) -> None:
            with suppress(RuntimeError):  # the kernel's loop is closed: nobody looks any more
                loop.call_soon_threadsafe(callback, snapshot)

        return self._collector.subscribe(relay)

    def unsubscribe(self, key: int) -> None:
        """Forget the subscriber *key*."""
        self._collector.unsubscribe(key)


class Scope:
    """Live view and control of one deployment. Use as a context manager, or ``close()`` it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loop = _Loop()
        self._collector = Collector(settings)
        self._connections = _connections(settings)
        self._actor = Actor(name="notebook", role="operator")
        self._loop.call(self._collector.start())
        problem = self.snapshot.problems.get("queue")
        if problem:
            self.close()
            raise RedisUnavailable(f"the queue Redis does not answer: {problem}")

    # -- frames --------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot; every frame of it belongs to the same moment."""
        return self._collector.snapshot

    def frame(self, name: str) -> pd.DataFrame:
        """Return a copy of one frame (columns, dtypes, units: ``app.frames``); KeyError else."""
        return self.snapshot.frame(name).copy()

    @property
    def queues(self) -> pd.DataFrame:
        """One row per queue: counts, rates, workers."""
        return self.frame("queues")

    @property
    def runs(self) -> pd.DataFrame:
        """The newest finished runs, oldest first."""
        return self.frame("runs")

    @property
    def workers(self) -> pd.DataFrame:
        """One row per live process."""
        return self.frame("workers")

    @property
    def dead_letters(self) -> pd.DataFrame:
        """Dead letters that wait for a decision or whose retry is under way."""
        return self.frame("dead_letters")

    @property
    def causes(self) -> pd.DataFrame:
        """Dead letters grouped by fingerprint, commonest first."""
        return self.frame("causes")

    @property
    def streams(self) -> pd.DataFrame:
        """One row per event stream."""
        return self.frame("streams")

    @property
    def history(self) -> pd.DataFrame:
        """One row per second and queue, since this scope was connected."""
        return self.frame("history")

    def refresh(self) -> Self:
        """Sample now instead of at the next tick."""
        self._loop.call(self._collector.sample())
        return self

    # -- control -------------------------------------------------------------------------------

    def enqueue(
        self, queue: str, name: str, data: Mapping[str, Any] | None = None, **options: Any
    ) -> Enqueued:
        """Put a job on *queue*; *options* are those of JobRequest (``delay_s``, ``id`` …)."""
        return self.enqueue_many(
            queue, [JobRequest(name=name, args=(dict(data or {}),), **options)]
        )[0]

    def enqueue_many(self, queue: str, requests: Iterable[JobRequest]) -> list[Enqueued]:
        """Put many jobs on *queue*; InvalidRequest before the first is sent when one is malformed."""
        wanted = list(requests)
        if not wanted:
            raise InvalidRequest("there is no job to enqueue", field="requests", hint="give one")
        return self._loop.call(
            actions.submit_jobs(self._connections, self.settings, self._actor, queue, wanted)
        )

    def publish(self, event_type: str, data: Any = None, **more: Any) -> ActionReport:
        """Publish one event; *more* are ``user_id workspace_id correlation_id event_id stream``."""
        return self._loop.call(
            actions.publish_event(
                self._connections,
                self.settings,
                self._actor,
                event_type,
                data,
                **{"source": "notebook", **more},
            )
        )

    def retry(self, source: str, letter_id: str) -> ActionReport:
        """Retry one dead letter; asked twice it still makes one job."""
        return self._loop.call(
            actions.retry_letter(self._connections, self.settings, self._actor, source, letter_id)
        )

    def discard(self, source: str, letter_id: str) -> ActionReport:
        """Give a dead letter up; undoable for 24 h."""
        return self._loop.call(
            actions.discard_letter(self._connections, self.settings, self._actor, source, letter_id)
        )

    # -- analyses ------------------------------------------------------------------------------

    def explain(self, fingerprint: str) -> Explanation:
        """Explain a cause: shared arguments, retry odds, other queues, what changed; NotFound."""
        made, settings = self._connections, self.settings

        async def ask() -> Explanation:
            queues = await known_queues(made.queue, settings.queue_names)
            return await explanation(
                made.queue, made.streams, settings.stream_name, queues, fingerprint
            )

        return self._loop.call(ask())

    def backtest(self, metric: str, **rule: Any) -> pd.DataFrame:
        """Say when a rule (as in [[alerts]]) would have fired over the last hour; SettingsError."""
        made = alert_rules([{"metric": metric, **rule}], "the rule")[0]
        snapshot = self.snapshot
        is_stream = metric in ("lag", "lag_s")
        return backtest(snapshot.stream_history if is_stream else snapshot.history, [made])

    # -- components ----------------------------------------------------------------------------

    def dashboard(self) -> Any:
        """Return the overview page of the server as one live object."""
        from app.pages.overview import Overview

        # the component acts on the kernel's loop, so it needs connections of that loop
        return Overview(
            self._relay(), self.settings, lambda: self._actor, _connections(self.settings)
        )

    def chart(self, name: str) -> Any:
        """Return one chart of the dashboard (``throughput``, ``backlog``, ``latency``), as of now."""
        from app.charts import chart_of_history

        return chart_of_history(name, self.history)

    def _relay(self) -> KernelRelay:
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        return KernelRelay(self._collector, loop)

    # -- life ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop sampling and close the connections."""

        async def end() -> None:
            await self._collector.stop()
            for client in (
                self._connections.queue,
                self._connections.streams,
                self._connections.cache,
            ):
                await client.aclose(close_connection_pool=True)

        if self._loop.loop.is_running():
            self._loop.call(end())
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """Show the queues as a table; pandas escapes every cell."""
        return str(self.queues.to_html(index=False, escape=True, na_rep="–"))  # noqa: RUF001

    def __repr__(self) -> str:
        at = self.snapshot.taken_at.strftime("%H:%M:%S")
        return f"<arqscope Scope of {len(self.queues)} queues, sampled {at} UTC>"
