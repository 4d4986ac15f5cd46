"""Hazards of the Redis servers: what each says of itself, and what follows from it."""

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

from app.doctor.findings import Finding, Severity
from app.origins import is_loopback
from app.placement import HOME
from app.settings import masked_url
from app.wire.connections import explained

#: lines of Redis → the lowest patch without a published remote execution, as of 2026-07-24
#: (the unscheduled releases of that day; lines that are missing get no fixes any more)
FIXED: Final[Mapping[tuple[int, int], int]] = {
    (6, 2): 23, (7, 2): 15, (7, 4): 10, (8, 2): 8, (8, 4): 5, (8, 6): 5, (8, 8): 1,
}  # fmt: skip
FIXED_ON: Final = "2026-07-24"
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
#: s two clocks may differ: deferred jobs, and what people read
SKEW_S: Final = 1.0
SKEW_CRITICAL_S: Final = 30.0
_MB: Final = 1_048_576


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
        return Server(role=role, url=url, problem=str(explained(error, url)))
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
        yield "it told nothing"
        return
    if server.config is None:
        yield "its configuration is not for us to ask (CONFIG GET): fsync, save, keyspace events"
    if server.lets_anybody_in is None:
        yield "whether it lets anybody in"
    if server.free_bytes is None and server.keeps:
        yield "how much room its disk has (it is on another machine, or another user's)"


def hazards_of(server: Server) -> Iterator[Finding]:
    """What is wrong with one server."""
    if server.problem:
        yield _finding(
            server, "unreachable", Severity.CRITICAL, "It does not answer.", server.problem,
            "start it; correct its URL or its password",
        )  # fmt: skip
        return
    yield from _memory(server)
    yield from _persistence(server)
    yield from _replication(server)
    yield from _access(server)
    yield from _rest(server)


def _finding(
    server: Server, hazard: str, severity: Severity, sentence: str, evidence: str, remedy: str
) -> Finding:
    return Finding(
        hazard=hazard, severity=severity, where=f"redis {server.role}", sentence=sentence,
        evidence=evidence, remedy=remedy,
    )  # fmt: skip


def _memory(server: Server) -> Iterator[Finding]:
    policy = str(server.info.get("maxmemory_policy", ""))
    limit, used = server.number("maxmemory"), server.number("used_memory")
    total = server.number("total_system_memory")
    if server.keeps and policy not in ("", "noeviction"):
        yield _finding(
            server, "eviction", Severity.CRITICAL if limit else Severity.WARNING,
            "Redis throws jobs away when its memory is full.", f"maxmemory-policy={policy}",
            "maxmemory-policy noeviction: a full queue must refuse, not forget",
        )  # fmt: skip
    if server.keeps and (evicted := server.number("evicted_keys")):
        yield _finding(
            server, "evicted", Severity.CRITICAL, "Redis has thrown keys away.",
            f"evicted_keys={evicted:.0f} since its start",
            "maxmemory-policy noeviction; compare accepted with completed in /analyses/conservation",
        )  # fmt: skip
    if not limit:
        near = total and used > 0.5 * total
        yield _finding(
            server, "no-memory-limit", Severity.WARNING if near else Severity.NOTICE,
            "No memory limit: when the machine's memory is gone the kernel kills Redis.",
            f"maxmemory=0, {used / _MB:,.0f} MiB used of {total / _MB:,.0f} MiB",
            "set maxmemory to at most 70% of the memory it may have",
        )  # fmt: skip
    elif used > 0.8 * limit:
        yield _finding(
            server, "memory-headroom", Severity.CRITICAL if used > 0.95 * limit else Severity.WARNING,
            "Memory is nearly full: writes will be refused.",
            f"{used / limit:.0%} of maxmemory {limit / _MB:.0f} MiB",
            "raise maxmemory, shorten COMPLETED_JOB_TTL, or let the queues drain",
        )  # fmt: skip


def _persistence(server: Server) -> Iterator[Finding]:
    info, keeps = server.info, server.keeps
    if keeps and not server.number("aof_enabled"):
        yield _finding(
            server, "aof-off", Severity.CRITICAL, "Jobs and events do not outlive a restart.",
            "appendonly=no", "appendonly yes, appendfsync everysec",
        )  # fmt: skip
    elif keeps and (server.config or {}).get("appendfsync") == "no":
        yield _finding(
            server, "aof-fsync-off", Severity.WARNING,
            "A power cut loses what the kernel had not written, up to 30 s.", "appendfsync=no",
            "appendfsync everysec",
        )  # fmt: skip
    for name, severity, what in (
        ("aof_last_write_status", Severity.CRITICAL, "The append-only file cannot be written."),
        (
            "aof_last_bgrewrite_status",
            Severity.WARNING,
            "The append-only file cannot be rewritten.",
        ),
        ("rdb_last_bgsave_status", Severity.WARNING, "A snapshot cannot be written."),
    ):
        if info.get(name, "ok") != "ok":
            yield _finding(
                server, "disk-error", severity, what, f"{name}={info[name]}",
                "make room on its disk, look at its log; it heals by itself then",
            )  # fmt: skip
    delayed, buffered = server.number("aof_delayed_fsync"), server.number("aof_buffer_length")
    if delayed or buffered > _MB:
        yield _finding(
            server, "slow-disk", Severity.WARNING,
            "Its disk is slower than its writes: a crash now loses more than one second.",
            f"aof_delayed_fsync={delayed:.0f} since its start, {buffered / _MB:.1f} MiB not written",
            "a faster disk of its own; no-appendfsync-on-rewrite no",
        )  # fmt: skip
    if server.free_bytes is not None:
        needs = max(server.number("aof_current_size"), server.number("used_memory"))
        if server.free_bytes < 2 * needs + 16 * _MB:
            yield _finding(
                server, "disk-space", Severity.CRITICAL if server.free_bytes < needs else Severity.WARNING,
                "Its disk has no room for the next rewrite.",
                f"{server.free_bytes / _MB:.0f} MiB free, a rewrite may need {needs / _MB:.0f} MiB",
                "make room: when the disk is full every write is refused",
            )  # fmt: skip
    if server.number("aof_enabled") and server.replay_lacks:
        yield _finding(
            server, "replay-rights", Severity.CRITICAL,
            "It replays its file as the user default, and drops what that user may not do: jobs vanish at "
            "its next start.",
            f"default lacks rights: {server.replay_lacks[:120]}",
            "user default off resetpass ~* &* +@all: off is enough, rights it must have",
        )  # fmt: skip
    if server.number("loading"):
        yield _finding(
            server, "loading", Severity.WARNING, "It is loading its data and answers nothing else.",
            f"loading_loaded_perc={info.get('loading_loaded_perc', '?')}", "wait",
        )  # fmt: skip


def _replication(server: Server) -> Iterator[Finding]:
    info = server.info
    if info.get("role") == "slave":
        yield _finding(
            server, "replica", Severity.CRITICAL, "It is a replica and takes no write.",
            f"master {info.get('master_host')}:{info.get('master_port')}, "
            f"link {info.get('master_link_status')}",
            "point the URL at the master, or at the sentinels: redis+sentinel://…",
        )  # fmt: skip
        return
    replicas = int(server.number("connected_slaves"))
    if not replicas:
        return
    if not server.number("aof_enabled") and server.keeps:
        save = None if server.config is None else server.config.get("save", "")
        yield _finding(
            server, "replicas-of-nothing", Severity.WARNING if save else Severity.CRITICAL,
            "The master keeps only snapshots: when it restarts, its replicas go back to the last one with it."
            if save else
            "The master keeps nothing on disk: when it restarts empty, its replicas empty themselves too.",
            f"appendonly=no, save={'unknown' if save is None else repr(save)}, {replicas} replica(s)",
            "appendonly yes on the master; or never let anything restart it by itself",
        )  # fmt: skip
    if "min_slaves_good_slaves" not in info and server.keeps:
        yield _finding(
            server, "failover-loses", Severity.WARNING,
            "A master that is cut off keeps accepting jobs that the failover throws away.",
            "min-replicas-to-write=0", "min-replicas-to-write 1, min-replicas-max-lag 10",
        )  # fmt: skip
    lags = [
        int(value.get("lag", 0)) for name, value in info.items()
        if name.startswith("slave") and isinstance(value, dict)
    ]  # fmt: skip
    if lags and max(lags) > 10:
        yield _finding(
            server, "replica-lag", Severity.WARNING, "A replica has not been heard of.",
            f"lag {max(lags)} s", "look at the replica and at the network between them",
        )  # fmt: skip


def _access(server: Server) -> Iterator[Finding]:
    if server.lets_anybody_in:
        yield _finding(
            server, "no-password", Severity.WARNING if server.is_local else Severity.CRITICAL,
            "Anybody who reaches it may read and change everything; a pickled job runs code in workers "
            "that allow pickle.",
            "PING without a password is answered",
            "requirepass or ACL users (generated, 128 bits or more); bind it to an internal network",
        )  # fmt: skip
    if server.lets_anybody_in and (server.config or {}).get("protected-mode") == "no":
        yield _finding(
            server, "unprotected", Severity.CRITICAL,
            "It answers other machines too without a password.", "protected-mode=no",
            "protected-mode yes, and a password",
        )  # fmt: skip
    if server.user == "default" and not server.lets_anybody_in:
        yield _finding(
            server, "default-user", Severity.NOTICE,
            "Every process logs in as the user who may do everything.", "ACL WHOAMI=default",
            "an ACL user per role (compose/redis has them); put its name into the URL",
        )  # fmt: skip
    if not server.is_local and not urlsplit(server.url).scheme.startswith("rediss"):
        yield _finding(
            server, "no-tls", Severity.NOTICE,
            "Passwords and jobs cross the network in clear.", urlsplit(server.url).scheme + "://",
            "rediss:// with tls-port and a certificate, unless the network is the container host's own",
        )  # fmt: skip


def _rest(server: Server) -> Iterator[Finding]:
    version = str(server.info.get("redis_version", ""))
    if (old := _too_old(version, server.info)) is not None:
        yield _finding(
            server, "version", Severity.WARNING,
            "This version of Redis has published holes through which scripts run code.",
            f"{version}; fixed {old} (as of {FIXED_ON})",
            "upgrade; a distribution may have fixed it under the old number: ask its security tracker",
        )  # fmt: skip
    if abs(server.skew_s) > SKEW_S:
        yield _finding(
            server, "clock-skew", Severity.CRITICAL if abs(server.skew_s) > SKEW_CRITICAL_S else Severity.WARNING,
            "Its clock and ours differ: due times are Redis', times on pages and of stock workers are not.",
            f"{server.skew_s:+.1f} s", "run a time service on both machines",
        )  # fmt: skip
    limit, clients = server.number("maxclients"), server.number("connected_clients")
    if limit and clients > 0.8 * limit:
        yield _finding(
            server, "clients", Severity.WARNING, "It will soon take no more connections.",
            f"{clients:.0f} of maxclients {limit:.0f}", "raise maxclients; find out who keeps them open",
        )  # fmt: skip
    if refused := server.number("rejected_connections"):
        yield _finding(
            server, "rejected", Severity.WARNING, "It has refused connections.",
            f"rejected_connections={refused:.0f} since its start", "raise maxclients",
        )  # fmt: skip
    events = None if server.config is None else server.config.get("notify-keyspace-events", "")
    if server.is_of_queues and events is not None and not _tells_of_queues(events):
        yield _finding(
            server, "slow-pickup", Severity.NOTICE,
            "Jobs of stock arq producers are found by polling, not at once.",
            f"notify-keyspace-events={events!r}", "notify-keyspace-events Kz",
        )  # fmt: skip


def _too_old(version: str, info: Mapping[str, Any]) -> str | None:
    """What fixes *version*; None when nothing is known against it."""
    if "valkey_version" in info or info.get("server_name") == "valkey":
        return None
    parts = version.split(".")
    if len(parts) < 3 or not all(part.isdecimal() for part in parts[:3]):
        return None
    major, minor, patch = (int(part) for part in parts[:3])
    floor = FIXED.get((major, minor))
    if floor is None:
        newer = (major, minor) > max(FIXED)
        return None if newer else "in no release of this line"
    return None if patch >= floor else f"in {major}.{minor}.{floor}"


def _tells_of_queues(events: str) -> bool:
    return "K" in events and ("z" in events or "A" in events)


def shared_hazards(servers: list[Server]) -> Iterator[Finding]:
    """What is wrong between servers: one that plays roles that want different settings."""
    by_run: dict[str, list[Server]] = {}
    for server in servers:
        if run := str(server.info.get("run_id", "")):
            by_run.setdefault(run, []).append(server)
    for group in by_run.values():
        roles = sorted(server.role for server in group)
        if len(group) > 1:
            yield Finding(
                hazard="one-server", severity=Severity.NOTICE, where="redis " + "+".join(roles),
                sentence="One server plays several roles: its memory limit and its end are shared.",
                evidence=f"run_id {str(group[0].info.get('run_id'))[:8]}",
                remedy="three servers, each with its own memory limit, when load grows",
            )  # fmt: skip
