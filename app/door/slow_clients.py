"""Connections that stop: who sends its headers in drops, or reads nothing of its answer, is cut off."""

import gc
import logging
import resource
from collections.abc import Callable, Iterable
from typing import Any, Final

from bokeh.server.tornado import BokehTornado
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

log = logging.getLogger("arqscope.slow_clients")

#: s between two looks
LOOK_S: Final = 5.0
#: looks without a byte taken, or without the end of a header, before a connection is cut
PATIENCE: Final = 3
#: s a body may take
BODY_S: Final = 30.0
#: s an idle connection is kept
IDLE_S: Final = 75.0
MAX_HEADER_BYTES: Final = 32_768
#: bytes of one answer or socket that may wait for a slow reader
MAX_UNSENT_BYTES: Final = 16_000_000


def servers_of(application: BokehTornado) -> list[HTTPServer]:
    """Return the HTTP servers in front of *application*; Bokeh's hooks are not told theirs."""
    found = [thing for thing in gc.get_objects() if isinstance(thing, HTTPServer)]
    return [server for server in found if server.request_callback is application]


def bound(server: HTTPServer) -> None:
    """Give *server* its limits: header bytes, and seconds for headers and bodies."""
    parameters: Any = server.conn_params
    parameters.max_header_size = MAX_HEADER_BYTES
    parameters.header_timeout = IDLE_S
    parameters.body_timeout = BODY_S


def allow_many_connections() -> None:
    """Raise this process's limit of open files to what it may have: connections are files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Watch:
    """Looks at every connection in turn and cuts those that made no progress since the last looks."""

    def __init__(
        self, servers: Iterable[HTTPServer], sockets: Callable[[], Iterable[Any]] = tuple
    ) -> None:
        self._servers = tuple(servers)
        self._sockets = sockets
        #: stream → bytes sent at the first of its idle looks, and how many there were
        self._idle: dict[IOStream, tuple[int, int]] = {}

    def look(self) -> int:
        """Look once; return how many connections were cut."""
        idle: dict[IOStream, tuple[int, int]] = {}
        cut = 0
        for stream in self._streams():
            if stream.closed():
                continue
            waits, unsent = _is_in_header(stream), _unsent(stream)
            if not waits and not unsent:
                continue
            sent = int(getattr(stream, "_total_write_done_index", 0))
            before, looks = self._idle.get(stream, (sent, 0))
            looks = looks + 1 if waits or before == sent else 1
            if looks > PATIENCE or unsent > MAX_UNSENT_BYTES:
                stream.close()
                cut += 1
            else:
                idle[stream] = (sent, looks)
        self._idle = idle
        if cut:
            log.warning("slow clients cut off", extra={"connections": cut})
        return cut

    def _streams(self) -> Iterable[IOStream]:
        for server in self._servers:
            for connection in list(getattr(server, "_connections", ())):
                yield connection.stream
        for socket in list(self._sockets()):
            stream = getattr(getattr(socket, "ws_connection", None), "stream", None)
            if stream is not None:
                yield stream


def _is_in_header(stream: Any) -> bool:
    """Whether a request's header has begun and not ended."""
    return getattr(stream, "_read_regex", None) is not None and stream._read_buffer_size > 0


def _unsent(stream: Any) -> int:
    return len(stream._write_buffer or ())
