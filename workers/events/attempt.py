"""One attempt at one event: run its handlers, say what must come of it. Decisions are values."""

import asyncio
import random
import time
import traceback
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Final

import redis.exceptions

from app import logs
from app.errors import BadRecord, InvalidRequest, PermanentError, RedisRefused, RedisUnavailable
from app.letters.fingerprint import fingerprint
from app.payloads.arguments import encoded, flat
from app.payloads.codec import safe_str
from app.records import MAX_ERROR_BYTES
from app.streams.events import ENTRY_ID, Event
from workers.event_router import Plan
from workers.events.context import Effects, EventContext

#: s a handler may take; longer work belongs in a job
HANDLER_TIMEOUT_S: Final = 60.0
#: deliveries after which an entry is suspected of killing its processor and runs alone
SUSPECT_DELIVERIES: Final = 3
BACKOFF_BASE_S: Final = 0.25
BACKOFF_CAP_S: Final = 30.0
#: errors of our own Redis: waited out, they say nothing about the event
OUTAGES: Final = (
    RedisUnavailable,
    RedisRefused,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
)


@dataclass(frozen=True, slots=True)
class Handled:
    """Every handler is through."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """A handler failed; the event has attempts left."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Wait:
    """Our own Redis is away; the attempt does not count."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The event becomes a dead letter at once."""

    reason: str
    error: BaseException


Decision = Handled | TryAgain | Wait | GiveUp
HANDLED: Final = Handled()


@dataclass(slots=True)
class Delivery:
    """An entry this process holds, until it is acknowledged."""

    id: str
    fields: dict[str, str]
    deliveries: int  #: how often it was handed out, this time included
    must_begin: bool = False  #: adopted: its delivery is counted in Redis when it begins
    is_waiting: bool = False  #: in its backoff
    event: Event | None = None
    malformed: BadRecord | None = None
    attempts: int = 0  #: failed ones
    is_known: bool = False  #: whether Redis was asked about earlier attempts
    is_lost: bool = False  #: somebody else has taken it over
    taken_at: float = 0.0  #: monotonic, when it became ours
    runner: "asyncio.Task[Any] | None" = None  #: works on it at this moment
    marks: set[str] | None = None  #: entries the dedup of its effects has in Redis
    started: float = 0.0  #: monotonic, when it was first worked on here
    ended: float = 0.0  #: monotonic, when its handlers were through
    done: set[str] | None = None  #: names of handlers that are through
    plan: Plan | None = None  #: the handlers it met

    def lose(self) -> None:
        """Somebody else has taken the entry over: what is being done with it ends."""
        self.is_lost = True
        if self.runner is not None:
            self.runner.cancel()

    def decode(self) -> Event | None:
        """Return the event, or None where the entry is malformed; decoded once."""
        if self.event is None and self.malformed is None:
            try:
                self.event = Event.from_entry(self.id, self.fields)
            except BadRecord as error:
                self.malformed = error
        return self.event

    @property
    def identity(self) -> str:
        """What the effects of the event derive their ids from."""
        return self.letter_id or self.id

    @property
    def letter_id(self) -> str:
        """The dead letter this entry is a retry of, malformed or not; empty when it is none."""
        letter_id = self.fields.get("redrivenFrom")
        return letter_id if letter_id and ENTRY_ID.fullmatch(letter_id) else ""

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what killed the processors that had it."""
        return self.deliveries >= SUSPECT_DELIVERIES

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds it has been worked on here, waits between attempts included."""
        return int(((self.ended or time.monotonic()) - self.started) * 1000) if self.started else 0


async def attempt(
    delivery: Delivery,
    event: Event,
    plan: Plan,
    effects: Effects,
    on_done: Callable[[Delivery, str], Awaitable[None]],
    *,
    is_stopping: Callable[[], bool],
    timeout_s: float = HANDLER_TIMEOUT_S,
) -> Decision:
    """Run the handlers not yet through; one that fails does not keep the others from running."""
    worst: Decision = HANDLED
    number = delivery.attempts + 1
    done = delivery.done
    logs.request_id.set(event.trace_id)  # lines about an event carry the id of what caused it
    for handler in plan.handlers:
        if done is not None and handler.name in done:
            continue
        context = EventContext(effects, event, handler.name, number)
        try:
            if handler.is_async:
                work = handler.function(event, context)
                try:
                    waits_for = work.send(None)
                except StopIteration:
                    pass  # it never suspended: no timer, no loop turn
                else:
                    delivery.runner = asyncio.current_task()
                    async with asyncio.timeout(timeout_s):
                        await _resumed(work, waits_for)
            else:
                delivery.runner = asyncio.current_task()
                async with asyncio.timeout(timeout_s):
                    await asyncio.to_thread(handler.function, event, context)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                if is_stopping() or delivery.is_lost:
                    raise
                while task.cancelling():
                    task.uncancel()
            worst = _worse(worst, TryAgain(error))  # a handler that cancelled itself
        except OUTAGES as error:
            worst = _worse(worst, Wait(error))
        except (PermanentError, InvalidRequest) as error:
            worst = _worse(worst, GiveUp("permanent", error))
        except (Exception, SystemExit) as error:  # noqa: BLE001, RUF100 - the handler's, shown below
            worst = _worse(worst, TryAgain(error))
        else:
            if len(plan.handlers) > 1:
                done = delivery.done = delivery.done or set()
                done.add(handler.name)
                if len(done) < len(plan.handlers):  # the acknowledgement covers the last one
                    await on_done(delivery, handler.name)
        finally:
            if context.marks:
                delivery.marks = {*(delivery.marks or ()), *context.marks}
    return worst


@types.coroutine
def _resumed(work: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """Go on with *work*, a coroutine that was begun and wants to wait for *waits_for*."""
    while True:
        try:
            yield waits_for
        except BaseException as error:
            try:
                waits_for = work.throw(error)
            except StopIteration as ended:
                return ended.value
        else:
            return (yield from work)


def _worse(left: Decision, right: Decision) -> Decision:
    """Return the graver of two decisions; an outage comes first, for it hides what else is wrong."""
    order = (Handled, TryAgain, GiveUp, Wait)
    return right if order.index(type(right)) >= order.index(type(left)) else left


def backoff_s(attempts: int) -> float:
    """Seconds to wait after the *attempts*-th failure: exponential, full jitter, capped."""
    ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempts - 1, 20))
    return float(random.uniform(ceiling / 4, ceiling))  # noqa: S311


def letter_of(
    delivery: Delivery, reason: str, error: BaseException, *, stream: str, worker: str
) -> dict[str, str | int]:
    """Return the fields of the dead letter of an event, times and state left to the script."""
    event = delivery.event
    kind = type(error).__qualname__
    message = _text(safe_str(error), 4096)
    trace = "".join(traceback.format_exception(error)) if error.__traceback__ else ""
    trace = trace.encode("utf-8", "backslashreplace")[-MAX_ERROR_BYTES:].decode("utf-8", "replace")
    return {
        "kind": "event",
        "source": stream,
        "name": event.type if event else _text(delivery.fields.get("type", "")),
        "error_type": kind,
        "error": message,
        "traceback": trace,
        "fingerprint": fingerprint(kind, message, trace),
        "attempts": attempts_spent(delivery, reason),
        "worker": worker,
        "enqueued_ms": delivery.id.partition("-")[0],
        "correlation_id": event.trace_id if event else "",
        "arguments": _arguments(event) if event else "{}",
    }


def _arguments(event: Event) -> str:
    about = {"userId": event.user_id, "workspaceId": event.workspace_id, "origin": event.source}
    return encoded(flat([event.data], {name: value for name, value in about.items() if value}))


def attempts_spent(delivery: Delivery, reason: str) -> int:
    """Attempts a dead event had: malformed ones are given up at the first."""
    if reason == "crash":
        return max(delivery.attempts, delivery.deliveries - 1)
    return max(1, delivery.attempts)


def _text(value: str, limit: int = 128) -> str:
    """Return *value* cut and storable, whatever bytes it was made of."""
    return value[:limit].encode("utf-8", "backslashreplace").decode()
