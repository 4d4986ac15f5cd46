"""The entrance: the guard's side that knows Tornado. Every request passes it before any handler.

It bounds what is read, asks the guard, answers refusals, and hands the visit on with the request.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from bokeh.server.tornado import BokehTornado
from tornado.escape import json_encode
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler, stream_request_body

from app.actions import Actor
from app.auth import MAX_BODY_BYTES, Guard, Refusal, Request, Visit
from app.door.asgi import request_id_of
from app.door.direct_answers import Answerer, Asked, DirectDelegate
from app.door.headers import AnswerHeaders
from app.door.ready_answers import ReadyAnswer, ReadyDelegate
from app.pages.address import paths

log = logging.getLogger("arqscope.entrance")

#: where a login without a wish leads
PAGE: Final = "/admin/queues"
#: paths whose HTML answers are pages of ours
PAGES: Final = frozenset({"/dashboard", "/login", "/login/oauth", *paths()})
#: what Tornado may read of a body; the handler keeps MAX_BODY_BYTES of it and answers 413
_MAX_READ_BYTES: Final = 16 * MAX_BODY_BYTES
#: a login form; Tornado takes forms apart before any handler sees them
_MAX_FORM_BYTES: Final = 16_384
#: refused before the body is read
_EARLY: Final = (411, 413)
#: s, and bytes, that are dropped after such an answer before the connection is closed over what still comes
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 64_000_000
_KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
#: what would let a request choose the page session it joins
_CHOOSERS: Final = ("bokeh-token", "bokeh-session-id")


class Entrance:
    """Stands before everything *application* answers; made once, when the server starts.

    *is_api* says which paths (prefix removed) take JSON bodies, *ready* which are answered at once, *direct*
    which requests by whom, below the application's handlers.
    """

    def __init__(
        self,
        application: BokehTornado,
        guard: Guard,
        headers: AnswerHeaders,
        *,
        is_api: Callable[[str], bool],
        ready: Mapping[str, ReadyAnswer],
        direct: Sequence[tuple[Callable[[Request], bool], Answerer]] = (),
    ) -> None:
        self._application = application
        self._find = application.find_handler
        self._guard = guard
        self._headers = headers
        self._is_api = is_api
        self._ready = ready
        self._direct = direct
        application.find_handler = self.handle  # type: ignore[method-assign]
        application.settings["log_function"] = log_request

    def handle(self, request: HTTPServerRequest, **more: Any) -> Any:
        """Find who answers *request*: a refusal, a ready answer, or the application's own handler."""
        asked = request_of(request, self._application.prefix)
        caller = self._guard.caller(asked)
        request.remote_ip = caller.address
        request.protocol = "https" if caller.secure else "http"
        request.host = caller.host
        self._headers.put_on(request, is_page=asked.path in PAGES, secure=caller.secure)
        cast(Any, request.connection).set_max_body_size(_MAX_READ_BYTES)
        answer = (
            self._refuse_size(asked) or _refuse_choice(request) or self._guard.admit(asked, caller)
        )
        if isinstance(answer, Refusal):
            return self._refuse(request, answer)
        if isinstance(answer, Visit):
            request.arqscope_visit = answer  # type: ignore[attr-defined]
            request.arqscope_actor = answer.actor  # type: ignore[attr-defined]
        ready = self._ready.get(asked.path)
        if ready is not None and asked.method in ("GET", "HEAD"):
            body = ready.body()
            if body is not None:
                tag = {"X-Request-Id": request_id_of(asked.headers.get("x-request-id"))}
                lines = self._headers.lines(secure=caller.secure)
                return ReadyDelegate(request, ready, body, tag, lines)
        if isinstance(answer, Visit):
            for takes, answerer in self._direct:
                if takes(asked):
                    lines = self._headers.lines(secure=caller.secure)
                    return self._answer_directly(request, asked, answer.actor, answerer, lines)
        return self._find(request, **more)

    def _answer_directly(
        self,
        request: HTTPServerRequest,
        asked: Request,
        actor: Actor,
        answerer: Answerer,
        lines: bytes,
    ) -> DirectDelegate:
        request_id = request_id_of(asked.headers.get("x-request-id"))

        def whole(body: bytes) -> Asked:
            return Asked(asked.path, actor, request_id, body)

        return DirectDelegate(request, whole, answerer, log_answer, lines)

    def _refuse(self, request: HTTPServerRequest, refusal: Refusal) -> Any:
        told = {"refusal": refusal, "prefix": self._application.prefix}
        return self._application.get_handler_delegate(request, RefusalHandler, told)

    def _refuse_size(self, asked: Request) -> Refusal | None:
        """Refuse a body that is too long before it is read; forms are short."""
        limit = MAX_BODY_BYTES if self._is_api(asked.path) else _MAX_FORM_BYTES
        declared = asked.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:12]) > limit:
            return Refusal(
                413,
                "too_large",
                f"the body has {declared[:12]} bytes, the limit is {limit}",
                "send less, or a reference to the data",
            )
        if "transfer-encoding" in asked.headers and not self._is_api(asked.path):
            return Refusal(411, "length_required", "a form must say its length", "")
        return None


def log_request(handler: RequestHandler) -> None:
    """Log an answered request, without its query; one that was refused has its line already."""
    if not getattr(handler, "is_refused", False):
        log_answer(handler.request, handler.get_status())


def log_answer(request: HTTPServerRequest, status: int) -> None:
    """Log that *request* was answered with *status*."""
    level = logging.DEBUG if status < 400 else logging.INFO if status < 500 else logging.WARNING
    if log.isEnabledFor(level):
        fields = {
            "method": request.method,
            "path": request.path[:200],
            "status": status,
            "ms": round(request.request_time() * 1000, 1),
            "peer": request.remote_ip,
        }
        log.log(level, "request answered", extra=fields)


def _refuse_choice(request: HTTPServerRequest) -> Refusal | None:
    """Refuse who wants to join a page session by its id: sessions are joined by their socket only."""
    chosen = [name for name in _CHOOSERS if name in request.arguments]
    if not chosen and "Bokeh-Session-Id" not in request.headers:
        return None
    return Refusal(
        400, "malformed", "a page session cannot be chosen", "leave out what names a session"
    )


def request_of(request: HTTPServerRequest, prefix: str) -> Request:
    """Return what the guard needs to know; the peer is the socket's, whatever headers say."""
    path = request.path or "/"
    inside = not prefix or path == prefix or path.startswith(prefix + "/")
    headers: dict[str, str] = {}
    repeated = []
    for name, value in request.headers.get_all():
        lower = name.lower()
        if lower in headers:
            repeated.append(lower)
            headers[lower] += "," + value
        else:
            headers[lower] = value
    context = cast(Any, request.connection).context
    address = getattr(context, "address", None)
    return Request(
        method=request.method or "",
        path=(path[len(prefix) :] or "/") if inside else "//outside" + path,
        headers=headers,
        peer=str(address[0]) if isinstance(address, tuple) else request.remote_ip or "",
        secure=getattr(context, "_orig_protocol", request.protocol) == "https",
        query=request.query,
        repeated=frozenset(repeated),
    )


class _AnyMethod(tuple[str, ...]):
    """Every method there is or will be: Tornado must not answer 405 before the guard's word."""

    __slots__ = ()

    def __contains__(self, _: object) -> bool:
        return True


@stream_request_body
class RefusalHandler(RequestHandler):
    """Answer a request the guard refused, websockets and every method alike; its body is not kept."""

    SUPPORTED_METHODS = _AnyMethod()

    def initialize(self, refusal: Refusal, prefix: str) -> None:
        """Take the refusal (Tornado calls this with the route's arguments)."""
        self._refusal, self._prefix = refusal, prefix

    def data_received(self, chunk: bytes) -> None:
        """Drop it."""

    async def prepare(self) -> None:
        """Answer at once what is too long to be read, or asked with a method nobody knows.

        All else is read first: a connection closed over unread bytes loses the answer.
        """
        if self._refusal.status in _EARLY or self.request.method not in _KNOWN_METHODS:
            # what is answered before it is read ends its connection: told, so that nobody asks on it again
            self.set_header("Connection", "close")
            said = put_refusal(self, self._refusal, self._prefix)
            self.set_header("Content-Length", len(said))
            self.write(said)
            with contextlib.suppress(StreamClosedError, TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self.flush()
                    await self._drop_the_rest()
            self.finish()

    async def _drop_the_rest(self) -> None:
        """Read what is still coming and keep none of it, for a while: whoever sends would meet a reset."""
        headers = self.request.headers
        declared = headers.get("Content-Length", "0")
        left = int(declared[:12]) if declared.isdecimal() else 0
        if "Transfer-Encoding" in headers:
            left = LINGER_BYTES
        if "Expect" in headers:  # it waits for our word, and this is it
            left = 0
        left = min(left, LINGER_BYTES)
        stream = cast(Any, self.request.connection).stream
        while left > 0:
            left -= len(await stream.read_bytes(min(left, 65_536), partial=True))

    def _answer(self) -> None:
        answer_refusal(self, self._refusal, self._prefix)

    get = head = post = put = delete = patch = options = _answer


def answer_refusal(handler: RequestHandler, refusal: Refusal, prefix: str = "") -> None:
    """Answer *handler*'s request with *refusal* and log it; ends the request."""
    handler.finish(put_refusal(handler, refusal, prefix))


def put_refusal(handler: RequestHandler, refusal: Refusal, prefix: str = "") -> bytes:
    """Set status and headers of *refusal*, log it, and return the body that tells it."""
    handler.is_refused = True  # type: ignore[attr-defined]
    handler.set_status(refusal.status)
    for name, value in refusal.headers.items():
        handler.set_header(name, prefix + value if name == "Location" else value)
    request_id = request_id_of(handler.request.headers.get("X-Request-Id"))
    handler.set_header("X-Request-Id", request_id)
    handler.set_header("Cache-Control", "no-store")
    log.info(
        "request refused",
        extra={
            "code": refusal.code,
            "status": refusal.status,
            "method": (handler.request.method or "")[:10],
            "path": handler.request.path[:200],
            "peer": handler.request.remote_ip,
            "requestId": request_id,
        },
    )
    handler.set_header("Content-Type", "application/json; charset=UTF-8")
    told = {
        "error": {
            "code": refusal.code,
            "message": refusal.message,
            "field": None,
            "hint": refusal.hint or None,
        },
        "requestId": request_id,
    }
    return json_encode(told).encode()


def page_visit(session_context: Any) -> Visit | None:
    """Return the visit that opened a page session (``pn.state.curdoc.session_context``)."""
    request = getattr(session_context, "request", None)
    visit = getattr(request, "arqscope_visit", None)
    return visit if isinstance(visit, Visit) else None


def page_actor(session_context: Any, guard: Guard | None = None) -> Actor:
    """Return who acts through a page session now.

    Nobody known (a request that did not pass the guard), or, where *guard* is asked, somebody whose
    session or key was ended since: a viewer, who can change nothing.
    """
    visit = page_visit(session_context)
    if visit is None:
        return Actor(name="unknown", role="viewer")
    if guard is not None and not guard.is_live(visit):
        return Actor(name=visit.actor.name, role="viewer")
    return visit.actor
