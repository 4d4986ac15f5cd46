"""How a server begins and ends, and how it bears the loss of Redis."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from app.api.application import create_api, warmed_up
from app.verify.deployment import Deployment
from app.verify.standing import page_opens
from tests.conftest import ROOT, RunningRedis, start_redis, unused_port, wait_until
from tests.serving import (
    DATA_SYNC,
    SERVE,
    SMALL_PAGE,
    RunningServer,
    handshake,
    start_server,
    stop,
)


def test_a_dead_redis_is_told_with_503_within_two_seconds(tmp_path: Path) -> None:
    redis = start_redis(tmp_path / "redis")
    server = start_server(redis, tmp_path)
    try:
        with server.client() as client:
            wait_until(lambda: client.get("/stats").status_code == 200, 10)
            redis.kill()
            for call in (
                lambda: client.get("/health"),
                lambda: client.post("/jobs/async-processing", json={"name": "generic"}),
                lambda: client.get("/jobs/async-processing/some-id"),
                lambda: client.post("/queues/async-processing/pause"),
            ):
                answer, took_s = _timed(call)
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) > 0
                assert took_s < 2.0
            wait_until(lambda: client.get("/stats").status_code == 503, 5)
            assert client.get("/health/live").status_code == 200
            assert "test-password" not in client.get("/health").text + client.get("/stats").text
            redis.start()
            wait_until(lambda: client.get("/health").status_code == 200, 10)
            wait_until(lambda: client.get("/stats").status_code == 200, 10)
    finally:
        stop(server)
        redis.stop()


def test_a_frozen_redis_is_told_with_503_within_two_seconds_again_and_again(
    tmp_path: Path,
) -> None:
    """
    Silence is worse than a refused connection: every try runs into its timeout.
    """
    redis = start_redis(tmp_path / "redis")
    server = start_server(redis, tmp_path)
    try:
        with server.client() as client:
            wait_until(lambda: client.get("/stats").status_code == 200, 10)
            assert redis.process is not None
            redis.process.send_signal(signal.SIGSTOP)
            for _ in range(2):
                for call in (
                    lambda: client.get("/health"),
                    lambda: client.post("/jobs/async-processing", json={"name": "generic"}),
                    lambda: client.get("/jobs/async-processing?state=deferred"),
                    lambda: client.get("/audit"),
                    lambda: client.get("/history/async-processing"),
                    lambda: client.get("/jobs/async-processing/some-id/why"),
                    lambda: client.get("/notifications/user:some-one"),
                    lambda: client.post("/foreign"),
                    lambda: client.post("/events", json={"type": "user.created"}),
                ):
                    answer, took_s = _timed(call)
                    assert answer.status_code == 503, answer.text
                    assert took_s < 2.0
            redis.process.send_signal(signal.SIGCONT)
    finally:
        stop(server)
        redis.stop()


def _timed(call: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = call()
    return answer, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_exits_cleanly(redis: RunningRedis, tmp_path: Path, number: int) -> None:
    server = start_server(redis, tmp_path)

    server.process.send_signal(number)

    assert server.process.wait(15) == 0
    assert "Traceback" not in server.log.read_text()


#: what differs from answer to answer
_OF_ONE_ANSWER = {"date", "etag", "content-length", "x-request-id"}


async def test_both_ways_to_start_give_the_same_server(redis: RunningRedis, tmp_path: Path) -> None:
    """
    ``panel serve app/dashboard`` and ``arqscope serve``: the same pages, API, headers and end.
    """
    dashboard = str(ROOT / "app/dashboard")
    ways = [
        [sys.executable, "-m", "panel", "serve", dashboard, "--port", "{port}"],
        [sys.executable, "-c", SERVE],
    ]

    by_panel, by_us = [
        await _served(start_server(redis, tmp_path / f"way-{n}", command=way))
        for n, way in enumerate(ways)
    ]

    assert by_panel == by_us
    assert by_us["/admin/queues"][1] == "Overview · arqscope"
    assert "/jobs/{queue}" in by_us["api"]
    assert by_us["ended"] == 0


def test_a_page_session_ends_with_its_socket(tmp_path: Path, redis: RunningRedis) -> None:
    command = [sys.executable, "-m", "panel", "serve", "dashboard", "--port", "{port}"]
    for_ever = ["--unused-session-lifetime", "600000"]
    server = start_server(redis, tmp_path, command=[*command, *for_ever])
    try:
        with server.client() as client:
            fetched, left = (client.get("/admin/queues").text for _ in range(2))
            assert _page_sessions(client) == 2
            token = re.search('"token":"([^"]+)"', left)
            assert token is not None
            assert token[1] not in fetched
            protocol = {"Sec-WebSocket-Protocol": f"bokeh, {token[1]}"}
            assert handshake(server, "/admin/queues/ws", Origin=server.url, **protocol) == 101

            wait_until(lambda: _page_sessions(client) == 1, 30, "the session is gone")
    finally:
        stop(server)


def _page_sessions(client: httpx.Client) -> float:
    found = re.search(r"^arqscope_page_sessions (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


async def _served(server: RunningServer) -> dict[str, Any]:
    """What *server* is to those who come by, and how it ends."""
    told: dict[str, Any] = {}
    try:
        with server.client() as client:
            for path in ("/health", "/admin/queues", "/admin/dead-letters", "/nowhere"):
                answer = client.get(path)
                title = re.search("<title>(.*?)</title>", answer.text)
                headers = {k: v for k, v in answer.headers.items() if k not in _OF_ONE_ANSWER}
                told[path] = (answer.status_code, title and title[1], headers)
            told["api"] = client.get("/openapi.json").json()["paths"]
            assert client.post("/jobs/long-running-jobs", json=DATA_SYNC).status_code == 201
        assert "websocket" in await page_opens(Deployment(url=server.url))
        assert handshake(server, "/admin/queues/ws", Origin="http://evil.example") == 403
        server.process.send_signal(signal.SIGTERM)
        told["ended"] = server.process.wait(15)
    finally:
        stop(server)
    return told


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"QUEUE_UI_HOST": "0.0.0.0"}, "API_KEY"),
        ({"REQUIRE_API_KEY": "true"}, "REQUIRE_API_KEY"),
    ],
)
@pytest.mark.parametrize("way", ["serve", "panel"])
def test_an_open_server_does_not_start(
    redis: RunningRedis, tmp_path: Path, environ: dict[str, str], words: str, way: str
) -> None:
    page = tmp_path / "dashboard"
    page.mkdir()
    shutil.copy(ROOT / "app/dashboard/app_hooks.py", page)
    (page / "main.py").write_text(SMALL_PAGE)
    panel = [sys.executable, "-m", "panel", "serve", str(page), "--port", str(unused_port())]
    command = panel if way == "panel" else [sys.executable, "-c", SERVE]
    world = {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_QUEUE_URL": redis.url, **environ}

    ended = subprocess.run(
        command, cwd=tmp_path, env=world, capture_output=True, text=True, timeout=60
    )

    assert ended.returncode != 0
    assert words in ended.stderr


def test_a_taken_port_is_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        world = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "QUEUE_UI_PORT": str(taken.getsockname()[1]),
        }
        ended = subprocess.run(
            [sys.executable, "-c", SERVE],
            cwd=tmp_path,
            env=world,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert ended.returncode != 0
    assert "PortInUse" in ended.stderr
    assert "is taken" in ended.stderr


async def test_the_first_request_finds_the_routes_made() -> None:
    """
    FastAPI makes them when the first request comes, which waits half a second then, on a busy machine two.
    """
    api: Any = warmed_up(create_api(None))  # type: ignore[arg-type]
    made: list[object] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name in ("get_dependant", "build_middleware_stack"):
            made.append(frame.f_code.co_name)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(api, raise_app_exceptions=False), base_url="http://x"
    ) as client:
        sys.setprofile(note)
        try:
            answer = await client.get("/no/such/path")
        finally:
            sys.setprofile(None)

    assert answer.status_code == 404
    assert made == []
