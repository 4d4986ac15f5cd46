"""Is it alive, is it ready: asked of each Redis, answered within 2 s, open to all."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import __version__
from app.api.access import Shared
from app.server import Runtime

router = APIRouter(tags=["health"])

#: s one Redis may take to answer
PING_S: Final = 1.2
#: s an answer is reused: a hundred probes a second cost Redis two
FRESH_S: Final = 0.5

_last: dict[int, tuple[float, dict[str, str]]] = {}


async def _ping(redis: Redis) -> str:
    try:
        async with asyncio.timeout(PING_S):
            await redis.ping()
    except TimeoutError:
        return f"no answer within {PING_S:g} s"
    except (RedisError, OSError) as error:
        return type(error).__name__
    return "ok"


async def checks(shared: Runtime) -> dict[str, str]:
    """Return ``ok`` or what is wrong, per Redis role."""
    known = _last.get(id(shared))
    if known and time.monotonic() - known[0] < FRESH_S:
        return known[1]
    connections = shared.connections
    roles = {
        "redis": connections.cache,
        "redis-streams": connections.streams,
        "redis-queue": connections.queue,
    }
    answers = await asyncio.gather(*(_ping(redis) for redis in roles.values()))
    found = dict(zip(roles, answers, strict=True))
    _last[id(shared)] = (time.monotonic(), found)
    return found


async def _answer(shared: Runtime) -> JSONResponse:
    found = await checks(shared)
    healthy = all(answer == "ok" for answer in found.values())
    body: dict[str, Any] = {
        "status": "healthy" if healthy else "unhealthy",
        "timestamp": datetime.now(UTC).isoformat(),
        "queues": list(shared.settings.queue_names),
        "environment": shared.settings.environment,
        "checks": found,
    }
    again = {} if healthy else {"Retry-After": "2"}
    return JSONResponse(
        body, 200 if healthy else 503, headers={"Cache-Control": "no-store"} | again
    )


_DOWN: Final[dict[int | str, dict[str, Any]]] = {503: {"description": "A Redis does not answer"}}


@router.get("/health", responses=_DOWN)
async def health(shared: Shared) -> Response:
    """Tell whether every Redis answers; 503 when one does not."""
    return await _answer(shared)


@router.get("/health/ready", responses=_DOWN)
async def ready(shared: Shared) -> Response:
    """Tell whether to send traffic here."""
    return await _answer(shared)


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Tell that the process runs and its loop turns."""
    return {"status": "alive", "version": __version__}
