"""Answers to what cannot be read as a request: our shape and headers where Tornado writes a bare 400, or hangs up.

Tornado tells nobody of such requests: it writes to the stream itself. So the stream of every connection says
it our way, and stays open a moment longer, for a connection closed over unread bytes loses the answer.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.httputil import format_timestamp
from tornado.iostream import IOStream, UnsatisfiableReadError

from app.door.asgi import request_id_of
from app.door.headers import AnswerHeaders

log = logging.getLogger("arqscope.unreadable")

#: what Tornado writes of a request it cannot read
_BARE: Final = b"HTTP/1.1 400 Bad Request\r\n\r\n"
_MALFORMED: Final = (
    "400 Bad Request",
    "malformed",
    "this is not a request of HTTP/1.1",
    "send a start line, headers and a body as RFC 9112 has them; one Content-Length, or chunks",
)
_LONG_HEADER: Final = (
    "431 Request Header Fields Too Large",
    "too_large",
    "the header of the request is too long",
    "send at most 32 kB of it; an old cookie may be what is too long",
)
#: s and bytes a client goes on being read after it was told, and how many are at a time
_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 1_000_000
_MOST: Final = 100

_lingering: Final[set[asyncio.Task[None]]] = set()


def answer_unreadable(server: HTTPServer, headers: AnswerHeaders) -> None:
    """See that *server* answers what it cannot read with *headers* and an error of ours."""
    handle: Any = server.handle_stream

    def handle_stream(stream: IOStream, address: Any) -> Any:
        _Told(stream, address, headers)
        return handle(stream, address)

    server.handle_stream = handle_stream  # type: ignore[method-assign]


class _Told:
    """Stands in for the write and the close of one stream."""

    def __init__(self, stream: Any, address: Any, headers: AnswerHeaders) -> None:
        self._stream = stream
        self._write: Any = stream.write
        self._close: Any = stream.close
        self._address = address
        self._headers = headers
        self._is_told = False
        self._stream.write = self.write
        self._stream.close = self.close

    def write(self, data: bytes | memoryview) -> Any:
        """Write *data*; what Tornado says of a malformed request in our words."""
        if data != _BARE:
            return self._write(data)
        self._is_told = True
        return self._write(self._answer(_MALFORMED))

    def close(self, exc_info: Any = False) -> None:
        """Close; over a request that was not read to its end, not before the client could read the answer."""
        stream = self._stream
        if isinstance(exc_info, UnsatisfiableReadError) and not stream.closed():
            self._is_told = True
            # a chunk's size is looked for by a delimiter, the end of a header by a pattern
            is_header = getattr(stream, "_read_regex", None) is not None
            self._write(self._answer(_LONG_HEADER if is_header else _MALFORMED))
        rest = None
        if self._is_told and not stream.closed() and len(_lingering) < _MOST:
            with contextlib.suppress(OSError):
                rest = stream.socket.dup()
        self._close(exc_info)
        # the stream and this one hold each other: nobody should have to look for such pairs
        vars(stream).pop("write", None)
        vars(stream).pop("close", None)
        if rest is not None:
            task = asyncio.get_running_loop().create_task(_linger(rest))
            _lingering.add(task)
            task.add_done_callback(_lingering.discard)

    def _answer(self, told: tuple[str, str, str, str]) -> bytes:
        status, code, message, hint = told
        request_id = request_id_of(None)
        peer = self._address[0] if isinstance(self._address, tuple) else ""
        fields = {"code": code, "status": int(status[:3]), "peer": peer, "requestId": request_id}
        log.info("request refused", extra=fields)
        error = {"code": code, "message": message, "field": None, "hint": hint}
        body = json.dumps({"error": error, "requestId": request_id}).encode()
        lines = {
            "Content-Type": "application/json; charset=UTF-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            "Date": format_timestamp(time.time()),
            "X-Request-Id": request_id,
            **self._headers.of(page=False, secure=False),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


async def _linger(connection: socket.socket) -> None:
    """Say that no more is coming, and drop what still comes, for a moment."""
    loop, left = asyncio.get_running_loop(), _LINGER_BYTES
    with connection, contextlib.suppress(OSError, TimeoutError):
        connection.setblocking(False)
        connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_LINGER_S):
            while left > 0 and (dropped := await loop.sock_recv(connection, 65_536)):
                left -= len(dropped)
