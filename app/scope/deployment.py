"""A deployment as a notebook reaches it: what it answers and what it can be asked to do.

``Direct`` reaches it through its Redis, in a thread with an event loop of its own, so that the same
calls work in a script, in a plain interpreter and inside Jupyter's running loop.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

import pandas as pd

from app import actions
from app.actions import ActionReport, Actor, Connections
from app.analyses.forecast import Forecast
from app.analyses.verdicts import Verdict
from app.collector import Callback, Collector
from app.enqueue import Enqueued, JobRequest
from app.errors import ActionRefused, RedisUnavailable
from app.explanation import Explanation
from app.operations import Operation
from app.plans.ask import Ask
from app.plans.plan import Plan
from app.reader import JobDetail
from app.scope.inquiry import PATIENCE_S, Inquiry
from app.settings import Settings, masked_url
from app.snapshot import Snapshot
from app.wire.connections import GONE, explained

T = TypeVar("T")
#: what ``act`` may be asked for: each is the action of that name
VERBS: Final = frozenset(
    {
        "abort_job", "abort_operation", "archive_letter", "cancel_job", "discard_letter",
        "mark_deploy", "pause_operation", "pause_queue", "promote_job", "publish_event",
        "resume_operation", "resume_queue", "retry_letter", "set_concurrency", "start_operation", "undo_discard",
    }
)  # fmt: skip


class Deployment(Protocol):
    """What a scope needs of a deployment, however it is reached."""

    settings: Settings
    where: str  #: for people, without passwords

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""

    def refresh(self) -> None:
        """Take a sample now."""

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with each new snapshot, in a thread of the deployment."""

    def unsubscribe(self, key: int) -> None:
        """Stop calling."""

    def plan(self, ask: Ask) -> Plan:
        """What reading *ask* will send."""

    def read(self, ask: Ask) -> pd.DataFrame:
        """Carry the plan of *ask* out."""

    def act(self, verb: str, *given: Any, **more: Any) -> ActionReport:
        """Do the action called *verb*; role, read-only mode and audit as everywhere."""

    def submit(self, queue: str, requests: Sequence[JobRequest]) -> list[Enqueued]:
        """Put jobs on a queue."""

    def job(self, queue: str, job_id: str) -> JobDetail:
        """Everything about one job; NotFound."""

    def operation(self, operation_id: str) -> Operation:
        """One bulk action; NotFound."""

    def explain_cause(self, fingerprint: str) -> Explanation:
        """Why a cause strikes; NotFound."""

    def cause_periods(self) -> pd.DataFrame:
        """Deaths per cause and period."""

    def forecast(self, queue: str, workers: float | None) -> Forecast:
        """When a queue will be empty; NotFound."""

    def why(self, queue: str, job_id: str) -> Verdict:
        """Why a job is not running."""

    def as_of(self, at_ms: float) -> Snapshot:
        """The snapshot of then; NotFound."""

    def annotations(self, start_ms: float, end_ms: float) -> pd.DataFrame:
        """Deploys, pauses and operations of a range."""

    def page_connections(self) -> Connections:
        """What a page reads through, on the loop that calls it."""

    @property
    def actor(self) -> Actor:
        """Who acts."""

    def close(self) -> None:
        """Let go of everything."""


class Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="arqscope-notebook", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* in the thread's loop and return its result; RedisUnavailable when it takes too long."""
        asked = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return asked.result(PATIENCE_S)
        except TimeoutError as error:
            asked.cancel()
            raise RedisUnavailable(f"no answer within {PATIENCE_S:g} s") from error

    def close(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


def connections_of(settings: Settings) -> Connections:
    """Clients of the three roles, for the loop that uses them first."""
    return Connections.of(settings, timeout_s=PATIENCE_S)


class Direct(Inquiry):
    """A deployment reached through its three Redis."""

    def __init__(self, settings: Settings, actor: Actor) -> None:
        self.settings = settings
        self.actor = actor
        self.where = masked_url(settings.url("queue"))
        self._collector = Collector(settings)
        self.connections = connections_of(settings)
        self._of_pages: Connections | None = None
        self._loop = Loop()
        try:
            self._loop.call(self._collector.start())
            problem = self.snapshot.problems.get("queue")
            if problem:
                raise RedisUnavailable(
                    f"the queue Redis does not answer: {problem}. Is it running, and is "
                    "REDIS_QUEUE_URL right?"
                )
        except BaseException:
            self.close()
            raise

    # -- samples -------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot; every frame of it belongs to the same moment."""
        return self._collector.snapshot

    def refresh(self) -> None:
        """Sample now instead of at the next tick."""
        self._loop.call(self._collector.sample())

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with each new snapshot, in the sampling thread."""
        return self._collector.subscribe(callback)

    def unsubscribe(self, key: int) -> None:
        """Forget the subscriber *key*."""
        self._collector.unsubscribe(key)

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* in the thread's loop and wait for it."""
        try:
            return self._loop.call(work)
        except GONE as error:
            raise explained(error, self.where) from error

    # -- acting --------------------------------------------------------------------------------

    def act(self, verb: str, *given: Any, **more: Any) -> ActionReport:
        """Do the action called *verb*."""
        if verb not in VERBS:
            raise ActionRefused(f"no action {verb!r}; there are {', '.join(sorted(VERBS))}")
        action: Callable[..., Coroutine[Any, Any, ActionReport]] = getattr(actions, verb)
        return self.ask(action(self.connections, self.settings, self.actor, *given, **more))

    def submit(self, queue: str, requests: Sequence[JobRequest]) -> list[Enqueued]:
        """Put jobs on *queue*."""
        return self.ask(
            actions.submit_jobs(self.connections, self.settings, self.actor, queue, requests)
        )

    def page_connections(self) -> Connections:
        """A page acts on the kernel's loop, so it needs connections of that loop: one set for all pages."""
        if self._of_pages is None:
            self._of_pages = connections_of(self.settings)
        return self._of_pages

    # -- life ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop sampling and close the connections; twice does it once."""
        if not self._loop.loop.is_running():
            return

        async def end() -> None:
            await self._collector.stop()
            await self.connections.close()

        with suppress(RedisUnavailable):
            self._loop.call(end())
        self._loop.close()


def report_of(answer: Mapping[str, Any]) -> ActionReport:
    """The report an answer of the API holds."""
    return ActionReport(
        action=str(answer.get("action", "")), changed=bool(answer.get("changed")),
        detail=answer.get("detail") or {}, message=str(answer.get("message", "")),
    )  # fmt: skip
