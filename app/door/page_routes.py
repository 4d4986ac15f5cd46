"""The dashboard's document, script and websocket, at both its addresses, with the guard's rules for sockets.

A socket opens with a token this server signed, joins only a session of the same visitor, and is closed
when its login or key ends.
"""

import base64
import hmac
import json
import logging
import time
import weakref
from typing import Any, Final, cast

from bokeh.util.token import check_token_signature, get_session_id
from panel.io.server import AutoloadJsHandler, DocHandler, WSHandler
from tornado.web import StaticFileHandler

from app.auth import Guard, Refusal, Visit
from app.door.entrance import answer_refusal, page_visit

log = logging.getLogger("arqscope.page_routes")

#: a token holds a session id, its end, and two headers
_MAX_TOKEN_CHARS: Final = 8_192
#: websockets that are open in this process
open_sockets: "weakref.WeakSet[PageSocket]" = weakref.WeakSet()


def close_ended(guard: Guard) -> int:
    """Close the sockets whose visit ended (logout, revoked key, time); return how many."""
    ended = [s for s in open_sockets if s.visit is not None and not guard.is_live(s.visit)]
    for socket in ended:
        socket.close(1008, "logged out")
    return len(ended)


def token_problem(offered: str, key: bytes) -> str:
    """Return why the subprotocol header *offered* opens no session; empty when it does.

    The signature is checked before anything in the token is unpacked.
    """
    protocol, _, token = (part.strip() for part in offered.partition(","))
    if protocol != "bokeh" or not token or "," in token:
        return "the subprotocol is not bokeh with a token"
    if len(token) > _MAX_TOKEN_CHARS or not token.isascii():
        return "the token is not one of ours"
    try:
        if not check_token_signature(token, secret_key=key, signed=True):
            return "the token is not one of ours"
        body = token.split(".", 1)[0]
        facts = json.loads(_decoded(body))
        return "" if time.time() < facts["session_expiry"] else "the token is too old"
    except Exception:  # whatever a forged token makes Bokeh raise
        return "the token is not one of ours"


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class _Alias:
    """Serve the dashboard at *path*: its application is *target*."""

    def __init__(self, application: Any, request: Any, **more: Any) -> None:
        context = application.applications[more.pop("target")]
        more["bokeh_websocket_path"] = more.pop("ws")
        super().__init__(application, request, application_context=context, **more)  # type: ignore[call-arg]


class Page(_Alias, DocHandler):
    """The document."""

    def head(self, *_: Any, **__: Any) -> None:
        """Tell that the page is there; no session is made for whoever does not look at it."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/html")
        self.finish()


class PageScript(_Alias, AutoloadJsHandler):
    """The script that embeds it."""


class PageSocket(_Alias, WSHandler):
    """The websocket BokehJS opens beside the document's address."""

    visit: Visit | None = None
    _is_gone = False  #: the socket is closed
    _has_left = False  #: and its session was told

    def check_origin(self, origin: str) -> bool:
        """Accept: the guard compared the Origin with the Host before this was made."""
        return bool(origin)

    async def prepare(self) -> None:
        """Refuse the handshake unless the token is one this server signed and still good."""
        key = bytes(cast(Any, self.application).secret_key)
        problem = token_problem(self.request.headers.get("Sec-WebSocket-Protocol", ""), key)
        if problem:
            refusal = Refusal(403, "forged_token", problem, "load the page again")
            answer_refusal(self, refusal)
            return
        visit = getattr(self.request, "arqscope_visit", None)
        self.visit = visit if isinstance(visit, Visit) else None
        await cast(Any, super()).prepare()

    async def _async_open(self, token: str) -> None:
        held = self.application_context.sessions
        session_id = get_session_id(token)
        for session in held:
            if hmac.compare_digest(session.id, session_id):
                owner = page_visit(session.document.session_context)
                if owner is None or self.visit is None or owner.actor != self.visit.actor:
                    log.warning("socket refused", extra={"reason": "the session is another's"})
                    self.close(1008, "not your session")
                    return
        open_sockets.add(self)
        try:
            await super()._async_open(token)
        finally:
            if self._is_gone:  # while it was being opened: Bokeh would keep the session for ever
                self._leave()

    def on_close(self) -> None:
        """Let the session end with its socket: a page that lost it loads again and has a new one."""
        self._is_gone = True
        self._leave()

    def _leave(self) -> None:
        if self.connection is not None and not self._has_left:
            self._has_left = True
            session = self.connection.session
            super().on_close()
            session.request_expiration()


class Asset(StaticFileHandler):
    """A file of ours that pages use: letters. Kept by browsers for a month."""

    def get_cache_time(self, path: str, modified: Any, mime_type: str) -> int:  # noqa: ARG002
        """Seconds a browser keeps it."""
        return 30 * 86_400
