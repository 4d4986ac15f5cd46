"""The guard: decides on every request, before anything handles it. Deny by default.

``Guard.admit`` looks at the caller, the Host, the Origin, the credentials and the policy of the path, and
returns the visit or a refusal. Nothing here knows Tornado, Bokeh or FastAPI.
"""

import hashlib
import hmac
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import quote

from app.access import sessions
from app.access.identities import Identities
from app.access.permissions import ROLE_ACCESS, Access, policies_of
from app.access.throttle import Throttle
from app.actions import Actor, Role
from app.api_keys import Keyring, digest_of, id_of
from app.origins import Caller, Proxies, host_name, is_loopback, is_own_page
from app.settings import Settings

MAX_BODY_BYTES: Final = 1_000_000
#: a key in a header; longer ones are not looked at
MAX_KEY_CHARS: Final = 1_024

#: begins the ``key_id`` of a login through a provider; the name there follows
_BY_OAUTH: Final = "oauth:"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Request:
    """What the guard needs to know of a request; header names in lower case."""

    method: str
    path: str  #: as sent: still percent-encoded, without prefix and query
    headers: Mapping[str, str]
    peer: str  #: address of the other end of the connection
    secure: bool = False
    query: str = ""
    repeated: frozenset[str] = frozenset()  #: names of headers that came more than once

    @property
    def is_websocket(self) -> bool:
        """Whether it asks for a websocket."""
        return self.headers.get("upgrade", "").lower() == "websocket"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes no further."""

    status: int
    code: str
    message: str
    hint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody the guard let in, and what would end it."""

    actor: Actor
    key_id: str = ""  #: of a created key; empty: API_KEY, or an open server
    session_id: str = ""  #: of a login; empty: the key came in a header
    ends_s: float = math.inf  #: epoch seconds


class Guard:
    """Decide on every request of one server. Holds digests of keys, never the keys."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        keyring: Keyring | None = None,
    ) -> None:
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        self._key = digest_of(key.encode()) if key else None
        self._must_close = settings.require_api_key or bool(settings.oauth_provider)
        #: who may come in through an OAuth provider; nobody where there is none
        self.identities = Identities.parse(settings.oauth_roles if settings.oauth_provider else "")
        self._material = digest_of(b"arqscope session " + key.encode())
        self.keyring = keyring or Keyring()
        self.proxies = Proxies(settings.trusted_proxies)
        self._clock = clock
        self.throttle = Throttle()
        #: told when an address offered too many wrong keys
        self.on_throttled: Callable[[str], None] = lambda _: None
        #: host:port of foreign pages whose websockets are welcome (BOKEH_ALLOW_WS_ORIGIN)
        self.foreign_origins: frozenset[str] = frozenset()

    @property
    def bokeh_key(self) -> bytes:
        """Signs Bokeh's session ids, so that a forged websocket token builds nothing.

        The same on every server that knows the shared secret: a page of one opens its websocket on
        another. Where Redis never told it, this process' own.
        """
        return self._derived(b"arqscope bokeh session")

    @property
    def is_open(self) -> bool:
        """Whether nobody ever made a key, so that whoever is on this machine is let in."""
        ring = self.keyring
        return self._key is None and ring.is_known and not ring.has_keys and not self._must_close

    def caller(self, request: Request) -> Caller:
        """Return who is at the far end, behind the proxies that are trusted."""
        return self.proxies.caller(request.peer, request.headers, secure=request.secure)

    def decide(self, request: Request) -> Actor | Refusal | None:
        """Return who calls, a refusal, or None for an open route called without credentials."""
        answer = self.admit(request)
        return answer.actor if isinstance(answer, Visit) else answer

    def admit(self, request: Request, caller: Caller | None = None) -> Visit | Refusal | None:
        """Return the visit, a refusal, or None for an open route, where nobody is asked who they are.

        *caller* is who ``caller`` said is at the far end, where that was asked before.
        """
        caller = caller or self.caller(request)
        refusal = self._refuse_place(caller)
        if refusal:
            return refusal
        matching = policies_of(request.path)
        allowed = [policy for policy in matching if request.method in policy.methods]
        access = min((policy.access for policy in allowed), default=Access.VIEWER)
        if access is Access.OPEN:
            return self._refuse_origin(request, caller, by_cookie=True)
        visit = self._credentials(request, caller)
        if isinstance(visit, Refusal):
            return visit
        if visit is None:
            return _unauthenticated(request)
        by_cookie = bool(visit.session_id)
        refusal = self._refuse_origin(request, caller, by_cookie=by_cookie)
        if refusal:
            return refusal
        if not matching:
            return Refusal(404, "not_found", "there is nothing at this address", "see /docs")
        if not allowed:
            methods = sorted({m for policy in matching for m in policy.methods})
            return Refusal(
                405,
                "method_not_allowed",
                f"this address does not answer {request.method[:10]}",
                f"use {' or '.join(methods)}",
                {"Allow": ", ".join(methods)},
            )
        if ROLE_ACCESS[visit.actor.role] < access:
            return Refusal(
                403,
                "forbidden",
                f"this needs the role {access.name.lower()}, you are {visit.actor.role}",
                "use a key with more rights",
            )
        return visit

    def is_live(self, visit: Visit) -> bool:
        """Whether the session and the key of *visit* still open, so that an open page may go on acting."""
        now_s = self._clock()
        if visit.key_id.startswith(_BY_OAUTH):
            name = visit.key_id.removeprefix(_BY_OAUTH)
            if self.identities.role_of(name) != visit.actor.role:
                return False
        elif visit.key_id:
            key = self.keyring.keys.get(visit.key_id)
            if key is None or not key.is_live(now_s * 1000):
                return False
        return now_s < visit.ends_s and visit.session_id not in self.keyring.ended

    # -- sessions ------------------------------------------------------------------------------

    def login(self, offered: str, name: str, peer: str) -> str | Refusal:
        """Return a session cookie's value for a right key; refused and counted otherwise."""
        answer = self._check_key(offered, peer)
        if isinstance(answer, Refusal):
            return answer
        of_key = answer.actor.name
        # with a provider's identities a typed name must not pass for one of those
        is_told = name and (answer.key_id or self.identities.rules)
        shown = f"{name} (key {of_key})" if is_told else name or of_key
        return self.session(Actor(name=shown, role=answer.actor.role), answer.key_id)

    def welcome(self, name: str, peer: str) -> str | Refusal:
        """Return a session cookie's value for whom a provider calls *name*; refused unless listed."""
        role = self.identities.role_of(name) if name else None
        if role is None:
            self.throttle.failed(peer, "")
            return Refusal(
                403,
                "not_listed",
                "you are not among those who may come in",
                "an administrator can add you to ARQSCOPE_OAUTH_ROLES",
            )
        return self.session(Actor(name=name, role=role), _BY_OAUTH + name)

    def seal(self, facts: Mapping[str, Any]) -> str:
        """Return *facts* of a login that has begun, signed; good for nothing else."""
        return sessions.seal(facts, self._flow_key)

    def unseal(self, text: str) -> Any:
        """Return the facts of a login that was begun here; None for everything else."""
        try:
            return sessions.unseal(text, self._flow_key)
        except ValueError:
            return None

    def session(self, actor: Actor, key_id: str = "") -> str:
        """Make the value of a session cookie for *actor*, good for 12 hours."""
        return sessions.sign(sessions.new_session(actor, self._clock(), key_id), self._sign_key)

    def session_of(self, cookie_header: str) -> Visit | None:
        """Return the visit of a Cookie header; None when it opens nothing (any more)."""
        session = sessions.read(cookie_header, self._sign_key)
        if session is None:
            return None
        visit = Visit(session.actor, session.key_id, session.id, session.ends_s)
        return visit if self.is_live(visit) else None

    async def logout(self, cookie_header: str) -> Actor | None:
        """End the session of the cookie, here at once and everywhere within 2 s; return whose it was."""
        visit = self.session_of(cookie_header)
        if visit is None:
            return None
        await self.keyring.end(visit.session_id, int(visit.ends_s))
        return visit.actor

    @property
    def _sign_key(self) -> bytes:
        # The random half keeps a cookie from telling whether a guess at API_KEY is right.
        return self._derived(b"arqscope session")

    @property
    def _flow_key(self) -> bytes:
        return self._derived(b"arqscope login begun")

    def _derived(self, purpose: bytes) -> bytes:
        material = self.keyring.secret + self._material
        return hmac.new(material, purpose, hashlib.sha256).digest()

    # -- the steps of admit ------------------------------------------------------------------------

    def _refuse_place(self, caller: Caller) -> Refusal | None:
        """Without a key, only this machine is answered, and only under its own name."""
        if not self.is_open:
            return None
        if not is_loopback(caller.address) or caller.by_unknown_proxy:
            return Refusal(
                403,
                "no_key",
                "this server has no key, so it answers only its own machine, and no proxy",
                "set API_KEY and start it again, or make a key: arqscope keys create",
            )
        if not is_loopback(host_name(caller.host)):
            return Refusal(
                403,
                "foreign_host",
                "this server has no key, so it answers only as localhost",
                "use http://localhost, or set API_KEY (this refusal stops DNS rebinding)",
            )
        return None

    def _refuse_origin(
        self, request: Request, caller: Caller, *, by_cookie: bool
    ) -> Refusal | None:
        """Refuse what another site makes a browser send: changes and websockets."""
        if request.method in SAFE_METHODS and not request.is_websocket:
            return None
        listed = self.foreign_origins if request.is_websocket else frozenset()
        own = is_own_page(request.headers, caller.host, listed)
        # A browser says where it is from; who does not say must not ride on a cookie.
        if own or (own is None and (self.is_open or not by_cookie)):
            return None
        return Refusal(
            403,
            "foreign_origin",
            "this came from a page of another site",
            "send it from the dashboard itself, or without a browser and with an API key",
        )

    def _credentials(self, request: Request, caller: Caller) -> Visit | Refusal | None:
        """Return who the credentials name; None: there are none."""
        if self.is_open:
            return Visit(Actor(name="local", role="admin"))
        if request.repeated & {"x-api-key", "authorization"}:
            return _wrong_key()
        offered = request.headers.get("x-api-key")
        authorization = request.headers.get("authorization")
        if offered is None and authorization is not None:
            scheme, _, token = authorization.partition(" ")
            offered = token.strip() if scheme.lower() == "bearer" else ""
        if offered is not None:
            return self._check_key(offered, caller.address)
        return self.session_of(request.headers.get("cookie", ""))

    def _check_key(self, offered: str, peer: str) -> Visit | Refusal:
        if self._key is None and not self.keyring.is_known:
            return _keys_unknown()
        offered = offered[: MAX_KEY_CHARS + 1]
        digest = digest_of(offered.encode("utf-8", "surrogateescape"))
        # A header arrives as latin-1: compare the bytes the client really sent as well.
        raw = digest_of(offered.encode("latin-1", "replace"))
        key_id = id_of(offered)
        wait_s = self.throttle.wait_s(peer, key_id)
        if wait_s and not (self.throttle.knows(peer, digest) or self.throttle.knows(peer, raw)):
            return Refusal(
                429,
                "too_many_failures",
                "too many wrong keys from this address",
                f"wait {wait_s} s",
                {"Retry-After": str(wait_s)},
            )
        created = self.keyring.find(offered, self._clock() * 1000)
        key = self._key or b""
        matches = hmac.compare_digest(digest, key) | hmac.compare_digest(raw, key)
        if created is None and not matches:
            if self.throttle.failed(peer, key_id):
                self.on_throttled(peer)
            return _wrong_key()
        self.throttle.welcome(peer, digest)
        self.throttle.welcome(peer, raw)
        if created is None:
            return Visit(Actor(name="api-key", role="admin"))
        return Visit(Actor(name=created.name, role=cast(Role, created.role)), created.id)


def safe_next(target: str) -> str:
    """Return *target* when it is a path on this server, else the dashboard."""
    plain = re.fullmatch(r"/(?![/\\])[\w\-./?=&%~]*", target)
    return target if plain else "/admin/queues"


def _unauthenticated(request: Request) -> Refusal:
    wants_page = (
        request.method == "GET"
        and not request.is_websocket
        and "text/html" in request.headers.get("accept", "")
    )
    if wants_page:
        target = request.path + (f"?{request.query}" if request.query else "")
        where = f"/login?next={quote(safe_next(target), safe='')}"
        return Refusal(302, "login_needed", "log in first", headers={"Location": where})
    return Refusal(
        401,
        "unauthenticated",
        "this needs an API key",
        "send the header X-API-Key, or Authorization: Bearer",
        {"WWW-Authenticate": "Bearer"},
    )


def _wrong_key() -> Refusal:
    return Refusal(
        401,
        "unauthenticated",
        "this API key is not valid",
        "send the header X-API-Key, or Authorization: Bearer",
        {"WWW-Authenticate": "Bearer"},
    )


def _keys_unknown() -> Refusal:
    return Refusal(
        503,
        "keys_unknown",
        "the keys cannot be read: Redis does not answer",
        "wait until it does, or set API_KEY",
        {"Retry-After": "2"},
    )
