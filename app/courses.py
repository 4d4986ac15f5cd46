"""The course of causes, for a list of them: deaths hour by hour, and how retries ended. Reads only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.analyses import explain
from app.wire.batch import Batch, into, rows_of, sort_command, sorted_records
from app.wire.connections import Connections, explained

#: clock hours told, the running one included; the counters keep 72
HOURS: Final = 24
#: newest letters per source and state of which retries are counted
LETTERS: Final = 500
MAX_SOURCES: Final = 50
_HOUR_MS: Final = 3_600_000
_FIELDS: Final = ("fingerprint", "state", "redrives")


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is known of one cause's past."""

    #: deaths of each of the last 24 clock hours, oldest first; empty: they were not counted
    deaths: tuple[int, ...] = ()
    retries: int = 0  #: that ended, of the newest 500 letters per source and state
    ended_well: int = 0
    odds: float = math.nan  #: share of these that ended well; NaN: none has ended
    low: float = math.nan  #: lower end of its 95 % interval
    high: float = math.nan


async def courses(
    connections: Connections, stream: str, queues: Sequence[str], fingerprints: Sequence[str]
) -> dict[str, Course]:
    """The course of each of *fingerprints*; a round trip per server and one for the counters."""
    if not fingerprints:
        return {}
    try:
        deaths = await _deaths(connections.queue, fingerprints)
        rows: list[dict[str, str]] = []
        names = [name for name in queues if name != stream][:MAX_SOURCES]
        for server, redis in connections.queue_servers.items():
            rows += await _letters(redis, connections.placement.held_by(server, names))
        rows += await _letters(connections.streams, [stream])
    except (RedisError, OSError) as error:
        raise explained(error, "redis://dead-letters") from error
    odds = {row["fingerprint"]: row for row in _odds(rows, fingerprints)}
    return {
        name: Course(
            deaths=deaths.get(name, ()),
            **{key: value for key, value in odds.get(name, {}).items() if key != "fingerprint"},
        )
        for name in fingerprints
    }


async def _deaths(queue: Redis, fingerprints: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Deaths hour by hour of the causes that are counted; what their counters lack is 0."""
    told: Any = await queue.time()
    hour = int(told[0]) * 1000 // _HOUR_MS
    names = [f"h{hour - back}" for back in reversed(range(HOURS))]
    ever: dict[str, Any] = {}
    hours: dict[str, Any] = {}
    batch = Batch(queue)
    for name in fingerprints:
        batch.ask(into(ever, name), "HGET", keys.cause(name), "count")
        batch.ask(into(hours, name), "HMGET", keys.cause_counts(name), *names)
    await batch.run()
    counted = (name for name in fingerprints if ever.get(name) is not None and name in hours)
    return {name: tuple(int(n or 0) for n in hours[name]) for name in counted}


async def _letters(redis: Redis, sources: Sequence[str]) -> list[dict[str, str]]:
    """What retries need to know of the newest letters of *sources*, whatever their state."""
    if not sources:
        return []
    batch = Batch(redis)
    rows: list[dict[str, str]] = []
    sort = await sort_command(redis)
    for source in sources:
        pattern = keys.dead_record(source, "*->")
        for index in (keys.dead_open, keys.dead_retrying, keys.dead_closed):
            batch.ask(
                lambda reply: rows.extend(rows_of(reply, _FIELDS)),
                *sorted_records(index(source), pattern, _FIELDS, LETTERS, sort=sort),
            )
    await batch.run()
    return rows


def _odds(rows: Sequence[Mapping[str, str]], fingerprints: Sequence[str]) -> list[dict[str, Any]]:
    wanted = set(fingerprints)
    kept = [
        {"fingerprint": row["fingerprint"], "state": row.get("state", ""), "redrives": redrives}
        for row in rows
        if row.get("fingerprint") in wanted and (redrives := _whole(row.get("redrives")))
    ]
    table = pd.DataFrame(kept, columns=list(_FIELDS)).astype({"redrives": "int64"})
    return [
        {str(name): value for name, value in row.items()}
        for row in explain.retry_odds(table).to_dict("records")
        if row["retries"] > 0
    ]


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and text.isascii() else 0


__all__ = ["HOURS", "Course", "courses"]
