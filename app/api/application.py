"""The API as one FastAPI application; the server mounts it behind its guard."""

import asyncio
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.annals.recall import Answers
from app.api import (
    alerts,
    analyses,
    audit,
    causes,
    doctor,
    documentation,
    events,
    frames,
    health,
    history,
    incidents,
    jobs,
    letters,
    metrics,
    notifications,
    operations,
    queues,
    stats,
    streams,
)
from app.api.description import describe, operation_id
from app.api.problems import RESPONSES, answer_errors
from app.door.asgi import request_id_of
from app.server import Runtime

#: modules whose ``router`` makes up the API; a new one is added here, its policy to ``permissions``
MODULES: Final[tuple[Any, ...]] = (
    health,
    doctor,
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
    history,
    incidents,
    analyses,
    audit,
    metrics,
    documentation,
)

_ABOUT: Final = (
    "Jobs, queues, dead letters, events and their numbers. Every error is "
    "`{error: {code, message, field, hint}, requestId}`. A write whose outcome is unknown can be "
    "sent again with the same `jobId` or `Idempotency-Key`."
)


class _RequestId:
    """Give every answer its request id, and keep it out of caches unless it says otherwise."""

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
                headers = [*message.get("headers", ()), (b"x-request-id", number)]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = headers
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
        generate_unique_id_function=operation_id,
    )
    app.state.runtime = runtime
    app.state.examined = Answers(1)
    app.state.incidents = asyncio.Lock()
    app.add_middleware(_RequestId)
    answer_errors(app)
    for module in MODULES:
        app.include_router(module.router)
    describe(app)
    return app


def warmed_up(app: FastAPI) -> FastAPI:
    """Make what FastAPI would make while the first request waits, half a second of work: its routes, its layers."""
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []}
    for route in app.router.routes:
        route.matches(scope)
    app.middleware_stack = app.build_middleware_stack()
    return app


def routes() -> list[APIRoute]:
    """Return every route of the API, in the order they are tried."""
    return [route for module in MODULES for route in module.router.routes]


def nouns() -> frozenset[str]:
    """Return the first parts of all paths; the server sends what begins with one to the API."""
    return frozenset(route.path.split("/", 2)[1] for route in routes()) | {"openapi.json"}
