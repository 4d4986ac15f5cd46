"""The event processor: reads a stream in a consumer group, runs handlers, loses and doubles nothing.

Own pending entries come first, then orphans of processors that went away, then new ones. Entries of
one partition (workspace, else user) are handled in order, partitions beside each other. An entry
leaves the group only in the script that counts it (``ack_events``) or buries it (``bury_event``).
"""

import asyncio
import logging
import random
import signal
import time
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from app import logs
from app.connections import connect
from app.enqueue import codec_of
from app.errors import BadRecord
from app.payload import safe_str
from app.settings import Settings
from workers.cancellation import end
from workers.event_attempt import (
    SUSPECT_DELIVERIES,
    Delivery,
    GiveUp,
    Handled,
    TryAgain,
    Wait,
    attempt,
    backoff_s,
    letter_of,
)
from workers.event_context import HANDLED_S, Effects
from workers.event_group import EventGroup, Settled
from workers.event_intake import Intake
from workers.event_lanes import Lanes, Slots
from workers.event_router import Registry, load_handlers
from workers.heartbeat import Heartbeat

try:
    import uvloop
except ImportError:  # no wheel for this platform: asyncio's own loop serves
    uvloop = None  # type: ignore[assignment]

log = logging.getLogger("arqscope.events")
R = TypeVar("R")

ACK_BATCH: Final = 200
HOUSEKEEPING_S: Final = 30.0
#: s a stopping processor spends on giving back what it holds, when Redis is away
GOODBYE_S: Final = 3.0


class EventProcessor:
    """Handle the events of ``settings.stream_name`` until stopped; several may run side by side."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        block_s = settings.block_time / 1000
        self._settings = settings
        self._registry = registry
        self._streams = connect(settings.url("streams"), timeout_s=5, retries=2)
        # A repeated XREADGROUP would skip the entries of a lost reply, so this client never repeats.
        self._blocking = connect(
            settings.url("streams"), timeout_s=block_s + 5, retries=0, max_connections=2
        )
        self._queue = connect(settings.url("queue"))
        self._cache = connect(settings.url("cache"))
        self._stream = settings.stream_name
        self._effects = Effects(
            self._streams,
            self._queue,
            self._cache,
            stream=self._stream,
            codec=codec_of(settings),
        )
        self._heartbeat = Heartbeat(self._queue, "events", self._stream, describe=self._describe)
        self._group = EventGroup(
            self._streams,
            self._blocking,
            stream=self._stream,
            group=settings.stream_consumer_group,
            consumer=settings.consumer_name,
        )
        self._intake = Intake(
            self._group,
            self._cache,
            settings,
            take=self._take,
            on_trimmed=self._note_trimmed,
        )
        self._lease_ms = int(settings.lease_s * 1000)
        self._slots = Slots(settings.concurrency)
        self._lanes: Lanes[Delivery] = Lanes(self._settle)
        self._settled: list[Settled] = []
        self._has_settled = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._outage = ""  #: what a handler needs and cannot reach at the moment
        self._drain_s = settings.drain_s

    # -- life ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take no new entry and drain; called again, do not wait for running handlers."""
        if self._stopping.is_set():
            self._drain_s = 0.0
        self._stopping.set()

    async def run(self) -> None:
        """Process until ``stop``; returns when everything held is settled or given back."""
        await self._heartbeat.start()
        fault = self._lanes.fault = asyncio.get_running_loop().create_future()
        tasks: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._acknowledge(), name="acknowledge"),
            asyncio.create_task(self._intake.keep_held(), name="keep-held"),
            asyncio.create_task(self._keep_house(), name="keep-house"),
        }
        reading = asyncio.create_task(self._intake.read(), name="read")
        stopped = asyncio.create_task(self._stopping.wait(), name="stopped")
        log.info(
            "event processor started",
            extra={"stream": self._stream, "consumer": self._group.consumer},
        )
        try:
            ended, _ = await asyncio.wait(
                {*tasks, reading, stopped, fault}, return_when=asyncio.FIRST_COMPLETED
            )
            self._stopping.set()
            for one in ended:  # anything but a stop is a fault of ours: die loudly
                one.result()
            await end([reading])
            await self._lanes.drain(self._drain_s)
            async with asyncio.timeout(GOODBYE_S):
                await self._intake.insist(self._flush)
        finally:
            fault.cancel()
            await end([*tasks, reading, stopped])
            await self._leave()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._flush()
                own = await self._group.pending(own=True, idle_ms=0)
                await self._group.release([entry.id for entry in own])
                await self._group.prune_consumers(self._gone_ms, leaving=self._group.consumer)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("entries not given back", extra={"error": safe_str(error, 200)})
        await self._heartbeat.stop()
        for client in (self._streams, self._blocking, self._queue, self._cache):
            await client.aclose(close_connection_pool=True)
        log.info("event processor stopped", extra={"held": len(self._intake.held)})

    def _describe(self) -> Mapping[str, Any]:
        state = "draining" if self._stopping.is_set() else "running"
        trouble = self._intake.trouble or self._outage
        return {
            "slots": self._settings.concurrency,
            "busy": self._slots.taken,
            "state": "degraded" if trouble else state,
            "trouble": trouble,
            "functions": ",".join(self._registry.patterns),
            "held": len(self._intake.held),
        }

    # -- handling ------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        self._lanes.add(delivery.partition, delivery)

    async def _settle(self, delivery: Delivery) -> None:
        """See one entry through: attempts, backoff, acknowledgement or dead letter."""
        while not self._stopping.is_set():
            async with self._slots.take(alone=delivery.is_suspect):
                if self._stopping.is_set():
                    return
                wait_s = await self._attempt(delivery)
            if wait_s is None:
                return
            delivery.is_waiting = True
            self._intake.make_room()
            try:
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
            except TimeoutError:
                delivery.is_waiting = False

    async def _attempt(self, delivery: Delivery) -> float | None:
        """Try once; return the seconds to wait before the next try, None when it is settled."""
        delivery.started = delivery.started or time.monotonic()
        event = delivery.event
        if event is None:
            malformed = delivery.malformed or BadRecord("not an event")
            await self._bury(delivery, GiveUp("malformed", malformed), "")
            return None
        await self._recall(delivery)
        done = delivery.done = delivery.done if delivery.done is not None else set()
        if delivery.deliveries > max(self._settings.event_attempts, SUSPECT_DELIVERIES + 1):
            crash = RuntimeError(f"the processor died {delivery.deliveries - 1} times handling it")
            await self._bury(delivery, GiveUp("crash", crash), "")
            return None
        matching = self._registry.matching(event.type)
        handlers = matching or self._registry.unmatched
        names = ",".join(handler.name for handler in handlers)

        async def note(name: str) -> None:
            await self._intake.insist(
                lambda: self._group.note_done(delivery.identity, name, HANDLED_S)
            )

        decision = await attempt(event, handlers, done, self._effects, delivery.attempts + 1, note)
        if not isinstance(decision, Wait):
            self._outage = ""
        match decision:
            case Handled():
                self._acknowledge_soon(
                    self._outcome(delivery, names, "handled" if matching else "unmatched")
                )
            case Wait(error=trouble):
                self._outage = f"{type(trouble).__name__}: {safe_str(trouble, 200)}"
                log.warning("handler waits", extra={"entry": delivery.id, "error": self._outage})
                return backoff_s(3)
            case TryAgain(error=failure):
                delivery.attempts = await self._intake.insist(
                    lambda: self._group.note_failure(delivery.id)
                )
                log.warning(
                    "handler failed",
                    extra={
                        "entry": delivery.id,
                        "type": event.type,
                        "attempt": delivery.attempts,
                        "error": f"{type(failure).__qualname__}: {safe_str(failure, 200)}",
                    },
                )
                if delivery.attempts < self._settings.event_attempts:
                    return backoff_s(delivery.attempts)
                reason = "timeout" if isinstance(failure, TimeoutError) else "attempts"
                await self._bury(delivery, GiveUp(reason, failure), names)
            case GiveUp():
                delivery.attempts = await self._intake.insist(
                    lambda: self._group.note_failure(delivery.id)
                )
                await self._bury(delivery, decision, names)
        return None

    async def _recall(self, delivery: Delivery) -> None:
        """Ask once what became of an event delivered before."""
        event = delivery.event
        if delivery.is_known or event is None:
            return
        if delivery.deliveries > 1 or event.redriven_from:
            delivery.attempts, delivery.done = await self._intake.insist(
                lambda: self._group.past(delivery.id, delivery.identity)
            )
        delivery.is_known = True

    async def _bury(self, delivery: Delivery, decision: GiveUp, names: str) -> None:
        letter = letter_of(
            delivery,
            decision.reason,
            decision.error,
            stream=self._stream,
            worker=self._heartbeat.id,
        )
        outcome = self._outcome(delivery, names, "dead", str(letter["name"]))
        await self._intake.insist(lambda: self._group.bury(outcome, decision.reason, letter))
        log.warning(
            "event buried",
            extra={
                "stream": self._stream,
                "entry": delivery.id,
                "attempt": delivery.attempts,
                "reason": decision.reason,
            },
        )
        self._intake.let_go(delivery.id)

    def _outcome(self, delivery: Delivery, names: str, outcome: str, kind: str = "") -> Settled:
        event = delivery.event
        return Settled(
            id=delivery.id,
            identity=delivery.identity,
            type=event.type if event else kind,
            handlers=names,
            outcome=outcome,
            ms=delivery.elapsed_ms,
            correlation_id=event.trace_id if event else "",
            letter_id=delivery.letter_id,
        )

    # -- acknowledging and keeping -------------------------------------------------------------

    def _note_trimmed(self, entry_id: str) -> None:
        """Settle an entry that was deleted while pending."""
        self._acknowledge_soon(
            Settled(id=entry_id, identity=entry_id, type="", handlers="", outcome="trimmed", ms=0)
        )

    def _acknowledge_soon(self, settled: Settled) -> None:
        self._settled.append(settled)
        self._has_settled.set()

    async def _acknowledge(self) -> None:
        while True:
            await self._has_settled.wait()
            self._has_settled.clear()
            await self._intake.insist(self._flush)

    async def _flush(self) -> None:
        """Acknowledge what is settled; what an error interrupts is acknowledged again."""
        async with self._flushing:
            await self._flush_batches()

    async def _flush_batches(self) -> None:
        while self._settled:
            batch = self._settled[:ACK_BATCH]
            replies = await self._group.acknowledge(batch)
            del self._settled[: len(batch)]
            for settled, reply in zip(batch, replies, strict=True):
                if not reply and settled.outcome != "trimmed":
                    log.warning("somebody else settled an event", extra={"entry": settled.id})
                self._intake.let_go(settled.id)

    async def _keep_house(self) -> None:
        """Delete consumers that are gone and own nothing; trim what every group is through with."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S * (0.75 + random.random() / 2))  # noqa: S311
            try:
                await self._group.prune_consumers(self._gone_ms)
                await self._group.trim()
            except (RedisError, OSError) as error:
                await self._intake.suffer(error)

    @property
    def _gone_ms(self) -> int:
        """Silence after which a consumer is taken as gone: twice what any live one ever keeps."""
        return max(2 * self._lease_ms, 4 * self._settings.block_time)


async def _serve(settings: Settings) -> None:
    processor = EventProcessor(settings, load_handlers(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, processor.stop)
    await processor.run()


def main(settings: Settings | None = None) -> None:
    """Run the processor until SIGTERM or SIGINT, drain, return."""
    settings = settings or Settings.load()
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    factory = None if uvloop is None else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(settings))


if __name__ == "__main__":
    main()
