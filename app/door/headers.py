"""The security headers of every answer, errors and websocket handshakes included."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine

_ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    # not "no-referrer": with it browsers send our own login form with "Origin: null"
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_TLS: Final = {
    "Strict-Transport-Security": "max-age=31536000",
    "Cross-Origin-Opener-Policy": "same-origin",
}
#: what Tornado tells of itself, and what lets every site read Bokeh's files
_UNWANTED: Final = ("Server", "Access-Control-Allow-Origin")
_API_CSP: Final = "default-src 'none'; frame-ancestors 'none'"
#: Bokeh runs inline scripts and makes functions and workers of text: without these no page at all
_PAGE_CSP: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors "
)


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return *headers* as they are sent; ValueError for one that would begin another line."""
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    text = b"".join(lines)
    if text.count(b"\n") != len(lines) or text.count(b"\r") != len(lines):
        raise ValueError("a header holds the end of a line")
    return text


def may_be_sent_whole(request: HTTPServerRequest) -> bool:
    """Whether *request*'s connection goes on by itself and wants a body: nothing is left to Tornado to add."""
    return (
        request.version == "HTTP/1.1"
        and request.method != "HEAD"
        and "Connection" not in request.headers
    )


class AnswerHeaders:
    """What is added to the answers of one server; *frame_ancestors* is who may frame its pages."""

    def __init__(self, frame_ancestors: str = "'none'") -> None:
        page = {**_ALWAYS, "Content-Security-Policy": _PAGE_CSP + frame_ancestors}
        # X-Frame-Options knows no list of origins; where one is set, only the policy says it.
        old = {"'none'": "DENY", "'self'": "SAMEORIGIN"}.get(frame_ancestors)
        if old:
            page["X-Frame-Options"] = old
        api = {**_ALWAYS, "Content-Security-Policy": _API_CSP, "X-Frame-Options": "DENY"}
        self._wanted: Mapping[tuple[bool, bool], Mapping[str, str]] = {
            (False, False): api,
            (False, True): api | _TLS,
            (True, False): page,
            (True, True): page | _TLS,
        }

        self._lines = {
            secure: lines_of(
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in self._wanted[False, secure].items()
            )
            for secure in (False, True)
        }

    def of(self, *, page: bool, secure: bool) -> Mapping[str, str]:
        """Return the headers of a page's or of any other answer."""
        return self._wanted[page, secure]

    def lines(self, *, secure: bool) -> bytes:
        """Return those of an answer that is no page, as they are sent."""
        return self._lines[secure]

    def put_on(self, request: HTTPServerRequest, *, is_page: bool, secure: bool) -> None:
        """See that whatever answers *request* does so with the headers, and without a Server line."""
        connection = cast(Any, request.connection)
        write: Callable[..., Any] = connection.write_headers

        def write_headers(
            line: ResponseStartLine, headers: HTTPHeaders, *rest: Any, **more: Any
        ) -> Any:
            for name in _UNWANTED:
                with contextlib.suppress(KeyError):
                    del headers[name]
            html = is_page and headers.get("Content-Type", "").startswith("text/html")
            for name, value in self._wanted[html, secure].items():
                headers.setdefault(name, value)
            return write(line, headers, *rest, **more)

        connection.write_headers = write_headers
