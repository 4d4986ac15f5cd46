"""Sentinels: URLs that name them, and connections that ask them where the master is, each time anew.

``redis+sentinel://user:password@host:26379,host:26379/master-name/0`` (``rediss+sentinel`` for TLS). A
connection that is made asks the sentinels in turn; one whose server became a replica is closed, so
that the next one finds the new master. Who was answered is said once: nothing is remembered for long.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import redis as redis_sync
import redis.asyncio as redis_async
from redis.exceptions import ConnectionError, ReadOnlyError, RedisError  # noqa: A004

from app.errors import SettingsError

SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
PORT: Final = 26_379
#: s one sentinel may take; there are others
ASK_S: Final = 0.5
#: s an answer is used again: a whole pool that reconnects asks once
FRESH_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Watched:
    """A master and who watches it."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    tls: tuple[tuple[str, str], ...] = ()  #: ``ssl_…`` arguments of the URL

    def login(self) -> dict[str, Any]:
        """What a connection to the master is made with, beside its address."""
        known = {"db": self.database, "username": self.username, "password": self.password}
        return {name: value for name, value in known.items() if value is not None} | self.ssl()

    def ssl(self) -> dict[str, Any]:
        """Arguments of TLS, as redis-py wants them."""
        words = {"true": True, "false": False}
        return {name: words.get(value.lower(), value) for name, value in self.tls}


def watches(url: str) -> bool:
    """Whether *url* names sentinels."""
    return url.partition("://")[0] in SCHEMES


def check_address(url: str) -> None:
    """Raise SettingsError, which says what it is instead, unless *url* leads to a Redis."""
    if watches(url):
        watched(url)
        return
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.path):
        raise SettingsError(
            "not a redis://, rediss:// or unix:// URL with a host, nor redis+sentinel://"
        )


def watched(url: str) -> Watched:
    """Read a sentinel URL; SettingsError says what is wrong with it."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    master, _, number = parts.path.strip("/").partition("/")
    form = "redis+sentinel://user:password@host:26379,host:26379/master-name/0"
    if parts.scheme not in SCHEMES or not hosts or not master:
        raise SettingsError(f"a sentinel URL looks like {form}")
    if number and not number.isdecimal():
        raise SettingsError(f"the database {number!r} is not a number: {form}")
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", str(PORT))
        if not name or not port.isdecimal():
            raise SettingsError(f"{host!r} is not host:port: {form}")
        sentinels.append((name.strip("[]"), int(port)))
    query = dict(parse_qsl(parts.query))
    return Watched(
        sentinels=tuple(sentinels),
        master=unquote(master),
        database=int(number or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        sentinel_password=query.pop("sentinel_password", None),
        is_tls=parts.scheme.startswith("rediss"),
        tls=tuple((name, value) for name, value in query.items() if name.startswith("ssl_")),
    )


class Discovery:
    """Asks the sentinels of one master; shared by the connections of a pool."""

    def __init__(self, of: Watched) -> None:
        self.of = of
        self._known: tuple[float, tuple[str, int]] | None = None
        self._first = 0  #: the sentinel that answered last is asked first

    async def master(self) -> tuple[str, int]:
        """Where the master is now; ConnectionError when no sentinel says so."""
        said: list[str] = []
        if (known := self._fresh()) is not None:
            return known
        for number in self._order():
            client = redis_async.Redis(**self._sentinel(number))
            try:
                reply = await client.execute_command(  # type: ignore[no-untyped-call]
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.of.master
                )
            except (RedisError, OSError) as error:
                said.append(self._told(number, error))
                continue
            finally:
                await client.aclose()
            if (address := self._taken(number, reply, said)) is not None:
                return address
        raise self._nobody(said)

    def master_now(self) -> tuple[str, int]:
        """As ``master``, without an event loop."""
        said: list[str] = []
        if (known := self._fresh()) is not None:
            return known
        for number in self._order():
            try:
                with redis_sync.Redis(**self._sentinel(number)) as client:
                    reply: Any = client.execute_command(
                        "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.of.master
                    )
            except (RedisError, OSError) as error:
                said.append(self._told(number, error))
                continue
            if (address := self._taken(number, reply, said)) is not None:
                return address
        raise self._nobody(said)

    def forget(self) -> None:
        """Ask again next time: who was told is not, or no longer, the master."""
        self._known = None

    def _fresh(self) -> tuple[str, int] | None:
        known = self._known
        return known[1] if known and time.monotonic() - known[0] < FRESH_S else None

    def _order(self) -> list[int]:
        count = len(self.of.sentinels)
        return [(self._first + number) % count for number in range(count)]

    def _sentinel(self, number: int) -> dict[str, Any]:
        host, port = self.of.sentinels[number]
        return {
            "host": host, "port": port, "password": self.of.sentinel_password,
            "socket_timeout": ASK_S, "socket_connect_timeout": ASK_S, "decode_responses": True,
            **({"ssl": True, **self.of.ssl()} if self.of.is_tls else {}),
        }  # fmt: skip

    def _taken(self, number: int, reply: Any, said: list[str]) -> tuple[str, int] | None:
        host, port = self.of.sentinels[number]
        if not reply:
            said.append(f"{host}:{port} knows no master {self.of.master!r}")
            return None
        address = (str(reply[0]), int(reply[1]))
        self._known, self._first = (time.monotonic(), address), number
        return address

    def _told(self, number: int, error: Exception) -> str:
        host, port = self.of.sentinels[number]
        return f"{host}:{port} {type(error).__name__}: {str(error)[:80]}"

    def _nobody(self, said: list[str]) -> ConnectionError:
        return ConnectionError(f"no sentinel tells the master: {'; '.join(said)[:300]}")


class Seeking:
    """A connection that asks where the master is, each time it is made."""

    def __init__(self, *, discovery: Discovery, **more: Any) -> None:
        self._discovery = discovery
        super().__init__(**more)

    async def _connect(self) -> None:
        self.host, self.port = await self._discovery.master()
        try:
            await super()._connect()  # type: ignore[misc]
        except BaseException:
            self._discovery.forget()
            raise

    async def read_response(self, *args: Any, **more: Any) -> Any:
        """Read; a server that became a replica is left, and its connection closed."""
        try:
            return await super().read_response(*args, **more)  # type: ignore[misc]
        except ReadOnlyError as error:
            self._discovery.forget()
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise ConnectionError("the master became a replica") from error


class SeekingNow:
    """As ``Seeking``, without an event loop."""

    def __init__(self, *, discovery: Discovery, **more: Any) -> None:
        self._discovery = discovery
        super().__init__(**more)

    def _connect(self) -> Any:
        self.host, self.port = self._discovery.master_now()
        try:
            return super()._connect()  # type: ignore[misc]
        except BaseException:
            self._discovery.forget()
            raise

    def read_response(self, *args: Any, **more: Any) -> Any:
        """Read; a server that became a replica is left, and its connection closed."""
        try:
            return super().read_response(*args, **more)  # type: ignore[misc]
        except ReadOnlyError as error:
            self._discovery.forget()
            self.disconnect()  # type: ignore[attr-defined]
            raise ConnectionError("the master became a replica") from error


class SeekingConnection(Seeking, redis_async.Connection):
    """In clear."""


class SeekingTLSConnection(Seeking, redis_async.SSLConnection):
    """Over TLS."""


class BlockingConnection(SeekingNow, redis_sync.Connection):
    """In clear, without an event loop."""


class BlockingTLSConnection(SeekingNow, redis_sync.SSLConnection):
    """Over TLS, without an event loop."""


def pool_watching(make: Callable[..., Any], of: Watched, arguments: dict[str, Any]) -> Any:
    """A pool of class *make* whose connections follow the master *of* is about."""
    if issubclass(make, redis_async.ConnectionPool):  # type: ignore[arg-type]
        kind: Any = SeekingTLSConnection if of.is_tls else SeekingConnection
    else:
        kind = BlockingTLSConnection if of.is_tls else BlockingConnection
    return make(connection_class=kind, discovery=Discovery(of), **of.login(), **arguments)
