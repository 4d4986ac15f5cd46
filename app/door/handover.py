"""Connections handed over: accepted by the switchboard, received over a socket pair and served here.

Its wire: towards a server a byte with each connection; back a byte per second, and another when it stops.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from bokeh.application.handlers.handler import Handler
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from app.door.switchboard import LEAVES, LIVES

#: s between two signs of life
BEAT_S: Final = 1.0
#: connections taken in one turn of the loop: answers under way must not starve
_AT_ONCE: Final = 16
_CLOSE_ON_EXEC: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))


class Place(Handler):
    """Writes into each page's token which process made it, so that its websocket comes back here."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def modify_document(self, doc: Any) -> None:
        """Leave it: the page is another handler's."""

    def process_request(self, request: Any) -> dict[str, Any]:  # noqa: ARG002 - Bokeh's signature
        """What the token of the page of *request* carries."""
        return {"place": self._number}


class Receiver:
    """Gives *server* the connections that come over *channel*; *on_end* is called when nobody sends any more."""

    def __init__(
        self, channel: socket.socket, server: HTTPServer, on_end: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._server = server
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Stop listening by ourselves, receive, and tell that we live."""
        self._server.stop()
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel.fileno(), self._receive)
        self._beat()

    def leave(self) -> None:
        """Ask for no more connections; those on their way are still served."""
        with contextlib.suppress(OSError):
            self._channel.send(LEAVES)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # full or gone: _receive sees the end
            self._channel.send(LIVES)
        self._loop.call_later(BEAT_S, self._beat)

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                # one byte at a time: each carries one connection
                data, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1, _CLOSE_ON_EXEC)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._loop.remove_reader(self._channel.fileno())
                self._on_end()
                return
            for descriptor in descriptors:
                self._serve(socket.socket(fileno=descriptor))

    def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            address = connection.getpeername()  # the true one: the throttle and the audit know it
        except OSError:  # it hung up on the way
            connection.close()
            return
        stream = IOStream(
            connection,
            max_buffer_size=self._server.max_buffer_size,
            read_chunk_size=self._server.read_chunk_size,
        )
        self._server.handle_stream(stream, address)
