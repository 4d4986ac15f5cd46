"""The API as one FastAPI application; the server mounts it behind its guard."""

from typing import Any, Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.api import (
    alerts,
    audit,
    causes,
    documentation,
    events,
    frames,
    health,
    jobs,
    letters,
    metrics,
    notifications,
    operations,
    queues,
    stats,
    streams,
)
from app.api.problems import RESPONSES, answer_errors
from app.asgi import request_id_of
from app.server import Runtime

_ABOUT: Final = (
    "Jobs, queues, dead letters, events and their numbers. Every error is "
    "`{error: {code, message, field, hint}, requestId}`. A write whose outcome is unknown can be "
    "sent again with the same `jobId` or `Idempotency-Key`."
)


class _RequestId:
    """Give every answer its request id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        number = state.setdefault("request_id", request_id_of(None)).encode("ascii")

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", number)]
            await send(message)

        await self._app(scope, receive, tagged)


def create_api(runtime: Runtime) -> FastAPI:
    """Make the API of one server process."""
    app = FastAPI(
        title="arqscope",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=RESPONSES,
    )
    app.state.runtime = runtime
    app.add_middleware(_RequestId)
    answer_errors(app)
    app.include_router(health.router)
    for module in (
        stats,
        jobs,
        queues,
        causes,
        letters,
        operations,
        alerts,
        events,
        streams,
        notifications,
        frames,
        audit,
        metrics,
        documentation,
    ):
        app.include_router(module.router)
    _declare_keys(app)
    return app


def _declare_keys(app: FastAPI) -> None:
    """Tell the OpenAPI document how to authenticate; the guard does it before the API is asked."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = make()
            schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["key"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
            schemes["bearer"] = {"type": "http", "scheme": "bearer"}
            schema["security"] = [{"key": []}, {"bearer": []}]
            for path, operations in schema["paths"].items():
                if path.startswith("/health"):
                    for operation in operations.values():
                        operation["security"] = []
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
