"""Liveness: whether a process of this machine beats. For health checks of containers; never writes."""

import socket
from typing import Any, Final, cast

from redis.asyncio import Redis

from app import keys
from app.errors import BadRecord
from app.records import WorkerInfo

#: processes of the index looked at, newest beats first
MOST: Final = 2_000


async def living(redis: Redis, role: str, source: str = "", *, host: str = "") -> list[WorkerInfo]:
    """Return the processes of *role* on *host* (this one) that beat lately; *source*: its queue or stream.

    A record lives 20 s after its last beat, so that whoever has one lives. Raises what Redis raises.
    """
    host = host or socket.gethostname()
    client = cast(Any, redis)
    ids = await client.zrange(keys.WORKERS, 0, MOST - 1, desc=True)
    here = [worker_id for worker_id in ids if worker_id.startswith(f"{host}:")]
    async with client.pipeline(transaction=False) as pipe:
        for worker_id in here:
            pipe.hgetall(keys.worker(worker_id))
        found = await pipe.execute() if here else []
    made = []
    for raw in filter(None, found):  # an id without a record is a process that died
        try:
            info = WorkerInfo.from_fields(raw)
        except BadRecord:
            continue
        if info.role == role and source in ("", info.source):
            made.append(info)
    return made
