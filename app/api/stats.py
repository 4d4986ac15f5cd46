"""Numbers of all queues, as the specification shows them, and the live workers."""

import json
import math
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import JSONResponse, Response

from app.api.access import Caller, Now, Shared
from app.ready_answers import ReadyAnswer
from app.server import Runtime
from app.snapshot import Snapshot

router = APIRouter(tags=["queues"])


def whole(value: Any) -> int | None:
    """Return a count as an integer; None when nobody could read it."""
    number = float(value)
    return None if math.isnan(number) else int(number)


def stats_of(snapshot: Snapshot, dead_letter_name: str) -> dict[str, dict[str, Any]]:
    """Return the specification's statistics: one object per queue, dead letters as the last."""
    answer: dict[str, dict[str, Any]] = {}
    for row in snapshot.queues.itertuples(index=False):
        answer[str(row.queue)] = {
            "waiting": whole(row.waiting),
            "active": whole(row.running),
            "completed": whole(row.complete),
            "failed": whole(row.dead_total),
            "delayed": whole(row.deferred),
            "paused": bool(row.paused),
            "retried": whole(row.retried),
            "failedRuns": whole(row.failed),
            "aborted": whole(row.aborted),
            "accepted": whole(row.accepted),
            "workers": whole(row.workers),
        }
    sources = (snapshot.queues, snapshot.streams)

    def total(column: str) -> int | None:
        parts = [frame[column].sum(skipna=False) for frame in sources if len(frame)]
        return whole(sum(parts)) if parts else 0

    answer[dead_letter_name] = {
        "waiting": total("dead_open"),
        "active": total("dead_retrying"),
        "completed": total("resolved"),
        "failed": total("discarded"),
        "delayed": 0,
    }
    return answer


def ready_stats(shared: Runtime) -> ReadyAnswer:
    """Return ``/stats`` as an answer that is encoded once per sample; errors go the usual way."""
    made: list[tuple[int, bytes]] = [(0, b"")]

    def body() -> bytes | None:
        now = shared.collector.snapshot
        if not now.number or "queue" in now.problems:
            return None
        if made[0][0] != now.number:
            text = json.dumps(stats_of(now, shared.settings.dlq_queue_name), separators=(",", ":"))
            made[0] = (now.number, text.encode())
        return made[0][1]

    return ReadyAnswer(body)


@router.get("/stats")
async def stats(shared: Shared, now: Now, _: Caller) -> Response:
    """Return the numbers of every queue and of the dead letters, at most one sample old."""
    require(now, "queue")
    return JSONResponse(
        stats_of(now, shared.settings.dlq_queue_name), headers={"Cache-Control": "no-store"}
    )


def require(now: Snapshot, source: str) -> None:
    """Refuse with 503 when *source* did not answer the last sample."""
    if source in now.problems:
        raise HTTPException(
            503, f"Redis {source!r} does not answer: {now.problems[source]}", {"Retry-After": "2"}
        )
    if not now.number:
        raise HTTPException(503, "the first sample is not taken yet", {"Retry-After": "1"})
