"""Event handlers the processors under fault run; each writes what it does to the ledger."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from app.errors import PermanentError
from app.streams.events import Event
from tests.faults import ledger
from workers.event_router import on, on_unmatched
from workers.events.context import EventContext


@on("work.*")
async def work(event: Event, context: EventContext) -> None:
    """Take ``seconds``; append ``effect.made`` to the stream, whose number tells of doubles."""
    _note("start", event, context)
    try:
        if seconds := event.value("seconds", 0):
            await asyncio.sleep(seconds)
        await context.publish("effect.made", {"of": event.id})
    except asyncio.CancelledError:
        _note("cancelled", event, context)
        raise
    _note("done", event, context)


@on("count.*")
async def count(event: Event, context: EventContext) -> None:
    """Leave a line in the ledger and nothing in Redis."""
    if seconds := event.value("seconds", 0):
        await asyncio.sleep(seconds)
    _note("done", event, context)


@on("effect.*")
async def effect(event: Event, context: EventContext) -> None:
    """What ``work`` brings about is an event too."""


@on("poison.*")
async def poison(event: Event, context: EventContext) -> None:
    _note("attempt", event, context)
    raise ValueError(f"{event.type} cannot be handled")


@on("crash.*")
async def crash(event: Event, context: EventContext) -> None:
    _note("attempt", event, context)
    os.kill(os.getpid(), signal.SIGKILL)


@on("failpoint.*")
async def failpoint(event: Event, context: EventContext) -> None:
    """Enqueue a job and make an effect; die once, ``before``, ``between`` or ``after`` them."""
    _note("start", event, context)
    _die_once(event, "before")
    await context.enqueue("work", 0.0, queue="async-processing")
    _die_once(event, "between")
    await context.publish("effect.made", {"of": event.id})
    _note("done", event, context)
    _die_once(event, "after")


@on("matrix.*", "matrix.two")
async def first(event: Event, context: EventContext) -> None:
    _note("first", event, context)


@on("matrix.two")
async def second(event: Event, context: EventContext) -> None:
    _note("second", event, context)
    if event.value("raises"):
        raise PermanentError("told to") if event.value("final") else ValueError("told to")


@on("tell.*")
async def tell(event: Event, context: EventContext) -> None:
    await context.notify_user("u1", {"n": event.value("n"), "text": "x" * 500})
    _note("done", event, context)


@on_unmatched
async def unmatched(event: Event, context: EventContext) -> None:
    _note("unmatched", event, context)


def _die_once(event: Event, where: str) -> None:
    if event.value("at") != where:
        return
    mark = Path(os.environ[ledger.VARIABLE]) / f"died-{event.id}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _note(effect: str, event: Event, context: EventContext) -> None:
    ledger.write(effect, event.id, context.attempt)


def fields(kind: str, data: Any = None, **more: str) -> dict[str, str]:
    """A stream entry as any producer writes it."""
    return {"type": kind, "data": json.dumps({} if data is None else data), **more}
