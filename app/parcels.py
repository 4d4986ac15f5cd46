"""Parcels: jobs made on one queue server for a queue of another, on their way there.

A script acts on one server. What ends a job, or an event whose queue's server is away, writes the next
job down as a parcel, under the id it will have; whoever carries it enqueues under that id, then
forgets it. Killed in between, it is carried again, and makes one job.
"""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.enqueue import Row, place
from app.errors import BadRecord, RedisRefused, RedisUnavailable
from app.wire.connections import Connections, explained

#: parcels an event may add to: beyond it the event itself waits
MOST: Final = 10_000
#: read at a time
PAGE: Final = 200
_WHERE: Final = "redis://queue"


async def post(redis: Redis, queue: str, rows: Iterable[Row]) -> bool:
    """Write down jobs for *queue*, each once by its id; False when too many wait already."""
    now_ms = int(time.time() * 1000)
    wanted = {
        f"{queue}/{row.id}": json.dumps(
            {"queue": queue, "id": row.id, "due": row.due_ms(now_ms), "ttl": row.ttl_ms,
             "payload": row.payload.decode("ascii")}
        )
        for row in rows
    }  # fmt: skip
    try:
        if await _any(redis.hlen(keys.PARCELS)) >= MOST:
            return False
        await _any(redis.hset(keys.PARCELS, mapping=wanted))
    except (RedisError, OSError) as error:
        raise explained(error, _WHERE) from error
    return True


async def carry(connections: Connections, server: str) -> int:
    """Bring the parcels that lie on *server* where they belong; returns how many arrived.

    Those for a server that is away stay. Raises what Redis raises when *server* itself is; BadRecord,
    once the others are through, when there are some that nobody can read.
    """
    redis, cursor, arrived = connections.server(server), 0, 0
    away: set[str] = set()
    unreadable: set[str] = set()
    while True:
        cursor, found = await _any(redis.hscan(keys.PARCELS, cursor, count=PAGE))
        by_queue: dict[str, dict[str, Row]] = {}
        for name, text in found.items():
            try:
                parcel = json.loads(text)
                by_queue.setdefault(str(parcel["queue"]), {})[name] = _row(parcel)
            except (ValueError, KeyError, TypeError):
                unreadable.add(name)
        for queue, rows in by_queue.items():
            target = connections.placement.server_of(queue)
            if target in away:
                continue
            try:
                await place(connections.server(target), queue, list(rows.values()))
            except (RedisUnavailable, RedisRefused):
                away.add(target)
                continue
            await _any(redis.hdel(keys.PARCELS, *rows))
            arrived += len(rows)
        if not int(cursor):
            break
    if unreadable:
        raise BadRecord(
            f"{len(unreadable)} parcels on {server} are not readable, e.g. {min(unreadable)[:100]!r}: nothing of "
            f"ours wrote them; look with HGET {keys.PARCELS}, remove with HDEL"
        )
    return arrived


def _row(parcel: Mapping[str, Any]) -> Row:
    return Row(
        parcel["id"], f"@{parcel['due']:.0f}", int(parcel["ttl"]), parcel["payload"].encode()
    )


def _any(reply: Any) -> Any:
    return reply
