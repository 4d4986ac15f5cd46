"""A TCP proxy in front of a redis-server that delays, drops, cuts and swallows."""

import asyncio
import contextlib
import random
import socket
import struct
from types import TracebackType
from typing import Self


class ChaosProxy:
    """Forward 127.0.0.1:``port`` to *target_port*; change the attributes while it runs.

    ``delay_s`` and ``jitter_s`` hold every chunk back, in order; ``blackhole`` swallows both ways and
    keeps connections open, as a firewall that drops does; ``cut()`` resets all connections;
    ``lose_reply_with`` resets in place of the first reply
    that holds these bytes; ``cut_next_reply`` lets one request through and resets before its reply; ``refuse`` resets new
    connections. ``connections`` counts accepted ones; ``target_port`` may be set later.
    """

    def __init__(self, target_port: int, seed: int = 0) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.jitter_s = 0.0
        self.blackhole = False
        self.refuse = False
        self.lose_reply_with = b""
        self.cut_next_reply = False
        self.connections = 0
        self.target_port = target_port
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._writers)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refuse:
            _reset(writer)
            return
        try:
            target = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            _reset(writer)
            return
        except asyncio.CancelledError:
            _reset(writer)
            raise
        self._writers.add(writer)
        ways = [
            asyncio.create_task(self._pump(reader, target[1], writer, is_reply=False)),
            asyncio.create_task(self._pump(target[0], writer, writer, is_reply=True)),
        ]
        try:
            with contextlib.suppress(asyncio.CancelledError):  # asyncio's streams would log it
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # first of all: a second cancellation, at the end of a test, would leave them open
            target[1].transport.abort()
            writer.transport.abort()
            self._writers.discard(writer)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        is_reply: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if is_reply and self.cut_next_reply:
                    self.cut_next_reply = False
                    _reset(client)
                    return
                if is_reply and self.lose_reply_with and self.lose_reply_with in data:
                    self.lose_reply_with = b""
                    _reset(client)
                    return
                if self.delay_s:
                    wobble = self._random.uniform(-self.jitter_s, self.jitter_s)
                    # half the delay each way: a round trip costs delay_s
                    await asyncio.sleep(max(0.0, self.delay_s + wobble) / 2)
                if self.blackhole:
                    continue  # as a dropping firewall: what was sent meanwhile never arrives
                sink.write(data)
                await sink.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
