"""Operations: start a bulk action or see what it would do, follow it, pause, resume, abort."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app import actions, operations
from app.api import answers
from app.api.access import Caller, Shared
from app.api.encoded import encoded, paged
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute
from app.operations import Operation
from app.operations.listing import page

router = APIRouter(tags=["operations"], route_class=StrictRoute)

OperationId = Annotated[str, Path(min_length=1, max_length=64)]


class NewOperation(BaseModel):
    """A bulk action: what, on which of them, why, how fast."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "kind": "retry_letters",
                    "source": "async-processing",
                    "filter": {"error_type": "TimeoutError", "older_than": "1h"},
                    "reason": "the supplier is back",
                    "rate_per_s": 5,
                    "canary": 5,
                    "canary_max_failed": 0.2,
                    "dry_run": True,
                }
            ]
        },
    )

    kind: str = Field(max_length=64, description="retry_letters, discard_letters, archive_letters")
    source: str = Field(max_length=128, description="queue or stream")
    filter: dict[str, str] = Field(
        default_factory=dict,
        description="name, fingerprint, error_type, text, since, until, older_than; all must hold",
    )
    reason: str = Field(default="", max_length=400)
    rate_per_s: float | None = Field(default=None, gt=0, description="none: as fast as it goes")
    canary: int = Field(default=0, ge=0, description="so many first; their outcomes are awaited")
    canary_max_failed: float = Field(default=0.0, ge=0, le=1, description="share that may fail")
    canary_wait_s: float = Field(default=300.0, gt=0, description="s to wait for the outcomes")
    dry_run: bool = Field(default=False, description="count and show a few, change nothing")


@router.post("/operations")
async def start(wanted: NewOperation, shared: Shared, caller: Caller) -> Report:
    """Start a bulk action, or with ``dry_run`` see what it would be about."""
    asked: dict[str, Any] = wanted.model_dump()
    where = (shared.connections, shared.settings, caller)
    kind, source = asked.pop("kind"), asked.pop("source")
    return report(await actions.start_operation(*where, kind, source, asked.pop("filter"), **asked))


@router.get("/operations", response_model=answers.PageOf[Operation])
async def listed(
    shared: Shared,
    _: Caller,
    state: Annotated[Literal["open", "all"], Query()] = "all",
    cursor: Annotated[str | None, Query(max_length=256)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """List operations a page at a time, newest first: all, or those that are open."""
    redis = shared.connections.queue
    return paged(await page(redis, cursor, limit, open_only=state == "open"))


@router.get("/operations/{operation_id}", response_model=Operation)
async def one(operation_id: OperationId, shared: Shared, _: Caller) -> Response:
    """Return one operation: what it is about, how far it is and why it stands there."""
    return encoded(asdict(await operations.read(shared.connections.queue, operation_id)))


@router.post("/operations/{operation_id}/{verb}")
async def steer(
    operation_id: OperationId,
    verb: Literal["pause", "resume", "abort"],
    shared: Shared,
    caller: Caller,
) -> Report:
    """Pause an operation, let it go on, or end it; twice does it once."""
    where = (shared.connections, shared.settings, caller, operation_id)
    match verb:
        case "pause":
            return report(await actions.pause_operation(*where))
        case "resume":
            return report(await actions.resume_operation(*where))
        case "abort":
            return report(await actions.abort_operation(*where))
