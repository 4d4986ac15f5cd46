"""Answers that are ready before they are asked for: written below Tornado's handlers, after the guard.

For what is asked most and changes once per sample, such as ``/stats``: a request costs a lookup and a
write, no handler, no routing, no encoding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)

from app.door.headers import lines_of, may_be_sent_whole

#: gives the body of the moment, or None when the usual way must answer (an error, say)
Body = Callable[[], bytes | None]


@dataclass(frozen=True, slots=True)
class ReadyAnswer:
    """One address that can be answered at once with status 200."""

    body: Body
    content_type: str = "application/json"


class ReadyDelegate(HTTPMessageDelegate):
    """Writes one ready answer when the request has been read."""

    def __init__(
        self,
        request: HTTPServerRequest,
        answer: ReadyAnswer,
        body: bytes,
        more: Mapping[str, str],
        lines: bytes,
    ) -> None:
        self._request = request
        self._answer = answer
        self._body = body
        self._more = more
        self._lines = lines

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        """Wait for the end of the request."""

    def data_received(self, chunk: bytes) -> None:
        """Drop it: such an address takes no body."""

    def finish(self) -> None:
        """Write the answer."""
        connection = cast(Any, self._request.connection)
        if may_be_sent_whole(self._request):
            told = [(b"Content-Type", self._answer.content_type.encode("latin-1")), (b"Cache-Control", b"no-store"),
                    (b"Content-Length", b"%d" % len(self._body)),
                    *((name.encode("latin-1"), value.encode("latin-1")) for name, value in self._more.items())]  # fmt: skip
            connection.write(
                b"".join((b"HTTP/1.1 200 OK\r\n", lines_of(told), self._lines, b"\r\n", self._body))
            )
            connection.finish()
            return
        headers = HTTPHeaders(self._more)
        headers["Content-Type"] = self._answer.content_type
        headers["Cache-Control"] = "no-store"
        headers["Content-Length"] = str(len(self._body))
        head = self._request.method == "HEAD"
        connection.write_headers(
            ResponseStartLine("", 200, "OK"), headers, b"" if head else self._body
        )
        connection.finish()

    def on_connection_close(self) -> None:
        """Nothing is under way."""
