"""Who listens to notifications: one Redis subscription shared by all of a process, a bounded queue each.

A listener that takes too slowly is dropped and never slows another. After an outage of Redis the
channels' memory (``notifications``) fills the gap, so a listener misses nothing that is remembered.
"""

import asyncio
import contextlib
import logging
import random
import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.errors import Overloaded, RedisUnavailable
from app.payloads.codec import safe_str
from app.settings import Settings
from app.streams import notifications
from app.wire.connections import connect, explained

log = logging.getLogger("arqscope.listeners")

#: listeners of one process, and notifications that may wait for one of them
MAX_LISTENERS: Final = 500
MAX_WAITING: Final = 100
#: characters of a notification another program published; a longer one is only mentioned
MAX_CHARS: Final = 65_536
#: s a new listener waits for Redis to confirm its subscription
CONFIRM_S: Final = 1.2
_LINES: Final = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Heard:
    """One notification, encoded once for everybody as a server-sent event."""

    id: str  #: empty when another program published it
    frame: bytes


def server_sent(text: str, *, entry_id: str = "", event: str = "") -> bytes:
    """Encode one server-sent event (WHATWG HTML, section 9.2): id, event and data lines."""
    lines = [f"data: {line}" for line in _LINES.split(text)]
    head = ([f"id: {entry_id}"] if entry_id else []) + ([f"event: {event}"] if event else [])
    return ("\n".join([*head, *lines]) + "\n\n").encode("utf-8", "replace")


#: told when notifications may have been missed: what they were about must be read again
GAP: Final = Heard("", server_sent('{"missed":true}', event="gap"))


class Listener:
    """One client on one channel; ``dropped`` is set when it was too slow."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.dropped = asyncio.Event()
        self.missed = False  #: whether notifications since its last id may be forgotten
        self._waiting: deque[Heard] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._replayed: frozenset[str] = frozenset()

    def hear(self, heard: Heard) -> None:
        """Take one notification, or be dropped because too many wait already."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped.set()
        elif not self.dropped.is_set():
            self._waiting.append(heard)
            self._arrived.set()

    def begin(self, replayed: list[Heard]) -> None:
        """Put what the channel remembers before what was heard since; each comes once."""
        self._replayed = frozenset(heard.id for heard in replayed)
        later = [heard for heard in self._waiting if heard.id not in self._replayed]
        self._waiting = deque([*replayed, *later])
        self._arrived.set()

    def close(self) -> None:
        """Let the listener end when it has taken what waits."""
        self._closed = True
        self._arrived.set()

    async def take(self, limit_s: float) -> list[Heard] | None:
        """Wait up to *limit_s* for what was heard: all of it; [] for nothing, None at the end."""
        if not self._waiting and not self._closed:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._arrived.wait()
        if not self._waiting:
            return None if self._closed else []
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


class _Line:
    """One channel: who listens, and where it is."""

    __slots__ = ("last_id", "listeners", "ready", "seen")

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()
        self.ready = asyncio.Event()
        self.last_id = ""  #: empty: never confirmed
        self.seen: deque[str] = deque(maxlen=2 * notifications.KEPT)


class Listeners:
    """All listeners of one process; ``listening`` is the door."""

    def __init__(self, settings: Settings, *, limit: int = MAX_LISTENERS) -> None:
        self._url = settings.url("cache")
        self._limit = limit
        self._lines: dict[str, _Line] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None
        self._pubsub: Any = None
        self._asking = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._reader: Redis | None = None
        self._closed = False

    def __len__(self) -> int:
        return self._count

    @contextlib.asynccontextmanager
    async def listening(self, channel: str, after: str = "") -> AsyncIterator[Listener]:
        """Hear *channel* from now, or from what is remembered after id *after*.

        Raises InvalidRequest for a malformed id, Overloaded when too many listen, RedisUnavailable
        when Redis does not confirm in time.
        """
        if after and after != "0":
            notifications.check_id(after)
        if self._closed or self._count >= self._limit:
            raise Overloaded(
                "the server is stopping"
                if self._closed
                else f"{self._limit} listeners are connected already, as many as this server takes"
            )
        self._count += 1
        listener = Listener(channel)
        try:
            await self._join(listener)
            if after:
                await self._recall(listener, after)
            yield listener
        finally:
            self._count -= 1
            await self._part(listener)

    async def close(self) -> None:
        """End every listener and the subscription; nobody new is let in."""
        self._closed = True
        for line in self._lines.values():
            for listener in line.listeners:
                listener.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._reader is not None:
            await self._reader.aclose(close_connection_pool=True)

    # -- joining and parting -------------------------------------------------------------------

    async def _join(self, listener: Listener) -> None:
        channel = listener.channel
        line = self._lines.setdefault(channel, _Line())
        line.listeners.add(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._listen(), name="listeners")
        try:
            async with asyncio.timeout(CONFIRM_S):
                if not line.ready.is_set():
                    await self._tell("subscribe", channel)
                await line.ready.wait()
        except TimeoutError as error:
            raise RedisUnavailable("Redis at redis://cache does not answer") from error

    async def _recall(self, listener: Listener, after: str) -> None:
        try:
            found = await notifications.remembered(self._redis, listener.channel, after)
        except (RedisError, OSError) as error:
            raise explained(error, "redis://cache") from error
        listener.missed = not found.is_complete
        listener.begin(
            [
                Heard(entry_id, server_sent(text, entry_id=entry_id))
                for entry_id, text in found.notifications
            ]
        )

    async def _part(self, listener: Listener) -> None:
        line = self._lines.get(listener.channel)
        if line is None:
            return
        line.listeners.discard(listener)
        if line.listeners:
            return
        del self._lines[listener.channel]
        if listener.channel != keys.BROADCAST_CHANNEL:
            leaving = asyncio.create_task(self._tell("unsubscribe", listener.channel))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            if (
                line.ready.is_set()
            ):  # else Redis is silent: whoever was refused must not wait for it again
                await leaving

    async def _tell(self, verb: str, channel: str) -> None:
        """Ask for a channel, or give it up; what fails is asked for again by ``_listen``."""
        async with self._asking:
            wanted = channel in self._lines
            if self._pubsub is None or wanted != (verb == "subscribe"):
                return
            with contextlib.suppress(Exception):
                await getattr(self._pubsub, verb)(channel)

    @property
    def _redis(self) -> Redis:
        """A client for the memory; made at the first use."""
        if self._reader is None:
            self._reader = connect(self._url, max_connections=4)
        return self._reader

    # -- the one subscription ------------------------------------------------------------------

    async def _listen(self) -> None:
        pause_s = 0.1
        while True:
            client = connect(self._url, retries=0, max_connections=1)
            try:
                async with client.pubsub() as pubsub:
                    async with self._asking:
                        self._pubsub = pubsub
                        # the broadcast channel keeps the connection subscribed when nobody listens
                        await pubsub.subscribe(keys.BROADCAST_CHANNEL, *self._lines)
                    while True:
                        message = await pubsub.get_message(timeout=30)
                        pause_s = 0.1
                        if message is not None:
                            await self._on_message(message)
            except Exception as error:  # also redis-py's own, of a connection closed under it
                log.warning("notifications are cut off", extra={"error": safe_str(error, 200)})
            finally:
                self._pubsub = None
                for line in self._lines.values():
                    line.ready.clear()
                with contextlib.suppress(Exception):  # whatever closing a broken one raises
                    await client.aclose(close_connection_pool=True)
            await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311
            pause_s = min(2.0, pause_s * 2)

    async def _on_message(self, message: dict[str, Any]) -> None:
        line = self._lines.get(str(message["channel"]))
        if line is None:
            return
        match message["type"]:
            case "subscribe":
                await self._catch_up(str(message["channel"]), line)
                line.ready.set()
            case "message":
                self._spread(line, cast(str, message["data"]))

    async def _catch_up(self, channel: str, line: _Line) -> None:
        """Hand over what was sent while we were cut off; at first, only note where the channel is."""
        if not line.last_id:
            line.last_id = await notifications.newest_id(self._redis, channel)
            return
        found = await notifications.remembered(self._redis, channel, line.last_id)
        if not found.is_complete:
            for listener in line.listeners:
                listener.hear(GAP)
        for _, text in found.notifications:
            self._spread(line, text)

    def _spread(self, line: _Line, text: str) -> None:
        entry_id = notifications.id_of(text)
        if entry_id:
            if entry_id in line.seen:
                return
            line.seen.append(entry_id)
            line.last_id = entry_id
        if len(text) > MAX_CHARS:
            heard = Heard(entry_id, server_sent("", entry_id=entry_id, event="oversized"))
        else:
            heard = Heard(entry_id, server_sent(text, entry_id=entry_id))
        for listener in line.listeners:
            listener.hear(heard)
