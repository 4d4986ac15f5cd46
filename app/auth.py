"""Who may do what over HTTP and websocket: one policy table, one guard, deny by default.

``Guard.decide`` is asked first for every request the server receives, whatever handles it. It looks
at the peer, the Host, the Origin, the credentials and the policy of the path, and returns the actor
or a refusal. Nothing here knows Tornado, Bokeh or FastAPI.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from http.cookies import CookieError, SimpleCookie
from typing import Final, Literal
from urllib.parse import quote, urlsplit

from app.actions import Actor
from app.settings import Settings

SESSION_COOKIE: Final = "arqscope_session"
SESSION_S: Final = 12 * 3600
#: wrong keys an address may offer per minute before it has to wait
FAILURES_PER_MINUTE: Final = 10
#: addresses remembered at most, failures and successes each; the oldest is forgotten
REMEMBERED: Final = 10_000
MAX_BODY_BYTES: Final = 1_000_000

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_READ: Final = frozenset({"GET", "HEAD"})
_POST: Final = frozenset({"POST"})


class Access(IntEnum):
    """What a route asks of whoever calls it; each includes the ones before."""

    OPEN = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may call the paths that match *pattern* completely, with which methods."""

    pattern: re.Pattern[str]
    methods: frozenset[str]
    access: Access


def _policy(pattern: str, methods: frozenset[str], access: Access) -> Policy:
    return Policy(re.compile(pattern), methods, access)


_NAME: Final = r"[^/]+"
#: the one table of what is allowed; a path or method that is not in it does not exist
POLICIES: Final = (
    # without a key: what a load balancer asks, and the door itself
    _policy(r"/health(/live|/ready)?", _READ, Access.OPEN),
    _policy(r"/login", _READ | _POST, Access.OPEN),
    _policy(r"/favicon\.ico", _READ, Access.OPEN),
    # pages, their websocket and their scripts
    _policy(r"/", _READ, Access.VIEWER),
    _policy(r"/(dashboard|admin/queues)/?", _READ, Access.VIEWER),
    _policy(r"/(dashboard|admin/queues)/(ws|autoload\.js|metadata)", _READ, Access.VIEWER),
    _policy(r"(/dashboard|/admin/queues|/admin)?/static/.+", _READ, Access.VIEWER),
    _policy(r"/logout", _POST, Access.VIEWER),
    # reading
    _policy(r"/(stats|metrics|openapi\.json|docs)", _READ, Access.VIEWER),
    _policy(r"/docs/assets/[\w.-]+", _READ, Access.VIEWER),
    _policy(rf"/jobs(/{_NAME}){{0,2}}", _READ, Access.VIEWER),
    _policy(rf"/queues(/{_NAME})?", _READ, Access.VIEWER),
    _policy(rf"/dead-letters(/{_NAME}){{0,2}}", _READ, Access.VIEWER),
    _policy(rf"/dead-letters/causes/{_NAME}/explain", _READ, Access.VIEWER),
    _policy(r"/alerts(/rules)?", _READ, Access.VIEWER),
    _policy(r"/alerts/backtest", _POST, Access.VIEWER),
    _policy(rf"/(events|workers|audit|frames|frames/{_NAME})", _READ, Access.VIEWER),
    _policy(rf"/streams(/{_NAME}(/(groups|entries))?)?", _READ, Access.VIEWER),
    _policy(rf"/streams/{_NAME}/(entries|statuses)/{_NAME}", _READ, Access.VIEWER),
    _policy(rf"/streams/{_NAME}/groups/{_NAME}/(pending|consumers)", _READ, Access.VIEWER),
    _policy(r"/triggers", _READ, Access.VIEWER),
    _policy(r"/triggers/test", _POST, Access.VIEWER),
    _policy(rf"/notifications/{_NAME}", frozenset({"GET"}), Access.VIEWER),
    _policy(rf"/operations(/{_NAME})?", _READ, Access.VIEWER),
    # changing
    _policy(rf"/jobs/{_NAME}", _POST, Access.OPERATOR),
    _policy(rf"/jobs/{_NAME}/{_NAME}/(cancel|abort|promote)", _POST, Access.OPERATOR),
    _policy(rf"/queues/{_NAME}/(pause|resume|clean|concurrency)", _POST, Access.OPERATOR),
    _policy(rf"/dead-letters/{_NAME}/{_NAME}/(retry|discard|undo|archive)", _POST, Access.OPERATOR),
    _policy(rf"/dead-letters/causes/{_NAME}", _POST, Access.OPERATOR),
    _policy(rf"/alerts/{_NAME}/(ack|silence)", _POST, Access.OPERATOR),
    _policy(r"/operations", _POST, Access.OPERATOR),
    _policy(rf"/operations/{_NAME}/(pause|resume|abort)", _POST, Access.OPERATOR),
    _policy(r"/events", _POST, Access.OPERATOR),
    _policy(
        rf"/streams/{_NAME}/groups/{_NAME}/pending/{_NAME}/(claim|ack)", _POST, Access.OPERATOR
    ),
    _policy(rf"/streams/{_NAME}/groups/{_NAME}/pending/{_NAME}/delete", _POST, Access.ADMIN),
    _policy(rf"/notifications/{_NAME}", _POST, Access.OPERATOR),
)

_DISGUISED: Final = re.compile(r"%(2f|5c|2e|00)|\\|/\.\.?(/|$)", re.IGNORECASE)

_ROLE_ACCESS: Final[Mapping[str, Access]] = {
    "viewer": Access.VIEWER,
    "operator": Access.OPERATOR,
    "admin": Access.ADMIN,
}


def policies_of(path: str) -> list[Policy]:
    """Return the policies of *path*, the deployment's prefix removed; empty: no such path.

    A path that would be another one after decoding (encoded slash, dot, backslash, NUL) is none.
    """
    if _DISGUISED.search(path):
        return []
    return [policy for policy in POLICIES if policy.pattern.fullmatch(path)]


@dataclass(frozen=True, slots=True)
class Request:
    """What the guard needs to know of a request; header names in lower case."""

    method: str
    path: str  #: as sent: still percent-encoded, without prefix and query
    headers: Mapping[str, str]
    peer: str  #: address of the other end of the connection
    secure: bool = False
    query: str = ""

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


class Throttle:
    """Count wrong credentials per address and minute; bounded, oldest address forgotten first."""

    def __init__(
        self, limit: int = FAILURES_PER_MINUTE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()
        self._welcome: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Seconds *address* has to wait before another credential is looked at; 0: none."""
        now = self._clock()
        recent = [at for at in self._failures.get(address, ()) if at > now - 60]
        return max(1, int(recent[0] + 60 - now)) if len(recent) >= self._limit else 0

    def failed(self, address: str) -> None:
        """Note a wrong credential from *address*."""
        now = self._clock()
        recent = [at for at in self._failures.get(address, ()) if at > now - 60]
        self._failures[address] = [*recent, now][-self._limit :]
        self._failures.move_to_end(address)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def welcome(self, address: str, digest: bytes) -> None:
        """Remember that *address* offered a right credential: guessers beside it do not lock it out."""
        self._welcome[address, digest] = None
        self._welcome.move_to_end((address, digest))
        while len(self._welcome) > REMEMBERED:
            self._welcome.popitem(last=False)

    def knows(self, address: str, digest: bytes) -> bool:
        """Whether *address* offered this right credential before."""
        return (address, digest) in self._welcome


class Guard:
    """Decide on every request of one server. Holds the key's digest, never the key."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        self._key = _digest(key.encode()) if key else None
        material = key.encode() if key else secrets.token_bytes(32)
        self._sign_key = hmac.new(material, b"arqscope session", hashlib.sha256).digest()
        #: signs Bokeh's session ids, so that a forged websocket token builds nothing
        self.bokeh_key: bytes = hmac.new(material, b"bokeh session", hashlib.sha256).digest()
        self._clock = clock
        self._revoked: OrderedDict[str, float] = OrderedDict()
        self.throttle = Throttle()
        #: host:port of foreign pages whose websockets are welcome (BOKEH_ALLOW_WS_ORIGIN)
        self.foreign_origins: frozenset[str] = frozenset()

    @property
    def is_open(self) -> bool:
        """Whether there is no key, so that whoever is on this machine is let in."""
        return self._key is None

    def decide(self, request: Request) -> Actor | Refusal | None:
        """Return who calls, a refusal, or None for an open route called without credentials."""
        refusal = self._refuse_place(request)
        if refusal:
            return refusal
        matching = policies_of(request.path)
        allowed = [policy for policy in matching if request.method in policy.methods]
        access = min((policy.access for policy in allowed), default=Access.VIEWER)
        if access is Access.OPEN:
            return self._refuse_origin(request, by_cookie=True)
        actor, by_cookie = self._credentials(request)
        if isinstance(actor, Refusal):
            return actor
        if actor is None:
            return _unauthenticated(request)
        refusal = self._refuse_origin(request, by_cookie=by_cookie)
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
        if _ROLE_ACCESS[actor.role] < access:
            return Refusal(
                403,
                "forbidden",
                f"this needs the role {access.name.lower()}, you are {actor.role}",
                "use a key with more rights",
            )
        return actor

    def login(self, offered: str, name: str, peer: str) -> str | Refusal:
        """Return a session cookie's value for a right key; refused and counted otherwise."""
        answer = self._check_key(offered, peer)
        if isinstance(answer, Refusal):
            return answer
        return self.session(Actor(name=name or answer.name, role=answer.role))

    def session(self, actor: Actor) -> str:
        """Make the value of a session cookie for *actor*, good for 12 hours."""
        facts = {
            "n": actor.name,
            "r": actor.role,
            "e": int(self._clock()) + SESSION_S,
            "i": secrets.token_hex(8),
        }
        body = _b64(json.dumps(facts, separators=(",", ":")).encode())
        return f"{body}.{self._signature(body)}"

    def logout(self, cookie_header: str) -> None:
        """End the session of the cookie: it opens nothing any more."""
        facts = self._session_facts(cookie_header)
        if facts is not None:
            self._revoked[str(facts["i"])] = float(str(facts["e"]))
            now = self._clock()
            while self._revoked and (
                len(self._revoked) > REMEMBERED or next(iter(self._revoked.values())) < now
            ):
                self._revoked.popitem(last=False)

    def _refuse_place(self, request: Request) -> Refusal | None:
        """Without a key, only this machine is answered, and only under its own name."""
        if not self.is_open:
            return None
        if not _is_loopback(request.peer):
            return Refusal(
                403,
                "no_key",
                "this server has no API_KEY, so it answers only its own machine",
                "set API_KEY and start it again",
            )
        if not _is_loopback(_host_name(request.headers.get("host", ""))):
            return Refusal(
                403,
                "foreign_host",
                "this server has no API_KEY, so it answers only as localhost",
                "use http://localhost, or set API_KEY (this refusal stops DNS rebinding)",
            )
        return None

    def _refuse_origin(self, request: Request, *, by_cookie: bool) -> Refusal | None:
        """Refuse what another site makes a browser send: changes and websockets."""
        if request.method in SAFE_METHODS and not request.is_websocket:
            return None
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        own = request.headers.get("host", "").lower()
        foreign = Refusal(
            403,
            "foreign_origin",
            "this came from a page of another site",
            "send it from the dashboard itself, or without a browser and with an API key",
        )
        if origin is not None:
            asked = urlsplit(origin).netloc.lower()
            listed = request.is_websocket and asked in self.foreign_origins
            if not listed and (not asked or asked != own):
                return foreign
            return foreign if site not in (None, "same-origin", "none") and not listed else None
        if site is not None:
            return None if site in ("same-origin", "none") else foreign
        # A browser sends one of the two headers; who sends neither must not ride on a cookie.
        return foreign if by_cookie and not self.is_open else None

    def _credentials(self, request: Request) -> tuple[Actor | Refusal | None, bool]:
        """Return who the credentials name (None: no credentials), and whether by cookie."""
        if self.is_open:
            return Actor(name="local", role="admin"), False
        offered = request.headers.get("x-api-key")
        authorization = request.headers.get("authorization")
        if offered is None and authorization is not None:
            scheme, _, token = authorization.partition(" ")
            offered = token.strip() if scheme.lower() == "bearer" else ""
        if offered is not None:
            return self._check_key(offered, request.peer), False
        return self._session_actor(request.headers.get("cookie", "")), True

    def _check_key(self, offered: str, peer: str) -> Actor | Refusal:
        digest = _digest(offered.encode("utf-8", "surrogateescape"))
        # A header arrives as latin-1: compare the bytes the client really sent as well.
        raw = _digest(offered.encode("latin-1", "replace"))
        wait_s = self.throttle.wait_s(peer)
        if wait_s and not (self.throttle.knows(peer, digest) or self.throttle.knows(peer, raw)):
            return Refusal(
                429,
                "too_many_failures",
                "too many wrong keys from this address",
                f"wait {wait_s} s",
                {"Retry-After": str(wait_s)},
            )
        key = self._key or b""
        matches = hmac.compare_digest(digest, key) | hmac.compare_digest(raw, key)
        if not matches:
            self.throttle.failed(peer)
            return _wrong_key()
        self.throttle.welcome(peer, digest)
        self.throttle.welcome(peer, raw)
        return Actor(name="api-key", role="admin")

    def _session_facts(self, cookie_header: str) -> dict[str, object] | None:
        try:
            morsel = SimpleCookie(cookie_header).get(SESSION_COOKIE)
            body, _, signature = (morsel.value if morsel else "").partition(".")
            given = signature.encode("utf-8", "replace")
            if not hmac.compare_digest(given, self._signature(body).encode()):
                return None
            facts = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (CookieError, ValueError):
            return None
        live = int(facts["e"]) > self._clock() and str(facts["i"]) not in self._revoked
        return facts if live else None

    def _session_actor(self, cookie_header: str) -> Actor | None:
        facts = self._session_facts(cookie_header)
        if facts is None:
            return None
        roles: Mapping[str, Literal["viewer", "operator", "admin"]] = {
            "viewer": "viewer",
            "operator": "operator",
            "admin": "admin",
        }
        return Actor(name=str(facts["n"]), role=roles[str(facts["r"])])

    def _signature(self, body: str) -> str:
        text = body.encode("utf-8", "replace")
        return _b64(hmac.new(self._sign_key, text, hashlib.sha256).digest())


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


def _digest(value: bytes) -> bytes:
    """Digest of a random key: equal length for a comparison that takes equal time."""
    return hashlib.sha256(value).digest()


def _b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _host_name(host: str) -> str:
    """Name part of a Host header: ``[::1]:8009`` and ``localhost:8009`` lose their port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a server bound to *host* can be reached from its own machine only."""
    return _is_loopback(host)
