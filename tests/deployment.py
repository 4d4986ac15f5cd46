"""The three Redis of compose/ on this machine: its very files, paths and ports alone changed, and its logins."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis as redis_sync

from app.child import die_with_parent
from app.embedded import find_server
from tests.conftest import ROOT, lacking, redis_binary, unused_port

COMPOSE = ROOT / "compose"
ROLES = ("cache", "streams", "queue")
#: role → the name its service has in compose.yaml
SERVICES = {"cache": "redis", "streams": "redis-streams", "queue": "redis-queue"}
VARIABLES = {
    "cache": "REDIS_URL",
    "streams": "REDIS_STREAMS_URL",
    "queue": "REDIS_QUEUE_URL",
}
_MADE = shutil.ignore_patterns("secrets", "made", "wheels", ".env")


def copy_of_compose(directory: Path) -> Path:
    """Copy compose/ without anything made in it, and make its secrets there."""
    copied = Path(shutil.copytree(COMPOSE, directory / "compose", ignore=_MADE))
    subprocess.run([copied / "secrets.sh"], check=True, capture_output=True)
    return copied


@dataclass
class Deployed:
    """Three servers with the configuration and the logins of compose/."""

    directory: Path
    tls: bool = False
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        redis_binary()
        if not find_server().has_group_lag:  # rights per key came with 7.0
            lacking("redis-server of version 7 or later")
        if self.tls and not shutil.which("openssl"):
            lacking("openssl")
        self.compose = copy_of_compose(self.directory)
        if self.tls:
            subprocess.run([self.compose / "tls" / "make.sh"], check=True, capture_output=True)

    def start(self, *roles: str) -> "Deployed":
        """Start the servers of *roles* (all) and wait until admin may ask them."""
        for role in roles or ROLES:
            self.ports.setdefault(role, unused_port())
            self.start_one(role)
        return self

    def start_one(self, role: str) -> None:
        """Start (again) the server of *role*."""
        data = self.directory / f"data-{role}"
        data.mkdir(exist_ok=True)
        configuration = self._configuration(role, data)
        with (data / "redis.log").open("ab") as log:
            parent = os.getpid()
            self.processes[role] = subprocess.Popen(
                [redis_binary(), configuration, *self._overrides(role)],
                stdout=log,
                stderr=log,
                preexec_fn=lambda: die_with_parent(signal.SIGKILL, parent),
            )
        end = time.monotonic() + 20
        with self.client("admin", role) as client:
            while True:
                try:
                    client.ping()
                except (redis_sync.RedisError, OSError):
                    if self.processes[role].poll() is not None or time.monotonic() > end:
                        raise AssertionError((data / "redis.log").read_text()[-2000:]) from None
                    time.sleep(0.02)
                else:
                    return

    def _configuration(self, role: str, data: Path) -> Path:
        """The role's file with the container's paths replaced by ours; nothing else."""
        made = self.compose / "tls" / "made"
        replaced = {
            "/etc/redis/": f"{self.directory}/etc-{role}/",
            "/run/secrets/users.acl": f"{self.compose}/secrets/users-{role}.acl",
            "/run/secrets/server.": f"{made}/{SERVICES[role]}.",
            "/run/secrets/ca.crt": f"{made}/ca.crt",
            "dir /data": f"dir {data}",
        }
        etc = self.directory / f"etc-{role}"
        etc.mkdir(exist_ok=True)
        for source in (self.compose / "redis").glob("*.conf"):
            text = source.read_text()
            for inside, here in replaced.items():
                text = text.replace(inside, here)
            (etc / source.name).write_text(text)
        return etc / f"{role}.conf"

    def _overrides(self, role: str) -> list[str]:
        port = str(self.ports[role])
        if self.tls:
            tls = str(self.directory / f"etc-{role}" / "tls.conf")
            return ["--include", tls, "--bind", "127.0.0.1", "--tls-port", port]
        return ["--bind", "127.0.0.1", "--port", port]

    def password(self, login: str) -> str:
        """The generated password of *login*."""
        return (self.compose / "secrets" / f"redis_{login}").read_text()

    def url(self, login: str, role: str, *, password: bool = True, host: str = "127.0.0.1") -> str:
        """URL of *role* for *login*."""
        scheme = "rediss" if self.tls else "redis"
        who = f"{login}:{self.password(login)}" if password else login
        return f"{scheme}://{who}@{host}:{self.ports[role]}/0"

    def client(self, login: str, role: str) -> "redis_sync.Redis":
        """A client of *role* as *login*; it takes whatever certificate, ours do not."""
        more: dict[str, Any] = {"ssl_cert_reqs": "none"} if self.tls else {}
        return redis_sync.Redis.from_url(
            self.url(login, role), decode_responses=True, socket_timeout=5, **more
        )

    def environment(self, login: str, **more: str) -> dict[str, str]:
        """Environment of a process as compose.yaml gives it to a service that logs in as *login*."""
        kept = ("PATH", "HOME", "LANG", "VIRTUAL_ENV")
        given = {name: os.environ[name] for name in kept if name in os.environ}
        given |= {VARIABLES[role]: self.url(login, role, password=False) for role in ROLES}
        given |= {
            "REDIS_PASSWORD_FILE": str(self.compose / "secrets" / f"redis_{login}"),
            "ARQSCOPE_DATA_DIR": str(self.directory / "letters"),
            "PYTHONPATH": str(ROOT),
        }
        if self.tls:
            given["ARQSCOPE_REDIS_CA"] = str(self.compose / "tls" / "made" / "ca.crt")
        return given | more

    @contextlib.contextmanager
    def process(self, login: str, *command: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``arqscope command…`` as *login*; its log is ``command-….log`` beside the data."""
        log = self.directory / f"{'-'.join(command)}.log"
        parent = os.getpid()
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app.cli", *command],
                cwd=self.directory,
                env=self.environment(login, **more),
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: die_with_parent(signal.SIGKILL, parent),
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)

    def denials(self, role: str) -> list[dict[str, Any]]:
        """What *role* refused anybody since the last reset, newest first."""
        with self.client("admin", role) as client:
            return [
                {k: line[k] for k in ("count", "username", "context", "object", "reason")}
                for line in client.acl_log()
            ]

    def reset_denials(self) -> None:
        """Forget what was refused."""
        for role in self.ports:
            with self.client("admin", role) as client:
                client.acl_log_reset()

    def stop(self) -> None:
        """Stop the servers."""
        for process in self.processes.values():
            process.kill()
            process.wait(5)
