"""Redis clients, made by one recipe: own pool, jittered retries, time-outs, keep-alive, one gate.

The recipe is FAULTS R-07: ``OSError`` among the retried errors is the decisive one, and the retry
object must be the asyncio one. Producers and the server fail within 2 s; workers never give up. All
clients a process has of one server share a gate for when it refuses their password.
"""

import asyncio
import builtins
import functools
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import hiredis
from redis import ConnectionPool as BlockingIOPool
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import FullJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's name
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's name
)

from app.errors import RedisRefused, RedisUnavailable
from app.placement import AT_HOME, HOME, Placement
from app.sentinels import pool_watching, watched, watches
from app.settings import Settings, masked_url
from app.wire.gate import Gate
from app.wire.prompt_client import promptly

#: what a lost or silent Redis looks like
GONE: Final = (ConnectionError, TimeoutError, BusyLoadingError, OSError)
#: what a Redis that answers but will not write looks like, beside the texts in ``is_refusal``
_REFUSALS: Final = (OutOfMemoryError, ReadOnlyError, NoPermissionError, AuthenticationError)
_REFUSAL_WORDS: Final = (
    "OOM",
    "READONLY",
    "MISCONF",
    "NOPERM",
    "NOREPLICAS",
    "NOAUTH",
    "WRONGPASS",
)

_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """Clients of the Redis roles; *queue* is the home of what belongs to the whole deployment.

    A queue's own keys lie on the server that holds it: ask ``holding``, never *queue*.
    """

    queue: Redis
    streams: Redis
    cache: Redis
    shards: Mapping[str, Redis] = field(default_factory=dict)  #: the further queue servers, by name
    placement: Placement = AT_HOME

    @classmethod
    def of(cls, settings: Settings, **recipe: Any) -> Self:
        """Clients of every server *settings* name, each by ``connect`` with *recipe*."""
        return cls(
            queue=connect(settings.url(HOME), **recipe),
            streams=connect(settings.url("streams"), **recipe),
            cache=connect(settings.url("cache"), **recipe),
            shards=shards_of(settings, **recipe),
            placement=settings.placement,
        )

    def holding(self, queue: str) -> Redis:
        """The client of the server that holds *queue*."""
        return self.server(self.placement.server_of(queue))

    def server(self, name: str) -> Redis:
        """The client of the queue server called *name*."""
        return self.queue if name == HOME else self.shards[name]

    @property
    def queue_servers(self) -> Mapping[str, Redis]:
        """The clients of all queue servers by name, the home first."""
        return {HOME: self.queue, **self.shards}

    async def close(self) -> None:
        """Close every client and its connections."""
        for client in (*self.queue_servers.values(), self.streams, self.cache):
            await client.aclose(close_connection_pool=True)


def shards_of(settings: Settings, **recipe: Any) -> dict[str, Redis]:
    """Clients of the further queue servers, by name."""
    return {name: connect(settings.url(name), **recipe) for name in settings.placement.names[1:]}


def is_refusal(error: BaseException) -> bool:
    """Whether Redis answered *error* because it refuses to write or to let us in."""
    if isinstance(error, _REFUSALS):
        return True
    text = str(error)
    return isinstance(error, ResponseError) and any(word in text[:200] for word in _REFUSAL_WORDS)


#: one per server and login this process ever talked to
_gates: dict[tuple[object, ...], Gate] = {}


def _gate_of(connection: Any) -> Gate:
    where = getattr(connection, "path", None) or (connection.host, connection.port)
    return _gates.setdefault((where, connection.username, hash(connection.password)), Gate())


class _Prepared:
    """Waits at the gate, knows a dead connection, can be cancelled, and encodes commands in C: redis-py's
    asyncio side does it in Python, an eighth of a busy worker.
    """

    async def connect(self) -> None:
        """Connect, in turn while the server refuses the password."""
        if not self.is_connected:  # type: ignore[attr-defined]
            await _gate_of(self).pass_through(super().connect)  # type: ignore[misc]

    async def on_connect(self) -> None:
        """Greet the server. A connection that is being made needs no health check: where a password
        is missing, redis-py's check would connect, greet and check again, without end.
        """
        now = asyncio.get_running_loop().time()
        self.next_health_check = now + self.health_check_interval  # type: ignore[attr-defined]
        await super().on_connect()  # type: ignore[misc]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send *command*, and be cancelled when asked to.

        Not redis-py's, which awaits ``asyncio.wait_for``: before Python 3.12 that loses a cancellation which
        comes as the sending ends, so that whoever was told to stop goes on. It also makes a task a command.
        A connection that died unseen is a ConnectionError, whatever the event loop calls it: uvloop raises
        RuntimeError where the kernel gave up a silent one.
        """
        link: Any = self
        if not link.is_connected:
            await link.connect()
        elif check_health:
            await link.check_health()
        try:
            async with asyncio.timeout(link.socket_timeout):
                link._writer.writelines([command] if isinstance(command, bytes) else command)
                await link._writer.drain()
        except (
            BaseException
        ) as error:  # half a command may be on its way: nobody may use this one again
            await link.disconnect(nowait=True)
            if isinstance(error, builtins.TimeoutError):
                raise TimeoutError("Redis took no command in time") from None
            if isinstance(error, OSError):
                raise ConnectionError(f"the connection broke while sending: {error}") from error
            if isinstance(error, RuntimeError) and "closed" in str(error):
                raise ConnectionError("the connection was closed under us") from error
            raise

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return the command's bytes; what C cannot encode goes redis-py's way, errors included."""
        if isinstance(args[0], str) and " " in args[0]:  # "CONFIG GET"
            args = (*args[0].split(), *args[1:])
        try:
            return [hiredis.pack_command(args)]
        except (TypeError, UnicodeEncodeError):
            return super().pack_command(*args)  # type: ignore[misc,no-any-return]


class _Gated:
    """Waits at the gate: for clients without an event loop."""

    def connect(self) -> None:
        """Connect, in turn while the server refuses the password."""
        if not self._sock:  # type: ignore[attr-defined]
            _gate_of(self).pass_through_blocking(super().connect)  # type: ignore[misc]


@functools.cache
def _with(kind: Any, mixin: type) -> Any:
    return type(f"{mixin.__name__.strip('_')}{kind.__name__}", (mixin, kind), {})


def prepared(pool: ConnectionPool) -> ConnectionPool:
    """Make *pool*'s future connections wait at the gate and encode in C, and return it."""
    kind: Any = pool.connection_class
    pool.connection_class = _with(kind, _Prepared)
    return pool


def gated(pool: BlockingIOPool) -> BlockingIOPool:
    """Make the future connections of a *pool* without event loop wait at the gate, and return it."""
    kind: Any = pool.connection_class
    pool.connection_class = _with(kind, _Gated)
    return pool


def pool_arguments(
    *, timeout_s: float, retries: int, connect_timeout_s: float | None = None
) -> dict[str, Any]:
    """Keyword arguments of a connection pool made by the recipe."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_timeout_s or min(timeout_s, 2.0),
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
        "health_check_interval": 15,
        "retry": Retry(FullJitterBackoff(cap=1.0, base=0.05), retries),
        "retry_on_error": list(GONE),
    }


def made(make: Any, url: str, **arguments: Any) -> Any:
    """A pool of class *make* for *url*; behind sentinels its connections follow the master."""
    if watches(url):
        return pool_watching(make, watched(url), arguments)
    return make.from_url(url, **arguments)


def connect(
    url: str,
    *,
    timeout_s: float = 1.5,
    retries: int = 1,
    max_connections: int = 64,
    answer_within_s: float = 0.0,
    **more: Any,
) -> "Redis":
    """Return a client for *url* that decodes replies to str and fails within about 2 s.

    With *answer_within_s* no command takes longer than that, however connecting, retries and the
    wait for a free connection add up; blocking commands and Pub/Sub need a client of their own.
    *more* goes to the pool (``decode_responses=False`` for raw bytes). Nothing is sent yet.
    """
    arguments = {"decode_responses": True, "encoding_errors": "surrogateescape"}
    unix = url.startswith("unix:")
    recipe = pool_arguments(timeout_s=timeout_s, retries=retries)
    if answer_within_s:  # bounds the whole; a timer for every reply would be on top
        recipe["socket_timeout"] = None
    if unix:
        recipe.pop("socket_keepalive")
        recipe.pop("socket_keepalive_options")
    pool: ConnectionPool = made(
        BlockingConnectionPool,
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        **{**arguments, **recipe, **more},
    )
    client = Redis.from_pool(prepared(pool))
    return promptly(client, answer_within_s) if answer_within_s else client


def explained(error: Exception, url: str) -> Exception:
    """Turn a redis-py error into ours: refused or unavailable, with the masked URL."""
    where = masked_url(url)
    if is_refusal(error):
        return RedisRefused(f"Redis at {where} refuses: {str(error)[:200]}")
    if isinstance(error, (*GONE, RedisError)):
        return RedisUnavailable(
            f"Redis at {where} does not answer ({type(error).__name__}: {str(error)[:200]})"
        )
    return error
