"""The OpenAPI document: what FastAPI makes of the routes, completed with what the server does around them."""

from typing import Any, Final

from fastapi import FastAPI

from app.api.problems import EXAMPLES

_SCHEMES: Final = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Sent again with the same key, the same request gets the answer it had.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "0b1f7a52-order-1204",
}
#: answers that are not JSON, by path
_OTHER_CONTENT: Final[dict[str, tuple[str, ...]]] = {
    "/metrics": ("text/plain",),
    "/frames/{name}.{kind}": ("application/json", "text/csv"),
}
#: what a placeholder in a path may be, so that the document can be tried as it is
_PLACES: Final = {
    "queue": "async-processing",
    "source": "async-processing",
    "job_id": "order-1204",
    "letter_id": "order-1204",
    "channel": "user:123",
    "kind": "json",
}
_TEXT: Final = {"schema": {"type": "string"}}


def describe(app: FastAPI) -> None:
    """Complete the document of *app*: keys, error examples, idempotency keys, other content types."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(make())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    schema.setdefault("components", {})["securitySchemes"] = _SCHEMES
    schema["security"] = [{"key": []}, {"bearer": []}]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/health"):
                operation["security"] = []
            for place in operation.get("parameters", ()):
                if (
                    place["in"] == "path"
                    and place["name"] in _PLACES
                    and "enum" not in place["schema"]
                ):
                    place["example"] = _PLACES[place["name"]]
            if method == "post":
                _add_idempotency_key(operation)
            for status, answer in operation["responses"].items():
                if status in EXAMPLES and "content" in answer:
                    answer["content"]["application/json"]["example"] = EXAMPLES[status]
            for kind in _OTHER_CONTENT.get(path, ()):
                content = operation["responses"]["200"]["content"]
                if "application/json" not in _OTHER_CONTENT[path]:
                    content.pop("application/json", None)
                content.setdefault(kind, _TEXT)
    return schema


def _add_idempotency_key(operation: dict[str, Any]) -> None:
    others = [p for p in operation.get("parameters", ()) if p["name"].lower() != "idempotency-key"]
    operation["parameters"] = [*others, _IDEMPOTENCY_KEY]
