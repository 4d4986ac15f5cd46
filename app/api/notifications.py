"""Notifications: send one, and listen to a channel as server-sent events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from app import actions
from app.api.access import Caller, Shared
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute
from app.streams.listeners import GAP, Listener

router = APIRouter(tags=["notifications"], route_class=StrictRoute)

#: s between two signs of life, so that proxies and clients keep the connection
HEARTBEAT_S: Final = 15.0
#: ms a client waits before it connects again
RETRY_MS: Final = 3_000
_CHANNEL: Final = r"^(user|workspace):[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$|^system:broadcast$"

Channel = Annotated[
    str, Path(max_length=160, pattern=_CHANNEL, examples=["user:user123", "system:broadcast"])
]


class Notification(BaseModel):
    """A message to whoever listens on a channel."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"message": "Welcome"}]}
    )

    message: str | dict[str, Any] = Field(max_length=10_000)
    type: str = Field(default="notification", max_length=64)


@router.post("/notifications/{channel}")
async def notify(channel: Channel, asked: Notification, shared: Shared, caller: Caller) -> Report:
    """Send a notification to ``user:<id>``, ``workspace:<id>`` or ``system:broadcast``."""
    done = await actions.notify(
        shared.connections, shared.settings, caller, channel, asked.message, asked.type
    )
    return report(done)


@router.get(
    "/notifications/{channel}",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events until the client leaves; a comment every 15 s.",
            "content": {
                "text/event-stream": {
                    "example": "retry: 3000\n\nid: 1795442400000-0\ndata: "
                    '{"id":"1795442400000-0","timestamp":"2026-11-23T14:00:00.000+00:00",'
                    '"type":"notification","message":"Welcome","userId":"user123"}\n\n'
                }
            },
        }
    },
)
async def listen(
    channel: Channel,
    shared: Shared,
    _: Caller,
    last_event_id: Annotated[str, Header(max_length=64)] = "",
    since: Annotated[str, Query(max_length=64, description="as Last-Event-ID")] = "",
) -> Response:
    """Listen to a channel; with ``Last-Event-ID`` (``0``: all) hear first what was missed.

    The last 50 notifications of a channel are remembered for an hour. When older ones were missed,
    an event named ``gap`` says so. A client that does not read is disconnected; ask again with the
    last id.
    """
    stack = contextlib.AsyncExitStack()
    joined = shared.listeners.listening(channel, last_event_id or since)
    listener = await stack.enter_async_context(joined)
    return EventStream(listener, stack)


async def frames(listener: Listener, heartbeat_s: float = HEARTBEAT_S) -> AsyncIterator[bytes]:
    """What a client is sent: how soon to come back, what was missed, what is heard, signs of life."""
    yield f"retry: {RETRY_MS}\n\n".encode()
    if listener.missed:
        yield GAP.frame
    while (heard := await listener.take(heartbeat_s)) is not None:
        yield b"".join(one.frame for one in heard) or b": alive\n\n"


class EventStream(Response):
    """An answer that lasts as long as client, server and the client's patience do."""

    media_type = "text/event-stream"

    def __init__(self, listener: Listener, stack: contextlib.AsyncExitStack) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._listener = listener
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the client leaves, the server stops, or the client is too slow."""
        tasks = [
            asyncio.create_task(self._pump(send)),
            asyncio.create_task(_left(receive)),
            asyncio.create_task(self._listener.dropped.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stack.aclose()
        # an answer that was not completed is cut off by the server: the client comes back

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in frames(self._listener):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
