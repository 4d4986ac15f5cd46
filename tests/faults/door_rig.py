"""A server under attack: a real process, its keys, raw requests from any loopback address, page sockets."""

import contextlib
import html
import json
import re
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis as redis_sync
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from app import api_keys, keys
from tests.conftest import ROOT, RunningRedis
from tests.serving import RunningServer, start_server

API_KEY = "security-key-0123456789abcdef0123"
REDIS_SECRET = "test-password"
PAYLOAD_KEY = "payload-secret-0123456789"
JOB_SECRET = "hunter2-in-a-job-argument"

#: a page that writes down each session it is built for, with one control that changes something
PAGE = """
import pathlib
import panel as pn
from app import actions
from app.errors import ActionRefused
from app.server import page_actor, runtime
pn.extension()
context = pn.state.curdoc.session_context
with pathlib.Path("sessions.log").open("a") as log:
    log.write(context.id + "\\n")
shared = runtime()
async def pause(event):
    with pathlib.Path("clicks.log").open("a") as log:
        log.write("click\\n")
    try:
        await actions.pause_queue(
            shared.connections, shared.settings, page_actor(context, shared.guard), "async-processing"
        )
    except ActionRefused:
        pass
button = pn.widgets.Button(name="Pause")
button.on_click(pause)
pn.Column(button).servable()
"""


@dataclass
class Answer:
    """One answer, as it came over the wire."""

    status: int  #: 0: the connection was closed without one
    headers: dict[str, str]
    body: bytes


@dataclass
class Door:
    """One server with a key of each role."""

    server: RunningServer
    directory: Path
    role_keys: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        source: str = "127.0.0.1",
        limit_s: float = 10,
        after: bytes = b"",
    ) -> Answer:
        """Send one request byte by byte as given, from the loopback address *source*."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
        if not any(line.lower().startswith("connection:") for line in lines):
            lines.append("Connection: close")
        if not any(line.lower().startswith("host:") for line in lines):
            lines.append(f"Host: 127.0.0.1:{self.port}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        raw = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8") + body + after
        return self.send(raw, source=source, limit_s=limit_s)

    def send(self, raw: bytes, *, source: str = "127.0.0.1", limit_s: float = 10) -> Answer:
        """Send *raw* and read the answer to its end."""
        got = b""
        try:
            with self.connect(source, limit_s) as connection:
                connection.sendall(raw)
                while chunk := connection.recv(65536):
                    got += chunk
                    if _is_whole(got):
                        break
        except OSError:
            pass
        return parsed(got)

    def connect(self, source: str = "127.0.0.1", limit_s: float = 10) -> socket.socket:
        """Open a connection from *source*."""
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=limit_s, source_address=(source, 0)
        )

    def upgrade(
        self, path: str, *, source: str = "127.0.0.1", after: bytes = b"", **headers: str
    ) -> Answer:
        """Ask for a websocket; *after* is sent with it, as if it were open already."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(
            "GET",
            path,
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
                **named,
            },
            source=source,
            after=after,
        )

    def login(self, role: str) -> str:
        """Log in with the key of *role*; return the Cookie header."""
        body = f"key={self.role_keys[role]}".encode()
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.origin}
        answer = self.ask("POST", "/login", form, body)
        assert answer.status == 303, answer
        return answer.headers["set-cookie"].partition(";")[0]

    def redis(self, number: int = 2) -> "redis_sync.Redis[str]":
        """A client of one of the server's databases; 2 is the queue role."""
        return redis_sync.Redis.from_url(self.server.redis.database(number), decode_responses=True)

    def lines(self, name: str) -> int:
        """Lines the page wrote into *name*."""
        path = self.directory / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def effects(self) -> tuple[Any, ...]:
        """What an attacker would have changed: jobs, pauses, events, letters."""
        with self.redis() as queue, self.redis(1) as streams:
            return (
                queue.zcard("async-processing"),
                queue.smembers(keys.PAUSED_QUEUES),
                streams.xlen("pyairtable-events"),
                queue.get(keys.concurrency("async-processing")),
            )

    def rss_mb(self) -> float:
        """Resident memory of the server."""
        text = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def log(self) -> str:
        """Everything the server said."""
        return self.server.log.read_text(errors="replace")


def _is_whole(raw: bytes) -> bool:
    head, end, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and (
        head[9:12] == b"101" or (length is not None and len(body) >= int(length[1]))
    )


def parsed(raw: bytes) -> Answer:
    """Take an answer apart."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return Answer(0, {}, raw)
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(words[1]), headers, body)


def open_door(redis: RunningRedis, directory: Path, **environ: str) -> Door:
    """Start a server with a key per role."""
    page = directory / "dashboard"
    page.mkdir(parents=True)
    shutil.copy(ROOT / "app/dashboard/app_hooks.py", page)
    (page / "main.py").write_text(PAGE)
    made = {}
    with redis_sync.Redis.from_url(redis.database(2)) as client:
        for role in ("viewer", "operator", "admin"):
            key, text = api_keys.new_key(
                role, role, created_by="test", now_ms=int(time.time() * 1000)
            )
            client.hset(keys.API_KEYS, key.id, key.to_json())
            made[role] = text
    server = start_server(
        redis,
        directory,
        command=[sys.executable, "-m", "panel", "serve", str(page), "--port", "{port}"],
        API_KEY=API_KEY,
        ARQSCOPE_PAYLOAD_KEY=PAYLOAD_KEY,
        ARQSCOPE_LOG_FORMAT="json",
        ARQSCOPE_TRUSTED_PROXIES="127.0.0.2",
        **environ,
    )
    return Door(server, directory, made)


# --- a page's websocket, as BokehJS speaks it ----------------------------------------------------------


def token_of(page: bytes) -> str:
    """The session token a page carries."""
    found = re.search(r'"token":"([^"]+)"', html.unescape(page.decode()))
    assert found, page[:500]
    return found[1]


@contextlib.asynccontextmanager
async def open_socket(
    door: Door, token: str, headers: Mapping[str, str], path: str = "/admin/queues/ws"
) -> AsyncIterator[WebSocketClientConnection]:
    """Open the page's websocket; tornado's HTTPClientError tells a refused handshake."""
    request = HTTPRequest(
        f"ws://127.0.0.1:{door.port}{path}",
        headers={"Origin": door.origin, **headers},
        request_timeout=10,
    )
    socket = await websocket_connect(request, subprotocols=["bokeh", token])
    try:
        yield socket
    finally:
        socket.close()


async def _message(socket: WebSocketClientConnection) -> tuple[dict[str, Any], Any]:
    header = json.loads(str(await socket.read_message()))
    await socket.read_message()
    content = json.loads(str(await socket.read_message()))
    return header, content


async def _say(socket: WebSocketClientConnection, kind: str, content: Any) -> None:
    header = {"msgid": f"test-{time.monotonic_ns()}", "msgtype": kind}
    for part in (header, {}, content):
        await socket.write_message(json.dumps(part))


async def find_button(socket: WebSocketClientConnection) -> str:
    """Return the id of the page's one button."""
    await _message(socket)  # ACK
    await _say(socket, "PULL-DOC-REQ", {})
    header, content = await _message(socket)
    while header["msgtype"] != "PULL-DOC-REPLY":
        header, content = await _message(socket)
    text = json.dumps(content)
    at = text.index('.Button"')
    button = re.search(r'"id": "(p\d+)"', text[at:])
    assert button
    return button[1]


async def click_button(socket: WebSocketClientConnection, button: str = "") -> str:
    """Press the page's one button, whether its page shows it enabled or not; return its id.

    With the id of *button* known, it is pressed before the server has said anything.
    """
    button = button or await find_button(socket)
    await _say(socket, "PATCH-DOC", click_of(button))
    return button


def click_of(button: str) -> dict[str, Any]:
    """What BokehJS says when somebody presses *button*."""
    event = {
        "type": "event",
        "name": "button_click",
        "values": {"type": "map", "entries": [["model", {"id": button}]]},
    }
    return {"events": [{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event}]}


def click_frames(button: str) -> bytes:
    """The same as masked websocket frames, to be sent without waiting for the handshake's answer."""
    header = {"msgid": "test-1", "msgtype": "PATCH-DOC"}
    frames = b""
    for part in (header, {}, click_of(button)):
        body = json.dumps(part).encode()
        length = (
            bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
        )
        frames += b"\x81" + length + b"\0\0\0\0" + body
    return frames


def bearer(text: str) -> dict[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {text}"}
