"""The web server: Panel's own, with our API, our guard and one collector attached to it.

``serve`` starts ``panel serve app/dashboard``; the hooks of that directory call ``attach`` and
``begin``, so the plain command gives the same server. Everything one process shares is ``runtime``.
"""

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import re
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bokeh.server.tornado import BokehTornado
from bokeh.settings import settings as bokeh_settings
from tornado.httpserver import HTTPServer
from tornado.web import RedirectHandler

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None  # type: ignore[assignment]

from app import audit, logs
from app.access.identities import Identities
from app.actions import Connections
from app.annals.recall import Recall
from app.api_keys import Keyring
from app.auth import MAX_BODY_BYTES, Guard
from app.collector import Collector, collector_for
from app.doctor.preflight import at_once, check
from app.door import departures
from app.door.asgi import AsgiHandler, hang_up, in_flight
from app.door.entrance import PAGE, Entrance, page_actor
from app.door.handover import Place, Receiver
from app.door.headers import AnswerHeaders
from app.door.login import LoginHandler, LogoutHandler
from app.door.oauth import OAuthHandler, provider_of
from app.door.page_routes import Asset, Page, PageScript, PageSocket, close_ended, open_sockets
from app.door.slow_clients import LOOK_S, Watch, allow_many_connections, bound, servers_of
from app.door.unreadable import answer_unreadable
from app.errors import ArqscopeError, PortInUse, SettingsError
from app.origins import is_loopback
from app.pages.address import paths
from app.pages.exhibit import Exhibits
from app.settings import Settings
from app.streams.listeners import Listeners
from app.streams.tails import Tails

__all__ = [
    "Runtime",
    "attach",
    "begin",
    "check_access",
    "page_actor",
    "page_sessions",
    "runtime",
    "serve",
    "served_applications",
]

log = logging.getLogger("arqscope.server")

DASHBOARD: Final = Path(__file__).parent / "dashboard"
ASSETS: Final = Path(__file__).parent / "pages" / "assets"
#: s that answers under way may take when the server is told to stop
DRAIN_S: Final = 8.0
#: s one command of a request may take, retries included: a dead Redis is told within 2 s, on a busy machine too
ANSWER_S: Final = 1.0
#: audit lines per minute about addresses that guess keys; guessing must not fill the audit
_TOLD_PER_MINUTE: Final = 10


@dataclass(frozen=True, slots=True)
class Runtime:
    """What one server process shares: pages, API and hooks use the same."""

    settings: Settings
    connections: Connections
    collector: Collector
    guard: Guard
    listeners: Listeners
    recall: Recall
    tails: Tails
    exhibits: Exhibits


@dataclass(frozen=True, slots=True)
class Seat:
    """Which of several processes behind one port this is, and what its connections come through."""

    channel: socket.socket
    place: int


_given: list[Settings] = []
_seats: list[Seat] = []  #: none: this process listens by itself
_servers: list[HTTPServer] = []  #: in front of what was attached
#: what this process serves with our guard before it
attached: list[BokehTornado] = []


@functools.cache
def runtime() -> Runtime:
    """Return the one runtime of this process; made at the first call, from ``serve``'s settings."""
    settings = _given[-1] if _given else Settings.load()
    connections = Connections.of(settings, answer_within_s=ANSWER_S)
    keyring = Keyring(connections.queue)
    keyring.preload(settings.url("queue"))
    check_access(settings, keyring)
    guard = Guard(settings, keyring=keyring)
    recall = Recall(connections.queue, connections.streams, connections.holding)
    return Runtime(
        settings,
        connections,
        collector_for(settings),
        guard,
        Listeners(settings),
        recall,
        Tails(settings),
        Exhibits(settings.sample_interval_s, recall),
    )


def check_access(settings: Settings, keyring: Keyring | None = None) -> None:
    """Refuse settings that would leave the server open; SettingsError says what to set.

    *keyring* knows the created keys; without it Redis is asked for them.
    """
    if provider_of(settings) is not None:
        Identities.parse(settings.oauth_roles)
        return
    if settings.api_key is not None and settings.api_key.get_secret_value():
        return
    if not settings.require_api_key and is_loopback(settings.queue_ui_host):
        return
    if keyring is None:
        keyring = Keyring()
        keyring.preload(settings.url("queue"))
    if keyring.has_keys:
        return
    if settings.require_api_key:
        raise SettingsError(
            "REQUIRE_API_KEY is set but there is no key: set API_KEY, or make one with "
            "'arqscope keys create'"
        )
    raise SettingsError(
        f"QUEUE_UI_HOST={settings.queue_ui_host} can be reached from other machines, and there is "
        "no key: set API_KEY, make one with 'arqscope keys create', or set QUEUE_UI_HOST=127.0.0.1"
    )


def serve(settings: Settings, seat: Seat | None = None) -> None:
    """Serve pages and API until SIGTERM or SIGINT: exactly ``panel serve app/dashboard``.

    Raises SettingsError when the server would be open, PortInUse when the port is taken.
    With a *seat* connections come from the switchboard; what Bokeh listens on is closed before it serves.
    """
    check_access(settings)
    host, port = settings.queue_ui_host, settings.queue_ui_port
    origins = [f"{name}:{port}" for name in dict.fromkeys(("localhost", "127.0.0.1", host))]
    if seat is None:
        _check_port(host, port)
    else:
        _seats.append(seat)
        host, port = "127.0.0.1", 0
    _given.append(settings)
    # now, not in the hooks: Panel and Bokeh speak before those run
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    arguments = ["serve", str(DASHBOARD), "--port", str(port), "--address", host]
    if settings.prefix:
        arguments += ["--prefix", settings.prefix]
    for origin in origins:
        arguments += ["--allow-websocket-origin", origin]
    from panel.command import main  # the whole command line: only when really serving

    if uvloop is not None:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

    before, sys.argv = sys.argv, ["panel", *arguments]
    try:
        main()
    finally:
        sys.argv = before


def attach(application: BokehTornado, shared: Runtime) -> None:
    """Put the guard before everything *application* answers, and add our routes to it."""
    # FastAPI: not for those who only ask for the runtime
    from app.api import submission
    from app.api.application import create_api, nouns, warmed_up
    from app.api.stats import ready_stats

    application.settings["websocket_max_message_size"] = MAX_BODY_BYTES
    application._sign_sessions = True
    application._secret_key = shared.guard.bokeh_key
    # A page carries its session token in plain sight: no credential may be in it.
    application._include_headers = ["Host", "User-Agent"]
    application._include_cookies = ["arqscope_theme", "arqscope_refresh"]
    departures.watch(application)
    for seat in _seats:
        for context in application.applications.values():
            context.application.add(Place(seat.place))
    prefix = application.prefix
    listed = bokeh_settings.allowed_ws_origin() or ()
    shared.guard.foreign_origins = frozenset(str(origin).lower() for origin in listed)
    api_nouns = nouns()
    door = {"guard": shared.guard, "tell": functools.partial(_tell, shared)}
    provider = provider_of(shared.settings)
    titled = {**door, "title": provider.title if provider else ""}
    routes: list[Any] = [
        (
            f"{prefix}/(?:{'|'.join(map(re.escape, sorted(api_nouns)))})(?:/.*)?",
            AsgiHandler,
            {"app": warmed_up(create_api(shared))},
        ),
        (f"{prefix}/login", LoginHandler, titled),
        (f"{prefix}/login/oauth", OAuthHandler, {**titled, "provider": provider}),
        (f"{prefix}/logout", LogoutHandler, door),
        (f"{prefix}/admin/assets/(.*)", Asset, {"path": str(ASSETS)}),
        (f"{prefix}(?:/|{PAGE}/|)", RedirectHandler, {"url": prefix + PAGE, "permanent": False}),
    ]
    for path in (*paths(), "/dashboard"):
        page = {"target": "/dashboard", "ws": f"{prefix}{path}/ws"}
        routes += [
            (f"{prefix}{path}/ws", PageSocket, page),
            (f"{prefix}{path}/autoload.js", PageScript, page),
            (f"{prefix}{path}", Page, page),
        ]
    application.add_handlers(r".*", routes)
    headers = AnswerHeaders(shared.settings.frame_ancestors)
    Entrance(
        application,
        shared.guard,
        headers,
        is_api=lambda path: path[1:].partition("/")[0] in api_nouns,
        ready={"/stats": ready_stats(shared)},
        direct=[(submission.takes, submission.answerer(shared))],
    )
    servers = servers_of(application)
    for server in servers:
        bound(server)
        answer_unreadable(server, headers)
    _servers.extend(servers)
    attached.append(application)


async def _tell(shared: Runtime, actor: str, action: str, target: str) -> None:
    """Write an audit line about the door itself; where Redis is away the log has it alone."""
    log.info(action, extra={"actor": actor, "peer": target})
    with contextlib.suppress(ArqscopeError):
        await audit.record(shared.connections.queue, actor, action, target, {})


def page_sessions() -> int:
    """Return how many page sessions this process holds; pages that were fetched and wait for their socket count."""
    contexts = (c for application in attached for c in application.applications.values())
    return sum(len(tuple(context.sessions)) for context in contexts)


def served_applications() -> list[BokehTornado]:
    """Return the servers of this process; Bokeh's hooks are not told theirs."""
    return [thing for thing in gc.get_objects() if isinstance(thing, BokehTornado)]


def begin(shared: Runtime) -> None:
    """Start the collector, and stop in order at SIGTERM or SIGINT: no answer is cut off, exit 0."""
    settings = shared.settings
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    if all(seat.place == 0 for seat in _seats):  # once for all that share a port
        at_once(check(settings))
    shared.collector.ensure_started()
    shared.guard.keyring.start()
    allow_many_connections()
    loop = asyncio.get_running_loop()
    stopping: set[asyncio.Task[None]] = set()
    # What is loaded stays; a collection that walks it all holds every answer up for 50 ms.
    gc.collect()
    gc.freeze()
    shared.guard.on_throttled = _Teller(shared, loop)
    _keep_watch(shared, loop)

    receivers: list[Receiver] = []

    async def drain() -> None:
        end = loop.time() + DRAIN_S
        for receiver in receivers:
            receiver.leave()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                await shared.listeners.close()
        hang_up()
        while in_flight and loop.time() < end:  # noqa: ASYNC110 - polled once, at the end of a life
            await asyncio.sleep(0.02)
        with contextlib.suppress(Exception):  # Redis may be gone; stopping goes on
            async with asyncio.timeout(2):
                await _close(shared)
        loop.stop()

    def stop() -> None:
        if stopping:
            loop.stop()
            return
        stopping.add(loop.create_task(drain()))

    # Bokeh's own handler stops the loop at once, in the middle of answers.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    for seat in _seats:
        receivers += [Receiver(seat.channel, server, stop) for server in _servers]
    for receiver in receivers:
        receiver.start()
    if _given:
        where = f"{settings.queue_ui_host}:{settings.queue_ui_port}{settings.prefix}{PAGE}"
        log.info("serving", extra={"url": f"http://{where}"})
    if shared.guard.is_open:
        log.warning("no key: open to everyone on this machine, closed to all others")


def _keep_watch(shared: Runtime, loop: asyncio.AbstractEventLoop) -> None:
    """Every 5 s: cut off who is slow, close the sockets of those who logged out."""
    watch = Watch(_servers, lambda: open_sockets)

    def look() -> None:
        loop.call_later(LOOK_S, look)
        close_ended(shared.guard)
        watch.look()

    loop.call_later(LOOK_S, look)


class _Teller:
    """Writes audit lines about addresses that guess keys, ten a minute at most."""

    def __init__(self, shared: Runtime, loop: asyncio.AbstractEventLoop) -> None:
        self._shared = shared
        self._loop = loop
        self._told_at: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, address: str) -> None:
        now = self._loop.time()
        self._told_at = [at for at in self._told_at if at > now - 60]
        log.warning("too many wrong keys", extra={"peer": address})
        if len(self._told_at) < _TOLD_PER_MINUTE:
            self._told_at.append(now)
            task = self._loop.create_task(_tell(self._shared, "unknown", "keys_guessed", address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _close(shared: Runtime) -> None:
    await shared.collector.stop()
    await shared.tails.close()
    await shared.guard.keyring.stop()
    await shared.connections.close()


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {port} of {host} is taken: stop what listens there, "
                    "or set QUEUE_UI_PORT to another port"
                ) from error
            raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}") from error
