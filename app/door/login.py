"""The login page, and the way out again."""

import logging
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any, Final, cast
from urllib.parse import quote

from tornado.web import RequestHandler

from app.access.sessions import SESSION_COOKIE, SESSION_S
from app.auth import Guard, Refusal, safe_next
from app.door.entrance import PAGE

log = logging.getLogger("arqscope.login")

#: tells the audit: who, ``login`` or ``logout``, from which address
Tell = Callable[[str, str, str], Awaitable[None]]

_LOGIN_PAGE: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Log in · arqscope</title>
<style>:root{{color-scheme:light dark}}body{{font:15px/1.5 Inter,"Segoe UI",Roboto,system-ui,sans-serif;
margin:0;min-height:100vh;display:grid;place-items:center;background:#f7f6f4;color:#1c1917}}
h1{{font-size:1.25rem;margin:0 0 .25rem;letter-spacing:-.01em}}label{{font-size:.875rem;
margin-bottom:-.5rem}}form{{display:grid;gap:.75rem;width:min(22rem,90vw)}}
input,button{{font:inherit;padding:.5rem .7rem;border-radius:.4rem;border:1px solid #8888}}
button{{background:#1d4ed8;color:#fff;border:0;cursor:pointer;margin-top:.25rem}}
input:focus-visible{{outline:2px solid #2563eb;outline-offset:1px}}
a.other{{background:#1d4ed8;color:#fff;padding:.5rem .7rem;border-radius:.4rem;text-align:center;
text-decoration:none}}a.other:focus-visible,button:focus-visible{{outline:2px solid;outline-offset:2px}}
a.other~button{{background:none;color:inherit;border:1px solid #8888}}
.or{{display:flex;gap:.75rem;align-items:center;margin:.25rem 0;opacity:.75;font-size:.875rem}}
.or::before,.or::after{{content:"";flex:1;border-top:1px solid #8888}}p[role=alert]{{color:#b91c1c;margin:0}}
@media(prefers-color-scheme:dark){{body{{background:#121110;color:#ebe8e4}}p[role=alert]{{color:#f0938d}}
input:focus-visible{{outline-color:#8ab0f0}}}}</style></head><body><main>
<form method="post" action="{action}"><h1>arqscope</h1>{problem}{other}
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<label for="name">Your name, for the audit log (optional)</label>
<input id="name" name="name" maxlength="64" autocomplete="username" value="{name}">
<input type="hidden" name="next" value="{target}"><button>Log in</button></form></main></body></html>"""
_OTHER_WAY: Final = """<a class="other" href="{where}">Log in with {title}</a>
<p class="or"><span>or with a key</span></p>"""


class DoorHandler(RequestHandler):
    """What the ways in and out share."""

    def initialize(self, guard: Guard, tell: Tell, title: str = "") -> None:
        """Take the guard (Tornado calls this with the route's arguments); *title*: of another way in."""
        self._guard, self._tell, self._title = guard, tell, title

    @property
    def _prefix(self) -> str:
        return str(cast(Any, self.application).prefix)

    def set_session(self, value: str) -> None:
        """Give the browser the cookie that opens the pages."""
        self.set_cookie(
            SESSION_COOKIE,
            value,
            path=self._prefix or "/",
            max_age=SESSION_S,
            httponly=True,
            samesite="Strict",
            secure=self.request.protocol == "https",
        )

    def refuse(self, refusal: Refusal, target: str, name: str) -> None:
        """Show the form with what is wrong, and log it."""
        log.info(
            "login refused", extra={"code": refusal.code, "peer": self.request.remote_ip or ""}
        )
        self.set_status(refusal.status)
        if "Retry-After" in refusal.headers:
            self.set_header("Retry-After", refusal.headers["Retry-After"])
        wrong = "That key is not valid."
        said = "; ".join(filter(None, (refusal.message, refusal.hint)))
        self.show(
            target, wrong if refusal.status == 401 else f"{said[:1].upper()}{said[1:]}.", name
        )

    def show(self, target: str, problem: str = "", name: str = "") -> None:
        """Show the form."""
        said = f'<p role="alert">{escape(problem)}</p>' if problem else ""
        other = ""
        if self._title:
            where = f"{self._prefix}/login/oauth?next={quote(target, safe='')}"
            other = _OTHER_WAY.format(where=escape(where), title=escape(self._title))
        self.set_header("Cache-Control", "no-store")
        self.write(
            _LOGIN_PAGE.format(
                action=escape(f"{self._prefix}/login"),
                problem=said,
                other=other,
                name=escape(name),
                target=escape(target),
            )
        )


class LoginHandler(DoorHandler):
    """Ask for the key once and give a signed session for it."""

    def get(self) -> None:
        """Show the form."""
        self.show(safe_next(self.get_query_argument("next", PAGE)))

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
            self.refuse(answer, target, plain)
            return
        visit = self._guard.session_of(f"{SESSION_COOKIE}={answer}")
        await self._tell(visit.actor.name if visit else "", "login", peer)
        self.set_session(answer)
        self.redirect(self._prefix + target, status=303)


class LogoutHandler(DoorHandler):
    """End a session."""

    async def post(self) -> None:
        """End the session everywhere and forget its cookie."""
        actor = await self._guard.logout(self.request.headers.get("Cookie", ""))
        if actor is not None:
            await self._tell(actor.name, "logout", self.request.remote_ip or "")
        self.clear_cookie(SESSION_COOKIE, path=self._prefix or "/")
        self.redirect(f"{self._prefix}/login", status=303)
