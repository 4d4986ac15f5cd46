"""Tails: what was published lately on channels of a pattern, while somebody looks. One subscription per process.

Redis is asked for a pattern from the first look until ten seconds after nobody follows it any more, whoever
looks how seldom; nothing is kept longer, and of a flood only the newest messages.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis

from app.errors import InvalidRequest, Overloaded
from app.payloads.codec import safe_str
from app.settings import Settings
from app.wire.connections import connect, explained

log = logging.getLogger("arqscope.tails")

#: messages kept of a pattern, and characters of one
KEPT: Final = 200
MAX_CHARS: Final = 16_384
#: patterns one process follows, and characters of one
MAX_PATTERNS: Final = 20
MAX_PATTERN_CHARS: Final = 128
#: s after which a pattern nobody follows is given up
PATIENCE_S: Final = 10.0
ROUND_S: Final = 0.25
#: channels on which Redis tells of its own keys: our workers listen to them, people hardly ever do
OF_KEYS: Final = ("__keyspace@", "__keyevent@")
#: messages taken between two looks at the clock
BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was heard."""

    number: int  #: of the pattern, 1 is the first
    at_ms: float
    channel: str
    text: str
    is_cut: bool = False


@dataclass(slots=True)
class Tail:
    """What was heard of one pattern since somebody looks."""

    pattern: str
    since_ms: float
    is_followed: bool = False  #: whether Redis confirmed it
    heard: int = 0
    hidden: int = 0  #: messages about keys, which nobody asked for by name
    trouble: str = ""
    messages: deque[Message] = field(default_factory=lambda: deque(maxlen=KEPT))
    looked_at: float = 0.0  #: monotonic s
    followers: int = 0  #: that look when they like


def names_keys(pattern: str) -> bool:
    """Whether *pattern* asks for what Redis tells of its keys by name, and not only by ``*``."""
    return pattern.startswith("__") or "keyspace" in pattern or "keyevent" in pattern


class Tails:
    """The tails of one process; belongs to the event loop it is first looked at in."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.url("cache")
        self._tails: dict[str, Tail] = {}
        self._task: asyncio.Task[None] | None = None

    def look(self, pattern: str) -> Tail:
        """What was heard of *pattern*; the first look begins to hear it.

        Raises InvalidRequest for what is no pattern, Overloaded when too many are followed.
        """
        if not 0 < len(pattern) <= MAX_PATTERN_CHARS or not pattern.isprintable():
            raise InvalidRequest(
                f"pattern={pattern[:60]!r} is not one", field="pattern",
                hint=f"1 to {MAX_PATTERN_CHARS} printable characters, such as user:*",
            )  # fmt: skip
        tail = self._tails.get(pattern)
        if tail is None:
            if len(self._tails) >= MAX_PATTERNS:
                raise Overloaded(f"{MAX_PATTERNS} patterns are followed already")
            tail = self._tails[pattern] = Tail(pattern, time.time() * 1000)
        tail.looked_at = time.monotonic()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow(), name="tails")
        return tail

    def __len__(self) -> int:
        return len(self._tails)

    async def close(self) -> None:
        """Follow nothing any more."""
        self._tails.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        pause_s = 0.2
        while self._forget():
            client = connect(self._url, retries=0, max_connections=1)
            try:
                await self._hear(client)
                pause_s = 0.2
            except Exception as error:  # whatever redis-py raises of a connection that is gone
                told = safe_str(explained(error, self._url), 200)
                log.warning("channels are cut off", extra={"error": told})
                for tail in self._tails.values():
                    tail.is_followed, tail.trouble = False, told
                await asyncio.sleep(pause_s)
                pause_s = min(2.0, pause_s * 2)
            finally:
                with contextlib.suppress(Exception):  # whatever closing a broken one raises
                    await client.aclose(close_connection_pool=True)

    async def _hear(self, client: Redis) -> None:
        """Hear until nobody looks any more."""
        asked: set[str] = set()
        async with client.pubsub() as pubsub:
            while self._forget():
                wanted = set(self._tails)
                if wanted - asked:
                    await pubsub.psubscribe(*(wanted - asked))
                if asked - wanted:
                    await pubsub.punsubscribe(*(asked - wanted))
                asked = wanted
                message = await pubsub.get_message(timeout=ROUND_S)
                for _ in range(BATCH):
                    if message is None:
                        break
                    self._take(message)
                    message = await pubsub.get_message(timeout=0)
                if message is not None:
                    self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        tail = self._tails.get(safe_str(message.get("pattern") or message.get("channel"), 1000))
        if tail is None:
            return
        if message["type"] == "psubscribe":
            tail.is_followed, tail.trouble = True, ""
        elif message["type"] == "pmessage":
            if str(message["channel"]).startswith(OF_KEYS) and not names_keys(tail.pattern):
                tail.hidden += 1
                return
            tail.heard += 1
            text = str(message["data"])
            tail.messages.append(
                Message(tail.heard, time.time() * 1000, str(message["channel"])[:300],
                        text[:MAX_CHARS], len(text) > MAX_CHARS)
            )  # fmt: skip

    def _forget(self) -> bool:
        """Give up what nobody follows or looks at; whether anything is left."""
        end = time.monotonic() - PATIENCE_S
        for pattern, tail in list(self._tails.items()):
            if not tail.followers and tail.looked_at < end:
                del self._tails[pattern]
        return bool(self._tails)


class Ear:
    """What one viewer follows, a pattern at a time: kept although the viewer looks once a minute, or when told to."""

    def __init__(self, tails: Tails) -> None:
        self._tails = tails
        self._followed: Tail | None = None

    def look(self, pattern: str) -> Tail:
        """What was heard of *pattern*, followed from now on in place of another. Raises as ``Tails.look``."""
        tail = self._tails.look(pattern)
        if tail is not self._followed:
            self.leave()
            tail.followers += 1
            self._followed = tail
        return tail

    def leave(self) -> None:
        """Follow nothing."""
        tail, self._followed = self._followed, None
        if tail is not None:
            tail.followers -= 1
            tail.looked_at = time.monotonic()


__all__ = ["Ear", "Message", "Tail", "Tails", "names_keys"]
