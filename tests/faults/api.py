"""The HTTP API of the system under fault: the real server at full size, in this process in the slice."""

import asyncio
import functools
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.actions import Actor, Connections
from app.annals.recall import Recall
from app.api.application import create_api
from app.auth import Guard
from app.collector import Collector
from app.pages.exhibit import Exhibits
from app.server import Runtime
from app.settings import Settings
from app.streams.listeners import Listeners
from app.streams.tails import Tails
from app.wire.connections import connect
from tests.faults.rig import FULL, Rig
from tests.serving import start_server, stop


@asynccontextmanager
async def api(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API that serves *rig*'s Redis, as an operator."""
    async with _server(rig) if FULL else _in_process(rig) as client:
        yield client


@asynccontextmanager
async def _server(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    loop = asyncio.get_running_loop()
    server = await loop.run_in_executor(None, start_server, rig.server, rig.directory)
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:
            yield client
    finally:
        await loop.run_in_executor(None, functools.partial(stop, server))


@asynccontextmanager
async def _in_process(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(
        redis_url=rig.server.database(0),
        redis_streams_url=rig.server.database(1),
        redis_queue_url=rig.server.database(2),
    )
    cache, streams, queue = (connect(settings.url(r)) for r in ("cache", "streams", "queue"))
    connections = Connections(queue=queue, streams=streams, cache=cache)
    guard, listeners = Guard(settings), Listeners(settings)
    recall, tails = Recall(queue, streams), Tails(settings)
    collector = Collector(settings)
    exhibits = Exhibits(settings.sample_interval_s, recall)
    app = create_api(
        Runtime(settings, connections, collector, guard, listeners, recall, tails, exhibits)
    )

    async def as_operator(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        actor = Actor(name="the test", role="operator")
        await app({**scope, "state": {"actor": actor}}, receive, send)

    transport = httpx.ASGITransport(app=as_operator)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            yield client
    finally:
        for redis in (cache, streams, queue):
            await redis.aclose(close_connection_pool=True)
