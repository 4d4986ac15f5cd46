"""Queues: list, pause, resume, clean, set slots; and steering single jobs."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app import actions
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.jobs import JobId, QueueName
from app.api.reports import Report, report
from app.api.stats import require
from app.api.strict_json import StrictRoute
from app.errors import NotFound
from app.exports.files import records_json

router = APIRouter(tags=["queues"], route_class=StrictRoute)


class Clean(BaseModel):
    """What to remove: what has been *status* for *age* ms; ``failed`` discards dead letters."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"status": "completed", "age": 3600000}]}
    )

    status: Literal["completed", "failed", "waiting", "delayed"] = "completed"
    age: float = Field(default=0, ge=0, le=10 * 365 * 86_400_000, description="ms")


class Slots(BaseModel):
    """Jobs each worker of the queue runs at a time; null: what it was started with."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"slots": 10}]})

    slots: int | None = Field(ge=1, le=10_000)


@router.get("/queues", response_model=answers.many(answers.QueueRow))
async def queues(now: Now, _: Caller) -> Response:
    """List the queues with all their numbers."""
    require(now, "queue")
    return Response(records_json(now.queues), media_type="application/json")


@router.get("/queues/{queue}", response_model=answers.QueueRow)
async def queue_numbers(queue: QueueName, now: Now, _: Caller) -> Response:
    """Return one queue's numbers."""
    require(now, "queue")
    found = now.queues[now.queues["queue"] == queue]
    if found.empty:
        raise NotFound("queue", queue, now.queues["queue"].tolist())
    return Response(records_json(found)[1:-1], media_type="application/json")


@router.post("/queues/{queue}/pause")
async def pause(queue: QueueName, shared: Shared, caller: Caller) -> Report:
    """Let workers take no new job of a queue."""
    return report(await actions.pause_queue(shared.connections, shared.settings, caller, queue))


@router.post("/queues/{queue}/resume")
async def resume(queue: QueueName, shared: Shared, caller: Caller) -> Report:
    """Let workers take jobs of a paused queue again."""
    return report(await actions.resume_queue(shared.connections, shared.settings, caller, queue))


@router.post("/queues/{queue}/clean")
async def clean(
    queue: QueueName,
    shared: Shared,
    caller: Caller,
    asked: Annotated[Clean | None, Body()] = None,
) -> Report:
    """Remove what a queue keeps of jobs that are over."""
    wanted = asked or Clean()
    return report(
        await actions.clean_queue(
            shared.connections, shared.settings, caller, queue, wanted.status, wanted.age / 1000
        )
    )


@router.post("/queues/{queue}/concurrency")
async def concurrency(queue: QueueName, asked: Slots, shared: Shared, caller: Caller) -> Report:
    """Set how many jobs each worker of a queue runs at a time."""
    return report(
        await actions.set_concurrency(
            shared.connections, shared.settings, caller, queue, asked.slots
        )
    )


class Later(BaseModel):
    """When a waiting job shall be due, from now."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"delay": 3600000}]})

    delay: float = Field(ge=0, le=365 * 86_400_000, description="ms")


@router.post("/jobs/{queue}/{job_id}/reschedule", tags=["jobs"])
async def reschedule(
    queue: QueueName, job_id: JobId, asked: Later, shared: Shared, caller: Caller
) -> Report:
    """Give a waiting or deferred job another due time."""
    return report(
        await actions.reschedule_job(
            shared.connections, shared.settings, caller, queue, job_id, asked.delay / 1000
        )
    )


@router.post("/jobs/{queue}/{job_id}/{verb}", tags=["jobs"])
async def steer(
    queue: QueueName,
    job_id: JobId,
    verb: Literal["cancel", "abort", "promote"],
    shared: Shared,
    caller: Caller,
) -> Report:
    """Cancel a waiting job, abort a running one, or run a deferred one now."""
    steps: dict[str, Any] = {
        "cancel": actions.cancel_job,
        "abort": actions.abort_job,
        "promote": actions.promote_job,
    }
    return report(await steps[verb](shared.connections, shared.settings, caller, queue, job_id))
