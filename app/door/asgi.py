"""Carry an ASGI application inside a Tornado server: one request handler, streaming both ways.

Understands what a web API needs: bodies up to a limit, streamed answers, disconnects. No lifespan
and no websockets: the server starts things itself, and Bokeh has its own websocket.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol
from urllib.parse import unquote

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler, stream_request_body

from app import logs
from app.auth import MAX_BODY_BYTES
from app.wire.prompt_client import Patience, patience

Message = MutableMapping[str, Any]
Application = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[Message]],
        Callable[[Message], Awaitable[None]],
    ],
    Awaitable[None],
]

log = logging.getLogger("arqscope.asgi")

#: s a client may take for one piece of a streamed answer
SLOW_S: Final = 20.0


class UnderWay(Protocol):
    """An answer that is not written yet, or not to its end."""

    def hang_up(self) -> None:
        """End it if it could go on for ever."""


#: answers under way, so that a stopping server can wait for them
in_flight: set[UnderWay] = set()

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")


def hang_up() -> None:
    """Tell the answers that stream, and would go on for ever, that nobody listens any more."""
    for answer in list(in_flight):
        answer.hang_up()


def request_id_of(offered: str | None) -> str:
    """Return the caller's own request id when it is a plain one, else a new one."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else secrets.token_hex(8)


@stream_request_body
class AsgiHandler(RequestHandler):
    """One HTTP request, handed to the ASGI application *app* and its answer handed back."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")

    def initialize(self, app: Application) -> None:
        """Take the application (Tornado calls this with the route's arguments)."""
        self._app = app
        self._body = bytearray()
        self._body_given = False
        self._gone = asyncio.Event()

    def check_xsrf_cookie(self) -> None:
        """Pass: the guard compares Origin and Sec-Fetch-Site for every change."""

    def compute_etag(self) -> None:
        """Make no ETag: it would hash every streamed answer."""

    def set_default_headers(self) -> None:
        """Leave all headers to the application."""
        self.clear_header("Content-Type")

    def data_received(self, chunk: bytes) -> None:
        """Keep the body up to one byte over the limit, whatever the client goes on sending."""
        if len(self._body) <= MAX_BODY_BYTES:
            self._body += chunk

    def on_connection_close(self) -> None:
        """Tell the application that nobody listens any more."""
        self._gone.set()

    def hang_up(self) -> None:
        """End an answer that streams; one that is whole goes on to its end."""
        if self._headers_written:
            self._gone.set()

    async def _run(self, *_: Any) -> None:
        in_flight.add(self)
        scope = self._scope()
        logs.request_id.set(scope["state"]["request_id"])
        patience.set(Patience(self.request.request_time()))
        try:
            await self._app(scope, self._receive, self._send)
        except StreamClosedError:
            self._gone.set()
        finally:
            in_flight.discard(self)
            if self._headers_written and not self._finished:
                self._cut_off()

    def _cut_off(self) -> None:
        """Close the connection of an answer the application left incomplete: never as if complete."""
        self._finished = True
        connection: Any = self.request.connection
        connection.close()

    get = head = post = put = delete = patch = options = _run

    def _scope(self) -> MutableMapping[str, Any]:
        request = self.request
        host, _, port = request.host.rpartition(":")
        prefix = str(getattr(self.application, "prefix", "") or "")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET" if request.method == "HEAD" else request.method,
            "scheme": request.protocol,
            "path": unquote(request.path),
            "raw_path": request.path.encode("latin-1", "replace"),
            "query_string": request.query.encode("latin-1", "replace"),
            "root_path": prefix,
            "headers": [
                (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
                for name, value in request.headers.get_all()
            ],
            "client": (request.remote_ip, 0),
            "server": (host or request.host, int(port) if port.isdecimal() else 80),
            "extensions": {},
            "state": {
                "actor": getattr(request, "arqscope_actor", None),
                "request_id": request_id_of(request.headers.get("X-Request-Id")),
            },
        }

    async def _flush_in_time(self) -> None:
        """Send what was written; a client that takes too long for it is cut off."""
        try:
            async with asyncio.timeout(SLOW_S):
                await self.flush()
        except TimeoutError:
            log.warning("slow client cut off", extra={"peer": self.request.remote_ip})
            self._gone.set()
            connection: Any = self.request.connection
            connection.close()

    async def _receive(self) -> Message:
        if not self._body_given:
            self._body_given = True
            return {"type": "http.request", "body": bytes(self._body), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._gone.is_set() or self._finished:
            return
        try:
            await self._write(message)
        except StreamClosedError:  # the client left: nothing failed here
            self._gone.set()

    async def _write(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.set_status(message["status"])
            for name, value in message.get("headers", ()):
                self.add_header(name.decode("latin-1"), value.decode("latin-1"))
        elif message["type"] == "http.response.body":
            chunk = message.get("body", b"")
            if chunk:
                self.write(bytes(chunk))
            if message.get("more_body"):
                await self._flush_in_time()
            else:
                await self.finish()
