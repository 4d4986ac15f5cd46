"""Errors as answers: one shape for all, a status and a code per kind, never an inside detail."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from app.api.strict_json import RefusedBody
from app.door.asgi import request_id_of
from app.errors import (
    ActionRefused,
    ArqscopeError,
    BadRecord,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RedisRefused,
    RedisUnavailable,
    UnderWay,
)
from app.wire.connections import GONE, is_refusal

#: parts of pydantic's path that name no field of the caller
_PLACES: Final = ("body", "query", "path", "header", "one", "many")

log = logging.getLogger("arqscope.api")


class Problem(BaseModel):
    """What went wrong, for a program (code, field) and for a person (message, hint)."""

    code: str = Field(examples=["invalid"])
    message: str
    field: str | None = None
    hint: str | None = None


class ProblemAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: Problem
    requestId: str


_MEANING: Final[Mapping[int, str]] = {
    400: "The body is not JSON, or the request is none of HTTP/1.1",
    401: "No valid key",
    403: "Not allowed, or sent by a page of another site",
    404: "No such thing",
    405: "Not with this method",
    409: "Does not apply in this state",
    413: "Too large",
    422: "Understood, but against a rule",
    429: "Too many wrong keys from this address",
    431: "The header of the request is too long",
    500: "Something broke here",
    503: "Redis does not answer",
}
#: what every operation of the API may answer beside its success
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ProblemAnswer, "description": meaning} for status, meaning in _MEANING.items()
}
#: one error of each kind, for the OpenAPI document; by status as the document writes it
EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    str(status): {
        "error": {"code": code, "message": message, "field": field, "hint": hint},
        "requestId": "5f0c9b7e41d2a830",
    }
    for status, code, message, field, hint in (
        (
            400,
            "malformed",
            "the body is not JSON",
            None,
            "send the header Content-Type: application/json",
        ),
        (401, "unauthenticated", "this needs an API key", None, "send the header X-API-Key"),
        (
            403,
            "forbidden",
            "this needs the role operator, you are viewer",
            None,
            "use a key with more rights",
        ),
        (
            404,
            "not_found",
            "no queue named 'nope'",
            None,
            "known: async-processing, long-running-jobs",
        ),
        (405, "method_not_allowed", "this address does not answer PUT", None, "use GET or HEAD"),
        (409, "conflict", "job-1 is running; abort it instead", None, None),
        (413, "too_large", "the body has 2000000 bytes, the limit is 1000000", None, "send less"),
        (422, "invalid", "no function named 'nope'", "name", "known functions: data-sync, generic"),
        (429, "too_many_failures", "too many wrong keys from this address", None, "wait 42 s"),
        (
            431,
            "too_large",
            "the header of the request is too long",
            None,
            "send at most 32 kB of it",
        ),
        (500, "internal", "something broke here", None, "tell us the requestId"),
        (
            503,
            "unavailable",
            "Redis does not answer",
            None,
            "ask again with the same Idempotency-Key",
        ),
    )
}
_CODES: Final[Mapping[int, str]] = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "too_many_failures",
    431: "too_large",
    503: "unavailable",
}


def problem(
    request_id: str,
    status: int,
    message: str,
    *,
    code: str = "",
    field: str | None = None,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Make an error answer."""
    return JSONResponse(
        {
            "error": {
                "code": code or _CODES.get(status, "error"),
                "message": message,
                "field": field,
                "hint": hint or None,
            },
            "requestId": request_id,
        },
        status,
        headers=dict(headers or {}),
    )


def request_id(request: Request) -> str:
    """Return the id of this request; the bridge made it, or it is made now."""
    state = request.scope.setdefault("state", {})
    return str(state.setdefault("request_id", request_id_of(None)))


def answer_errors(app: FastAPI) -> None:
    """Register one handler for every family of errors."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return problem_of(error, request_id(request))

    for kind in (HTTPException, RequestValidationError, ArqscopeError, *GONE, Exception):
        app.add_exception_handler(kind, on_error)


def problem_of(error: Exception, request_id: str) -> JSONResponse:
    """Return the answer that *error* is, whoever answers; what nobody foresaw is logged, never told."""
    match error:
        case RefusedBody():
            return problem(
                request_id,
                error.status_code,
                str(error.detail),
                code=error.code,
                hint=error.hint,
            )
        case HTTPException():
            hint = "see /docs" if error.status_code in (404, 405) else None
            return problem(
                request_id, error.status_code, str(error.detail), hint=hint, headers=error.headers
            )
        case RequestValidationError():
            return _invalid(error, request_id)
        case ArqscopeError():
            return _ours(error, request_id)
        case _ if isinstance(error, GONE) or is_refusal(error):
            return _unavailable(request_id, "Redis does not answer")
        case _:
            return _unforeseen(error, request_id)


def _invalid(error: RequestValidationError, request_id: str) -> JSONResponse:
    first = error.errors()[0]
    place = [str(part)[:60] for part in first.get("loc", ()) if part not in _PLACES]
    if first.get("type") == "missing" and not place:
        return problem(request_id, 400, "a JSON body is needed")
    more = len(error.errors()) - 1
    return problem(
        request_id,
        422,
        str(first.get("msg", "not valid"))[:300],
        field=".".join(place) or None,
        hint=f"and {more} more" if more else "see /docs",
    )


def _ours(error: ArqscopeError, request_id: str) -> JSONResponse:
    match error:
        case PayloadTooLarge():
            return problem(request_id, 413, str(error), field=error.field, hint=error.hint)
        case InvalidRequest():
            return problem(request_id, 422, str(error), field=error.field, hint=error.hint)
        case NotFound():
            hint = f"known: {', '.join(error.known[:50])}" if error.known else None
            return problem(request_id, 404, str(error), hint=hint)
        case UnderWay():
            return problem(request_id, 409, str(error), headers={"Retry-After": "1"})
        case ActionRefused():
            right = any(word in str(error) for word in ("read-only", "right", "role", "viewer"))
            return problem(request_id, 403 if right else 409, str(error))
        case RedisUnavailable() | RedisRefused():
            return _unavailable(request_id, str(error))
        case Overloaded():
            return problem(
                request_id,
                503,
                str(error),
                code="overloaded",
                hint="come back later",
                headers={"Retry-After": "10"},
            )
        case BadRecord():
            return problem(request_id, 409, str(error), code="undecodable")
        case _:
            return _unforeseen(error, request_id)


def _unavailable(request_id: str, message: str) -> JSONResponse:
    return problem(
        request_id,
        503,
        message,
        hint="ask again with the same jobId or Idempotency-Key",
        headers={"Retry-After": "2"},
    )


def _unforeseen(error: Exception, request_id: str) -> JSONResponse:
    log.error("request failed", exc_info=error, extra={"requestId": request_id})
    return problem(
        request_id, 500, "something broke here", code="internal", hint="tell us the requestId"
    )
