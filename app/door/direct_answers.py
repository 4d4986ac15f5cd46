"""Requests answered below Tornado's handlers and FastAPI, after the guard: read whole, given to one coroutine.

For what is asked most and changes something, such as a job submitted: a request costs a task and a write, no
handler, no routing, no dependencies. What the coroutine does is the route's own function.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http.client import responses
from typing import Any, Final, Protocol, cast

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
    format_timestamp,
)

from app import logs
from app.actions import Actor
from app.door.asgi import in_flight
from app.door.headers import lines_of, may_be_sent_whole
from app.wire.prompt_client import Patience, patience

#: a loop keeps only weak references to its tasks
_tasks: Final[set[asyncio.Task[None]]] = set()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was read: who sent what where."""

    path: str  #: prefix removed
    actor: Actor
    request_id: str
    body: bytes


class Answer(Protocol):
    """What is written; Starlette's responses are such."""

    status_code: int
    body: bytes | memoryview

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Names and values, as bytes."""


#: answers one request; raises nothing
Answerer = Callable[[Asked], Awaitable[Answer]]
#: told when a request was answered, and with which status
Teller = Callable[[HTTPServerRequest, int], None]


class DirectDelegate(HTTPMessageDelegate):
    """Reads one request that says its length, has it answered, and writes the answer."""

    def __init__(
        self,
        request: HTTPServerRequest,
        asked: Callable[[bytes], Asked],
        answerer: Answerer,
        tell: Teller,
        lines: bytes,
    ) -> None:
        self._request = request
        self._asked = asked
        self._answerer = answerer
        self._tell = tell
        self._lines = lines
        self._chunks: list[bytes] = []
        self._gone = False

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        """Wait for the body."""

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body; the entrance refused those that are too long."""
        self._chunks.append(chunk)

    def on_connection_close(self) -> None:
        """Remember that nobody listens any more; what is under way goes on to its end."""
        self._gone = True

    def hang_up(self) -> None:
        """Nothing: the answer is written whole, soon."""

    def finish(self) -> None:
        """Answer, the request being whole."""
        task = asyncio.get_running_loop().create_task(self._run())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def _run(self) -> None:
        in_flight.add(self)
        try:
            asked = self._asked(b"".join(self._chunks))
            logs.request_id.set(asked.request_id)
            patience.set(Patience(self._request.request_time()))
            answer = await self._answerer(asked)
            if not self._gone:
                await self._write(answer)
        finally:
            in_flight.discard(self)

    async def _write(self, answer: Answer) -> None:
        connection = cast(Any, self._request.connection)
        date, status = _date(int(time.time())), answer.status_code
        if may_be_sent_whole(self._request):
            told = lines_of([*answer.raw_headers, (b"date", date.encode("ascii"))])
            line = b"HTTP/1.1 %d %s\r\n" % (status, responses[status].encode("ascii"))
            body = bytes(answer.body)
            written = connection.write(b"".join((line, told, self._lines, b"\r\n", body)))
        else:
            headers = HTTPHeaders()
            for name, value in answer.raw_headers:
                headers[name.decode("latin-1")] = value.decode("latin-1")
            headers["Date"] = date
            begun = ResponseStartLine("", status, responses[status])
            written = connection.write_headers(begun, headers, bytes(answer.body))
        connection.finish()
        self._tell(self._request, answer.status_code)
        if connection.stream.writing():
            await written


@functools.lru_cache(maxsize=1)
def _date(now_s: int) -> str:
    return format_timestamp(now_s)
