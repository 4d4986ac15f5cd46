"""Who gets in: every route and socket, foreign sites, roles, headers. Rows S1 to S3, S6, S17, S18 of FAULTS.md."""

import asyncio
import contextlib
from collections import Counter
from typing import Final

import pytest
from tornado.httpclient import HTTPClientError
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

from app import keys
from tests.conftest import wait_until
from tests.faults.conftest import Row
from tests.faults.door_rig import (
    API_KEY,
    Door,
    bearer,
    click_button,
    click_frames,
    open_socket,
    token_of,
)  # fmt: skip
from tests.faults.rig import sized
from tests.integration.test_routes import READS_BY_POST, api_paths

OPEN: Final = {"/health", "/health/live", "/health/ready", "/login", "/favicon.ico"}
EVIL: Final = "http://evil.example"


@pytest.mark.row("S1")
def test_every_route_is_closed_to_who_has_no_right(door: Door, row: Row) -> None:
    """
    All paths, methods, wrong credentials and disguises, and the websocket: what answers 2xx is the
    allow-list, nothing changes, and every answer has its headers (S17 counts them, too).
    """
    paths = sorted({path for _, path, _ in api_paths()} | {
        "/", "/admin/queues", "/dashboard", "/dashboard/autoload.js", "/dashboard/metadata",
        "/static/js/bokeh.min.js", "/components/app/x.js", "/liveness", "/login", "/login/oauth", "/logout",
        "/favicon.ico", "/openapi.json", "/nothing", "/admin", "/rest/session_info",
    })  # fmt: skip
    disguises = ["//stats", "/stats/", "/%2e/stats", "/STATS", "/health/../stats", "/health%2f..%2fstats",
                 "/./stats", "/stats%00", "/health;/stats", f"http://127.0.0.1:{door.port}/stats",
                 "/health\\..\\stats", "/admin/../stats"]  # fmt: skip
    expired = f"arqs_{'0' * 8}_{'x' * 43}"
    credentials: list[tuple[str, dict[str, str], str]] = [
        ("none", {}, ""),
        ("bad", {"X-API-Key": "wrong"}, ""),
        ("unknown", bearer(expired), ""),
        ("query", {}, f"?api_key={API_KEY}&X-API-Key={API_KEY}"),
        ("rewritten", {"X-Original-URL": "/health", "X-Rewrite-URL": "/health"}, ""),
        ("cookie", {"Cookie": "arqscope_session=e30.e30"}, ""),
    ]
    methods = sized(
        ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"],
        ["GET", "POST", "PUT"],
    )
    before = door.effects()
    asked, opened, odd, upgraded, number = 0, set(), Counter[int](), 0, 0
    for name, headers, query in credentials:
        for path in [*paths, *disguises]:
            for method in methods:
                number += 1
                source = f"127.0.{2 + number // 8 // 250}.{1 + number // 8 % 250}"
                answer = door.ask(method, path + query, headers, source=source)
                asked += 1
                if 200 <= answer.status < 300:
                    opened.add(path)
                elif answer.status not in (400, 401, 403):
                    odd[answer.status] += 1
        for path in ("/admin/queues/ws", "/dashboard/ws", "/stats"):
            got = door.upgrade(path + query, Origin=door.origin, source="127.0.9.1", **{
                key.replace("-", "_"): value for key, value in headers.items()
            })  # fmt: skip
            upgraded += got.status == 101
            asked += 1
        assert name
    with door.redis() as queue:
        canary = queue.get("canary")
    viewer = bearer(door.role_keys["viewer"])
    acted = sum(
        door.ask("POST", path, viewer, b"{}").status < 300
        for method, path, _ in api_paths() if method == "POST" and path not in READS_BY_POST
    )  # fmt: skip

    row.figure(asked=asked, opened=len(opened), allowed=len(OPEN), upgraded=upgraded,
               odd=dict(odd), changed_by_viewer=acted)  # fmt: skip
    assert opened == OPEN
    assert upgraded == 0
    assert acted == 0
    assert set(odd) <= {303, 405, 429}, odd
    assert (door.effects(), canary) == (before, "untouched")


@pytest.mark.row("S2")
async def test_a_forged_or_foreign_websocket_builds_nothing_and_does_nothing(
    door: Door, row: Row
) -> None:
    cookie = {"Cookie": door.login("operator")}
    page = door.ask("GET", "/admin/queues", cookie)
    token = token_of(page.body)
    body, _, signature = token.partition(".")
    bomb = "eyJzZXNzaW9uX2lkIjoiYWJjIiwic2Vzc2lvbl9leHBpcnkiOjk5OTk5OTk5OTl9"
    async with open_socket(door, token, cookie) as socket:  # the control works, and its id is known
        button = await click_button(socket)
        await asyncio.to_thread(wait_until, lambda: "async-processing" in door.effects()[1])
    with door.redis() as queue:
        queue.srem(keys.PAUSED_QUEUES, "async-processing")
    before, clicks = door.lines("sessions.log"), door.lines("clicks.log")
    effects = door.effects()
    tries: list[tuple[str, str, dict[str, str]]] = [
        ("unsigned", bomb, cookie),
        ("tampered", f"{body}x.{signature}", cookie),
        ("cut", f"{body}.{signature[:-3]}", cookie),
        ("long", body + "A" * 20_000 + "." + signature, cookie),
        ("not-ascii", "é", cookie),
        ("no-cookie", token, {}),
        ("no-origin", token, cookie | {"Origin": ""}),
        ("evil", token, cookie | {"Origin": EVIL}),
        ("suffix", token, cookie | {"Origin": f"{door.origin}.evil.com"}),
        ("viewer", token, bearer(door.role_keys["viewer"])),
    ]
    refused = Counter[int]()
    for name, offered, headers in tries:
        try:
            async with open_socket(door, offered, headers) as socket:
                # Only a token that is good may open: another's session is then left at once.
                assert name == "viewer"
                with contextlib.suppress(WebSocketClosedError, StreamClosedError):
                    await click_button(socket, button)
                assert await socket.read_message() is None
                refused[socket.close_code or 0] += 1
        except HTTPClientError as error:
            refused[error.code] += 1
    clicking = click_frames(button)
    blind = [
        door.upgrade(path, after=clicking, Origin=origin, Sec_WebSocket_Protocol=f"bokeh, {offered}", **more)
        for path in ("/admin/queues/ws", "/dashboard/ws")
        for origin, offered, more in (
            (EVIL, token, cookie), ("null", token, cookie), (door.origin, bomb, cookie), (door.origin, token, {}),
        )
    ]  # fmt: skip
    wrong_protocol = door.upgrade(
        "/admin/queues/ws", Origin=door.origin, Sec_WebSocket_Protocol=f"chat, {token}", **cookie
    )
    logout = door.ask("POST", "/logout", cookie | {"Origin": door.origin})
    with pytest.raises(HTTPClientError) as replay:
        async with open_socket(door, token, cookie):
            pass
    effects_after, clicked = door.effects(), door.lines("clicks.log") - clicks

    row.figure(tries=len(tries) + len(blind) + 2, refused=sum(refused.values()) + len(blind) + 2,
               sessions=door.lines("sessions.log") - before, clicks=clicked,
               effects=int(effects_after != effects))  # fmt: skip
    assert sum(refused.values()) == len(tries)
    assert {answer.status for answer in blind} <= {401, 403}
    assert wrong_protocol.status == 403
    assert logout.status == 303
    assert replay.value.code == 401
    assert door.lines("sessions.log") == before
    assert clicked == 0
    assert effects_after == effects


@pytest.mark.row("S3")
def test_panels_component_and_liveness_routes_are_closed_to_administrators_too(
    door: Door, row: Row
) -> None:
    (door.directory / "canary_module.py").write_text(
        "import pathlib; pathlib.Path('imported').write_text('x')\nclass C: _esm = 'canary_module.py'\n"
    )
    before = door.lines("sessions.log")
    statuses = [
        door.ask("GET", path, bearer(door.role_keys["admin"])).status
        for path in (
            "/components/canary_module/C/_esm/x", "/components/canary_module/", "/liveness",
            "/liveness?endpoint=/dashboard", "/dashboard/liveness", "/rest/session_info",
        )
    ]  # fmt: skip

    row.figure(tries=len(statuses), imported=int((door.directory / "imported").exists()),
               sessions=door.lines("sessions.log") - before)  # fmt: skip
    assert set(statuses) == {404}
    assert not (door.directory / "imported").exists()
    assert door.lines("sessions.log") == before


@pytest.mark.row("S6")
def test_another_site_changes_nothing_with_a_good_cookie(door: Door, row: Row) -> None:
    cookie = door.login("admin")
    changing = [
        path for method, path, _ in api_paths() if method == "POST" and path not in READS_BY_POST
    ] + ["/logout"]
    ways: list[dict[str, str]] = [
        {"Origin": EVIL, "Content-Type": "application/x-www-form-urlencoded"},
        {"Origin": "null", "Content-Type": "text/plain"},
        {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"},
        {"Sec-Fetch-Site": "same-site", "Content-Type": "application/json"},
        {"Origin": door.origin, "Sec-Fetch-Site": "cross-site"},
        {"Origin": f"{door.origin}.evil.com"},
        {},
    ]
    before = door.effects()
    statuses = Counter(
        door.ask("POST", path, {"Cookie": cookie, **way}, b'{"name":"generic"}').status
        for path in changing
        for way in ways
    )
    read = [door.ask("GET", path, {"Cookie": cookie, "Origin": EVIL}).status for path in changing]

    row.figure(
        tries=sum(statuses.values()), statuses=dict(statuses), changed=int(door.effects() != before)
    )
    assert set(statuses) == {403}
    assert all(status < 500 for status in read)
    assert door.effects() == before
    assert door.ask("GET", "/stats", {"Cookie": cookie}).status == 200  # /logout was among them


@pytest.mark.row("S17")
def test_every_answer_has_the_security_headers(door: Door, row: Row) -> None:
    key = {"X-API-Key": API_KEY}
    asked = [(method, path, key) for method, path, _ in api_paths()]
    asked += [("GET", path, key) for path in ("/", "/admin/queues", "/dashboard", "/static/js/bokeh.min.js",
                                              "/login", "/nothing", "/favicon.ico", "/openapi.json",
                                              "/static/nothing.js", "/dashboard/autoload.js")]  # fmt: skip
    asked += [("GET", "/admin/queues", {}), ("TRACE", "/stats", key), ("PUT", "/stats", {})]
    wrong, own = [], ("/admin/queues", "/dashboard", "/login")
    for method, path, headers in asked:
        got = door.ask(method, path, headers).headers
        good = (
            got.get("x-content-type-options") == "nosniff"
            and got.get("referrer-policy") == "same-origin"
            and "frame-ancestors 'none'" in got.get("content-security-policy", "")
            and got.get("x-frame-options") == "DENY"
            and "server" not in got
            and "access-control-allow-origin" not in got
            and (
                "html" not in got.get("content-type", "")
                or path not in own
                or "object-src 'none'" in got["content-security-policy"]
            )
        )
        if not good:
            wrong.append((method, path, got))
    secure = door.ask("GET", "/health", {"X-Forwarded-Proto": "https"}, source="127.0.0.2").headers
    forged = door.ask("GET", "/health", {"X-Forwarded-Proto": "https"}).headers

    row.figure(answers=len(asked), wrong=len(wrong), share=1 - len(wrong) / len(asked))
    assert wrong == []
    assert "strict-transport-security" in secure
    assert "strict-transport-security" not in forged


@pytest.mark.row("S18")
async def test_a_viewer_changes_nothing_by_http_nor_by_a_button_event(door: Door, row: Row) -> None:
    viewer, operator = (bearer(door.role_keys[role]) for role in ("viewer", "operator"))
    before, clicks = door.effects(), door.lines("clicks.log")
    by_http = Counter(
        door.ask("POST", path, {**viewer, "Content-Type": "application/json"}, b"{}").status
        for method, path, _ in api_paths() if method == "POST" and path not in READS_BY_POST
    )  # fmt: skip
    token = token_of(door.ask("GET", "/admin/queues", viewer).body)
    async with open_socket(door, token, viewer) as socket:
        await click_button(socket)
        await asyncio.to_thread(wait_until, lambda: door.lines("clicks.log") == clicks + 1)
    with door.redis() as queue:
        await asyncio.to_thread(
            wait_until,
            lambda: any("refused" in line["body"] for _, line in queue.xrange(keys.AUDIT)),
        )
        after = door.effects()
        token = token_of(door.ask("GET", "/admin/queues", operator).body)
        async with open_socket(door, token, operator) as socket:
            await click_button(socket)
            await asyncio.to_thread(
                wait_until, lambda: queue.sismember(keys.PAUSED_QUEUES, "async-processing")
            )
        queue.srem(keys.PAUSED_QUEUES, "async-processing")

    row.figure(by_http=dict(by_http), clicks=1, effects=int(after != before))
    assert set(by_http) == {403}
    assert after == before
