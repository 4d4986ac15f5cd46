"""A master, its replicas and three sentinels that watch them: what a rig uses in place of one server."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis as redis_sync

from app.child import die_with_parent
from tests.conftest import RunningRedis, redis_binary, start_redis, unused_port, wait_until
from tests.faults.proxy import ChaosProxy

PASSWORD: Final = "test-password"
SENTINEL_PASSWORD: Final = "sentinel-password"
DOWN_MS: Final = 1_000
_SENTINEL: Final = """\
port {port}
bind 127.0.0.1
dir "{directory}"
requirepass {sentinel_password}
sentinel sentinel-pass {sentinel_password}
sentinel monitor main 127.0.0.1 {master} 2
sentinel auth-pass main {password}
sentinel down-after-milliseconds main {down_ms}
sentinel failover-timeout main 5000
sentinel parallel-syncs main 2
"""


@dataclass
class Fleet:
    """Three servers of one data set and three sentinels; ``database`` tells the sentinels' URL."""

    servers: list[RunningRedis]
    sentinels: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    def database(self, number: int) -> str:
        """The sentinel URL of database *number*."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return (
            f"redis+sentinel://:{PASSWORD}@{hosts}/main/{number}"
            f"?sentinel_password={SENTINEL_PASSWORD}"
        )

    def master(self) -> RunningRedis:
        """The server the sentinels call the master."""
        with redis_sync.Redis(port=self.ports[0], password=SENTINEL_PASSWORD) as client:
            reply: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        return next(server for server in self.servers if server.port == int(reply[1]))

    def known_replicas(self) -> int:
        """Replicas that every sentinel knows, and other sentinels."""
        least = 99
        for port in self.ports:
            with redis_sync.Redis(port=port, password=SENTINEL_PASSWORD) as client:
                told: Any = client.sentinel_master("main")
            least = min(least, int(told["num-slaves"]), int(told["num-other-sentinels"]))
        return least

    def stop(self) -> None:
        """End, by pid, everything."""
        for process in self.sentinels:
            process.kill()
        for process in self.sentinels:
            process.wait(10)
        for server in self.servers:
            server.kill()


def replicated(
    directory: Path,
    count: int,
    *,
    guard: bool,
    max_lag_s: int = 2,
    through: ChaosProxy | None = None,
) -> list[RunningRedis]:
    """Start a master and *count* replicas that are in step; *guard*: min-replicas-to-write 1.

    *through*: replicas reach their master by it (call this from a thread: its loop must run).
    """
    common = (
        "--masterauth", PASSWORD, "--appendfsync", "everysec", "--repl-diskless-sync-delay", "0",
        "--repl-ping-replica-period", "1", "--min-replicas-to-write", "1" if guard else "0",
        "--min-replicas-max-lag", str(max_lag_s),
    )  # fmt: skip
    master = start_redis(directory / "redis-0", extra=common)
    servers = [master]
    if through is not None:
        through.target_port = master.port
    reached_at = through.port if through is not None else master.port
    for number in range(1, count + 1):
        extra = (*common, "--replicaof", f"127.0.0.1 {reached_at}")
        servers.append(start_redis(directory / f"redis-{number}", extra=extra))

    def told(server: RunningRedis) -> Any:
        with redis_sync.Redis.from_url(server.url) as client:
            return client.info("replication")

    def in_step() -> bool:
        # "online" to its master is a replica that still loads what it was sent
        for replica in servers[1:]:
            info = told(replica)
            if info["master_link_status"] != "up" or info["master_sync_in_progress"]:
                return False
        info = told(master)
        lines = [v for k, v in info.items() if k.startswith("slave") and isinstance(v, dict)]
        return len(lines) == count and all(line["state"] == "online" for line in lines)

    wait_until(in_step, 30, "the replicas are in step")
    return servers


def start_fleet(directory: Path, *, guard: bool = True) -> Fleet:
    """Start it and wait until the sentinels know everything."""
    fleet = Fleet(replicated(directory, 2, guard=guard))
    for number in range(3):
        port = unused_port()
        own = directory / f"sentinel-{number}"
        own.mkdir(parents=True)
        text = _SENTINEL.format(
            port=port,
            directory=own,
            master=fleet.servers[0].port,
            password=PASSWORD,
            sentinel_password=SENTINEL_PASSWORD,
            down_ms=DOWN_MS,
        )
        (own / "sentinel.conf").write_text(text)
        with (own / "log").open("wb") as log:
            fleet.sentinels.append(
                subprocess.Popen(
                    [str(redis_binary()), str(own / "sentinel.conf"), "--sentinel"],
                    stdout=log,
                    stderr=log,
                    preexec_fn=lambda: die_with_parent(9),
                )
            )
        fleet.ports.append(port)

    def known() -> bool:
        try:
            return fleet.known_replicas() >= 2
        except (redis_sync.RedisError, OSError):
            return False

    try:
        wait_until(known, 30, "the sentinels know replicas and each other")
    except BaseException:
        fleet.stop()
        raise
    return fleet
