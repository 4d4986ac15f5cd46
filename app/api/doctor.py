"""The doctor over HTTP: every hazard found now, with evidence and remedy."""

from fastapi import APIRouter
from fastapi.responses import Response

from app.api import answers
from app.api.access import Caller, Shared
from app.api.encoded import encoded
from app.doctor.examination import examine

router = APIRouter(tags=["health"])


@router.get("/doctor", response_model=answers.Diagnosed)
async def doctor(shared: Shared, _: Caller) -> Response:
    """Look for every known hazard of Redis, arq and the settings; bounded however much is stored."""
    return encoded((await examine(shared.connections, shared.settings)).as_dict())
