"""The login page, and the way out again."""

import logging
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any, Final, cast

from tornado.web import RequestHandler

from app.auth import Guard, Refusal, safe_next
from app.entrance import PAGE
from app.sessions import SESSION_COOKIE, SESSION_S

log = logging.getLogger("arqscope.login")

#: tells the audit: who, ``login`` or ``logout``, from which address
Tell = Callable[[str, str, str], Awaitable[None]]

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


class _DoorHandler(RequestHandler):
    """What login and logout share."""

    def initialize(self, guard: Guard, tell: Tell) -> None:
        """Take the guard (Tornado calls this with the route's arguments)."""
        self._guard, self._tell = guard, tell

    @property
    def _prefix(self) -> str:
        return str(cast(Any, self.application).prefix)


class LoginHandler(_DoorHandler):
    """Ask for the key once and give a signed session for it."""

    def get(self) -> None:
        """Show the form."""
        self._show(safe_next(self.get_query_argument("next", PAGE)))

    async def post(self) -> None:
        """Check the key; on success set the cookie and go where the visitor wanted."""
        target = safe_next(self.get_body_argument("next", PAGE))
        name = self.get_body_argument("name", "")[:64]
        plain = "".join(c for c in name if c.isalnum() or c in " ._@-").strip()
        if self._guard.is_open:
            self.redirect(self._prefix + target, status=303)
            return
        peer = self.request.remote_ip or ""
        answer = self._guard.login(self.get_body_argument("key", "", strip=False), plain, peer)
        if isinstance(answer, Refusal):
            self._refuse(answer, target, plain)
            return
        visit = self._guard.session_of(f"{SESSION_COOKIE}={answer}")
        await self._tell(visit.actor.name if visit else "", "login", peer)
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

    def _refuse(self, refusal: Refusal, target: str, name: str) -> None:
        log.info(
            "login refused", extra={"code": refusal.code, "peer": self.request.remote_ip or ""}
        )
        self.set_status(refusal.status)
        if "Retry-After" in refusal.headers:
            self.set_header("Retry-After", refusal.headers["Retry-After"])
        wrong = "That key is not valid."
        said = f"{refusal.message}; {refusal.hint}" if refusal.status != 401 else wrong
        self._show(target, said, name)

    def _show(self, target: str, problem: str = "", name: str = "") -> None:
        said = f'<p role="alert">{escape(problem)}</p>' if problem else ""
        self.set_header("Cache-Control", "no-store")
        self.write(_LOGIN_PAGE.format(problem=said, name=escape(name), target=escape(target)))


class LogoutHandler(_DoorHandler):
    """End a session."""

    async def post(self) -> None:
        """End the session everywhere and forget its cookie."""
        actor = await self._guard.logout(self.request.headers.get("Cookie", ""))
        if actor is not None:
            await self._tell(actor.name, "logout", self.request.remote_ip or "")
        self.clear_cookie(SESSION_COOKIE, path=self._prefix or "/")
        self.redirect(f"{self._prefix}/login", status=303)
