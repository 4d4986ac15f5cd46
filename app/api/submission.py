"""``POST /jobs/{queue}`` answered directly, below FastAPI: the plain case, by the route's own function and shapes.

FastAPI's way through dependencies and routing costs twice what submitting a job does. Whatever is not the plain
case (an idempotency key, a body of unsaid length, another content type) goes that way.
"""

from typing import Final

from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from app.api.jobs import JobOrJobs, NewJob, accept
from app.api.problems import problem_of
from app.api.strict_json import JSON, kind_of, parse
from app.auth import Request
from app.declarations import NAME_PATTERN
from app.door.direct_answers import Answer, Answerer, Asked
from app.server import Runtime

_PLACE: Final = "/jobs/"
_BODY: Final[TypeAdapter[NewJob | list[NewJob]]] = TypeAdapter(JobOrJobs)


def takes(request: Request) -> bool:
    """Whether *request* is the plain case of submitting jobs."""
    headers = request.headers
    return (
        request.method == "POST"
        and request.path.startswith(_PLACE)
        and NAME_PATTERN.fullmatch(request.path, len(_PLACE)) is not None
        and headers.get("content-length", "0") != "0"
        and kind_of(headers.get("content-type", "")) == JSON
        and "idempotency-key" not in headers
        and "transfer-encoding" not in headers
        and not request.is_websocket
    )


def answerer(shared: Runtime) -> Answerer:
    """Return what answers such requests for one server."""

    async def answer(asked: Asked) -> Answer:
        try:
            jobs = _read(parse(asked.body))
            made = await accept(shared, asked.actor, asked.path[len(_PLACE) :], jobs)
        except Exception as error:
            made = problem_of(error, asked.request_id)
        made.headers["X-Request-Id"] = asked.request_id
        made.headers["Cache-Control"] = "no-store"
        return made

    return answer


def _read(value: object) -> NewJob | list[NewJob]:
    """Return the jobs of a parsed body; RequestValidationError as FastAPI raises it."""
    try:
        return _BODY.validate_python(value, from_attributes=True)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error
