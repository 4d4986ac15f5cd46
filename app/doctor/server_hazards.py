"""Hazards of the Redis servers: what follows from what each told of itself. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from app.doctor.findings import Finding, Severity
from app.doctor.servers import Server

#: lines of Redis → the lowest patch without a published remote execution, as of 2026-07-24
#: (the unscheduled releases of that day; lines that are missing get no fixes any more)
FIXED: Final[Mapping[tuple[int, int], int]] = {
    (6, 2): 23, (7, 2): 15, (7, 4): 10, (8, 2): 8, (8, 4): 5, (8, 6): 5, (8, 8): 1,
}  # fmt: skip
FIXED_ON: Final = "2026-07-24"
#: s two clocks may differ: deferred jobs, and what people read
SKEW_S: Final = 1.0
SKEW_CRITICAL_S: Final = 30.0
_MB: Final = 1_048_576


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
    # While Redis replays its file it calls it off: nothing is known of it then.
    if keeps and not server.number("aof_enabled") and not server.number("loading"):
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
