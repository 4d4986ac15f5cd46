"""Too much of it: floods are refused and the server goes on. Row S4 of FAULTS.md."""

import base64
import contextlib
import json
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

from tests.conftest import wait_until
from tests.faults.conftest import Row
from tests.faults.door_rig import (
    API_KEY,
    Door,
    open_socket,
    token_of,
)  # fmt: skip
from tests.faults.rig import sized


class _Probe:
    """Asks /health/live all the time in a thread of its own and keeps how long each answer took."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.took_ms: list[float] = []
        self.lost = 0

    def __enter__(self) -> "_Probe":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        wait_until(lambda: len(self.took_ms) >= 20)
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._door.origin, timeout=10) as client:
            while not self._stop.is_set():
                began = time.perf_counter()
                try:
                    self.lost += client.get("/health/live").status_code != 200
                except httpx.HTTPError:
                    self.lost += 1
                self.took_ms.append((time.perf_counter() - began) * 1000)
                self._stop.wait(0.005)

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self.took_ms)
        return ordered[int(0.99 * (len(ordered) - 1))]


def _floods(door: Door) -> dict[str, Callable[[], int]]:
    """Attacks by name; each returns the status it was answered with, 0 when it was hung up on."""
    key = {"X-API-Key": API_KEY}
    job = {**key, "Content-Type": "application/json"}
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": door.origin}
    many = sized(500, 120)

    def slowloris() -> int:
        held = [door.connect(f"127.0.20.{1 + n % 200}") for n in range(many)]
        for connection in held:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        answered = door.ask("GET", "/health/live").status
        for connection in held:
            connection.close()
        return 400 if answered == 200 else answered

    def chunks() -> int:
        head = (
            f"POST /jobs/async-processing HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nX-API-Key: {API_KEY}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        return door.send(
            head.encode() + b"1\r\n[\r\n" * sized(500_000, 60_000) + b"0\r\n\r\n"
        ).status

    packed = zlib.compress(b'{"a":"' + b"x" * 28_000_000 + b'"}')
    facts = {
        "session_id": "a.b",
        "session_expiry": 9_999_999_999,
        "__bk__zlib_": base64.urlsafe_b64encode(packed).decode(),
    }
    token = base64.urlsafe_b64encode(json.dumps(facts).encode()).decode().rstrip("=")

    def bomb() -> int:
        statuses = [
            door.upgrade("/admin/queues/ws", Origin=door.origin, X_API_Key=API_KEY,
                         Sec_WebSocket_Protocol=f"bokeh, {token}.x").status
            for _ in range(4)
        ]  # fmt: skip
        statuses.append(door.ask("GET", f"/admin/queues?bokeh-token={token[:20_000]}", key).status)
        return max(statuses)

    return {
        "zip bomb": bomb,
        "1 MB of headers": lambda: door.ask("GET", "/stats", {"X-Big": "x" * 1_000_000}).status,
        "slowloris": slowloris,
        "1-byte chunks": chunks,
        "form fields": lambda: door.ask("POST", "/login", form, b"a=&" * 330_000).status,
        "query fields": lambda: door.ask("GET", "/stats?" + "a=&" * 100_000, key).status,
        "multipart": lambda: door.ask(
            "POST", "/login", {**form, "Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 1_000 + b"--x--\r\n",
        ).status,
        "100 MB body": lambda: door.ask("POST", "/jobs/async-processing", job, b"x" * 100_000_000).status,
        "deep JSON": lambda: door.ask("POST", "/jobs/async-processing", job, b"[" * 100_000).status,
    }  # fmt: skip


@pytest.mark.row("S4")
def test_floods_are_refused_and_the_server_goes_on_answering(door: Door, row: Row) -> None:
    door.ask("GET", "/stats", {"X-API-Key": API_KEY})
    before_mb = door.rss_mb()
    figures: dict[str, Any] = {}
    for name, flood in _floods(door).items():
        with _Probe(door) as probe:
            status = flood()
        figures[name.replace(" ", "_")] = f"{status}/{probe.p99_ms:.0f}ms"
        assert status in (0, 400, 403, 411, 413, 414, 422, 431), (name, status)
        assert probe.lost == 0, name
        # A slice shares its machine with other tests: only a server that stands still fails it.
        assert probe.p99_ms < sized(200, 1_000), (name, probe.p99_ms)
    grown_mb = door.rss_mb() - before_mb

    row.figure(**figures, grown_mb=grown_mb)
    assert grown_mb < 50


@pytest.mark.row("S4")
async def test_a_websocket_frame_of_20_mb_ends_that_socket_only(door: Door, row: Row) -> None:
    headers = {"X-API-Key": API_KEY}
    token = token_of(door.ask("GET", "/admin/queues", headers).body)
    before_mb = door.rss_mb()

    async with open_socket(door, token, headers) as socket:
        with contextlib.suppress(WebSocketClosedError, StreamClosedError):
            await socket.write_message("x" * 20_000_000)
            while await socket.read_message() is not None:
                pass
        assert socket.close_code != 1000
    grown_mb = door.rss_mb() - before_mb

    row.figure(ws_frame_grown_mb=grown_mb)
    assert door.ask("GET", "/health/live").status == 200
    assert grown_mb < 50
