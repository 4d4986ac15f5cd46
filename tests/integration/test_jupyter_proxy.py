"""Through jupyter-server-proxy, in a real Jupyter server: pages, API, login and websocket."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import jupyter_server_proxy  # noqa: F401 - a test that cannot run must fail
import pytest
from tornado.httpclient import HTTPClientError

from tests.conftest import RunningRedis, start_redis, unused_port, wait_until
from tests.faults.door_rig import Door, open_socket, token_of
from tests.serving import KEY, RunningServer, start_server, stop

#: as a JupyterHub gives every person one
BASE = "/user/ann"


@dataclass
class Lab:
    server: RunningServer
    port: int
    token: str

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def prefix(self) -> str:
        return f"{BASE}/proxy/absolute/{self.server.port}"

    @contextlib.contextmanager
    def client(self, **headers: str) -> Iterator[httpx.Client]:
        """A client that Jupyter knows, by its cookie as browsers are known."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx.Client(base_url=self.origin, headers=named, timeout=20) as made:
            made.get(f"{BASE}/api/status", params={"token": self.token}).raise_for_status()
            yield made


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    redis: RunningRedis = start_redis(tmp_path_factory.mktemp("redis"))
    directory = tmp_path_factory.mktemp("lab")
    prefix = BASE + "/proxy/absolute/{port}"
    command = [sys.executable, "-m", "panel", "serve", str(directory / "dashboard"),
               "--port", "{port}", "--prefix", prefix]  # fmt: skip
    server = start_server(redis, directory, command=command, prefix=prefix, API_KEY=KEY)
    made = Lab(server, unused_port(), secrets.token_hex(16))
    jupyter = _start_jupyter(made, directory)
    try:
        wait_until(lambda: _answers(made), 120, "Jupyter answers")
        yield made
    finally:
        jupyter.terminate()
        jupyter.wait(20)
        stop(server)
        redis.stop()


def _start_jupyter(lab: Lab, directory: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", f"--port={lab.port}",
        "--ip=127.0.0.1", "--ServerApp.port_retries=0", f"--ServerApp.base_url={BASE}",
        f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={directory}",
        "--ServerApp.terminals_enabled=False",
        "--ServerApp.jpserver_extensions={'jupyter_server_proxy': True}",
    ]  # fmt: skip
    places = {
        f"JUPYTER_{kind}_DIR": str(directory / kind.lower())
        for kind in ("CONFIG", "DATA", "RUNTIME")
    }
    world = {"PATH": "/usr/bin:/bin", "HOME": str(directory), **places}
    with (directory / "jupyter.log").open("wb") as out:
        return subprocess.Popen(command, cwd=directory, env=world, stdout=out, stderr=out)


def _answers(lab: Lab) -> bool:
    try:
        with lab.client() as client:
            return client.get(f"{lab.prefix}/health/live").status_code == 200
    except httpx.HTTPError:
        return False


def test_the_api_works_and_both_doors_want_their_own_key(lab: Lab) -> None:
    with lab.client(X_API_Key=KEY) as client:
        wait_until(lambda: client.get(f"{lab.prefix}/stats").status_code == 200)
        job = client.post(f"{lab.prefix}/jobs/async-processing", json={"name": "generic"})
        schema = client.get(f"{lab.prefix}/openapi.json").json()
    with lab.client() as of_jupyter:
        without_key = of_jupyter.get(f"{lab.prefix}/stats")
    without_token = httpx.get(
        f"{lab.origin}{lab.prefix}/stats", headers={"X-API-Key": KEY, "Accept": "application/json"}
    )

    assert job.status_code == 201
    assert schema["servers"] == [{"url": lab.prefix}]
    assert without_key.status_code == 401
    assert without_key.json()["error"]["code"] == "unauthenticated"
    assert without_token.status_code in (302, 403)


def test_a_person_logs_in_and_the_page_and_its_files_load(lab: Lab) -> None:
    with lab.client(Accept="text/html") as client:
        client.follow_redirects = True
        asked = client.get(f"{lab.prefix}/")
        assert asked.url.path == f"{lab.prefix}/login"
        form = {"key": KEY, "next": "/admin/queues"}
        entered = client.post(asked.url, data=form, headers={"Origin": lab.origin})
        assert entered.url.path == f"{lab.prefix}/admin/queues"
        assert entered.status_code == 200
        assert f"Path={lab.prefix}" in entered.history[0].headers["set-cookie"]
        files = {part.split('"')[0] for part in entered.text.split('src="')[1:]}
        ours = [entered.url.join(name) for name in files if "static" in name]
        assert ours
        assert {client.get(url).status_code for url in ours} == {200}
        assert all(str(url).startswith(lab.origin + lab.prefix) for url in ours)


async def test_the_websocket_opens_through_jupyter_for_our_own_page_only(lab: Lab) -> None:
    door = Door(RunningServer(lab.server.process, lab.port, lab.server.redis, lab.server.log), Path())  # fmt: skip
    with lab.client(X_API_Key=KEY) as client:
        page = await asyncio.to_thread(client.get, f"{lab.prefix}/admin/queues")
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    key = {"X-API-Key": KEY, "Cookie": cookies}
    token, path = token_of(page.content), f"{lab.prefix}/admin/queues/ws"

    async with open_socket(door, token, key, path=path) as socket:
        first = await asyncio.wait_for(socket.read_message(), 20)
    with pytest.raises(HTTPClientError) as foreign:
        async with open_socket(door, token, key | {"Origin": "http://evil.example"}, path=path):
            pass

    assert "ACK" in str(first)
    assert foreign.value.code == 403
