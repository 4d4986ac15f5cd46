"""Listen to a channel of notifications as a browser does, until something is heard. Plain HTTP/1.1."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

#: bytes kept of what was heard
MAX_BYTES: Final = 1_000_000


@dataclass(slots=True)
class Listening:
    """An open stream of server-sent events: the status it began with, and the bytes so far."""

    reader: asyncio.StreamReader
    status: int = 0
    text: bytes = b""

    async def until(self, words: bytes, limit_s: float) -> bool:
        """Whether *words* were heard within *limit_s*."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(limit_s):
                while words not in self.text:
                    piece = await self.reader.read(65_536)
                    if not piece:
                        break
                    self.text = (self.text + piece)[-MAX_BYTES:]
        return words in self.text


@contextlib.asynccontextmanager
async def listening(url: str, key: str, limit_s: float) -> AsyncIterator[Listening]:
    """Open *url* and yield it once its answer has begun; OSError or TimeoutError when it does not."""
    where = urlsplit(url)
    is_tls = where.scheme == "https"
    port = where.port or (443 if is_tls else 80)
    async with asyncio.timeout(limit_s):
        reader, writer = await asyncio.open_connection(
            where.hostname, port, ssl=ssl.create_default_context() if is_tls else None
        )
        try:
            path = f"{where.path}?{where.query}" if where.query else where.path
            lines = [f"GET {path} HTTP/1.1", f"Host: {where.netloc}", "Accept: text/event-stream"]
            lines += [f"X-API-Key: {key}"] if key else []
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            await writer.drain()
            first = await reader.readline()
        except BaseException:
            writer.close()
            raise
    parts = first.split()
    try:
        yield Listening(reader, int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0)
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
