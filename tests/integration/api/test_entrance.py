"""Who gets in: keys, logins, sockets, foreign pages, headers."""

import json
import socket

import httpx
import pytest

from tests.conftest import wait_until
from tests.serving import KEY, RunningServer, handshake

CLOSED = [
    ("GET", "/"), ("GET", "/stats"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/docs"),
    ("GET", "/docs/assets/swagger-ui.css"), ("GET", "/audit"), ("GET", "/workers"),
    ("GET", "/admin/queues"), ("GET", "/admin/jobs"), ("GET", "/admin/assets/inter.woff2"),
    ("GET", "/dashboard"), ("GET", "/dashboard/autoload.js"),
    ("GET", "/dashboard/metadata"), ("GET", "/static/js/bokeh.min.js"), ("GET", "/components/json/a/b/c"),
    ("GET", "/liveness"), ("GET", "/frames/queues.csv"), ("GET", "/dead-letters"), ("GET", "/nothing"),
    ("GET", "//health"), ("GET", "/%68ealth"), ("GET", "/STATS"), ("GET", "/health/../stats"),
    ("POST", "/jobs/async-processing"), ("POST", "/queues/async-processing/pause"),
    ("POST", "/events"), ("POST", "/logout"), ("DELETE", "/stats"), ("PUT", "/stats"),
    ("PATCH", "/health"), ("OPTIONS", "/stats"), ("TRACE", "/stats"), ("HEAD", "/stats"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_without_the_key_a_door_is_closed(keyed: RunningServer, method: str, path: str) -> None:
    request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{keyed.port}\r\nX-Original-URL: /health\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = connection.recv(65536)

    assert int(answer.split(b" ", 2)[1]) == 401, answer[:300]
    assert b"Server:" not in answer
    assert b"nosniff" in answer


@pytest.mark.parametrize(
    ("line", "more", "status"),
    [
        ("TRACE /stats", "", 405),
        ("NONSENSE /stats", "", 405),
        ("POST /events", "Content-Length: 2000000\r\n", 413),
    ],
)
def test_an_answer_that_ends_its_connection_says_so(
    keyed: RunningServer, line: str, more: str, status: int
) -> None:
    """
    A client that kept the connection would ask the next thing on it, and meet a reset.
    """
    request = f"{line} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n{more}\r\n"
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as connection:
        connection.sendall(request.encode())
        told = b""
        while piece := connection.recv(65_536):
            told += piece

    assert int(told.split(b" ", 2)[1]) == status
    assert b"\r\nConnection: close\r\n" in told


@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
def test_who_sends_too_much_reads_why_and_meets_no_reset(keyed: RunningServer, size: int) -> None:
    """
    Most clients send all they have before they read: closed at once, the kernel would drop the answer.
    """
    head = f"POST /events HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as connection:
        connection.sendall(head.encode())
        for _ in range(size // 500_000):
            connection.sendall(b" " * 500_000)
        told = b""
        while piece := connection.recv(65_536):
            told += piece

    head_told, _, body = told.partition(b"\r\n\r\n")
    assert head_told.startswith(b"HTTP/1.1 413 ")
    assert json.loads(body)["error"]["code"] == "too_large"


_POST = b"POST /events HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/3.7\r\nHost: localhost\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400, "malformed"),
        (_POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "malformed"),
        (_POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed"),
        (_POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", 400, "malformed"),
        (_POST + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * 5_000, 400, "malformed"),
        (b"GET /health HTTP/1.1\r\nA: " + b"x" * 33_000 + b"\r\n\r\n", 431, "too_large"),
        (b"GET /health HTTP/1.1\r\nA: " + b"x" * 900_000, 431, "too_large"),
    ],
)
def test_what_is_no_request_is_answered_like_all_else(
    keyed: RunningServer, sent: bytes, status: int, code: str
) -> None:
    """
    Tornado writes a bare status line, or closes over unread bytes, so that the answer is lost.
    """
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as connection:
        connection.sendall(sent)
        told = b""
        while piece := connection.recv(65_536):
            told += piece

    head, _, body = told.partition(b"\r\n\r\n")
    assert int(head.split(b" ", 2)[1]) == status
    assert json.loads(body)["error"]["code"] == code
    named = head.lower()
    assert f"x-request-id: {json.loads(body)['requestId']}".encode() in named
    assert b"\r\nserver:" not in named
    for line in (b"nosniff", b"cache-control: no-store", b"connection: close", b"default-src"):
        assert line in named


def test_a_parameter_given_twice_is_refused(keyed: RunningServer) -> None:
    with keyed.client(X_API_Key=KEY) as client:
        twice = client.get("/dead-letters?fingerprint=a&fingerprint=b")
        once = client.get("/dead-letters?fingerprint=a&unknown=1&unknown=2")

    assert (twice.status_code, once.status_code) == (422, 200)
    assert "fingerprint is given more than once" in twice.json()["error"]["message"]


def test_what_may_be_kept_is_said_and_asked_again_costs_nothing(keyed: RunningServer) -> None:
    with keyed.client(X_API_Key=KEY) as client:
        style = client.get("/docs/assets/swagger-ui.css")
        again = client.get(
            "/docs/assets/swagger-ui.css", headers={"If-None-Match": style.headers["etag"]}
        )
        for path in ("/openapi.json", "/metrics", "/docs"):
            assert client.get(path).headers["cache-control"] == "no-store"
        page = client.head("/admin/queues")

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "private, max-age=86400"
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
    assert "default-src" in page.headers["content-security-policy"]


def test_with_the_key_in_either_header_it_opens(keyed: RunningServer) -> None:
    wait_until(
        lambda: httpx.get(f"{keyed.url}/stats", headers={"X-API-Key": KEY}).status_code == 200
    )
    for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        assert httpx.get(f"{keyed.url}/stats", headers=headers).status_code == 200
        answer = httpx.post(
            f"{keyed.url}/jobs/async-processing", headers=headers, json={"name": "generic"}
        )
        assert answer.status_code == 201
    assert httpx.get(f"{keyed.url}/stats?api_key={KEY}").status_code == 401
    assert httpx.get(f"{keyed.url}/health").status_code == 200


def test_the_login_gives_a_session_that_opens_the_pages_and_the_websocket(
    keyed: RunningServer,
) -> None:
    with keyed.client(Accept="text/html") as client:
        asked = client.get("/admin/queues")
        assert asked.status_code == 302
        assert asked.headers["location"].startswith("/login?next=")
        assert "<form" in client.get("/login").text

        wrong = client.post("/login", data={"key": "wrong"}, headers={"Origin": keyed.url})
        assert wrong.status_code == 401
        foreign = client.post(
            "/login", data={"key": KEY}, headers={"Origin": "http://evil.example"}
        )
        assert foreign.status_code == 403

        right = client.post(
            "/login",
            data={"key": KEY, "name": "Ada", "next": "//evil.example"},
            headers={"Origin": keyed.url},
        )
        assert right.status_code == 303
        assert right.headers["location"] == "/admin/queues"
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        page = client.get("/admin/queues")
        assert page.status_code == 200
        value = cookie.partition(";")[0]
        assert value.partition("=")[2] not in page.text
        assert (
            client.post(
                "/queues/async-processing/resume", headers={"Origin": keyed.url}
            ).status_code
            == 200
        )
        assert client.post("/queues/async-processing/resume").status_code == 403

        assert (
            handshake(keyed, "/admin/queues/ws", Cookie=value, Origin="http://evil.example") == 403
        )
        assert client.post("/logout", headers={"Origin": keyed.url}).status_code == 303
    replayed = httpx.get(f"{keyed.url}/stats", headers={"Cookie": value})
    assert replayed.status_code == 401


@pytest.mark.parametrize("path", ["/admin/queues/ws", "/dashboard/ws"])
def test_a_websocket_is_refused_without_key_or_from_a_foreign_page(
    keyed: RunningServer, unkeyed: RunningServer, path: str
) -> None:
    assert handshake(keyed, path, Origin=keyed.url) == 401
    assert handshake(keyed, path, Origin=keyed.url, X_API_Key="wrong") == 401
    assert handshake(keyed, path, Origin="http://evil.example", X_API_Key=KEY) == 403
    assert handshake(unkeyed, path, Origin="http://evil.example") == 403
    assert handshake(unkeyed, path, Origin=f"http://127.0.0.1:{unkeyed.port}.evil.example") == 403


def test_a_forged_session_token_builds_no_document(unkeyed: RunningServer) -> None:
    forged = "eyJzZXNzaW9uX2lkIjoiYWJjIiwic2Vzc2lvbl9leHBpcnkiOjk5OTk5OTk5OTl9"
    before = unkeyed.log.read_text().count("ServerConnection created")

    handshake(
        unkeyed,
        "/admin/queues/ws",
        Origin=unkeyed.url,
        Sec_WebSocket_Protocol=f"bokeh, {forged}",
    )

    assert httpx.get(f"{unkeyed.url}/health/live").status_code == 200
    assert unkeyed.log.read_text().count("ServerConnection created") == before


def test_a_rebound_name_and_a_foreign_page_are_refused(unkeyed: RunningServer) -> None:
    rebound = httpx.get(f"{unkeyed.url}/stats", headers={"Host": "rebound.example"})
    foreign = httpx.post(
        f"{unkeyed.url}/queues/async-processing/pause", headers={"Origin": "http://evil.example"}
    )

    assert rebound.status_code == 403
    assert foreign.status_code == 403
    assert foreign.json()["error"]["code"] == "foreign_origin"


def test_panels_own_open_routes_are_closed_for_everyone(unkeyed: RunningServer) -> None:
    for path in ("/components/json/JSONDecoder/css/x", "/liveness", "/rest/session_info", "/admin"):
        assert httpx.get(f"{unkeyed.url}{path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/stats",
        "/nothing",
        "/admin/queues",
        "/static/js/bokeh.min.js",
        "/login",
        "/docs",
    ],
)
def test_every_answer_has_the_security_headers_and_no_server_version(
    api: httpx.Client, path: str
) -> None:
    headers = api.get(path).headers

    assert "server" not in headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "frame-ancestors" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers


def test_a_cursor_of_digits_nobody_can_read_is_no_error_of_ours(keyed: RunningServer) -> None:
    """
    ``"²".isdigit()`` is true, and ``int`` raises.
    """
    answer = httpx.get(
        f"{keyed.url}/jobs/async-processing",
        params={"state": "running", "cursor": "²"},
        headers={"X-API-Key": KEY},
    )

    assert answer.status_code == 422, answer.text
    assert "cursor" in answer.text
