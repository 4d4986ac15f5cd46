"""One round trip to Redis: its commands, and who takes each reply. For readers only.

Also the SORT that joins a set with the hashes of its members in one command.
"""

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - redis-py's name
    ResponseError,
)

from app.wire.prompt_client import in_time

#: what a command asks that has no key yet: its value stays what it was
_NO_KEY: Final = "no such key"
#: what the servers of these clients call the SORT that only reads
_sorts: weakref.WeakKeyDictionary[ConnectionPool, str] = weakref.WeakKeyDictionary()


class Batch:
    """The commands of one round trip, each with the function that takes its reply.

    Sends and reads on one connection itself: redis-py's pipeline costs twice the CPU per command,
    and the collector sends sixty a second. Only for commands that may be sent twice.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._commands: list[tuple[Any, ...]] = []
        self._takers: list[tuple[Callable[[Any], None], bool]] = []
        self._plain: set[int] = set()  #: commands whose reply stays bytes
        self.trouble: list[str] = []

    def __len__(self) -> int:
        return len(self._commands)

    def ask(self, take: Callable[[Any], None], *command: Any) -> None:
        """Add one command; *take* gets its reply, or nothing when Redis refused it."""
        self._commands.append(command)
        self._takers.append((take, False))

    def ask_raw(self, take: Callable[[Any], None], *command: Any) -> None:
        """Add one command whose reply *take* gets as Redis sent it."""
        self._commands.append(command)
        self._takers.append((take, True))

    def ask_bytes(self, take: Callable[[Any], None], *command: Any) -> None:
        """Add one command whose reply *take* gets as bytes: what is packed is no text."""
        self._plain.add(len(self._commands))
        self.ask_raw(take, *command)

    async def run(self) -> int:
        """Send all, hand out the replies, return the number of commands.

        Raises the first error when Redis refused every command, and what redis-py raises for a
        Redis that is away (after one more try on a new connection).
        """
        if not self._commands:
            return 0
        replies = await in_time(self._redis, self._tried())
        if all(isinstance(reply, ResponseError) for reply in replies):
            raise replies[0]
        callbacks = self._redis.response_callbacks
        for (take, raw), command, reply in zip(self._takers, self._commands, replies, strict=True):
            if isinstance(reply, ResponseError):
                if _NO_KEY not in str(reply):
                    self.trouble.append(str(reply)[:200])
                continue
            decode = None if raw else callbacks.get(command[0])
            take(reply if decode is None else decode(reply))
        return len(replies)

    async def _tried(self) -> list[Any]:
        try:
            return await self._exchange()
        except AuthenticationError:  # a refused password is not tried twice
            raise
        except ConnectionError:  # the pooled connection was of a server that restarted
            return await self._exchange()

    async def _exchange(self) -> list[Any]:
        pool: Any = self._redis.connection_pool
        connection = await pool.get_connection()
        replies: list[Any] = []
        try:
            await connection.send_packed_command([b"".join(map(_packed, self._commands))])
            for number in range(len(self._commands)):
                try:
                    is_plain = number in self._plain
                    replies.append(await connection.read_response(disable_decoding=is_plain))
                except ResponseError as error:
                    replies.append(error)
        except BaseException:  # replies are left on it: nobody may use it again
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return replies


@functools.lru_cache(maxsize=4096, typed=True)  # a sampler sends the same ones every second
def _packed(command: tuple[Any, ...]) -> bytes:
    name, *arguments = command
    try:
        packed: bytes = hiredis.pack_command((*name.split(), *arguments))
    except UnicodeEncodeError:  # ids are bytes to Redis, kept by surrogateescape
        plain = [
            a.encode("utf-8", "surrogateescape") if isinstance(a, str) else a for a in arguments
        ]
        packed = hiredis.pack_command((*name.split(), *plain))
    return packed


def sorted_records(
    key: str, pattern: str, names: Sequence[str], limit: int, *, sort: str, newest: bool = True
) -> list[Any]:
    """Arguments of the SORT that joins the newest *limit* members of *key* with their hashes.

    ``BY nosort`` with LIMIT walks only what it returns: one command, whatever the set holds.
    """
    gets = [part for name in names for part in ("GET", name if name == "#" else pattern + name)]
    order = ["DESC"] if newest else []
    return [sort, key, "BY", "nosort", "LIMIT", 0, limit, *gets, *order]


async def sort_command(redis: Redis) -> str:
    """SORT_RO where the server has it (7.0): SORT counts as a write, which a login that only reads lacks.

    Asked once per client.
    """
    pool = redis.connection_pool
    if pool not in _sorts:
        try:
            told = await cast(Any, redis.info("server"))
        except ResponseError:  # a login without INFO
            return "SORT"
        major = str(told.get("redis_version", "0")).partition(".")[0]
        _sorts[pool] = "SORT_RO" if major.isdecimal() and int(major) >= 7 else "SORT"
    return _sorts[pool]


def rows_of(reply: Sequence[Any], names: Sequence[str]) -> list[dict[str, str]]:
    """Cut a SORT's flat reply into one mapping per member, absent fields left out."""
    width = len(names)
    return [
        {k: v for k, v in zip(names, reply[i : i + width], strict=True) if v is not None}
        for i in range(0, len(reply), width)
    ]


def into(target: dict[str, Any], name: str) -> Callable[[Any], None]:
    """A taker that stores the reply in *target* under *name*."""
    return lambda reply: target.__setitem__(name, reply)


def info_of(text: object) -> Mapping[str, str]:
    """INFO's text as a mapping of texts; redis-py's own parser tries a number on each of 200 lines."""
    lines = (line.partition(":") for line in str(text).splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def seconds_of(reply: Sequence[str]) -> float:
    """TIME's reply as epoch seconds."""
    return int(reply[0]) + int(reply[1]) / 1_000_000


async def server_info(redis: Redis, *, full: bool = True) -> Mapping[str, str] | None:
    """INFO of a Redis, or None for a mere PING (not *full*); one command either way."""
    batch = Batch(redis)
    told: list[str] = []
    batch.ask_raw(lambda reply: told.append(str(reply)), "INFO" if full else "PING")
    await batch.run()
    return info_of(told[0]) if full else None
