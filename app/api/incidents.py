"""Incident bundles over HTTP: the zip a notebook makes, of a stretch somebody chose on a chart."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app import audit
from app.actions.asking import check_queue
from app.api.access import Caller, Shared
from app.api.moments import Moment, epoch_ms
from app.api.strict_json import StrictRoute
from app.errors import Overloaded
from app.exports.incident import Bounds, check_stretch, file_name, incident
from app.scope.inquiry import FromThread

router = APIRouter(tags=["history"], route_class=StrictRoute)

#: what one bundle reads at most here, where pages wait beside it; a notebook reads all that is kept
MOST: Final = {"sources": 40, "rows": 20_000}
#: s a bundle waits for the one that is being made
TURN_S: Final = 20.0
ZIP: Final = "application/zip"


@router.get(
    "/incident",
    response_class=Response,
    responses={
        200: {
            "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}},
            "description": "frames, charts and a notebook as a zip",
        }
    },
)
async def bundle(
    request: Request,
    shared: Shared,
    caller: Caller,
    start: Annotated[Moment, Query(description="ISO 8601; UTC where it has no zone")],
    end: Annotated[Moment, Query(description="ISO 8601; at most 7 days after start")],
    queue: Annotated[str, Query(max_length=128, description="empty: all queues and streams")] = "",
) -> Response:
    """Return what is known of a stretch of time as a zip that opens without Redis; credentials masked.

    One is made at a time, audited before it is read. At most 40 queues, 20,000 runs and as many letters
    of each state; its README.md says what was left out.
    """
    start_ms, end_ms = int(epoch_ms(start)), int(epoch_ms(end))
    check_stretch(start_ms, end_ms)
    if queue:
        await check_queue(shared.connections, shared.settings, queue)
    turn: asyncio.Lock = request.app.state.incidents
    try:
        async with asyncio.timeout(TURN_S):
            await turn.acquire()
    except TimeoutError as error:
        raise Overloaded("another bundle is being made; ask again in a moment") from error
    try:
        detail = {"start": start.isoformat(), "end": end.isoformat()}
        await audit.record(shared.connections.queue, caller.name, "make_incident", queue, detail)
        source = FromThread(
            shared.settings,
            shared.connections,
            shared.collector.snapshot,
            asyncio.get_running_loop(),
        )
        bounds = Bounds(queues=(queue,) if queue else (), **MOST)
        body = await asyncio.to_thread(incident, source, start_ms, end_ms, bounds)
    finally:
        turn.release()
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{file_name(start_ms)}"',
    }
    return Response(body, media_type=ZIP, headers=headers)
