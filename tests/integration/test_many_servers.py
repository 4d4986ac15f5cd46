"""Several dashboards behind one address: a page of one, its websocket on another, and one of them leads."""

import asyncio
import html
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import redis as redis_sync
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from app import keys
from app.sampling.sharing import LEASE_MS
from tests.conftest import RunningRedis, start_redis, wait_until
from tests.serving import KEY, RunningServer, start_server, stop

HEADERS = {"X-API-Key": KEY}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[RunningRedis, RunningServer, RunningServer]]:
    """Two servers of one deployment."""
    redis = start_redis(tmp_path / "redis")
    first = start_server(redis, tmp_path / "first", API_KEY=KEY)
    second = start_server(redis, tmp_path / "second", API_KEY=KEY)
    yield redis, first, second
    stop(first)
    stop(second)
    redis.stop()


async def acknowledged(page: str, server: RunningServer) -> str:
    """Open the websocket of *page* on *server* and return the first message."""
    token = re.search(r'"token":"([^"]+)"', html.unescape(page))
    assert token, page[:500]
    request = HTTPRequest(
        f"ws://127.0.0.1:{server.port}/dashboard/ws", headers={"Origin": server.url, **HEADERS}
    )
    socket = await websocket_connect(request, subprotocols=["bokeh", token[1]])
    first = await socket.read_message()
    socket.close()
    return str(first)


def test_sessions_need_not_be_sticky_and_another_leads_when_one_dies(
    servers: tuple[RunningRedis, RunningServer, RunningServer],
) -> None:
    redis, first, second = servers
    page = httpx.get(f"{first.url}/dashboard", headers=HEADERS, timeout=20)

    assert "ACK" in asyncio.run(acknowledged(page.text, second))

    with redis_sync.Redis.from_url(redis.database(2), decode_responses=True) as client:

        def holder() -> str:
            return str(client.get(keys.lease("collector")) or "")

        wait_until(holder, 10, "one leads")
        stop(first)
        died_ms = time.monotonic() * 1000
        # whoever led: what the dead one held is over after its lease, and is renewed from then on
        wait_until(lambda: time.monotonic() * 1000 - died_ms > LEASE_MS and is_renewed(client), 20)
    numbers = httpx.get(f"{second.url}/stats", headers=HEADERS, timeout=5)
    assert numbers.status_code == 200


def is_renewed(client: redis_sync.Redis) -> bool:
    """Whether the lease is renewed: only a living server does."""
    left = int(cast(Any, client.pttl(keys.lease("collector"))))
    return left > LEASE_MS - 2_000
