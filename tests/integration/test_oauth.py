"""Login through a provider, against a local one that keeps to the protocol: who comes in, and who does not."""

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import redis as redis_sync

from app import keys
from tests.conftest import RunningRedis, start_redis
from tests.serving import RunningServer, start_server, stop

CLIENT, SECRET = "arqscope-client", "provider-secret-0123456789"
ROLES = "ann@example.com=admin *@example.com=viewer"


@dataclass
class FakeProvider:
    """An OAuth provider with one person at its keyboard."""

    person: dict[str, Any] = field(default_factory=dict)
    port: int = 0
    begun: dict[str, dict[str, str]] = field(default_factory=dict)  #: codes, with what was asked
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    exchanges: list[int] = field(default_factory=list)  #: statuses the token address answered with
    broken: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def authorize(self, asked: dict[str, str]) -> tuple[int, str]:
        if asked.get("response_type") != "code" or asked.get("client_id") != CLIENT:
            return 400, ""
        code = secrets.token_hex(16)
        self.begun[code] = asked
        answer = urlencode({"code": code, "state": asked["state"]})
        return 302, f"{asked['redirect_uri']}?{answer}"

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        begun = self.begun.pop(form.get("code", ""), None)  # a code is good once
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        right = (
            begun is not None
            and begun["redirect_uri"] == form.get("redirect_uri")
            and begun["code_challenge"] == challenge
            and (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)
        )
        status = 503 if self.broken else 200 if right else 400
        self.exchanges.append(status)
        if status != 200:
            return status, {"error": "invalid_grant"}
        token = f"token-{secrets.token_hex(16)}"
        self.tokens[token] = self.person
        return 200, {"access_token": token, "token_type": "bearer", "expires_in": 60}


class _Handler(BaseHTTPRequestHandler):
    provider: ClassVar[FakeProvider]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/authorize":
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, where = self.provider.authorize(asked)
            self.send_response(status)
            self.send_header("Location", where)
            self.end_headers()
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        known = self.provider.tokens.get(token)
        self._answer(200 if known is not None else 401, known or {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(*self.provider.token({n: v[0] for n, v in parse_qs(body).items()}))

    def _answer(self, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    made = FakeProvider()
    handler = type("Handler", (_Handler,), {"provider": made})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _whole(provider: FakeProvider) -> None:
    provider.broken = False
    provider.exchanges.clear()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(
    redis: RunningRedis, provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    made = start_server(
        redis, tmp_path_factory.mktemp("oauth"), ARQSCOPE_TRUSTED_PROXIES="127.0.0.9",
        ARQSCOPE_LOG_FORMAT="json", LOG_LEVEL="DEBUG", **_settings(provider),
    )  # fmt: skip
    yield made
    stop(made)


def _settings(provider: FakeProvider) -> dict[str, str]:
    return {
        "ARQSCOPE_OAUTH_PROVIDER": "generic",
        "ARQSCOPE_OAUTH_KEY": CLIENT,
        "ARQSCOPE_OAUTH_SECRET": SECRET,
        "ARQSCOPE_OAUTH_ROLES": ROLES,
        "ARQSCOPE_OAUTH_OPTIONS": f"AUTHORIZE_URL={provider.url}/authorize "
        f"TOKEN_URL={provider.url}/token USER_URL={provider.url}/user",
    }


@pytest.fixture
def browser(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Accept": "text/html"}, timeout=10) as client:
        yield client


def _person(name: str, **more: Any) -> dict[str, Any]:
    return {"email": name, "email_verified": True, "name": "Somebody"} | more


def _go(browser: httpx.Client, where: str = "/login/oauth?next=/admin/queues") -> httpx.Response:
    """Begin a login, be sent to the provider, come back; return what the way back was answered."""
    begun = browser.get(where)
    assert begun.status_code == 303
    at_provider = httpx.get(begun.headers["Location"])
    return browser.get(at_provider.headers["Location"])


def test_a_listed_person_comes_in_with_their_role_and_no_token_is_kept(
    browser: httpx.Client, provider: FakeProvider, redis: RunningRedis, server: RunningServer
) -> None:
    provider.person = _person("Ann@example.com")
    asked = browser.get("/admin/queues?queue=a")
    assert asked.headers["Location"].startswith("/login?next=")
    form = browser.get(asked.headers["Location"]).text
    assert "Log in with your organisation" in form
    assert "/login/oauth?next=%2Fadmin%2Fqueues%3Fqueue%3Da" in form

    back = _go(browser)
    page = browser.get("/admin/queues")
    paused = browser.post("/queues/async-processing/pause", headers={"Origin": server.url})

    assert back.status_code == 200
    assert 'content="0;url=/admin/queues"' in back.text
    assert set(browser.cookies) == {"arqscope_session"}
    told = back.headers.get_list("set-cookie")
    session = next(one for one in told if one.startswith("arqscope_session="))
    assert all(word in session for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert page.status_code == 200
    assert paused.status_code == 200
    with redis_sync.Redis.from_url(redis.database(2), decode_responses=True) as queue:
        lines = [line["body"] for _, line in queue.xrange(keys.AUDIT)]
    assert any('"login"' in line and "Ann@example.com" in line for line in lines)
    assert any('"pause_queue"' in line and "Ann@example.com" in line for line in lines)
    kept = server.log.read_text() + json.dumps(lines) + json.dumps(dict(browser.cookies))
    assert [t for t in (*provider.tokens, SECRET) if t in kept] == []


def test_a_role_by_domain_looks_and_changes_nothing(
    browser: httpx.Client, provider: FakeProvider, server: RunningServer
) -> None:
    provider.person = _person("bob@example.com")

    _go(browser)
    seen = browser.get("/admin/queues")
    refused = browser.post("/queues/async-processing/pause", headers={"Origin": server.url})
    foreign = browser.post("/logout", headers={"Origin": "http://evil.example"})

    assert (seen.status_code, refused.status_code, foreign.status_code) == (200, 403, 403)


@pytest.mark.parametrize(
    "person",
    [
        _person("eve@example.org"),
        _person("ann@example.com", email_verified=False),
        {"email": "ann@example.com"},
        _person("ann@example.com.evil.org"),
        _person("\u0430nn@example.com"),  # a Cyrillic letter
        _person("ann@example.com\n"),
        _person('"ann@example.com" <eve@example.org>'),
        {"login": "ann@example.com"},
        {"email": ["ann@example.com"], "email_verified": True},
        {},
    ],
)
def test_nobody_else_comes_in(
    server: RunningServer, provider: FakeProvider, person: dict[str, Any]
) -> None:
    provider.person = person
    # each from an address of its own: failed logins are counted by address
    source = f"127.0.0.{10 + abs(hash(json.dumps(person))) % 200}"
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(base_url=server.url, transport=transport, timeout=10) as browser:
        back = _go(browser)
        looked = browser.get("/stats")

    assert provider.exchanges == [200]
    assert back.status_code == 403
    assert "You are not among those who may come in" in back.text
    assert "arqscope_session" not in back.headers.get("set-cookie", "")
    assert looked.status_code == 401


def test_a_login_that_was_not_begun_in_this_browser_ends_nothing(
    server: RunningServer, provider: FakeProvider
) -> None:
    """
    A link with somebody else's code (login CSRF), another state, a forged or a used cookie.
    """
    provider.person = _person("ann@example.com")

    def attempt(spoil: Callable[[httpx.Client, str], str], number: int) -> httpx.Response:
        transport = httpx.HTTPTransport(local_address=f"127.0.1.{number}")
        with httpx.Client(base_url=server.url, transport=transport, timeout=10) as browser:
            begun = browser.get("/login/oauth")
            back = httpx.get(begun.headers["Location"]).headers["Location"]
            return browser.get(spoil(browser, back))

    def without_cookie(browser: httpx.Client, back: str) -> str:
        browser.cookies.clear()
        return back

    def other_state(_: httpx.Client, back: str) -> str:
        return back.replace("state=", "state=x")

    def forged(browser: httpx.Client, back: str) -> str:
        browser.cookies.clear()
        state = parse_qs(urlsplit(back).query)["state"][0]
        facts = {"s": state, "v": "v", "o": "o", "n": "/", "e": 9_999_999_999}
        body = base64.urlsafe_b64encode(json.dumps(facts).encode()).decode().rstrip("=")
        browser.cookies.set("arqscope_login", f"{body}.{'A' * 43}")
        return back

    def session_as_flow(browser: httpx.Client, back: str) -> str:
        _go(browser)
        value = browser.cookies["arqscope_session"]
        browser.cookies.clear()
        browser.cookies.set("arqscope_login", value)
        return back

    ways = (without_cookie, other_state, forged)
    answers = [attempt(way, number + 1) for number, way in enumerate(ways)]
    assert provider.exchanges == []  # nobody was asked
    answers.append(attempt(session_as_flow, 9))

    assert [answer.status_code for answer in answers] == [403] * 4
    assert all("not begun here" in answer.text for answer in answers)
    assert all("arqscope_session" not in a.headers.get("set-cookie", "") for a in answers)


def test_a_code_used_twice_and_a_provider_that_fails_let_nobody_in(
    browser: httpx.Client, provider: FakeProvider
) -> None:
    provider.person = _person("ann@example.com")
    begun = browser.get("/login/oauth")
    back = httpx.get(begun.headers["Location"]).headers["Location"]
    flow = browser.cookies["arqscope_login"]
    assert browser.get(back).status_code == 200
    browser.cookies.clear()
    browser.cookies.set("arqscope_login", flow)
    again = browser.get(back)
    provider.broken = True
    browser.cookies.clear()
    failed = _go(browser)
    said = browser.get("/login/oauth").headers["Location"]
    state = parse_qs(urlsplit(said).query)["state"][0]
    refused = browser.get(
        "/login/oauth", params={"state": state, "error": "<script>x</script>", "code": "x"}
    )

    assert again.status_code == 502
    assert failed.status_code == 502
    assert "did not say who you are" in failed.text
    assert provider.exchanges == [200, 400, 503]
    assert refused.status_code == 403
    assert "<script>x" not in refused.text
    assert not [c for c in browser.cookies if c == "arqscope_session"]


def test_where_to_go_after_the_login_stays_on_this_server(
    browser: httpx.Client, provider: FakeProvider
) -> None:
    provider.person = _person("bob@example.com")

    back = [
        _go(browser, "/login/oauth?" + urlencode({"next": target}))
        for target in ("//evil.example", "https://evil.example", "/\\evil", "javascript:alert(1)")
    ]

    assert all('content="0;url=/admin/queues"' in one.text for one in back)


def test_a_server_with_a_provider_is_closed_though_nobody_made_a_key(
    server: RunningServer, browser: httpx.Client
) -> None:
    statuses = [httpx.get(f"{server.url}{path}").status_code for path in ("/stats", "/queues")]

    assert statuses == [401, 401]
    assert browser.get("/login/oauth", params={"next": "/"}).status_code == 303
