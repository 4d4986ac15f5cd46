"""Analyses over HTTP: why a job waits, when a queue is empty, what a deploy changed, what is foreign."""

import math
import time
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.analyses.conservation import conservation
from app.analyses.deploys import deploy_changes
from app.analyses.forecast import MINUTES, drain_forecast
from app.analyses.utilisation import oldest_ages, utilisation
from app.analyses.verdicts import why_not_running
from app.annals import past
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.encoded import encoded
from app.api.jobs import JobId, QueueName
from app.api.moments import Moment, epoch_ms
from app.api.stats import require
from app.api.strict_json import StrictRoute
from app.errors import NotFound
from app.exports.files import records_json
from app.reader import job_facts
from app.sampling.foreign import foreign_frame
from app.server import Runtime
from app.wire.connections import GONE, explained

router = APIRouter(tags=["analyses"], route_class=StrictRoute)

#: minutes before and after a deploy that are compared
AROUND: int = 60


async def _minutes(shared: Runtime, queue: str, start_ms: float, end_ms: float) -> pd.DataFrame:
    try:
        return await past.history(
            shared.connections.queue, queue, start_ms, end_ms, now_ms=time.time() * 1000
        )
    except GONE as error:
        raise explained(error, "redis://queue") from error


@router.get("/jobs/{queue}/{job_id}/why", response_model=answers.Reason)
async def why(queue: QueueName, job_id: JobId, shared: Shared, _: Caller) -> dict[str, Any]:
    """Say in a sentence why a job is not running, and the next step."""
    try:
        facts = await job_facts(shared.connections.holding(queue), queue, job_id)
    except GONE as error:
        raise explained(error, "redis://queue") from error
    verdict = why_not_running(facts)
    return {
        "hold": verdict.hold.value,
        "sentence": verdict.sentence,
        "nextStep": verdict.next_step,
        "untilMs": verdict.until_ms or None,
    }


@router.get("/queues/{queue}/forecast", response_model=answers.Forecast)
async def forecast(
    queue: QueueName,
    shared: Shared,
    now: Now,
    _: Caller,
    workers: Annotated[float | None, Query(ge=0, le=10_000, description="what if so many")] = None,
) -> Response:
    """Say when a queue will be empty at the rates of the last half hour, or that it will not be."""
    require(now, "queue")
    row = now.queues[now.queues["queue"] == queue]
    if row.empty:
        raise NotFound("queue", queue, now.queues["queue"].tolist())
    now_ms = time.time() * 1000
    first = row.iloc[0]
    told = drain_forecast(
        await _minutes(shared, queue, now_ms - (MINUTES + 1) * 60_000, now_ms),
        backlog=float(first["waiting"] + (0 if math.isnan(first["running"]) else first["running"])),
        workers=float(first["workers"]),
        what_if_workers=workers,
        slots=float(first["slots"]),
        busy=float(first["busy"]),
    )
    return encoded(
        {
            "sentence": told.sentence,
            "drains": told.drains,
            "emptyInS": told.empty_in_s,
            "lowS": told.low_s,
            "highS": told.high_s,
            "arrivalsPerS": told.arrivals_per_s,
            "servicePerS": told.service_per_s,
            "workers": told.workers,
            "minutes": told.minutes,
        }
    )


@router.get("/queues/{queue}/changes", response_model=list[answers.Comparison])
async def changes(queue: QueueName, at: Moment, shared: Shared, _: Caller) -> Response:
    """Compare the hour before a deploy with the hour after: failures, run times, waits, each with its p."""
    at_ms = epoch_ms(at)
    around = await _minutes(shared, queue, at_ms - AROUND * 60_000, at_ms + AROUND * 60_000)
    deployed = pd.Timestamp(int(at_ms * 1000), unit="us", tz="UTC")
    return encoded(
        [
            {
                "metric": change.metric,
                "before": change.before,
                "after": change.after,
                "p": change.p,
                "low": change.low,
                "high": change.high,
                "verdict": change.verdict,
            }
            for change in deploy_changes(around, deployed)
        ]
    )


@router.get(
    "/analyses/{name}",
    response_model=answers.many(answers.ConservationRow)
    | answers.many(answers.UtilisationRow)
    | answers.many(answers.AgeRow),
)
async def analysis(
    name: Literal["conservation", "utilisation", "ages"], shared: Shared, now: Now, _: Caller
) -> Response:
    """Return one analysis of all queues: is every job accounted for, are slots used, who waits longest."""
    require(now, "queue")
    if name == "conservation":
        frame = conservation(now.queues)
    elif name == "utilisation":
        frame = utilisation(now.queues, now.history)
    else:
        now_ms = time.time() * 1000
        logs = [
            await _minutes(shared, str(queue), now_ms - 3_600_000, now_ms)
            for queue in now.queues["queue"].head(50)
        ]
        frame = oldest_ages(now.queues, pd.concat(logs, ignore_index=True))
    return Response(records_json(frame), media_type="application/json")


@router.get("/foreign", response_model=answers.Look)
async def foreign(shared: Shared, _: Caller) -> Response:
    """List the queues of stock arq that were found, with what can be known, and what was looked at."""
    collector = shared.collector
    try:
        where = shared.connections
        parts = [
            await foreign_frame(redis, where.placement.held_by(name, collector.foreign))
            for name, redis in where.queue_servers.items()
        ]
        frame = pd.concat(parts, ignore_index=True)
    except GONE as error:
        raise explained(error, "redis://queue") from error
    look = collector.look
    return encoded(
        {
            "window": look.window,
            "complete": look.complete,
            "results": look.results if look.complete else None,
            "queues": [
                {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
                for row in frame.to_dict("records")
            ],
        }
    )


@router.post("/foreign", response_model=answers.Look)
async def look_again(shared: Shared, caller: Caller) -> Response:
    """Look around once more, within the stated window; answers when the look is over."""
    try:
        await shared.collector.look_around(shared.connections.queue_servers)
    except GONE as error:
        raise explained(error, "redis://queue") from error
    return await foreign(shared, caller)
