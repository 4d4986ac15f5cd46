"""The doctor over HTTP: every hazard found now, with evidence and remedy."""

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api import answers
from app.api.access import Caller, Shared
from app.api.encoded import encoded
from app.doctor.examination import examine

router = APIRouter(tags=["health"])
#: s an examination is good for
FRESH_S: Final = 1.0


@router.get("/doctor", response_model=answers.Diagnosed)
async def doctor(request: Request, shared: Shared, _: Caller) -> Response:
    """Look for every known hazard of Redis, arq and the settings; bounded however much is stored."""
    # a look costs Redis thousands of commands: who asks at the same time gets the same one
    found = await request.app.state.examined.get(
        "doctor", lambda: examine(shared.connections, shared.settings), FRESH_S
    )
    return encoded(found.as_dict())
