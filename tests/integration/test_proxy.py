"""Behind a real nginx at /tools/arqscope/: pages, API, login and websocket, with the caller's address."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tornado.httpclient import HTTPClientError

from tests.conftest import RunningRedis, lacking, start_redis, unused_port, wait_until
from tests.faults.door_rig import Door, open_socket, token_of
from tests.serving import KEY, RunningServer, start_server, stop

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

#: what the README shows
CONFIG = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log; worker_processes 1;
events {{ worker_connections 128; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen 127.0.0.1:{port};
    location /tools/arqscope/ {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"""


@dataclass
class Proxied:
    server: RunningServer
    port: int

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}/tools/arqscope"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    if not Path(NGINX).exists():
        lacking("nginx")
    redis: RunningRedis = start_redis(tmp_path_factory.mktemp("redis"))
    directory = tmp_path_factory.mktemp("proxied")
    command = [sys.executable, "-m", "panel", "serve", str(directory / "dashboard"),
               "--port", "{port}", "--prefix", "/tools/arqscope"]  # fmt: skip
    server = start_server(
        redis, directory, command=command, prefix="/tools/arqscope",
        API_KEY=KEY, ARQSCOPE_TRUSTED_PROXIES="127.0.0.1",
    )  # fmt: skip
    port = unused_port()
    config = directory / "nginx.conf"
    config.write_text(CONFIG.format(directory=directory, port=port, upstream=server.port))
    with (directory / "nginx.log").open("wb") as out:
        nginx = subprocess.Popen(
            [NGINX, "-p", str(directory), "-c", str(config)], stdout=out, stderr=out
        )
    made = Proxied(server, port)
    wait_until(lambda: _answers(f"{made.root}/health/live"), 10, "nginx answers")
    yield made
    nginx.terminate()
    nginx.wait(10)
    stop(server)
    redis.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_api_and_its_documents_work_below_the_prefix(proxied: Proxied) -> None:
    with httpx.Client(headers={"X-API-Key": KEY}) as client:
        wait_until(lambda: client.get(f"{proxied.root}/stats").status_code == 200)
        job = client.post(f"{proxied.root}/jobs/async-processing", json={"name": "generic"})
        schema = client.get(f"{proxied.root}/openapi.json").json()

    assert job.status_code == 201
    assert schema["servers"] == [{"url": "/tools/arqscope"}]
    assert httpx.get(f"{proxied.root}/stats").status_code == 401
    assert httpx.get(f"http://127.0.0.1:{proxied.server.port}/stats").status_code == 401


def test_a_person_logs_in_and_the_page_and_its_files_load(proxied: Proxied) -> None:
    origin = f"http://127.0.0.1:{proxied.port}"
    with httpx.Client(headers={"Accept": "text/html"}, follow_redirects=True) as client:
        asked = client.get(f"{proxied.root}/")
        assert asked.url.path == "/tools/arqscope/login"
        entered = client.post(
            asked.url, data={"key": KEY, "next": "/admin/queues"}, headers={"Origin": origin}
        )
        assert entered.url.path == "/tools/arqscope/admin/queues"
        assert entered.status_code == 200
        assert "Path=/tools/arqscope" in entered.history[0].headers["set-cookie"]
        files = {part.split('"')[0] for part in entered.text.split('src="')[1:]}
        ours = [entered.url.join(name) for name in files if "static" in name]
        assert ours
        assert {client.get(url).status_code for url in ours} == {200}
        assert all(str(url).startswith(proxied.root) for url in ours)


async def test_the_websocket_opens_through_the_proxy_for_our_own_page_only(
    proxied: Proxied,
) -> None:
    door = Door(RunningServer(proxied.server.process, proxied.port, proxied.server.redis, proxied.server.log), Path())  # fmt: skip
    key = {"X-API-Key": KEY}
    async with httpx.AsyncClient(headers=key) as client:
        page = await client.get(f"{proxied.root}/admin/queues")
    token = token_of(page.content)
    path = "/tools/arqscope/admin/queues/ws"

    async with open_socket(door, token, key, path=path) as socket:
        first = await asyncio.wait_for(socket.read_message(), 10)
    with pytest.raises(HTTPClientError) as foreign:
        async with open_socket(door, token, key | {"Origin": "http://evil.example"}, path=path):
            pass

    assert "ACK" in str(first)
    assert foreign.value.code == 403


def test_guesses_are_counted_for_the_caller_behind_the_proxy(proxied: Proxied) -> None:
    """
    What the caller writes into X-Forwarded-For itself stands left of what nginx adds.
    """
    # From an address that is not itself a trusted proxy, as callers are.
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.9")) as client:
        statuses = [
            client.get(
                f"{proxied.root}/stats",
                headers={"X-API-Key": f"guess{n}", "X-Forwarded-For": f"198.51.100.{n}"},
            ).status_code
            for n in range(14)
        ]

    assert statuses == [401] * 10 + [429] * 4
