"""Numbers of all queues, as the specification shows them, and the live workers."""

import json
import weakref

from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from app.api import answers
from app.api.access import Caller, Now, Shared
from app.door.ready_answers import ReadyAnswer
from app.placement import HOME
from app.server import Runtime
from app.settings import Settings
from app.snapshot import Snapshot, stats

router = APIRouter(tags=["queues"])


_bodies: "weakref.WeakKeyDictionary[Snapshot, bytes]" = weakref.WeakKeyDictionary()


def stats_body(now: Snapshot, settings: Settings) -> bytes:
    """Return the answer as JSON, made once per snapshot however many ask."""
    body = _bodies.get(now)
    if body is None:
        body = _bodies[now] = json.dumps(stats(now, settings)).encode()
    return body


def ready_stats(shared: Runtime) -> ReadyAnswer:
    """Return ``/stats`` as an answer that is encoded once per sample; errors go the usual way."""

    def body() -> bytes | None:
        now = shared.collector.snapshot
        return None if not now.number or is_away(now, HOME) else stats_body(now, shared.settings)

    return ReadyAnswer(body)


@router.get("/stats", response_model=dict[str, answers.QueueStats])
async def numbers(shared: Shared, now: Now, _: Caller) -> Response:
    """Return the numbers of every queue and of the dead letters, at most one sample old."""
    require(now, "queue")
    return Response(
        stats_body(now, shared.settings),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def is_away(now: Snapshot, source: str) -> bool:
    """Whether *source* did not answer; of several queue servers, whether none did."""
    if source not in now.problems or source != HOME:
        return source in now.problems
    further = now.redis["role"].str.startswith(f"{HOME}-")
    return not bool((further & now.redis["up"]).any())


def require(now: Snapshot, source: str) -> None:
    """Refuse with 503 when *source* did not answer the last sample."""
    if is_away(now, source):
        raise HTTPException(
            503, f"Redis {source!r} does not answer: {now.problems[source]}", {"Retry-After": "2"}
        )
    if not now.number:
        raise HTTPException(503, "the first sample is not taken yet", {"Retry-After": "1"})
