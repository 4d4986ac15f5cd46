"""History over HTTP: ranges of a queue or stream, what happened in them, deploys."""

import time
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app import actions
from app.annals import past
from app.api import answers
from app.api.access import Caller, Shared
from app.api.moments import AskedMoment, Moment, epoch_ms
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute
from app.declarations import NAME_PATTERN
from app.errors import NotFound
from app.exports.files import records_json
from app.wire.connections import GONE, explained

router = APIRouter(tags=["history"], route_class=StrictRoute)

Source = Annotated[str, Path(min_length=1, max_length=128, pattern=NAME_PATTERN.pattern)]
HOUR_MS: Final = 3_600_000


def range_ms(start: datetime | None, end: datetime | None, now_ms: float) -> tuple[float, float]:
    """The asked range in epoch ms: the last hour when nothing is asked."""
    end_ms = now_ms if end is None else epoch_ms(end)
    return (end_ms - HOUR_MS if start is None else epoch_ms(start)), end_ms


@router.get("/history/{source}", response_model=answers.many(answers.HistoryRow))
async def history(
    source: Source,
    shared: Shared,
    _: Caller,
    start: AskedMoment = None,
    end: AskedMoment = None,
    points: Annotated[int, Query(ge=1, le=past.MAX_POINTS)] = 1000,
) -> Response:
    """Return the history of a queue or stream on a regular grid: minutes for 7 days, hours for 90.

    A step nobody saw is null throughout. The header ``X-Step-Seconds`` says how long a step is.
    """
    now = shared.collector.snapshot
    known = [*now.queues["queue"], *now.streams["stream"]]
    if now.number and source not in known:
        raise NotFound("queue or stream", source, known)
    now_ms = time.time() * 1000
    since, until = range_ms(start, end, now_ms)
    try:
        frame = await past.history(
            shared.connections.queue, source, since, until, now_ms=now_ms, points=points
        )
    except GONE as error:
        raise explained(error, "redis://queue") from error
    headers = {"Cache-Control": "no-store", "X-Step-Seconds": str(frame.attrs["step_s"])}
    return Response(records_json(frame), media_type="application/json", headers=headers)


@router.get("/annotations", response_model=answers.many(answers.AnnotationRow))
async def annotations(
    shared: Shared, _: Caller, start: AskedMoment = None, end: AskedMoment = None
) -> Response:
    """Return deploys, pauses and operations of a range, oldest first; the last hour by default."""
    since, until = range_ms(start, end, time.time() * 1000)
    try:
        frame = await past.annotations(shared.connections.queue, since, until)
    except GONE as error:
        raise explained(error, "redis://queue") from error
    return Response(records_json(frame), media_type="application/json")


class Deploy(BaseModel):
    """What was deployed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"version": "2026.11.2", "note": "pdf fix"}]},
    )

    version: str = Field(min_length=1, max_length=200)
    queue: str = Field(default="", max_length=128, description="empty: all queues")
    note: str = Field(default="", max_length=200)
    at: Moment | None = Field(default=None, description="now when left out")


@router.post("/deploys")
async def deploy(asked: Deploy, shared: Shared, caller: Caller) -> Report:
    """Mark a deploy in the charts; sent again within a minute it is marked once."""
    done = await actions.mark_deploy(
        shared.connections,
        shared.settings,
        caller,
        asked.version,
        queue=asked.queue,
        note=asked.note,
        at_ms=None if asked.at is None else int(epoch_ms(asked.at)),
    )
    return report(done)
