"""The server as a real process, for tests: start it, ask it, stop it."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.conftest import ROOT, RunningRedis, unused_port, wait_until

KEY = "integration-key-0123456789abcdef0123"
#: the job the specification shows
DATA_SYNC = {
    "name": "data-sync",
    "data": {"baseId": "appXXXXXX", "records": 1000},
    "options": {"timeout": 3600000},
}
#: a page small enough that these tests are about the server
SMALL_PAGE = """
import panel as pn
from app.server import page_actor
pn.extension()
pn.pane.Str("for " + page_actor(pn.state.curdoc.session_context).name).servable()
"""
SERVE = "from app.server import serve; from app.settings import Settings; serve(Settings.load(env_file=None))"


@dataclass
class RunningServer:
    process: subprocess.Popen[bytes]
    port: int
    redis: RunningRedis
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **headers: str) -> httpx.Client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Client(base_url=self.url, headers=named, timeout=10)


def start_server(
    redis: RunningRedis,
    directory: Path,
    *,
    command: list[str] | None = None,
    prefix: str = "",
    **environ: str,
) -> RunningServer:
    port = unused_port()
    page = directory / "dashboard"
    if not page.exists():
        page.mkdir(parents=True)
        shutil.copy(ROOT / "app/dashboard/app_hooks.py", page)
        (page / "main.py").write_text(SMALL_PAGE)
    command = command or [sys.executable, "-m", "panel", "serve", str(page), "--port", "{port}"]
    world = {
        k: v for k, v in os.environ.items() if "REDIS" not in k and not k.startswith("ARQSCOPE_")
    }
    world |= {
        "REDIS_URL": redis.database(0),
        "REDIS_STREAMS_URL": redis.database(1),
        "REDIS_QUEUE_URL": redis.database(2),
        "QUEUE_UI_PORT": str(port),
        "ARQSCOPE_SAMPLE_INTERVAL_S": "0.2",
        "PYTHONPATH": str(ROOT),
        **environ,
    }
    log = directory / f"server-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            cwd=directory,
            env=world,
            stdout=out,
            stderr=out,
        )
    server = RunningServer(process, port, redis, log)

    def answers() -> bool:
        if process.poll() is not None:
            raise AssertionError(log.read_text()[-3000:])
        try:
            path = prefix.replace("{port}", str(port)) + "/health/live"
            return httpx.get(server.url + path, timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, 90, "the server answers")
    except BaseException:
        stop(server)
        raise
    return server


def stop(server: RunningServer) -> None:
    if server.process.poll() is None:
        server.process.kill()
    server.process.wait(20)


def handshake(server: RunningServer, path: str, **headers: str) -> int:
    """Ask for a websocket; return the status of the answer, 101 when it was opened."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        return int(connection.recv(4096).split(b" ", 2)[1])
