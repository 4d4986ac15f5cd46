"""Inquiries: what can be asked of a deployment's Redis, as plain calls; how they get to a loop is the asker's.

The frames of a notebook and of an incident bundle come from here, whichever process makes them.
"""

import asyncio
import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import pandas as pd

from app.analyses.forecast import MINUTES, Forecast, drain_forecast
from app.analyses.verdicts import Verdict, why_not_running
from app.annals import past
from app.enqueue import codec_of
from app.errors import NotFound, RedisUnavailable
from app.explanation import Explanation, explanation
from app.letters.causes import known_queues
from app.letters.tallies import read_tallies, tallies_frame
from app.operations import Operation, read
from app.plans.ask import Ask
from app.plans.commands import plan_of
from app.plans.plan import Plan
from app.reader import JobDetail, find_job, job_facts
from app.settings import Settings, masked_url
from app.snapshot import Snapshot
from app.wire.batch import Batch, into
from app.wire.connections import GONE, Connections, explained

T = TypeVar("T")
#: s that one question may take before it is given up
PATIENCE_S: Final = 15.0


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


class Inquiry(ABC):
    """Questions, each carried out with *connections*, on the loop that ``ask`` reaches."""

    settings: Settings
    connections: Connections
    where: str  #: for people, without passwords

    @property
    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""

    @abstractmethod
    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* where the connections belong, and wait for it."""

    def plan(self, ask: Ask) -> Plan:
        """The commands *ask* will send."""
        return plan_of(ask, self.snapshot, now_ms=time.time() * 1000, codec=codec_of(self.settings))

    def read(self, ask: Ask) -> pd.DataFrame:
        """Send the commands of *ask* and make its frame."""
        plan = self.plan(ask)
        with uncollected():
            replies = self.ask(self._send(plan)) if plan.steps else []
            if plan.follow is not None:
                plan = plan.follow(replies)
                replies = self.ask(self._send(plan)) if plan.steps else []
            if plan.make is None:
                raise NotFound("frame", ask.what)
            return ask.finish(plan.make(replies))

    async def _send(self, plan: Plan) -> list[Any]:
        """One round trip per Redis; what Redis refused is None."""
        answers: dict[str, Any] = {}
        clients = {**self.connections.queue_servers, "streams": self.connections.streams}
        batches: dict[str, Batch] = {}
        for number, step in enumerate(plan.steps):
            place = self.connections.placement.server_of(step.queue) if step.queue else step.where
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
        found = self.ask(
            find_job(
                self.connections,
                job_id,
                queues=[queue] if queue else [],
                codec=codec_of(self.settings),
            )
        )
        if found is None:
            raise NotFound("job", job_id)
        return found

    def operation(self, operation_id: str) -> Operation:
        """One bulk action."""
        return self.ask(read(self.connections.queue, operation_id))

    def explain_cause(self, fingerprint: str) -> Explanation:
        """Shared arguments, retry odds, other queues, what changed before."""
        made, settings = self.connections, self.settings

        async def ask() -> Explanation:
            queues = await known_queues(made, settings.queue_names)
            return await explanation(made, settings.stream_name, queues, fingerprint)

        return self.ask(ask())

    def cause_periods(self) -> pd.DataFrame:
        """Deaths per cause in the last hours and days, with what is not known of them."""
        snapshot = self.snapshot
        names = [str(name) for name in snapshot.causes["fingerprint"]]
        counting = snapshot.is_counting
        told = self.ask(read_tallies(self.connections.queue, names, is_counting=counting))
        return tallies_frame(snapshot.causes, told)

    def forecast(self, queue: str, workers: float | None) -> Forecast:
        """When *queue* will be empty, with *workers* in place of those there are."""
        found = self.snapshot.queues.to_dict("records")
        row = next((one for one in found if one["queue"] == queue), None)
        if row is None:
            raise NotFound("queue", queue, [str(one["queue"]) for one in found])
        now_ms = time.time() * 1000
        minutes = self.ask(
            past.history(
                self.connections.queue,
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
        return why_not_running(self.ask(job_facts(self.connections.holding(queue), queue, job_id)))

    def as_of(self, at_ms: float) -> Snapshot:
        """The last moment stored before *at_ms*."""
        made = self.connections
        return self.ask(
            past.as_of(
                made.queue, made.streams, at_ms, now_ms=time.time() * 1000, holding=made.holding
            )
        )

    def annotations(self, start_ms: float, end_ms: float) -> pd.DataFrame:
        """Deploys, pauses and operations of a range."""
        return self.ask(past.annotations(self.connections.queue, start_ms, end_ms))


class FromThread(Inquiry):
    """Questions of a thread beside *loop*, whose connections are used; never call it on the loop itself."""

    def __init__(
        self,
        settings: Settings,
        connections: Connections,
        snapshot: Snapshot,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.settings, self.connections = settings, connections
        self.where = masked_url(settings.url("queue"))
        self._snapshot, self._loop = snapshot, loop

    @property
    def snapshot(self) -> Snapshot:
        """The one it was made with: all answers are about the same moment."""
        return self._snapshot

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* on the loop; RedisUnavailable when it fails or takes too long."""
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result(PATIENCE_S)
        except TimeoutError as error:
            asked.cancel()
            raise RedisUnavailable(f"no answer within {PATIENCE_S:g} s") from error
        except GONE as error:
            raise explained(error, self.where) from error


__all__ = ["PATIENCE_S", "FromThread", "Inquiry"]
