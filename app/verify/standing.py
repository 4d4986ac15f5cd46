"""Checks of what must stand before work is tried: the server, its health, its Redis, its pages, its key."""

import asyncio
import html
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from redis.exceptions import RedisError
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from app import keys
from app.errors import CheckFailed
from app.origins import is_loopback
from app.verify.deployment import FURTHER, SERVICES, Deployment, service_of
from app.verify.proofs import failed, impossible
from app.wire.connections import explained

#: s a page's websocket may be silent
SOCKET_S: Final = 10.0
_TOKEN: Final = re.compile(r'"token":"([^"]+)"')
_GUARDED: Final = ("/stats", "/jobs", "/metrics", "/admin/queues")
_COUNTS: Final = ("waiting", "active", "completed", "failed")


async def answers(to: Deployment) -> str:
    """The address answers, and it is arqscope."""
    answer = await to.ask("GET", "/health/live", with_key=False)
    told = answer.json
    if not isinstance(told, dict) or told.get("status") != "alive" or "version" not in told:
        raise failed(
            f"{to.url} answers {answer.status}, but it is not arqscope",
            "give the address of the dashboard, e.g. http://localhost:8009",
        )
    return f"arqscope {told['version']} is alive"


async def healthy(to: Deployment) -> str:
    """/health is 200 without a key, and every part of it is ok."""
    answer = await to.ask("GET", "/health", with_key=False)
    told = answer.json
    if answer.status in (401, 403):
        raise failed("/health asks for a key", "let /health through without one: probes have none")
    if not isinstance(told, dict) or not isinstance(told.get("checks"), dict):
        raise failed(f"/health: {answer.problem}", "look at the server's log")
    wrong = [f"{name} {said}" for name, said in told["checks"].items() if said != "ok"]
    if wrong or answer.status != 200:
        raise failed(f"/health is {answer.status}: {'; '.join(wrong)}", _remedy(told["checks"]))
    return f"healthy: {', '.join(told['checks'])}"


def _remedy(checks: Mapping[str, str]) -> str:
    text = " ".join(checks.values())
    if "out of memory" in text or "maxmemory" in text:
        return "raise maxmemory, or let the queues drain; never set an eviction policy instead"
    if "disk" in text or "append-only" in text:
        return "make room on the disk of that Redis"
    if "no worker" in text:
        return "start the workers: arqscope worker QUEUE"
    return "start that Redis, and see that REDIS_URL, REDIS_STREAMS_URL and REDIS_QUEUE_URL fit"


async def takes_writes(to: Deployment, role: str) -> str:
    """The Redis of *role* is reached and takes a write: by us where its URL is known, else by the server."""
    name = service_of(role)
    if FURTHER.fullmatch(role) and name not in await queue_servers(to):
        raise failed(
            f"{name}: this environment places queues on it, and the dashboard knows no such server",
            "give every process the same REDIS_QUEUE_SHARDS",
        )
    client = to.redis(role)
    if client is None:
        answer = await to.ask("GET", "/health", with_key=False)
        told = answer.json
        said = told.get("checks", {}).get(name) if isinstance(told, dict) else None
        if said != "ok":
            raise failed(f"{name}: {said or answer.problem}", _remedy({name: str(said)}))
        return "the server itself wrote to it (its URL is not known here)"
    mark = str(time.time_ns())
    try:
        began = time.perf_counter()
        await client.ping()
        took_ms = (time.perf_counter() - began) * 1000
        await client.set(keys.CANARY, mark, px=keys.CANARY_MS)
        await client.get(keys.CANARY)
        info: Any = await client.info("server")
    except (RedisError, OSError) as error:
        told = explained(error, to.urls[role])
        raise failed(f"{name}: {told}", _remedy({name: str(error)})) from error
    return f"version {info.get('redis_version', '?')} answered in {took_ms:.1f} ms and took a write"


async def page_opens(to: Deployment) -> str:
    """The page comes with its scripts, and its websocket builds the document."""
    path = "/admin/queues"
    answer = await to.ask("GET", path)
    page = html.unescape(answer.body.decode("utf-8", "replace"))
    if answer.status in (302, 401):
        raise failed(
            f"{path} does not open: the key is refused ({answer.status})", "give a key that works"
        )
    found = _TOKEN.search(page)
    if answer.status != 200 or not found:
        raise failed(f"{path} is {answer.status} and not our page", "look at the server's log")
    script = re.search(r'src="([^"]*/static/[^"]*bokeh[^"]*\.js[^"]*)"', page)
    where = urlsplit(to.url)
    if script:
        address = urlsplit(urljoin(f"{to.url.rstrip('/')}{path}", script[1]))
        static = await to.ask("GET", address.path.removeprefix(where.path.rstrip("/")))
        if static.status != 200 or len(static.body) < 10_000:
            raise failed(
                f"the page's script {address.path} is {static.status}",
                "a proxy must pass /static on, below the same prefix",
            )
    scheme = "wss" if where.scheme == "https" else "ws"
    origin = f"{where.scheme}://{where.netloc}"
    headers = {"Origin": origin} | ({"X-API-Key": to.key} if to.key else {})
    target = f"{scheme}://{where.netloc}{where.path.rstrip('/')}{path}/ws"
    try:
        socket = await websocket_connect(
            HTTPRequest(target, headers=headers, request_timeout=SOCKET_S),
            subprotocols=["bokeh", found[1]],
        )
        try:
            async with asyncio.timeout(SOCKET_S):
                first = await socket.read_message()
        finally:
            socket.close()
    except Exception as error:
        raise failed(
            f"the page's websocket does not open ({error})",
            "a proxy must pass websockets on (Upgrade, Connection, Host)",
        ) from error
    if first is None:
        raise failed(
            "the page's websocket is closed at once", "look at the server's log for the reason"
        )
    return f"{len(answer.body) / 1024:.0f} kB of page, its script, and its websocket"


async def asks_for_key(to: Deployment) -> str:
    """Without the key there are no numbers; without any key, none from another address than loopback."""
    if not to.key:
        return await _closed_to_others(to)
    granted = await to.ask("GET", "/stats")
    if granted.status != 200:
        raise failed(
            f"/stats with the key: {granted.problem}", "give a key that works: --key or API_KEY"
        )
    for path in _GUARDED:
        answer = await to.ask("GET", path, with_key=False)
        if answer.status == 200:
            raise failed(
                f"{path} answers without a key", "set API_KEY and REQUIRE_API_KEY on the server"
            )
    return f"{', '.join(_GUARDED)} ask for the key; /health does not"


async def _closed_to_others(to: Deployment) -> str:
    open_here = await to.ask("GET", "/stats")
    if open_here.status in (401, 403):
        raise failed("the server asks for a key and none was given", "give it: --key, or API_KEY")
    where = urlsplit(to.url)
    if not is_loopback(where.hostname or ""):
        raise failed(
            "/stats answers without a key, on an address others can reach",
            "set API_KEY and REQUIRE_API_KEY on the server",
        )
    own = _own_address()
    if not own:
        return "no key is set, and this machine has no address but loopback"
    try:
        await replace(to, url=f"{where.scheme}://{own}:{where.port}").ask("GET", "/stats")
    except CheckFailed:
        return f"no key is set: open on loopback alone, closed on {own}"
    raise failed(
        f"no key is set, and the port is open on {own} too",
        "set API_KEY, or QUEUE_UI_HOST=127.0.0.1",
    )


def _own_address() -> str:
    """An address of this machine that is not loopback; empty when it has none. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of the block kept for documentation
            own = str(probe.getsockname()[0])
        except OSError:
            return ""
    return "" if is_loopback(own) else own


async def counts(to: Deployment) -> str:
    """/stats has every queue and the dead letters, in numbers."""
    told = await to.get("/stats")
    queues = await queue_names(to)
    if not isinstance(told, dict):
        raise failed("/stats is not an object", "this is not arqscope, or a very old one")
    missing = [name for name in queues if name not in told]
    if missing or len(told) <= len(queues):
        raise failed(
            f"/stats lacks {', '.join(missing) or 'the dead letters'}",
            "declare the queue in arqscope.toml on the server",
        )
    unknown = [
        f"{name}.{word}"
        for name, row in told.items()
        for word in _COUNTS
        if not isinstance(row.get(word), int)
    ]
    if unknown:
        raise failed(
            f"/stats does not know {', '.join(unknown[:5])}", "one of its Redis does not answer"
        )
    added = ", ".join(f"{word} {sum(row[word] for row in told.values())}" for word in _COUNTS)
    return f"{len(told)} rows: {added}"


async def queue_names(to: Deployment) -> list[str]:
    """Names of the declared queues, as /health tells them."""
    answer = await to.ask("GET", "/health", with_key=False)
    told = answer.json
    names = told.get("queues") if isinstance(told, dict) else None
    if not isinstance(names, list) or not names:
        raise failed("/health names no queue", "this is not arqscope, or a very old one")
    return [str(name) for name in names]


async def queue_servers(to: Deployment) -> dict[str, list[str]]:
    """Which declared queues each queue server holds, by its name in ``/health``; the home is the first."""
    answer = await to.ask("GET", "/health", with_key=False)
    told = answer.json
    held = told.get("queue_servers") if isinstance(told, dict) else None
    if not isinstance(held, dict):  # before several queue servers were told of: all at home
        return {SERVICES["queue"]: await queue_names(to)}
    return {str(name): [str(queue) for queue in queues] for name, queues in held.items()}


async def further_servers(to: Deployment) -> list[str]:
    """Roles of the queue servers beside the home: those the dashboard tells of, and those we know."""
    told = [name.removeprefix("redis-") for name in await queue_servers(to)]
    return [role for role in dict.fromkeys([*told, *to.urls]) if FURTHER.fullmatch(role)]


async def one_each(to: Deployment, place: int = -1) -> dict[str, str]:
    """One declared queue of each queue server: role → queue. CheckImpossible where one holds none."""
    held = await queue_servers(to)
    empty = [name for name, queues in held.items() if not queues]
    if empty:
        raise impossible(
            f"no declared queue lies on {', '.join(empty)}: no job can be tried there",
            "declare a queue of it in arqscope.toml: [queues.NAME]",
        )
    return {name.removeprefix("redis-"): queues[place] for name, queues in held.items()}
