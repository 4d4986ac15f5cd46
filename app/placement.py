"""Placement: which queue server holds which queue, read from REDIS_QUEUE_SHARDS. Pure.

The first queue server is the *home*: it holds every queue nobody placed elsewhere, and what belongs to
the whole deployment (audit, operations, causes, keys, history). A queue lives wholly on one server.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from app.errors import SettingsError
from app.sentinels import check_address

#: the home server's name, the role it has always had
HOME: Final = "queue"
FORM: Final = "reports,thumbnails-*=redis://host:6379/0 mail=redis://other:6379/0"
#: servers beside the home: each costs a reader a round trip per sample
MOST: Final = 32
_PLACED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:~-]{0,127}\*?|\*")


@dataclass(frozen=True, slots=True)
class QueueServer:
    """A further queue server, and what was placed on it."""

    name: str  #: ``queue-2``, ``queue-3`` … in the order they are named
    url: str
    queues: tuple[str, ...]  #: names, or beginnings of names that end in ``*``


@dataclass(frozen=True, slots=True)
class Placement:
    """The further queue servers; without any, every queue is at home."""

    servers: tuple[QueueServer, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all queue servers, the home first."""
        return (HOME, *(server.name for server in self.servers))

    def server_of(self, queue: str) -> str:
        """Name of the server that holds *queue*: its own name wins, then the longest beginning."""
        best, found = -1, HOME
        for server in self.servers:
            for placed in server.queues:
                if placed == queue:
                    return server.name
                stem = placed[:-1]
                if placed.endswith("*") and queue.startswith(stem) and len(stem) > best:
                    best, found = len(stem), server.name
        return found

    def held_by(self, name: str, queues: Iterable[str]) -> tuple[str, ...]:
        """Those of *queues* that the server called *name* holds."""
        return tuple(queue for queue in queues if self.server_of(queue) == name)

    def url_of(self, name: str) -> str:
        """URL of the further server called *name*; KeyError for what is none."""
        return {server.name: server.url for server in self.servers}[name]

    @classmethod
    def parse(cls, text: str, *, home: str = "", taken: Iterable[str] = ()) -> "Placement":
        """Read ``QUEUES=URL`` entries separated by spaces; SettingsError names the entry and the remedy.

        *home*: the URL of the home server, *taken*: names no queue may have.
        """
        servers: list[QueueServer] = []
        seen: dict[str, int] = {}
        urls = {home: "REDIS_QUEUE_URL"} if home else {}
        for number, entry in enumerate(text.split(), 1):
            listed, equals, url = entry.partition("=")
            where = f"entry {number} ({listed[:60] if equals else '…'})"
            if not equals:
                raise SettingsError(f"{where} has no '=': write {FORM}")
            queues = tuple(filter(None, listed.split(",")))
            if not queues:
                raise SettingsError(f"{where} names no queue before '=': write {FORM}")
            for queue in queues:
                if not _PLACED.fullmatch(queue) or queue in taken:
                    raise SettingsError(
                        f"{where}: {queue[:140]!r} is no queue, nor the beginning of one and a '*'"
                    )
                if queue in seen:
                    raise SettingsError(
                        f"{where}: {queue!r} was placed by entry {seen[queue]} already: keep one of them"
                    )
                seen[queue] = number
            try:
                check_address(url)
            except SettingsError as error:
                raise SettingsError(f"{where}: the address after '=' is {error}") from error
            if url in urls:
                raise SettingsError(
                    f"{where} names the same server as {urls[url]}: put its queues into one entry"
                    + (
                        ", or leave them out: the home holds what is placed nowhere"
                        if url == home
                        else ""
                    )
                )
            urls[url] = f"entry {number}"
            servers.append(QueueServer(f"{HOME}-{number + 1}", url, queues))
        if len(servers) > MOST:
            raise SettingsError(f"{len(servers)} further queue servers: at most {MOST}")
        return cls(tuple(servers))


#: every queue at home: one queue server
AT_HOME: Final = Placement()
