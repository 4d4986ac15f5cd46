"""Sessions of people who logged in: a signed cookie, and the list of those that were ended.

The cookie holds who it is for, its role, its end and the key it was opened with; nothing is stored
for it. Ending one puts its id on a list until it would have ended by itself.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, cast

from app.actions import Actor, Role

SESSION_COOKIE: Final = "arqscope_session"
SESSION_S: Final = 12 * 3600
_ROLES: Final = ("viewer", "operator", "admin")


@dataclass(frozen=True, slots=True)
class Session:
    """One login."""

    id: str
    actor: Actor
    ends_s: int  #: epoch seconds
    key_id: str = ""  #: of the created key it was opened with; empty: API_KEY


def new_session(actor: Actor, now_s: float, key_id: str = "") -> Session:
    """Make a session of 12 hours."""
    return Session(secrets.token_hex(16), actor, int(now_s) + SESSION_S, key_id)


def sign(session: Session, secret: bytes) -> str:
    """Return the value of the cookie."""
    facts = {
        "n": session.actor.name,
        "r": session.actor.role,
        "e": session.ends_s,
        "i": session.id,
        "k": session.key_id,
    }
    return seal(facts, secret)


def read(cookie_header: str, secret: bytes) -> Session | None:
    """Return the session of a Cookie header, ended or not; None when there is none we signed."""
    try:
        morsel = SimpleCookie(cookie_header).get(SESSION_COOKIE)
        facts = unseal(morsel.value if morsel else "", secret)
        if facts is None or facts["r"] not in _ROLES:
            return None
        actor = Actor(name=str(facts["n"]), role=cast(Role, facts["r"]))
        return Session(str(facts["i"]), actor, int(facts["e"]), str(facts["k"]))
    except (CookieError, ValueError, KeyError, TypeError):
        return None


def seal(facts: Mapping[str, Any], secret: bytes) -> str:
    """Return *facts* as a text that everybody may read and only who knows *secret* can make."""
    body = _b64(json.dumps(facts, separators=(",", ":")).encode())
    return f"{body}.{_signature(body, secret)}"


def unseal(text: str, secret: bytes) -> Any:
    """Return the facts of a sealed text; None when *secret* did not seal it."""
    body, _, signature = text.partition(".")
    given = signature.encode("utf-8", "replace")
    if not hmac.compare_digest(given, _signature(body, secret).encode()):
        return None
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def _signature(body: str, secret: bytes) -> str:
    return _b64(hmac.new(secret, body.encode("utf-8", "replace"), hashlib.sha256).digest())


def _b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
