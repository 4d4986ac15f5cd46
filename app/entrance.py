"""The entrance: the guard's side that knows Tornado. Every request passes it before any handler.

Refusals, the login page and the security headers of every answer are made here.
"""

import contextlib
import logging
from collections.abc import Callable
from html import escape
from http import HTTPStatus
from typing import Any, Final, cast

from bokeh.server.tornado import BokehTornado
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.web import RequestHandler, stream_request_body

from app.actions import Actor
from app.asgi import request_id_of
from app.auth import (
    MAX_BODY_BYTES,
    SESSION_COOKIE,
    SESSION_S,
    Guard,
    Refusal,
    Request,
    safe_next,
)
from app.pages.address import paths

log = logging.getLogger("arqscope.entrance")

#: where a login without a wish leads
PAGE: Final = "/admin/queues"
#: what Tornado may read of a body; the handler keeps MAX_BODY_BYTES of it and answers 413
_MAX_READ_BYTES: Final = 16 * MAX_BODY_BYTES

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    # not "no-referrer": with it browsers send our own login form with "Origin: null"
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_API_CSP: Final = "default-src 'none'; frame-ancestors 'none'"
#: Bokeh runs inline scripts and makes functions and workers of text: without these no page at all
_PAGE_CSP: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)


_HTML_PATHS: Final = frozenset({"/dashboard", "/login", *paths()})


def guard_everything(application: BokehTornado, guard: Guard) -> None:
    """Replace how the server finds handlers: no request reaches one before the guard decided."""
    find = application.find_handler
    prefix = application.prefix

    def guarded(request: HTTPServerRequest, **more: Any) -> Any:
        asked = _request_of(request, prefix)
        _harden(request, is_api=asked.path.rstrip("/") not in _HTML_PATHS)
        declared = request.headers.get("Content-Length", "0")
        if declared.isdigit() and int(declared[:12]) > MAX_BODY_BYTES:
            refusal: Any = Refusal(
                413,
                "too_large",
                f"the body has {declared[:12]} bytes, the limit is {MAX_BODY_BYTES}",
                "send less, or a reference to the data",
            )
            handler: type[RequestHandler] = RefusingEarlyHandler
        else:
            refusal, handler = guard.decide(asked), RefusalHandler
        if isinstance(refusal, Refusal):
            return application.get_handler_delegate(
                request, handler, {"refusal": refusal, "prefix": prefix}
            )
        request.arqscope_actor = refusal  # type: ignore[attr-defined]
        return find(request, **more)

    application.find_handler = guarded  # type: ignore[method-assign]


def _request_of(request: HTTPServerRequest, prefix: str) -> Request:
    path = request.path or "/"
    inside = not prefix or path == prefix or path.startswith(prefix + "/")
    return Request(
        method=request.method or "",
        path=(path[len(prefix) :] or "/") if inside else "//outside" + path,
        headers={name.lower(): value for name, value in request.headers.items()},
        peer=request.remote_ip or "",
        secure=request.protocol == "https",
        query=request.query,
    )


def _harden(request: HTTPServerRequest, *, is_api: bool) -> None:
    """Bound what is read, and see that every answer, errors included, has the security headers."""
    connection = cast(Any, request.connection)
    connection.set_max_body_size(_MAX_READ_BYTES)
    write: Callable[..., Any] = connection.write_headers

    def write_headers(
        line: ResponseStartLine, headers: HTTPHeaders, *rest: Any, **more: Any
    ) -> Any:
        with contextlib.suppress(KeyError):
            del headers["Server"]
        html = headers.get("Content-Type", "").startswith("text/html")
        wanted = {
            **_HEADERS,
            "Content-Security-Policy": _PAGE_CSP if html and not is_api else _API_CSP,
            "X-Frame-Options": "SAMEORIGIN" if html and not is_api else "DENY",
        }
        if request.protocol == "https":
            wanted["Strict-Transport-Security"] = "max-age=31536000"
            wanted["Cross-Origin-Opener-Policy"] = "same-origin"
        for name, value in wanted.items():
            headers.setdefault(name, value)
        return write(line, headers, *rest, **more)

    connection.write_headers = write_headers


class _AnyMethod(tuple[str, ...]):
    """Every method there is or will be: Tornado must not answer 405 before the guard's word."""

    __slots__ = ()

    def __contains__(self, _: object) -> bool:
        return True


class RefusalHandler(RequestHandler):
    """Answer a request the guard refused; websockets and every method alike."""

    SUPPORTED_METHODS = _AnyMethod()

    def initialize(self, refusal: Refusal, prefix: str) -> None:
        """Take the refusal (Tornado calls this with the route's arguments)."""
        self._refusal, self._prefix = refusal, prefix

    async def prepare(self) -> None:
        """Answer at once, whatever the method."""
        refusal = self._refusal
        with contextlib.suppress(ValueError):
            HTTPStatus(refusal.status)
            self.set_status(refusal.status)
        for name, value in refusal.headers.items():
            self.set_header(name, self._prefix + value if name == "Location" else value)
        request_id = request_id_of(self.request.headers.get("X-Request-Id"))
        self.set_header("X-Request-Id", request_id)
        self.set_header("Cache-Control", "no-store")
        log.info(
            "request refused",
            extra={"code": refusal.code, "status": refusal.status, "peer": self.request.remote_ip},
        )
        self.finish(
            {
                "error": {
                    "code": refusal.code,
                    "message": refusal.message,
                    "field": None,
                    "hint": refusal.hint or None,
                },
                "requestId": request_id,
            }
        )


@stream_request_body
class RefusingEarlyHandler(RefusalHandler):
    """Answer before the body is read, and throw the body away."""

    def data_received(self, chunk: bytes) -> None:
        """Drop it."""


_LOGIN_PAGE: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Log in · arqscope</title>
<style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;margin:0;min-height:100vh;
display:grid;place-items:center}}form{{display:grid;gap:.75rem;width:min(22rem,90vw)}}
input,button{{font:inherit;padding:.5rem .7rem;border-radius:.4rem;border:1px solid #8888}}
button{{background:#1f5fbf;color:#fff;border:0;cursor:pointer}}p[role=alert]{{color:#c62828;margin:0}}
@media(prefers-color-scheme:dark){{p[role=alert]{{color:#ff8a80}}}}</style></head><body><main>
<form method="post"><h1>arqscope</h1>{problem}
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<label for="name">Your name, for the audit log (optional)</label>
<input id="name" name="name" maxlength="64" autocomplete="username" value="{name}">
<input type="hidden" name="next" value="{target}"><button>Log in</button></form></main></body></html>"""


class LoginHandler(RequestHandler):
    """Ask for the key once and give a signed session for it."""

    def initialize(self, guard: Guard) -> None:
        """Take the guard (Tornado calls this with the route's arguments)."""
        self._guard = guard

    def get(self) -> None:
        """Show the form."""
        self._show(safe_next(self.get_query_argument("next", PAGE)))

    def post(self) -> None:
        """Check the key; on success set the cookie and go where the visitor wanted."""
        target = safe_next(self.get_body_argument("next", PAGE))
        name = self.get_body_argument("name", "")[:64]
        plain = "".join(c for c in name if c.isalnum() or c in " ._@-").strip()
        if self._guard.is_open:
            self.redirect(self._prefix + target, status=303)
            return
        answer = self._guard.login(
            self.get_body_argument("key", "", strip=False), plain, self.request.remote_ip or ""
        )
        if isinstance(answer, Refusal):
            self.set_status(answer.status)
            if "Retry-After" in answer.headers:
                self.set_header("Retry-After", answer.headers["Retry-After"])
            self._show(
                target,
                f"{answer.message}; {answer.hint}"
                if answer.status == 429
                else "That key is not valid.",
                plain,
            )
            return
        self.set_cookie(
            SESSION_COOKIE,
            answer,
            path=self._prefix or "/",
            max_age=SESSION_S,
            httponly=True,
            samesite="Strict",
            secure=self.request.protocol == "https",
        )
        self.redirect(self._prefix + target, status=303)

    @property
    def _prefix(self) -> str:
        return str(cast(Any, self.application).prefix)

    def _show(self, target: str, problem: str = "", name: str = "") -> None:
        said = f'<p role="alert">{escape(problem)}</p>' if problem else ""
        self.set_header("Cache-Control", "no-store")
        self.write(_LOGIN_PAGE.format(problem=said, name=escape(name), target=escape(target)))


class LogoutHandler(RequestHandler):
    """End a session."""

    def initialize(self, guard: Guard) -> None:
        """Take the guard (Tornado calls this with the route's arguments)."""
        self._guard = guard

    def post(self) -> None:
        """Revoke the session and forget its cookie."""
        self._guard.logout(self.request.headers.get("Cookie", ""))
        prefix = str(cast(Any, self.application).prefix)
        self.clear_cookie(SESSION_COOKIE, path=prefix or "/")
        self.redirect(f"{prefix}/login", status=303)


def page_actor(session_context: Any) -> Actor:
    """Return who opened a page session (``pn.state.curdoc.session_context``).

    Nobody known (a request that did not pass the guard): a viewer, who can change nothing.
    """
    request = getattr(session_context, "request", None)
    actor = getattr(request, "arqscope_actor", None)
    return actor if isinstance(actor, Actor) else Actor(name="unknown", role="viewer")
