"""A realistic, bounded load for ``arqscope up --demo``: jobs that work, jobs that fail, events.

Its own process (``python -m app.demo``). Stops adding while a queue is long, so that it can run for days.
"""

import asyncio
import contextlib
import itertools
import logging
import random
import signal
from collections.abc import Iterator
from typing import Any, Final

from redis.exceptions import RedisError

from app.enqueue import JobRequest, codec_of, enqueue_many
from app.errors import ArqscopeError
from app.logs import configure
from app.publisher import Publisher
from app.settings import Settings
from app.wire.connections import Connections

log = logging.getLogger("arqscope.demo")

JOBS_PER_S: Final = 3.0
EVENTS_PER_S: Final = 2.0
BURST: Final = 60  #: jobs at once at the start: the page is alive in seconds
FAILURES: Final = 0.06
LONGEST_QUEUE: Final = 2_000  #: no more demo jobs while a queue is longer

#: three causes, as they look in life; all three appear among the dead letters within a minute
CAUSES: Final = (
    "ConnectionError: connection to api.airtable.example timed out after 30000 ms",
    "ValueError: field 'Due date' expects a date, got '31.02.2026' in record rec{n}",
    "PermissionError: the token of base app{n} lacks the scope data.records:write",
)

_TEXTS: Final = (
    "Summarise the open tasks of the launch board and name who is late",
    "Classify these support requests by product area and urgency",
    "Translate the release notes to German, keep the headings",
)
_EVENTS: Final = (
    "user.created",
    "user.updated",
    "workspace.created",
    "workspace.updated",
    "airtable.sync.started",
    "airtable.sync.completed",
    "airtable.sync.failed",
    "user.login",
    "billing.invoice.paid",  # nobody handles it: the page counts it as unmatched
)


def requests(dice: random.Random) -> Iterator[tuple[str, JobRequest]]:
    """Yield queue and job without end; the same seed gives the same jobs. No ids: Redis is not asked."""
    for number in itertools.count(1):
        base = f"app{dice.randrange(4):04d}"
        kinds: list[tuple[str, str, dict[str, Any]]] = [
            ("async-processing", "ai-processing", {"text": dice.choice(_TEXTS)}),
            ("async-processing", "data-sync", {"baseId": base, "records": 400}),
            ("async-processing", "notification", {"userId": "user123", "message": "done"}),
            ("event-driven-jobs", "notification", {"workspaceId": "ws456", "message": "hi"}),
            ("event-driven-jobs", "generic", {"step": dice.randrange(5)}),
            ("long-running-jobs", "bulk-operation", {"operation": "update", "items": 2_000}),
            ("long-running-jobs", "data-sync", {"baseId": base, "records": 5_000}),
        ]
        queue, name, data = dice.choices(kinds, weights=[6, 5, 4, 5, 3, 1.5, 1.5])[0]
        data = {**data, "duration": _duration_ms(queue, dice)}
        fails = dice.random() < FAILURES
        attempts = None
        if fails:
            error = dice.choice(CAUSES).format(n=dice.randrange(1000, 9999))
            data |= {"shouldFail": True, "error": error}
            # half of them give up at once, so that the first dead letters come in seconds
            attempts = 1 if dice.random() < 0.5 else None
        yield (
            queue,
            JobRequest(
                name=name,
                args=(data,),
                attempts=attempts,
                delay_s=dice.uniform(5, 60) if number > BURST and dice.random() < 0.05 else 0.0,
                correlation_id=f"demo-{dice.getrandbits(48):012x}",
            ),
        )


def _duration_ms(queue: str, dice: random.Random) -> int:
    middle = {"long-running-jobs": 4_000, "async-processing": 900}.get(queue, 250)
    return int(min(middle * dice.lognormvariate(0, 0.6), middle * 6))


def event(dice: random.Random) -> dict[str, Any]:
    """Return one event's fields, as ``Publisher.publish`` takes them."""
    kind = dice.choice(_EVENTS)
    user, workspace = f"user{dice.randrange(100, 140)}", f"ws{dice.randrange(400, 412)}"
    data: dict[str, Any] = {"name": f"item {dice.randrange(1000)}"}
    if kind.startswith("airtable."):
        data = {"baseId": f"app{dice.randrange(4):04d}", "records": dice.randrange(20, 400)}
    elif kind.startswith("user."):
        data = {"email": f"{user}@example.com"}
    return {"type": kind, "data": data, "user_id": user, "workspace_id": workspace}


async def _send_jobs(connections: Connections, settings: Settings, dice: random.Random) -> None:
    codec = codec_of(settings)
    made = requests(dice)
    count = BURST
    while True:
        with _troubles_are_told():
            batches: dict[str, list[JobRequest]] = {}
            for queue, request in itertools.islice(made, count):
                batches.setdefault(queue, []).append(request)
            for queue, batch in batches.items():
                redis = connections.holding(queue)
                if await redis.zcard(queue) < LONGEST_QUEUE:
                    await enqueue_many(redis, queue, batch, codec=codec)
        count = 1
        await asyncio.sleep(dice.expovariate(JOBS_PER_S))


async def _send_events(publisher: Publisher, dice: random.Random) -> None:
    while True:
        with _troubles_are_told():
            fields = event(dice)
            await publisher.publish(fields.pop("type"), fields.pop("data"), **fields)
        await asyncio.sleep(dice.expovariate(EVENTS_PER_S))


@contextlib.contextmanager
def _troubles_are_told() -> Iterator[None]:
    """A Redis that is away is nothing a load gives up for."""
    try:
        yield
    except (ArqscopeError, RedisError, OSError) as error:
        log.warning("demo load could not send", extra={"error": str(error)})


async def run(settings: Settings, seed: int | None = None) -> None:
    """Send jobs and events until cancelled or asked to stop by SIGTERM or SIGINT."""
    dice = random.Random(seed)  # noqa: S311 - a load, not a secret
    made = Connections.of(settings)
    publisher = Publisher(made.streams, made.cache, stream=settings.stream_name, source="demo")
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    try:
        work = [
            asyncio.create_task(_send_jobs(made, settings, dice)),
            asyncio.create_task(_send_events(publisher, dice)),
        ]
        stop = asyncio.create_task(asked.wait())
        done, pending = await asyncio.wait([*work, stop], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()
    finally:
        await made.close()


if __name__ == "__main__":
    given = Settings.load()
    configure(given.log_level)
    asyncio.run(run(given))
