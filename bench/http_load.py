"""The client processes of the HTTP benchmarks: `load` asks as fast as answers come, `watch` keeps pages open."""

import asyncio
import html
import json
import re
import sys
import time
from collections import deque
from urllib.request import urlopen

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect


class Asker(asyncio.Protocol):
    """One kept connection: sends the next request when the answer to the last one is whole."""

    def __init__(self, request: bytes, taken: deque[float], end: float) -> None:
        self._request = request
        self._taken = taken
        self._end = end
        self._buffer = b""
        self._began = 0.0
        self.statuses: dict[str, int] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        at = head.lower().index(b"content-length:") + 15
        if len(body) < int(head[at:].split(b"\r\n", 1)[0]):
            return
        now = time.perf_counter()
        self._taken.append(now - self._began)
        status = head[9:12].decode()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._buffer = b""
        if now < self._end:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))


async def load(
    port: int, connections: int, seconds: float, method: str, path: str, body: str
) -> None:
    """Print requests/s, p50 and p99 in ms, and the statuses, as one JSON object."""
    payload = body.encode()
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload
    loop = asyncio.get_running_loop()
    taken: deque[float] = deque()
    began = time.perf_counter()
    askers = []
    for _ in range(connections):
        _, asker = await loop.create_connection(
            lambda: Asker(request, taken, began + seconds), "127.0.0.1", port
        )
        askers.append(asker)
    await asyncio.gather(*(asker.done for asker in askers))
    took = time.perf_counter() - began
    ordered = sorted(taken)
    statuses: dict[str, int] = {}
    for asker in askers:
        for status, count in asker.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    told = {
        "per_s": len(ordered) / took,
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[int(0.99 * (len(ordered) - 1))] * 1000,
        "statuses": statuses,
    }
    print(json.dumps(told))


async def watch(port: int, sessions: int) -> None:
    """Open the page *sessions* times as BokehJS does; print a line when all are open, then only read."""
    sockets = []
    for _ in range(sessions):
        page = await asyncio.to_thread(_page, port)
        token = re.search(r'"token":"([^"]+)"', html.unescape(page))
        assert token, "the page carries no token"
        request = HTTPRequest(
            f"ws://127.0.0.1:{port}/admin/queues/ws", headers={"Origin": f"http://127.0.0.1:{port}"}
        )
        socket = await websocket_connect(request, subprotocols=["bokeh", token[1]])
        await _whole(socket)
        for part in ({"msgid": "1", "msgtype": "PULL-DOC-REQ"}, {}, {}):
            await socket.write_message(json.dumps(part))
        sockets.append(socket)
    print("open", flush=True)
    await asyncio.gather(*(_read(socket) for socket in sockets))


def _page(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/admin/queues", timeout=30) as answer:
        return str(answer.read().decode())


async def _whole(socket: object) -> None:
    for _ in range(3):
        await socket.read_message()  # type: ignore[attr-defined]


async def _read(socket: object) -> None:
    while await socket.read_message() is not None:  # type: ignore[attr-defined]
        pass


def main() -> None:
    """Run what the first argument names."""
    kind, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind == "watch":
        asyncio.run(watch(port, count))
    else:
        method, path = sys.argv[5], sys.argv[6]
        asyncio.run(load(port, count, float(sys.argv[4]), method, path, sys.stdin.read()))


if __name__ == "__main__":
    main()
