"""Jobs: submit one or many, list what runs and ran, look at one."""

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self, cast

from fastapi import APIRouter, Body, Header, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from app import keys, logs, reader
from app.actions import Actor, Connections, submit_jobs
from app.actions.asking import check_queue
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.encoded import encoded, paged
from app.api.moments import Moment, epoch_ms
from app.api.stats import require
from app.api.strict_json import StrictRoute
from app.declarations import NAME_PATTERN
from app.enqueue import Enqueued, JobRequest, codec_of
from app.errors import InvalidRequest, NotFound, UnknownFunction
from app.exports.files import records_json
from app.next_jobs import RESULT, NextJob
from app.reader import JobDetail, JobRow, JobsOf
from app.server import Runtime
from app.settings import Settings
from app.wire.connections import GONE, explained

router = APIRouter(tags=["jobs"], route_class=StrictRoute)

#: functions every worker has; ``workers.jobs`` registers them
BUILT_IN_FUNCTIONS: Final = frozenset(
    {"ai-processing", "bulk-operation", "data-sync", "generic", "notification"}
)
#: jobs one request may carry
MAX_JOBS: Final = 1_000

QueueName = Annotated[str, Path(min_length=1, max_length=128, pattern=NAME_PATTERN.pattern)]
JobId = Annotated[str, Path(min_length=1, max_length=160)]


class Backoff(BaseModel):
    """The specification's form of a backoff."""

    model_config = ConfigDict(extra="ignore")

    delay: float = Field(ge=0, le=3_600_000, description="ms")


class Then(BaseModel):
    """A job made when another completes; without ``data`` it gets the other's result."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=128)
    queue: str = Field(default="", max_length=128, description="empty: the queue of the job before")
    data: Any = Field(default=None, description="left out: the result of the job before")
    delay: float = Field(default=0, ge=0, le=365 * 86_400_000, description="ms before it may run")
    then: list["Then"] = Field(default_factory=list, max_length=20)

    def next_job(self) -> NextJob:
        """Return the job asked for; InvalidRequest for what cannot be one."""
        return NextJob(
            name=self.name,
            queue=self.queue,
            data=self.data if "data" in self.model_fields_set else RESULT,
            delay_s=self.delay / 1000,
            then=tuple(one.next_job() for one in self.then),
        )


class JobOptions(BaseModel):
    """How to treat one job; what is left out follows the queue's policy. Times in ms."""

    model_config = ConfigDict(extra="forbid", strict=True)

    delay: float = Field(default=0, ge=0, le=365 * 86_400_000, description="ms before it may run")
    timeout: float | None = Field(default=None, ge=1, le=86_400_000, description="ms it may run")
    attempts: int | None = Field(default=None, ge=1, le=1_000)
    backoff: float | Backoff | None = Field(
        default=None, description="ms, the base of the exponential backoff"
    )
    jobId: str | None = Field(
        default=None,
        pattern=rf"^{NAME_PATTERN.pattern}$",
        description="asking again with it makes no second job",
    )
    correlationId: str | None = Field(
        default=None,
        max_length=128,
        description="carried on to events, log lines and dead letters; left out: the X-Request-Id",
    )
    then: list[Then] = Field(
        default_factory=list,
        max_length=20,
        description="jobs made when this one completes, exactly once",
        examples=[[{"name": "notification", "queue": "event-driven-jobs"}]],
    )

    @property
    def backoff_s(self) -> float | None:
        """Base of the backoff in seconds."""
        match self.backoff:
            case None:
                return None
            case Backoff(delay=ms):
                return ms / 1000
            case ms:
                return float(ms) / 1000


class NewJob(BaseModel):
    """A job somebody wants run: ``data`` as its one argument, or ``args`` and ``kwargs``."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "data-sync",
                    "data": {"baseId": "appXXXXXX", "records": 1000},
                    "options": {"timeout": 3600000},
                }
            ]
        },
    )

    name: str = Field(pattern=rf"^{NAME_PATTERN.pattern}$")
    data: Any = None
    args: list[Any] | None = Field(default=None, max_length=100)
    kwargs: dict[str, Any] | None = None
    options: JobOptions = Field(default_factory=JobOptions)

    @model_validator(mode="after")
    def _data_or_arguments(self) -> Self:
        if "data" in self.model_fields_set and (self.args is not None or self.kwargs is not None):
            raise ValueError("give data, or args and kwargs, not both")
        return self


#: as FastAPI encodes, with an encoder made once
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
#: a job or a list of them; told apart first, so that an error names the field of the right one
JobOrJobs = Annotated[
    Annotated[NewJob, Tag("one")] | Annotated[list[NewJob], Tag("many")],
    Discriminator(lambda asked: "many" if isinstance(asked, list) else "one"),
]


class AcceptedJob(BaseModel):
    """What became of a request for a job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "order-1204",
                    "name": "data-sync",
                    "queue": "long-running-jobs",
                    "data": {"baseId": "appXXXXXX", "records": 1000},
                    "created": "2026-11-23T14:00:00.000000+00:00",
                    "existed": False,
                }
            ]
        }
    )

    id: str
    name: str
    queue: str
    data: Any
    created: datetime = Field(description="when it was accepted")
    existed: bool = Field(description="true: a job of this id was there, nothing was changed")


#: s a read list of function names is used again; a name that is not in it is always looked up anew
KNOWN_S: Final = 1.0
_known: dict[tuple[int, str], tuple[float, frozenset[str]]] = {}


async def known_functions(
    connections: Connections, queue: str, asked: Iterable[str] = ()
) -> frozenset[str]:
    """Return the names workers of *queue* announced, and the built-in ones; up to 1 s old.

    The list is read anew when a name of *asked* is not in it.
    """
    read_at, names = _known.get((id(connections), queue), (0.0, BUILT_IN_FUNCTIONS))
    if time.monotonic() - read_at < KNOWN_S and names.issuperset(asked):
        return names
    names = await _announced(connections, queue)
    if len(_known) >= 1_000:
        _known.clear()
    _known[id(connections), queue] = (time.monotonic(), names)
    return names


async def _announced(connections: Connections, queue: str) -> frozenset[str]:
    try:
        found = await cast(Any, connections.holding(queue).zrange(keys.functions(queue), 0, -1))
    except GONE as error:
        raise explained(error, "redis://queue") from error
    return BUILT_IN_FUNCTIONS | frozenset(str(name) for name in found)


@router.post(
    "/jobs/{queue}",
    status_code=201,
    response_model=AcceptedJob | list[AcceptedJob],
    responses={
        200: {
            "model": AcceptedJob | list[AcceptedJob],
            "description": "all were there already; nothing was changed",
        }
    },
)
async def submit(
    queue: QueueName,
    asked: Annotated[JobOrJobs, Body()],
    shared: Shared,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Response:
    """Put a job, or a list of jobs, on a queue. 201: accepted; 200: it was there already."""
    return await accept(shared, caller, queue, asked, idempotency_key)


async def accept(
    shared: Runtime,
    caller: Actor,
    queue: str,
    asked: NewJob | list[NewJob],
    idempotency_key: str | None = None,
) -> Response:
    """Put what is *asked* on *queue* for *caller*, and answer; raises what the API answers as errors."""
    settings = shared.settings
    await _check_queue(shared, queue)
    jobs = asked if isinstance(asked, list) else [asked]
    if not 1 <= len(jobs) <= MAX_JOBS:
        raise InvalidRequest(f"{len(jobs)} jobs in one request", hint=f"1 to {MAX_JOBS:,}")
    known = await known_functions(shared.connections, queue, {job.name for job in jobs})
    requests = [
        _request(job, settings, known, _id_of(job, queue, idempotency_key, number))
        for number, job in enumerate(jobs)
    ]
    done = await submit_jobs(
        shared.connections, settings, caller, queue, requests, functions_known=known
    )
    body = _answers(jobs, queue, done)
    new = any(enqueued.created for enqueued in done)
    text = _encode(body if isinstance(asked, list) else body[0])
    return Response(text.encode(), 201 if new else 200, media_type="application/json")


def _request(job: NewJob, settings: Settings, known: Iterable[str], job_id: str) -> JobRequest:
    names = frozenset(known)
    if job.name not in names and not settings.generic_jobs:
        raise UnknownFunction(job.name, sorted(names))
    options = job.options
    with_arguments = job.args is not None or job.kwargs is not None
    data = job.data if "data" in job.model_fields_set and job.data is not None else {}
    return JobRequest(
        name=job.name if job.name in names else "generic",
        args=tuple(job.args or ()) if with_arguments else (data,),
        kwargs=job.kwargs or {},
        id=job_id,
        delay_s=options.delay / 1000,
        timeout_s=None if options.timeout is None else options.timeout / 1000,
        attempts=options.attempts,
        backoff_s=options.backoff_s,
        correlation_id=options.correlationId or logs.request_id.get(),
        then=tuple(one.next_job() for one in options.then),
    )


def _id_of(job: NewJob, queue: str, idempotency_key: str | None, number: int) -> str:
    if job.options.jobId is not None:
        return job.options.jobId
    if idempotency_key:
        text = f"{queue}\0{idempotency_key}\0{number}"
        return "idem-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
    return ""


def _answers(jobs: list[NewJob], queue: str, done: list[Enqueued]) -> list[dict[str, Any]]:
    created = datetime.now(UTC).isoformat()
    return [
        {
            "id": enqueued.id,
            "name": job.name,
            "queue": queue,
            "data": job.data,
            "created": created,
            "existed": not enqueued.created,
        }
        for job, enqueued in zip(jobs, done, strict=True)
    ]


@router.get("/jobs", response_model=answers.many(answers.RunningRow))
async def running_jobs(now: Now, _: Caller) -> Response:
    """List the jobs that run now, of all queues, at most 200."""
    require(now, "queue")
    return Response(records_json(now.running), media_type="application/json")


@router.get("/jobs/{queue}", response_model=answers.PageOf[JobRow])
async def jobs(
    queue: QueueName,
    shared: Shared,
    _: Caller,
    state: Annotated[JobsOf, Query()] = "waiting",
    cursor: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    function: Annotated[str, Query(max_length=128, description="exactly")] = "",
    text: Annotated[str, Query(max_length=200, description="in id or arguments")] = "",
    error: Annotated[str, Query(max_length=200, description="in the error of ended jobs")] = "",
    since: Annotated[Moment | None, Query(description="ISO 8601: due, started or ended")] = None,
    until: Annotated[Moment | None, Query(description="ISO 8601")] = None,
) -> Response:
    """List a queue's jobs in one state, a page at a time; pass ``cursor`` on for the next.

    A filter looks through a window per page; ``partial`` says that it ended before the page was full.
    """
    await _check_queue(shared, queue)
    page = await reader.jobs_page(
        shared.connections.holding(queue),
        queue,
        state,
        cursor,
        limit,
        codec=codec_of(shared.settings),
        wanted=reader.JobFilter(
            function=function,
            text=text,
            error=error,
            since_ms=None if since is None else int(epoch_ms(since)),
            until_ms=None if until is None else int(epoch_ms(until)),
        ),
    )
    return paged(page)


@router.get("/jobs/{queue}/{job_id}", response_model=JobDetail)
async def job(queue: QueueName, job_id: JobId, shared: Shared, _: Caller) -> Response:
    """Return all that is known of one job: state, arguments, runs, result, dead letter."""
    await _check_queue(shared, queue)
    found = await reader.job(
        shared.connections.holding(queue), job_id, queues=[queue], codec=codec_of(shared.settings)
    )
    if found is None or found.queue not in ("", queue):
        raise NotFound("job", job_id)
    return encoded(asdict(found))


async def _check_queue(shared: Runtime, queue: str) -> None:
    """Refuse a queue nobody declared, produced to or was seen serving."""
    await check_queue(shared.connections, shared.settings, queue)
