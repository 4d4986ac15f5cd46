"""One stream as a processor serves it: takes entries in, sees each through, acknowledges in batches.

An entry leaves the group only in the script that counts it (``ack_events``) or buries it
(``bury_event``); everything decided on the way is a value of ``attempt``.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.declarations import StreamPolicy
from app.enqueue import codec_of
from app.errors import BadRecord
from app.payloads.codec import safe_str
from app.settings import Settings
from app.wire.connections import Connections
from workers.event_router import Registry
from workers.events.attempt import (
    SUSPECT_DELIVERIES,
    Decision,
    Delivery,
    GiveUp,
    Handled,
    TryAgain,
    Wait,
    attempt,
    backoff_s,
    letter_of,
)
from workers.events.context import HANDLED_S, Effects
from workers.events.group import EventGroup, Settled, raw_payload, through
from workers.events.intake import Intake
from workers.events.lanes import Lanes

log = logging.getLogger("arqscope.events")

#: events one script call acknowledges: it holds Redis for about 2 ms
ACK_BATCH: Final = 1_000
#: handled events one script call shows among the recent ones; of more, an even sample is shown
SHOWN: Final = 40
#: times the entries a stream keeps, above which its length is an alert: a group does not keep up
TOO_LONG: Final = 2
#: characters of an entry above which the processor, not Redis, encodes it for its dead letter
LARGE: Final = 1_000_000


class EventSource:
    """Serve *policy*'s stream for *registry*; *blocking* reads for the groups."""

    def __init__(
        self,
        settings: Settings,
        policy: StreamPolicy,
        registry: Registry,
        lanes: Lanes["Held"],
        connections: Connections,
        blocking: Redis,
        *,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.policy = policy
        self.worker_id = ""  #: of the heartbeat, for dead letters
        self.outage = ""  #: what a handler needs and cannot reach at the moment
        self.group = EventGroup(
            connections.streams,
            blocking,
            stream=policy.name,
            group=policy.group,
            consumer=settings.consumer_name,
        )
        self.intake = Intake(
            self.group, connections.cache, settings, take=self._take, on_trimmed=self._note_trimmed
        )
        self._effects = Effects(connections, stream=policy.name, codec=codec_of(settings))
        self._registry = registry
        self._lanes = lanes
        self._is_stopping = is_stopping
        self._crashes = max(policy.attempts, SUSPECT_DELIVERIES + 1)
        self._settled: list[Delivery] = []
        self._trimmed: list[str] = []
        self._has_settled = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._is_long = False  #: whether the stream's length was reported

    # -- taking --------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        self._lanes.add(self._lane(delivery), (self, delivery))

    def _lane(self, delivery: Delivery) -> Hashable:
        """The partition whose events are handled in order; None where the entry has none."""
        for name in self.policy.partition:
            if value := delivery.fields.get(name):
                return self.policy.name, value
        return None

    # -- handling ------------------------------------------------------------------------------

    async def settle(self, delivery: Delivery) -> float | None:
        """Try once; return the seconds to wait before the next try, None when it is settled."""
        if delivery.is_waiting:
            delivery.is_waiting = False
            self.intake.make_room(-1)
        now = time.monotonic()
        if not self.intake.is_sure_of(delivery, now):
            await self.intake.insist(lambda: self.intake.make_sure_of(delivery))
        if delivery.is_lost:
            return None
        event = delivery.decode()
        if event is None:
            malformed = delivery.malformed or BadRecord("not an event")
            await self._bury(delivery, GiveUp("malformed", malformed))
            return None
        if not delivery.is_known and (delivery.deliveries > 1 or event.redriven_from):
            await self._recall(delivery)
        if delivery.must_begin and delivery.deliveries <= self._crashes:
            number = await self.intake.insist(lambda: self.group.begin(delivery.id))
            if not number:
                delivery.lose()
                self.intake.forget(delivery)
                return None
            delivery.deliveries, delivery.must_begin = number, False
        if delivery.deliveries > self._crashes:
            crash = RuntimeError(f"the processor died {delivery.deliveries - 1} times handling it")
            await self._bury(delivery, GiveUp("crash", crash))
            return None
        plan = delivery.plan = self._registry.plan(event.type)
        delivery.started = delivery.started or now
        try:
            decision = await attempt(
                delivery,
                event,
                plan,
                self._effects,
                self._note_done,
                is_stopping=self._is_stopping,
            )
        except asyncio.CancelledError:
            if not self._must_drop(delivery):
                raise
            return None
        finally:
            delivery.runner = None
        if isinstance(decision, Handled):
            self.outage = ""
            delivery.ended = time.monotonic()
            self._settled.append(delivery)
            self._has_settled.set()
            return None
        return await self._after(delivery, decision)

    def _must_drop(self, delivery: Delivery) -> bool:
        """Whether the runner was cancelled for this entry alone, being lost; it goes on then."""
        runner = asyncio.current_task()
        if self._is_stopping() or not delivery.is_lost or runner is None:
            return False
        while runner.cancelling():
            runner.uncancel()
        return True

    async def _after(self, delivery: Delivery, decision: Decision) -> float | None:
        """Do what an attempt that was not the last word asks for; seconds until the next one."""
        if isinstance(decision, Wait):
            self.outage = f"{type(decision.error).__name__}: {safe_str(decision.error, 200)}"
            log.warning("handler waits", extra={"entry": delivery.id, "error": self.outage})
            return self._backoff(delivery, backoff_s(3))
        self.outage = ""
        delivery.attempts = await self.intake.insist(lambda: self.group.note_failure(delivery.id))
        if isinstance(decision, TryAgain):
            failure = decision.error
            log.warning(
                "handler failed",
                extra={
                    "entry": delivery.id,
                    "type": delivery.event.type if delivery.event else "",
                    "attempt": delivery.attempts,
                    "error": f"{type(failure).__qualname__}: {safe_str(failure, 200)}",
                },
            )
            if delivery.attempts < self.policy.attempts:
                return self._backoff(delivery, backoff_s(delivery.attempts))
            reason = "timeout" if isinstance(failure, TimeoutError) else "attempts"
            decision = GiveUp(reason, failure)
        if isinstance(decision, GiveUp):
            await self._bury(delivery, decision)
        return None

    def _backoff(self, delivery: Delivery, wait_s: float) -> float:
        delivery.is_waiting = True
        self.intake.make_room(+1)
        return wait_s

    async def _recall(self, delivery: Delivery) -> None:
        """Ask once what became of an event delivered before."""
        delivery.attempts, delivery.done = await self.intake.insist(
            lambda: self.group.past(delivery.id, delivery.identity)
        )
        delivery.marks = {through(name) for name in delivery.done or ()}
        delivery.is_known = True

    async def _note_done(self, delivery: Delivery, handler: str) -> None:
        delivery.marks = {*(delivery.marks or ()), through(handler)}
        await self.intake.insist(
            lambda: self.group.note_done(delivery.identity, handler, HANDLED_S)
        )

    async def _bury(self, delivery: Delivery, decision: GiveUp) -> None:
        letter = letter_of(
            delivery,
            decision.reason,
            decision.error,
            stream=self.policy.name,
            worker=self.worker_id,
        )
        told = _told(delivery, "dead", str(letter["name"]))
        raw = raw_payload(delivery.fields) if _size(delivery.fields) > LARGE else b""

        async def bury() -> bool:
            nonlocal raw
            sent, raw = raw, b""  # what the line is too slow for is encoded in Redis after all
            return await self.group.bury(told, decision.reason, letter, sent)

        await self.intake.insist(bury)
        log.warning(
            "event buried",
            extra={
                "stream": self.policy.name,
                "entry": delivery.id,
                "attempt": delivery.attempts,
                "reason": decision.reason,
            },
        )
        self.intake.let_go(delivery.id, told)

    # -- acknowledging -------------------------------------------------------------------------

    def _note_trimmed(self, entry_id: str) -> None:
        """Settle an entry that was deleted while pending."""
        self._trimmed.append(entry_id)
        self._has_settled.set()

    async def acknowledge(self) -> None:
        """Acknowledge what is settled, for ever; as one batch whatever came while Redis was busy."""
        while True:
            await self._has_settled.wait()
            self._has_settled.clear()
            await self.intake.insist(self.flush)

    async def flush(self) -> None:
        """Acknowledge what is settled; what an error interrupts is acknowledged again."""
        async with self._flushing:
            await self._flush_trimmed()
            while self._settled:
                batch = self._settled[:ACK_BATCH]
                plain, told = _sorted_out(batch)
                reply = await self.group.acknowledge(plain, told)
                del self._settled[: len(batch)]
                known = {one.id: one for one in told if one.marks}
                lost, undone = set(reply.lost), set(reply.undone)
                for delivery in batch:
                    if delivery.id in undone:
                        self._do_again(delivery)
                    elif delivery.id in lost:
                        log.warning("somebody else settled an event", extra={"entry": delivery.id})
                        self.intake.forget(delivery)
                    else:
                        self.intake.let_go(delivery.id, known.get(delivery.id))

    def _do_again(self, delivery: Delivery) -> None:
        """Handle an event once more: Redis came back without effects it had answered."""
        log.warning("effects were forgotten", extra={"entry": delivery.id})
        delivery.done, delivery.marks, delivery.ended = None, None, 0.0
        self._take(delivery)

    async def _flush_trimmed(self) -> None:
        while self._trimmed:
            batch = self._trimmed[:ACK_BATCH]
            told = [
                Settled(id=one, identity=one, type="", handlers="", outcome="trimmed", ms=0)
                for one in batch
            ]
            lost = set((await self.group.acknowledge([], told)).lost)
            del self._trimmed[: len(batch)]
            for one in batch:
                self.intake.let_go(one)
            gone = [one for one in batch if one not in lost]
            if gone:
                await self.intake.alert(
                    "event-trimmed",
                    f"{len(gone)} pending entries of {self.policy.name} were deleted before they "
                    f"were handled, the first is {gone[0]}",
                )

    # -- keeping -------------------------------------------------------------------------------

    async def keep_house(self, gone_ms: int) -> None:
        """Delete consumers that are gone and own nothing; trim what every group is through with."""
        await self.group.prune_consumers(gone_ms)
        await self.group.trim(self.policy.keep)
        length = await self.group.length()
        was_long, self._is_long = self._is_long, length > TOO_LONG * self.policy.keep
        if self._is_long and not was_long:
            text = f"{self.policy.name} holds {length:,} entries that some group has yet to handle"
            log.error("stream grows", extra={"stream": self.policy.name, "entries": length})
            await self.intake.alert("event-stream-long", text)

    # -- ending --------------------------------------------------------------------------------

    async def leave(self, gone_ms: int) -> None:
        """Acknowledge what is settled and give the rest back, as if it had not been delivered."""
        try:
            await self.flush()
            after = ""
            while page := await self.group.pending(own=True, idle_ms=0, after=after):
                held = self.intake.held
                waiting = {one.id for one in page if one.id in held and held[one.id].must_begin}
                await self.group.give_back(sorted(waiting))
                await self.group.release([one.id for one in page if one.id not in waiting])
                after = page[-1].id
            await self.group.prune_consumers(gone_ms, leaving=self.group.consumer)
        except (RedisError, OSError) as error:
            log.warning("entries not given back", extra={"error": safe_str(error, 200)})


#: what the lanes carry: an entry and the stream it came from
Held = tuple[EventSource, Delivery]


def _sorted_out(batch: list[Delivery]) -> tuple[list[str], list[Settled]]:
    """Split handled events into those that are only counted and those that must or may be told."""
    plain: list[str] = []
    told: list[Settled] = []
    every = max(1, len(batch) // SHOWN)
    for number, one in enumerate(batch):
        matched = one.plan is not None and one.plan.is_matched
        is_shown = number % every == 0
        if is_shown or not matched or one.marks or one.deliveries > 1 or one.attempts:
            told.append(_told(one, "handled" if matched else "unmatched"))
        elif one.letter_id:
            told.append(_told(one, "handled"))
        else:
            plain.append(one.id)
    return plain, told


def _size(fields: Mapping[str, str]) -> int:
    return sum(map(len, fields)) + sum(map(len, fields.values()))


def _told(delivery: Delivery, outcome: str, kind: str = "") -> Settled:
    event, plan = delivery.event, delivery.plan
    return Settled(
        id=delivery.id,
        identity=delivery.identity,
        type=event.type if event else kind,
        handlers=plan.names if plan else "",
        outcome=outcome,
        ms=delivery.elapsed_ms,
        correlation_id=event.trace_id if event else "",
        letter_id=delivery.letter_id,
        marks=tuple(delivery.marks or ()),
    )
