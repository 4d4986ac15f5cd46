"""A deployment as a notebook reaches it: what it answers and what it can be asked to do.

``Direct`` reaches it through its Redis, in a thread with an event loop of its own, so that the same
calls work in a script, in a plain interpreter and inside Jupyter's running loop.
"""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

import pandas as pd

from app import actions, past
from app.actions import ActionReport, Actor, Connections
from app.analyses.forecast import MINUTES, Forecast, drain_forecast
from app.analyses.verdicts import Verdict, why_not_running
from app.batch import Batch, into
from app.causes import known_queues
from app.collector import Callback, Collector
from app.connections import GONE, explained
from app.enqueue import Enqueued, JobRequest, codec_of
from app.errors import ActionRefused, NotFound, RedisUnavailable
from app.explanation import Explanation, explanation
from app.operations import Operation, read
from app.query_plan import Ask, Plan, plan_of
from app.reader import JobDetail, find_job, job_facts
from app.settings import Settings, masked_url
from app.snapshot import Snapshot

T = TypeVar("T")
#: s that one call may take before it is given up
PATIENCE_S: Final = 15.0
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


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no cyclic garbage meanwhile: a large answer holds none, and looking through it costs
    more than reading it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def connections_of(settings: Settings) -> Connections:
    """Clients of the three roles, for the loop that uses them first."""
    return Connections.of(settings, timeout_s=PATIENCE_S)


class Direct:
    """A deployment reached through its three Redis."""

    def __init__(self, settings: Settings, actor: Actor) -> None:
        self.settings = settings
        self.actor = actor
        self.where = masked_url(settings.url("queue"))
        self._codec = codec_of(settings)
        self._collector = Collector(settings)
        self._connections = connections_of(settings)
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

    # -- reading -------------------------------------------------------------------------------

    def plan(self, ask: Ask) -> Plan:
        """The commands *ask* will send."""
        return plan_of(ask, self.snapshot, now_ms=time.time() * 1000, codec=self._codec)

    def read(self, ask: Ask) -> pd.DataFrame:
        """Send the commands of *ask* and make its frame."""
        plan = self.plan(ask)
        with uncollected():
            replies = self._loop.call(self._send(plan)) if plan.steps else []
            if plan.follow is not None:
                plan = plan.follow(replies)
                replies = self._loop.call(self._send(plan)) if plan.steps else []
            if plan.make is None:
                raise NotFound("frame", ask.what)
            return ask.finish(plan.make(replies))

    async def _send(self, plan: Plan) -> list[Any]:
        """One round trip per Redis; what Redis refused is None."""
        answers: dict[str, Any] = {}
        clients = {**self._connections.queue_servers, "streams": self._connections.streams}
        batches: dict[str, Batch] = {}
        for number, step in enumerate(plan.steps):
            place = self._connections.placement.server_of(step.queue) if step.queue else step.where
            batch = batches.setdefault(place, Batch(clients[place]))
            ask = batch.ask_bytes if step.as_bytes else batch.ask_raw
            ask(into(answers, str(number)), *step.command)
        try:
            await asyncio.gather(*(batch.run() for batch in batches.values()))
        except GONE as error:
            raise explained(error, self.where) from error
        return [answers.get(str(number)) for number in range(len(plan.steps))]

    def job(self, queue: str, job_id: str) -> JobDetail:
        """Everything about one job."""
        found = self._asked(
            find_job(self._connections, job_id, queues=[queue] if queue else [], codec=self._codec)
        )
        if found is None:
            raise NotFound("job", job_id)
        return found

    def operation(self, operation_id: str) -> Operation:
        """One bulk action."""
        return self._asked(read(self._connections.queue, operation_id))

    def explain_cause(self, fingerprint: str) -> Explanation:
        """Shared arguments, retry odds, other queues, what changed before."""
        made, settings = self._connections, self.settings

        async def ask() -> Explanation:
            queues = await known_queues(made, settings.queue_names)
            return await explanation(made, settings.stream_name, queues, fingerprint)

        return self._asked(ask())

    def forecast(self, queue: str, workers: float | None) -> Forecast:
        """When *queue* will be empty, with *workers* in place of those there are."""
        found = self.snapshot.queues.to_dict("records")
        row = next((one for one in found if one["queue"] == queue), None)
        if row is None:
            raise NotFound("queue", queue, [str(one["queue"]) for one in found])
        now_ms = time.time() * 1000
        minutes = self._asked(
            past.history(
                self._connections.queue,
                queue,
                now_ms - (MINUTES + 1) * 60_000,
                now_ms,
                now_ms=now_ms,
            )
        )
        return drain_forecast(
            minutes,
            backlog=float(row["waiting"] + row["running"]),
            workers=float(row["workers"]),
            what_if_workers=workers,
            slots=float(row["slots"]),
            busy=float(row["busy"]),
        )

    def why(self, queue: str, job_id: str) -> Verdict:
        """Why a job is not running."""
        return why_not_running(
            self._asked(job_facts(self._connections.holding(queue), queue, job_id))
        )

    def as_of(self, at_ms: float) -> Snapshot:
        """The last moment stored before *at_ms*."""
        made = self._connections
        return self._asked(past.as_of(made.queue, made.streams, at_ms, now_ms=time.time() * 1000))

    def annotations(self, start_ms: float, end_ms: float) -> pd.DataFrame:
        """Deploys, pauses and operations of a range."""
        return self._asked(past.annotations(self._connections.queue, start_ms, end_ms))

    def _asked(self, work: Coroutine[Any, Any, T]) -> T:
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
        return self._asked(action(self._connections, self.settings, self.actor, *given, **more))

    def submit(self, queue: str, requests: Sequence[JobRequest]) -> list[Enqueued]:
        """Put jobs on *queue*."""
        return self._asked(
            actions.submit_jobs(self._connections, self.settings, self.actor, queue, requests)
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
            await self._connections.close()

        with suppress(RedisUnavailable):
            self._loop.call(end())
        self._loop.close()


def report_of(answer: Mapping[str, Any]) -> ActionReport:
    """The report an answer of the API holds."""
    return ActionReport(
        action=str(answer.get("action", "")), changed=bool(answer.get("changed")),
        detail=answer.get("detail") or {}, message=str(answer.get("message", "")),
    )  # fmt: skip
