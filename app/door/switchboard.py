"""The switchboard: one port, several server processes; each connection is handed to one of them.

A page's websocket goes to the process that made the page (its token says which), all else takes turns.
"""

import asyncio
import base64
import contextlib
import errno
import json
import logging
import re
import signal
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tornado.netutil import bind_sockets

from app import logs
from app.child import Child
from app.errors import PortInUse, SettingsError
from app.settings import Settings

log = logging.getLogger("arqscope.switchboard")

#: bytes of a request's head that are looked at: the most a server would read
MAX_HEAD_BYTES: Final = 32_768
#: s a head that has begun may take before whoever is next gets the connection as it is
HEAD_S: Final = 1.0
#: s a connection may say nothing; browsers open some in advance
SILENT_S: Final = 10.0
#: connections that may be waited for here; beyond it they are handed over unread
MOST_WAITING: Final = 400
#: s without a sign of life before a process gets no new connection, and before it is ended
DEAF_S: Final = 5.0
HUNG_S: Final = 30.0
#: s a server may take to start
START_S: Final = 120.0
#: s servers may take to drain: their own limit is 12
DRAIN_S: Final = 15.0
_TICK_S: Final = 0.2
_FIRST_BACKOFF_S: Final = 0.5
_LAST_BACKOFF_S: Final = 30.0
_HEALTHY_S: Final = 30.0
_TOKEN: Final = re.compile(
    rb"\r\nsec-websocket-protocol:[ \t]*bokeh[ \t]*,[ \t]*([A-Za-z0-9_-]{1,8192})", re.IGNORECASE
)
#: what a server says: it lives (the first time: it is ready); it takes no connection any more
LIVES: Final = b"."
LEAVES: Final = b"q"
#: where a token of Bokeh's keeps what applications add to it
_ADDED: Final = "__bk__zlib_"
_FULL: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def place_of(head: bytes) -> int | None:
    """Number of the process that made the page whose websocket *head* asks for; None: any will do.

    Nothing is trusted: a wrong number costs who sent it a second session, and the server checks the token.
    """
    if not head.startswith(b"GET "):
        return None
    found = _TOKEN.search(head.partition(b"\r\n\r\n")[0])
    if found is None:
        return None
    try:
        added = json.loads(_decoded(found[1]))[_ADDED]
        text = zlib.decompressobj().decompress(_decoded(added.encode("ascii")), MAX_HEAD_BYTES)
        place = json.loads(text)["place"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, zlib.error):
        return None
    return place if isinstance(place, int) else None


def _decoded(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))


@dataclass(slots=True)
class Server:
    """One server process, and the channel its connections go through."""

    child: Child
    channel: socket.socket | None = None  #: None: it does not run
    heard_at: float | None = None  #: monotonic; None: it has not said anything yet
    serves: bool = False  #: it takes connections: it is neither starting nor stopping
    backoff_s: float = _FIRST_BACKOFF_S
    retry_at: float = 0.0

    def close(self) -> None:
        """Close our end; it reads that nothing will come any more."""
        if self.channel is not None:
            asyncio.get_running_loop().remove_reader(self.channel.fileno())
            self.channel.close()
        self.channel = self.heard_at = None
        self.serves = False


@dataclass(slots=True)
class Caller:
    """A connection whose request has not been read in full."""

    connection: socket.socket
    seen: int = -1  #: bytes of it that lie there; -1: not looked yet
    until: asyncio.TimerHandle | None = field(default=None, repr=False)


class Switchboard:
    """Accepts on the port of *settings* and hands over to *processes* servers, until SIGTERM or Ctrl-C."""

    def __init__(self, settings: Settings, processes: int) -> None:
        self._settings = settings
        self._listeners = _listeners(settings)
        port = int(self._listeners[0].getsockname()[1])
        self._servers = [Server(self._child(n, port)) for n in range(processes)]
        self._callers: dict[int, Caller] = {}
        self._unserved: list[socket.socket] = []  #: accepted while nobody served
        self._next = 0
        self._was_served = self._accepts = self._hurry = False
        self._stopping = asyncio.Event()

    def _child(self, number: int, port: int) -> Child:
        return Child(
            name=f"server-{number}",
            command=[],
            is_open=True,
            environment={"QUEUE_UI_PORT": str(port), "ARQSCOPE_PREFIX": self._settings.prefix},
            death_signal=signal.SIGTERM,  # it lets its answers end
        )

    def run(self) -> int:
        """Serve; the exit code: 0 when every server ended as it was asked to."""
        settings = self._settings
        logs.configure(settings.log_level, settings.log_format, settings.secrets())
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        self._start(self._servers[0], time.monotonic())  # it tells whether the settings are good
        code = 0
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._stopping.wait()
            if not self._supervise(time.monotonic()):
                code = 1
                break
        return max(code, await self._stop())

    def _asked_to_stop(self) -> None:
        self._hurry = self._stopping.is_set()
        self._stopping.set()

    # -- servers -----------------------------------------------------------------------------------

    def _start(self, server: Server, now: float) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number = self._servers.index(server)
            server.child.command = [
                sys.executable, "-P", "-m", "app.cli", "serve",
                "--channel", str(theirs.fileno()), "--place", str(number),
            ]  # fmt: skip
            server.child.passed = (theirs.fileno(),)
            server.child.start()
        ours.setblocking(False)
        server.channel, server.heard_at, server.retry_at = ours, None, now
        asyncio.get_running_loop().add_reader(ours.fileno(), self._hear, server)

    def _hear(self, server: Server) -> None:
        """Take what *server* says: it lives, or (nothing) it ended."""
        if server.channel is None:
            return
        try:
            said = server.channel.recv(256)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            server.close()
            return
        is_new = server.heard_at is None
        server.heard_at = time.monotonic()
        server.serves = LEAVES not in said and (is_new or server.serves)
        if is_new and server.serves:
            log.info("server ready", extra={"child": server.child.name})
            self._was_served = True
            self._serve_waiting()

    def _supervise(self, now: float) -> bool:
        """Start who ended, end who hangs; False when the first one could not even start."""
        for server in self._servers:
            child = server.child
            if child.process is None:
                if self._was_served and now >= server.retry_at:
                    self._start(server, now)
                continue
            if child.running():
                silent_s = now - (server.heard_at or child.started_at)
                if silent_s <= (START_S if server.heard_at is None else HUNG_S):
                    continue
                log.warning("server hangs", extra={"child": child.name, "silent_s": silent_s})
            self._note_end(server, now)
            if not self._was_served:
                return False
        return True

    def _note_end(self, server: Server, now: float) -> None:
        child = server.child
        code = child.process.returncode if child.process else None
        if now - child.started_at >= _HEALTHY_S:
            server.backoff_s = _FIRST_BACKOFF_S
        server.close()
        child.stop(0)
        server.retry_at = now + server.backoff_s
        told = {"child": child.name, "code": code, "again_in_s": server.backoff_s}
        log.warning("server ended", extra=told)
        server.backoff_s = min(server.backoff_s * 2, _LAST_BACKOFF_S)

    async def _stop(self) -> int:
        """Let nobody in any more, let every server drain; 1 when one had to be killed."""
        self._accept_no_more()
        for listener in self._listeners:
            listener.close()
        for caller in list(self._callers.values()):
            self._pass_on(caller, None)
        for connection in self._unserved:
            connection.close()
        children = [server.child for server in self._servers if server.child.process is not None]
        for child in children:
            child.ask_to_stop()
        end = time.monotonic() + DRAIN_S
        while any(child.running() for child in children):
            if self._hurry or time.monotonic() > end:
                break
            await asyncio.sleep(0.02)
        killed = sum(child.running() for child in children)
        for child in children:
            child.stop(0)
        for server in self._servers:
            server.close()
        return int(killed > 0)

    # -- connections -------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        if not self._accepts and not self._stopping.is_set():
            self._accepts = True
            for listener in self._listeners:
                asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _accept_no_more(self) -> None:
        """Leave who comes to the kernel's backlog."""
        self._accepts = False
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener.fileno())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                connection, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:  # files are what we lack: let some be closed first
                    log.warning("cannot accept", extra={"error": error.strerror})
                    self._accept_no_more()
                    asyncio.get_running_loop().call_later(_TICK_S, self._accept_again)
                    return
                continue
            connection.setblocking(False)
            self._look(Caller(connection))

    def _look(self, caller: Caller) -> None:
        """Look at what lies there without taking it; hand over as soon as the head is whole."""
        try:
            head = caller.connection.recv(MAX_HEAD_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            self._wait(caller, 0)
            return
        except OSError:
            head = b""
        if not head:  # it hung up
            self._forget(caller)
            caller.connection.close()
        elif b"\r\n\r\n" in head or len(head) >= MAX_HEAD_BYTES or len(head) <= caller.seen:
            self._pass_on(caller, place_of(head))
        else:
            self._wait(caller, len(head))

    def _wait(self, caller: Caller, seen: int) -> None:
        """Come back when more than *seen* bytes lie there, or when it took too long."""
        loop, number = asyncio.get_running_loop(), caller.connection.fileno()
        if number not in self._callers:
            if len(self._callers) >= MOST_WAITING:
                self._pass_on(caller, None)
                return
            self._callers[number] = caller
            loop.add_reader(number, self._look, caller)
        if caller.until is None or (seen and caller.seen <= 0):  # its first byte starts the clock
            if caller.until is not None:
                caller.until.cancel()
            limit_s = HEAD_S if seen else SILENT_S
            caller.until = loop.call_later(limit_s, self._pass_on, caller, None)
        caller.seen = seen
        # what was seen stays: without this the loop would be told of it again and again
        caller.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)

    def _forget(self, caller: Caller) -> None:
        if caller.until is not None:
            caller.until.cancel()
        if self._callers.pop(caller.connection.fileno(), None) is not None:
            asyncio.get_running_loop().remove_reader(caller.connection.fileno())

    def _pass_on(self, caller: Caller, place: int | None) -> None:
        if self._callers.get(caller.connection.fileno()) is caller:
            caller.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._forget(caller)
        self._hand_over(caller.connection, place)

    def _hand_over(self, connection: socket.socket, place: int | None) -> None:
        for server in self._in_turn(place):
            if server.channel is None:
                continue
            try:
                socket.send_fds(server.channel, [b"c"], [connection.fileno()])
            except OSError:  # it is full, or gone: _hear sees that
                continue
            connection.close()
            return
        if self._stopping.is_set() or len(self._unserved) >= MOST_WAITING:
            connection.close()
            return
        self._unserved.append(connection)
        self._accept_no_more()
        asyncio.get_running_loop().call_later(_TICK_S, self._serve_waiting)

    def _serve_waiting(self) -> None:
        self._accept_again()
        waited, self._unserved = self._unserved, []
        for connection in waited:
            self._hand_over(connection, None)

    def _in_turn(self, place: int | None) -> Iterator[Server]:
        """Who may get a connection: the one that made its page, then who is next; the deaf last."""
        serving = [server for server in self._servers if server.serves]
        now = time.monotonic()
        awake = [server for server in serving if now - (server.heard_at or 0) < DEAF_S]
        if place is not None and 0 <= place < len(self._servers):
            wanted = self._servers[place]
            if wanted in awake:
                yield wanted
        self._next += 1
        for these in (awake, serving):
            turn = self._next % len(these) if these else 0
            yield from these[turn:] + these[:turn]


def _listeners(settings: Settings) -> list[socket.socket]:
    host, port = settings.queue_ui_host, settings.queue_ui_port
    try:
        return list(bind_sockets(port, host))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} of {host} is taken: stop what listens there, "
                "or set QUEUE_UI_PORT to another port"
            ) from error
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}") from error


def serve(settings: Settings, processes: int) -> int:
    """Serve *settings* with so many processes until SIGTERM or Ctrl-C; the exit code."""
    if sys.platform == "win32":
        raise SettingsError("--num-procs needs Linux or macOS: Windows hands no connection over")
    return Switchboard(settings, processes).run()
