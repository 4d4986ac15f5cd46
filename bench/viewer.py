"""A viewer without a browser: opens a page, joins its session, counts what arrives and how late."""

import asyncio
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

_TOKEN = re.compile(r'"token":"([^"]+)"')
#: the foot of every page tells when its snapshot was taken, epoch ms
_TAKEN = re.compile(r'data-now=\\+"(\d+)')
_LOADED = (
    '{"events":[{"kind":"MessageSent","msg_type":"bokeh_event","msg_data":'
    '{"type":"event","name":"document_ready","values":{"type":"map"}}}]}'
)
#: the page's component, whose script says hello
_SCREEN = re.compile(r'"name":"panel\.models\.esm\.ReactiveESM","id":"([^"]+)"')
_EDITION = re.compile(r'"edition":(\d+)')
_HELLO = (
    '{"events":[{"kind":"MessageSent","msg_type":"bokeh_event","msg_data":'
    '{"type":"event","name":"data_event","values":{"type":"map","entries":[["model",{"id":"%s"}],'
    '["data",{"type":"map","entries":[["intent","hello"],["theme","light"],["refresh","%s"],["edition",%s]]}]]}}}]}'
)


@dataclass
class Viewer:
    """One open session; ``late_ms`` are the ages of the snapshots when they arrived."""

    root: str  #: http://127.0.0.1:8009
    page: str = "queues"
    cookies: dict[str, str] = field(default_factory=dict)
    socket: WebSocketClientConnection | None = None
    late_ms: list[float] = field(default_factory=list)
    bytes_in: int = 0
    largest: int = 0
    opened_s: float = 0.0  #: from asking for the page to having the document
    _screen: str = ""
    _edition: str = "null"
    _reading: asyncio.Task[None] | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self, http: httpx.AsyncClient, *, read: bool = True) -> "Viewer":
        """Fetch the page, join its session, pull its document; with *read* go on reading."""
        began = time.monotonic()
        where = f"{self.root}/admin/{self.page}"
        cookie = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        answer = await http.get(where, headers={"Cookie": cookie} if cookie else {})
        answer.raise_for_status()
        found = _TOKEN.search(answer.text)
        if found is None:
            raise AssertionError(f"{where} holds no session: {answer.text[:300]}")
        path = where.partition("?")[0].replace("http://", "ws://") + "/ws"
        request = HTTPRequest(path, headers={"Origin": self.root, "Cookie": cookie})
        self.socket = await websocket_connect(
            request, subprotocols=["bokeh", found[1]], max_message_size=64_000_000
        )
        for _ in range(3):  # the server's ACK: before it, it takes nothing
            await self.socket.read_message()
        await self._say("PULL-DOC-REQ", "{}")
        self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.wait_for(self._ready.wait(), 30)
        self.opened_s = time.monotonic() - began
        await self._say("PATCH-DOC", _LOADED)  # Panel sends nothing before
        refresh = self.cookies.get("arqscope_refresh", "")
        await self._say("PATCH-DOC", _HELLO % (self._screen, refresh, self._edition))
        if not read:
            self._reading.cancel()
        return self

    async def _say(self, kind: str, content: str) -> None:
        socket: Any = self.socket
        header = f'{{"msgid":"{secrets.token_hex(16)}","msgtype":"{kind}"}}'
        for part in (header, "{}", content):
            await socket.write_message(part)

    async def _read(self) -> None:
        socket: Any = self.socket
        while (message := await socket.read_message()) is not None:
            size = len(message)
            self.bytes_in += size
            self.largest = max(self.largest, size)
            if isinstance(message, str) and '"roots"' in message:
                found = _SCREEN.search(message)
                if found is None:
                    raise AssertionError("the document holds no screen")
                self._screen = found[1]
                edition = _EDITION.search(message)
                self._edition = edition[1] if edition else "null"
                self._ready.set()
                continue
            for taken in _TAKEN.findall(message) if isinstance(message, str) else ():
                self.late_ms.append(time.time() * 1000 - float(taken))

    async def close(self) -> None:
        """Leave; the connection is gone afterwards, whether or not the server says goodbye."""
        if self._reading is not None:
            self._reading.cancel()
        if self.socket is not None:
            protocol: Any = self.socket.protocol
            self.socket.close()
            if protocol is not None:
                protocol.stream.close()


__all__ = ["Viewer"]
