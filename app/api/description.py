"""The OpenAPI document: what FastAPI makes of the routes, completed with what the server does around them."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.api.problems import EXAMPLES
from app.door.idempotency import KEY_PATTERN, MAX_KEY_CHARS

_SCHEMES: Final = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "arqscope_session",
        "description": "what a login on the page gives; changes need the page's own Origin with it",
    },
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Sent again with the same key, the same request gets the answer it had.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_KEY_CHARS,
        "pattern": f"^{KEY_PATTERN}$",
    },
    "example": "0b1f7a52-order-1204",
}
#: answers that are not JSON, by path
_OTHER_CONTENT: Final[dict[str, tuple[str, ...]]] = {
    "/metrics": ("text/plain",),
    "/frames/{name}.{kind}": (
        "application/json",
        "text/csv",
        "application/vnd.apache.parquet",
    ),
    "/dead-letters/{source}": (
        "application/json",
        "application/x-ndjson",
        "text/csv",
        "application/vnd.apache.parquet",
    ),
}
#: what a request must name may be, so that the document can be tried as it is
_PLACES: Final = {
    "queue": "async-processing",
    "source": "async-processing",
    "job_id": "order-1204",
    "letter_id": "order-1204",
    "operation_id": "op-1a2b3c4d5e6f",
    "alert_id": "cause-5f0c9b7e41d2a830",
    "fingerprint": "3f2a9c01d4e5b678",
    "channel": "user:123",
    "name": "queues",
    "kind": "json",
    "start": "2026-11-26T03:00:00Z",
    "end": "2026-11-26T03:40:00Z",
    "at": "2026-11-26T03:00:00Z",
}
_TEXT: Final = {"schema": {"type": "string"}}
_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {
        "description": "the caller's own, or a new one; it is in the log and the audit line, too",
        "schema": {"type": "string"},
        "example": "5f0c9b7e41d2a830",
    },
    "Retry-After": {
        "description": "s to wait before asking again",
        "schema": {"type": "integer"},
        "example": 2,
    },
    "Idempotency-Replayed": {
        "description": "true: the answer an earlier request with this Idempotency-Key had",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Allow": {"description": "the methods there are", "schema": {"type": "string"}},
}
#: headers of an error beside its request id
_MORE_HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "405": ("Allow",),
    "409": ("Retry-After",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}


def operation_id(route: APIRoute) -> str:
    """Return what a generated client calls a route: its noun and the function's name."""
    return f"{str(route.tags[0]).replace(' ', '_')}_{route.name}"


def describe(app: FastAPI) -> None:
    """Complete the document of *app*: keys, errors with examples, headers, other content types."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(make())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    components["securitySchemes"] = _SCHEMES
    components["headers"] = _HEADERS
    errors: dict[str, Any] = components.setdefault("responses", {})
    schema["security"] = [{name: []} for name in _SCHEMES]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/health"):
                operation["security"] = []
            for place in operation.get("parameters", ()):
                _add_example(place)
            if method == "post":
                _add_idempotency_key(operation)
            for kind in _OTHER_CONTENT.get(path, ()):
                content = operation["responses"]["200"]["content"]
                if "application/json" not in _OTHER_CONTENT[path]:
                    content.pop("application/json", None)
                content.setdefault(kind, _TEXT)
            operation["responses"] = {
                status: _shared(errors, status, answer) if _is_problem(answer) else answer
                for status, answer in operation["responses"].items()
            }
            for status, answer in operation["responses"].items():
                if "$ref" not in answer:
                    _add_headers(answer, _MORE_HEADERS.get(status, ()))
                    if method == "post":
                        _add_headers(answer, ("Idempotency-Replayed",))
    return schema


def _is_problem(answer: dict[str, Any]) -> bool:
    said = answer.get("content", {}).get("application/json", {}).get("schema", {})
    return str(said.get("$ref", "")).endswith("/ProblemAnswer")


def _shared(errors: dict[str, Any], status: str, answer: dict[str, Any]) -> dict[str, str]:
    """Put an error among the components, once for all operations; return the reference to it."""
    name = f"Problem{status}"
    if name not in errors:
        answer["content"]["application/json"]["example"] = EXAMPLES[status]
        _add_headers(answer, _MORE_HEADERS.get(status, ()))
        errors[name] = answer
    return {"$ref": f"#/components/responses/{name}"}


def _add_headers(answer: dict[str, Any], names: tuple[str, ...]) -> None:
    headers = answer.setdefault("headers", {})
    for name in ("X-Request-Id", *names):
        headers[name] = {"$ref": f"#/components/headers/{name}"}


def _add_example(place: dict[str, Any]) -> None:
    if not place["required"] or place["name"] not in _PLACES:
        return
    if not {"enum", "examples"} & set(place["schema"]):
        place["example"] = _PLACES[place["name"]]


def _add_idempotency_key(operation: dict[str, Any]) -> None:
    others = [p for p in operation.get("parameters", ()) if p["name"].lower() != "idempotency-key"]
    operation["parameters"] = [*others, _IDEMPOTENCY_KEY]
