"""Is it alive, is it ready: asked of each Redis by writing to it, answered within 2 s, open to all.

A Redis may answer every PING and take no write: out of memory, disk full, replica. Then no worker
can record anything, not even its heartbeat, so the check writes itself.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from app import __version__, keys
from app.api import answers
from app.api.access import Shared
from app.server import Runtime
from app.wire.connections import is_refusal

router = APIRouter(tags=["health"])

#: s one Redis may take to answer
PING_S: Final = 1.0
#: s an answer is reused: a hundred probes a second cost Redis two
FRESH_S: Final = 0.5
#: ms the last beat of a queue's workers may be old, and work be overdue: three beats and a poll
SILENT_MS: Final = 20_000
#: what the first word of a refused write means
_REFUSALS: Final[Mapping[str, str]] = {
    "OOM": "out of memory: writes are refused",
    "MISCONF": "cannot write to its disk: writes are refused",
    "READONLY": "is a read-only replica: writes are refused",
    "NOREPLICAS": "has too few replicas: writes are refused",
    "WRONGPASS": "refuses the password",
    "NOAUTH": "refuses the password",
}

_last: dict[int, tuple[float, dict[str, str]]] = {}


def explain_refusal(error: BaseException) -> str:
    """Return a sentence for a refused write; never what the server said, which may hold secrets."""
    text = str(error)
    for word, meaning in _REFUSALS.items():
        if word in text[:200]:
            return meaning
    if "maxmemory" in text or "out of memory" in text.lower():
        return _REFUSALS["OOM"]
    if "read only" in text:
        return _REFUSALS["READONLY"]
    if "password" in text:
        return _REFUSALS["WRONGPASS"]
    return type(error).__name__


async def _check(redis: Redis, *, may_write: bool) -> str:
    """Return ``ok`` when *redis* takes a write (if we may) and says that its disk and memory do."""
    try:
        async with asyncio.timeout(PING_S):
            async with redis.pipeline(transaction=False) as pipe:
                if may_write:
                    pipe.set(keys.CANARY, int(time.time() * 1000), px=keys.CANARY_MS)
                else:
                    pipe.ping()
                pipe.info("memory")
                pipe.info("persistence")
                written, memory, persistence = await pipe.execute(raise_on_error=False)
    except TimeoutError:
        return f"no answer within {PING_S:g} s"
    except (RedisError, OSError) as error:
        return explain_refusal(error)
    # a login without the right to write cannot try it; a server that only reads is not ill
    if isinstance(written, Exception) and not isinstance(written, NoPermissionError):
        return explain_refusal(written) if is_refusal(written) else type(written).__name__
    if isinstance(memory, dict):
        limit, used = int(memory.get("maxmemory", 0)), int(memory.get("used_memory", 0))
        if 0 < limit <= used and memory.get("maxmemory_policy") == "noeviction":
            return _REFUSALS["OOM"]
    if isinstance(persistence, dict) and persistence.get("aof_last_write_status", "ok") != "ok":
        return "cannot write its append-only file"
    return "ok"


async def _check_workers(redis: Redis, queues: tuple[str, ...]) -> str:
    """Return ``ok`` unless work waits on a queue whose workers were there and fell silent."""
    try:
        async with asyncio.timeout(PING_S):
            async with redis.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.smembers(keys.PAUSED_QUEUES)
                for queue in queues:
                    pipe.zrange(queue, 0, 0, withscores=True)
                    pipe.zrange(keys.functions(queue), 0, 0, desc=True, withscores=True)
                now, paused, *found = await pipe.execute()
    except (RedisError, OSError, TimeoutError):
        return "unknown: the queue's Redis does not answer"
    now_ms = now[0] * 1000 + now[1] // 1000
    silent = []
    for queue, head, beat in zip(queues, found[::2], found[1::2], strict=True):
        if queue in paused or not head or not beat:
            continue
        quiet_ms = now_ms - beat[0][1]
        if now_ms - head[0][1] > SILENT_MS and quiet_ms > SILENT_MS:
            silent.append(f"{queue} for {quiet_ms / 1000:.0f} s")
    return f"work waits and no worker is heard of: {', '.join(silent)}" if silent else "ok"


async def checks(shared: Runtime) -> dict[str, str]:
    """Return ``ok`` or what is wrong, per Redis role and for the workers."""
    known = _last.get(id(shared))
    if known and time.monotonic() - known[0] < FRESH_S:
        return known[1]
    connections, may_write = shared.connections, not shared.settings.read_only
    servers = connections.queue_servers
    roles = {"redis": connections.cache, "redis-streams": connections.streams}
    roles |= {f"redis-{name}": redis for name, redis in servers.items()}
    held = {
        name: connections.placement.held_by(name, shared.settings.queue_names) for name in servers
    }
    answers, workers = await asyncio.gather(
        asyncio.gather(*(_check(redis, may_write=may_write) for redis in roles.values())),
        asyncio.gather(*(_check_workers(redis, held[name]) for name, redis in servers.items())),
    )
    silent = [answer for answer in workers if answer != "ok"]
    found = dict(zip(roles, answers, strict=True)) | {"workers": "; ".join(silent) or "ok"}
    _last[id(shared)] = (time.monotonic(), found)
    return found


async def _answer(shared: Runtime, *, without: Collection[str] = ()) -> JSONResponse:
    found = {name: answer for name, answer in (await checks(shared)).items() if name not in without}
    healthy = all(answer == "ok" for answer in found.values())
    placement = shared.connections.placement
    body: dict[str, Any] = {
        "status": "healthy" if healthy else "unhealthy",
        "timestamp": datetime.now(UTC).isoformat(),
        "queues": list(shared.settings.queue_names),
        "environment": shared.settings.environment,
        "checks": found,
        "queue_servers": {
            f"redis-{name}": placement.held_by(name, shared.settings.queue_names)
            for name in placement.names
        },
    }
    again = {} if healthy else {"Retry-After": "2"}
    return JSONResponse(
        body, 200 if healthy else 503, headers={"Cache-Control": "no-store"} | again
    )


_DOWN: Final[dict[int | str, dict[str, Any]]] = {
    503: {
        "model": answers.Health,
        "description": "A Redis does not answer or takes no write, or workers fell silent",
    }
}


@router.get("/health", response_model=answers.Health, responses=_DOWN)
async def health(shared: Shared) -> Response:
    """Tell whether every Redis takes writes and workers serve what waits; 503 when not."""
    return await _answer(shared)


@router.get("/health/ready", response_model=answers.Health, responses=_DOWN)
async def ready(shared: Shared) -> Response:
    """Tell whether to send traffic here: every Redis takes writes.

    Further queue servers do not count: without one of them the queues of the others are served.
    """
    further = (f"redis-{name}" for name in shared.connections.shards)
    return await _answer(shared, without=("workers", *further))


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Tell that the process runs and its loop turns."""
    return {"status": "alive", "version": __version__}
