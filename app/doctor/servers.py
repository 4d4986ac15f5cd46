"""The Redis servers: what each tells of itself, and what it does not."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from app.origins import is_loopback
from app.placement import HOME
from app.settings import masked_url
from app.wire.connections import explained

#: roles that hold work; the cache role may forget
KEEPS: Final = ("queue", "streams")
_SETTINGS: Final = (
    "protected-mode",
    "appendfsync",
    "save",
    "dir",
    "notify-keyspace-events",
    "min-replicas-to-write",
)
#: s one server may take; a refused password is tried again after one
PATIENCE_S: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What one server told of itself."""

    role: str
    url: str
    info: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] | None = None  #: None: we may not ask
    user: str = ""  #: whom we are logged in as; empty: unknown
    replay_lacks: str = ""  #: rights the user ``default`` lacks, as which a file is replayed
    lets_anybody_in: bool | None = None  #: None: not known
    skew_s: float = 0.0  #: Redis' clock minus ours, as far as the round trip can tell
    free_bytes: int | None = None  #: on its disk, where that is a disk of this machine
    problem: str = ""  #: why it told nothing
    error: Exception | None = field(default=None, repr=False)  #: the same, as it was raised

    @property
    def is_of_queues(self) -> bool:
        """Whether it is a queue server, the home or a further one (``queue-2`` …)."""
        return self.role.partition("-")[0] == HOME

    @property
    def keeps(self) -> bool:
        """Whether what it holds must not be lost."""
        return self.role in KEEPS or self.is_of_queues

    @property
    def is_local(self) -> bool:
        """Whether it listens for us on this machine alone."""
        parts = urlsplit(self.url)
        return parts.scheme == "unix" or is_loopback(parts.netloc.rpartition("@")[2].split(":")[0])

    def number(self, name: str) -> float:
        """A number of INFO; 0 when it is missing."""
        try:
            return float(self.info.get(name, 0))
        except (TypeError, ValueError):
            return 0.0


async def look_at(
    role: str, redis: Redis, url: str, *, patience_s: float = PATIENCE_S, only_info: bool = False
) -> Server:
    """Ask one server; what it does not tell stays unknown. *only_info*: nothing a login's rights may lack."""
    try:
        async with asyncio.timeout(patience_s):
            began = time.time()
            seconds, micros = await redis.time()
            ended = time.time()
            info: dict[str, Any] = await redis.info()
    except TimeoutError:
        problem = f"Redis at {masked_url(url)} does not answer within {patience_s:g} s"
        return Server(role=role, url=url, problem=problem)
    except (RedisError, OSError) as error:
        return Server(role=role, url=url, problem=str(explained(error, url)), error=error)
    told_s = int(seconds) + int(micros) / 1e6
    skew_s = told_s - ended if told_s > ended else min(0.0, told_s - began)
    config, user, replay_lacks = None, "", ""
    if not only_info:
        config = await _configuration(redis)
        with contextlib.suppress(RedisError, OSError):
            user = str(await redis.acl_whoami())
        with contextlib.suppress(RedisError, OSError):
            replay_lacks = _lacking(await redis.acl_getuser("default"))
    return Server(
        role=role,
        url=url,
        info=info,
        config=config,
        user=user,
        replay_lacks=replay_lacks,
        lets_anybody_in=await _lets_anybody_in(url),
        skew_s=skew_s,
        free_bytes=_free_bytes(url, info, config),
    )


async def _configuration(redis: Redis) -> dict[str, str] | None:
    found: dict[str, str] = {}
    try:
        for name in _SETTINGS:  # one by one: 6.2 takes one pattern
            found |= {str(k): str(v) for k, v in (await redis.config_get(name)).items()}
    except (RedisError, OSError):
        return None
    return found


def _lacking(user: Mapping[str, Any]) -> str:
    """Which rules keep *user* from anything; empty when it has every right, be it on or off."""
    rules = [str(rule) for name in ("categories", "commands") for rule in user.get(name) or ()]
    kept = [rule for rule in rules if rule.startswith("-")]
    if "+@all" not in rules and not kept:
        kept = rules or ["no command"]
    if not {"~*", "*"} & {str(key) for key in user.get("keys") or ()}:
        kept.append("not every key")
    return " ".join(kept)


async def _lets_anybody_in(url: str) -> bool | None:
    """Whether the server answers somebody without a name and a password."""
    parts = urlsplit(url)
    if "+" in parts.scheme:  # behind sentinels: the server's own address is theirs to tell
        return None
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    # not by the recipe: it waits its turn after a refusal, and a refusal is what is hoped for
    client: Redis = Redis.from_url(bare, socket_timeout=1.0, socket_connect_timeout=1.0)
    try:
        async with asyncio.timeout(2):
            await client.ping()
    except ResponseError:
        return False
    except (RedisError, OSError, TimeoutError) as error:
        return False if "NOAUTH" in str(error) or "uthentication" in str(error) else None
    finally:
        await client.aclose()
    return True


def _free_bytes(url: str, info: Mapping[str, Any], config: Mapping[str, str] | None) -> int | None:
    """Free bytes of the server's directory; None when it is another machine's."""
    if not Server(role="", url=url).is_local or config is None:
        return None
    directory = Path(config.get("dir", ""))
    if not Path(f"/proc/{info.get('process_id', 0)}").is_dir() or not directory.is_dir():
        return None
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def unknown_of(server: Server) -> Iterator[str]:
    """What one server did not tell, and why."""
    if server.problem:
        yield f"it told nothing: {server.problem}"
        return
    if server.config is None:
        yield "its configuration is not for us to ask (CONFIG GET): fsync, save, keyspace events"
    if server.lets_anybody_in is None:
        yield "whether it lets anybody in"
    if server.free_bytes is None and server.keeps:
        yield "how much room its disk has (it is on another machine, or another user's)"
