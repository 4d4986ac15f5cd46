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
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bokeh.server.tornado import BokehTornado
from bokeh.settings import settings as bokeh_settings
from panel.io.server import AutoloadJsHandler, DocHandler, WSHandler
from tornado.web import RedirectHandler, StaticFileHandler

from app.actions import Connections
from app.asgi import AsgiHandler, in_flight
from app.auth import MAX_BODY_BYTES, Guard, is_loopback
from app.collector import Collector, collector_for
from app.connections import connect
from app.entrance import PAGE, LoginHandler, LogoutHandler, guard_everything, page_actor
from app.errors import PortInUse, SettingsError
from app.listeners import Listeners
from app.pages.address import paths
from app.settings import Settings

__all__ = [
    "Runtime",
    "attach",
    "begin",
    "check_access",
    "page_actor",
    "runtime",
    "serve",
    "served_applications",
]

log = logging.getLogger("arqscope.server")

DASHBOARD: Final = Path(__file__).parent / "dashboard"
ASSETS: Final = Path(__file__).parent / "pages" / "assets"
#: s that answers under way may take when the server is told to stop
DRAIN_S: Final = 8.0
_API_PATHS: Final = (
    r"/(?:health|stats|metrics|docs|openapi\.json|jobs|queues|dead-letters|events|workers|audit|frames"
    r"|notifications|operations|streams|triggers|alerts|history|annotations|deploys|analyses|foreign)(?:/.*)?"
)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What one server process shares: pages, API and hooks use the same."""

    settings: Settings
    connections: Connections
    collector: Collector
    guard: Guard
    listeners: Listeners


_given: list[Settings] = []


@functools.cache
def runtime() -> Runtime:
    """Return the one runtime of this process; made at the first call, from ``serve``'s settings."""
    settings = _given[-1] if _given else Settings.load()
    check_access(settings)
    connections = Connections(
        queue=connect(settings.url("queue")),
        streams=connect(settings.url("streams")),
        cache=connect(settings.url("cache")),
    )
    return Runtime(
        settings, connections, collector_for(settings), Guard(settings), Listeners(settings)
    )


def check_access(settings: Settings) -> None:
    """Refuse settings that would leave the server open; SettingsError says what to set."""
    if settings.api_key is not None and settings.api_key.get_secret_value():
        return
    if settings.require_api_key:
        raise SettingsError("REQUIRE_API_KEY is set but API_KEY is not: set API_KEY")
    if not is_loopback(settings.queue_ui_host):
        raise SettingsError(
            f"QUEUE_UI_HOST={settings.queue_ui_host} can be reached from other machines, "
            "and there is no API_KEY: set API_KEY, or QUEUE_UI_HOST=127.0.0.1"
        )


def serve(settings: Settings) -> None:
    """Serve pages and API until SIGTERM or SIGINT: exactly ``panel serve app/dashboard``.

    Raises SettingsError when the server would be open, PortInUse when the port is taken.
    """
    check_access(settings)
    host, port = settings.queue_ui_host, settings.queue_ui_port
    _check_port(host, port)
    _given.append(settings)
    origins = [f"{name}:{port}" for name in dict.fromkeys(("localhost", "127.0.0.1", host))]
    arguments = ["serve", str(DASHBOARD), "--port", str(port), "--address", host]
    for origin in origins:
        arguments += ["--allow-websocket-origin", origin]
    from panel.command import main  # the whole command line: only when really serving

    before, sys.argv = sys.argv, ["panel", *arguments]
    try:
        main()
    finally:
        sys.argv = before


def attach(application: BokehTornado, shared: Runtime) -> None:
    """Put the guard before everything *application* answers, and add our routes to it."""
    from app.api.application import (
        create_api,
    )  # imports FastAPI: not for those who only ask runtime

    application.settings["websocket_max_message_size"] = MAX_BODY_BYTES
    application._sign_sessions = True
    application._secret_key = shared.guard.bokeh_key
    # A page carries its session token in plain sight: no credential may be in it.
    application._include_headers = ["Host", "User-Agent"]
    application._include_cookies = ["arqscope_theme", "arqscope_refresh"]
    prefix = application.prefix
    listed = bokeh_settings.allowed_ws_origin() or ()
    shared.guard.foreign_origins = frozenset(str(origin).lower() for origin in listed)
    pages = [route for path in paths() for route in _page_routes(prefix, path)]
    application.add_handlers(
        r".*",
        [
            (prefix + _API_PATHS, AsgiHandler, {"app": create_api(shared)}),
            *pages,
            (f"{prefix}/admin/assets/(.*)", _Asset, {"path": str(ASSETS)}),
            (f"{prefix}/login", LoginHandler, {"guard": shared.guard}),
            (f"{prefix}/logout", LogoutHandler, {"guard": shared.guard}),
            (
                f"{prefix}(?:/|/dashboard/?|{PAGE}/|)",
                RedirectHandler,
                {"url": prefix + PAGE, "permanent": False},
            ),
        ],
    )
    guard_everything(application, shared.guard)


def _page_routes(prefix: str, path: str) -> list[tuple[str, type[Any], dict[str, str]]]:
    page = {"target": "/dashboard", "ws": f"{prefix}{path}/ws"}
    return [
        (f"{prefix}{path}/ws", _PageSocket, page),
        (f"{prefix}{path}/autoload.js", _PageScript, page),
        (prefix + path, _Page, page),
    ]


def served_applications() -> list[BokehTornado]:
    """Return the servers of this process; Bokeh's hooks are not told theirs."""
    return [thing for thing in gc.get_objects() if isinstance(thing, BokehTornado)]


def begin(shared: Runtime) -> None:
    """Start the collector, and stop in order at SIGTERM or SIGINT: no answer is cut off, exit 0."""
    shared.collector.ensure_started()
    loop = asyncio.get_running_loop()
    stopping: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        end = loop.time() + DRAIN_S
        with contextlib.suppress(Exception):
            await asyncio.wait_for(shared.listeners.close(), 2)
        while in_flight and loop.time() < end:  # noqa: ASYNC110 - polled once, at the end of a life
            await asyncio.sleep(0.02)
        with contextlib.suppress(Exception):  # Redis may be gone; stopping goes on
            await asyncio.wait_for(_close(shared), 2)
        loop.stop()

    def stop() -> None:
        if stopping:
            loop.stop()
            return
        stopping.add(loop.create_task(drain()))

    # Bokeh's own handler stops the loop at once, in the middle of answers.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if shared.guard.is_open:
        log.warning("no API_KEY: open to everyone on this machine, closed to all others")


async def _close(shared: Runtime) -> None:
    await shared.collector.stop()
    for redis in (shared.connections.queue, shared.connections.streams, shared.connections.cache):
        await redis.aclose()


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


# --- the page at its second address -----------------------------------------------------------------


class _Alias:
    """Serve the dashboard's document, socket and script at a second address."""

    def __init__(self, application: Any, request: Any, **more: Any) -> None:
        context = application.applications[more.pop("target")]
        more["bokeh_websocket_path"] = more.pop("ws")
        super().__init__(application, request, application_context=context, **more)  # type: ignore[call-arg]


class _Page(_Alias, DocHandler):
    """The document."""


class _PageScript(_Alias, AutoloadJsHandler):
    """The script that embeds it."""


class _PageSocket(_Alias, WSHandler):
    """The websocket BokehJS opens beside the document's address."""

    def check_origin(self, origin: str) -> bool:
        """Accept: the guard compared the Origin with the Host before this was made."""
        return bool(origin)


class _Asset(StaticFileHandler):
    """A file of ours that pages use: letters. Kept by browsers for a month."""

    def get_cache_time(self, path: str, modified: Any, mime_type: str) -> int:  # noqa: ARG002
        """Seconds a browser keeps it."""
        return 30 * 86_400
