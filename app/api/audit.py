"""The audit log: what operators did, newest first."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app import reader
from app.api import answers
from app.api.access import Caller, Shared
from app.api.encoded import paged
from app.api.strict_json import StrictRoute

router = APIRouter(tags=["audit"], route_class=StrictRoute)


@router.get("/audit", response_model=answers.PageOf[answers.AuditLine])
async def audit(
    shared: Shared,
    _: Caller,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """List what operators did, a page at a time."""
    return paged(await reader.audit_page(shared.connections.queue, cursor, limit))
