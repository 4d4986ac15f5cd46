"""Fixtures: private real redis-servers and settings that point at them.

Nothing here touches a Redis it did not start.
"""

# The shadow check comes first: as a test it would never run, because conftest itself imports app.
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
for _name in ("app", "workers"):
    _found = find_spec(_name)
    if _found is None or _found.origin != str(ROOT / _name / "__init__.py"):
        raise pytest.UsageError(
            f"`import {_name}` finds {_found and _found.origin}, not {ROOT / _name}: "
            "run the tests with this checkout's own environment (make test)"
        )

import os  # noqa: E402
import random  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections.abc import AsyncIterator, Callable, Iterator  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402

import hypothesis  # noqa: E402
import redis as redis_sync  # noqa: E402
from redis.asyncio import Redis  # noqa: E402

from app.child import die_with_parent  # noqa: E402
from app.embedded import bundled_server, find_server  # noqa: E402
from app.errors import RedisServerMissing  # noqa: E402
from app.settings import Settings  # noqa: E402
from app.wire.connections import connect  # noqa: E402

# Properties say what holds, not how fast: on a loaded machine one example, or the tables of Unicode made at the
# first text, take longer than Hypothesis' own limits (200 ms; 1 s), and the test failed by the clock.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")

# A run that a script began in the background inherits an ignored SIGQUIT, and so would our workers.
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# How long an example takes says how busy the machine is; what is wanted of it is asserted.
hypothesis.settings.register_profile("arqscope", parent=hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("arqscope")

#: each is given once; two test runs on one machine begin at different ones
_ports = iter(random.SystemRandom().sample(range(20_000, 32_000), 12_000))


def unused_port() -> int:
    """A TCP port on loopback nobody listens on, below those the kernel gives to outgoing connections:
    one of these may be taken between this look and the server's own.
    """
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def lacking(what: str) -> NoReturn:
    """Skip a test because this machine has no *what*; CI has everything, so there it fails."""
    message = f"there is no {what}: ./.ci/install-system-packages and `make test` install all that is wanted"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def redis_binary(kind: str = "system") -> Path:
    """The ``system`` server (7 or later) or the ``bundled`` 6.2; skips, or fails when CI is set."""
    try:
        found = bundled_server() if kind == "bundled" else find_server()
    except RedisServerMissing:
        found = None
    if found is None:
        lacking(f"{kind} redis-server")
    return found.path


@dataclass
class RunningRedis:
    """A redis-server of one test; AOF on, so that ``kill`` and ``restart`` keep what was written."""

    binary: Path
    directory: Path
    port: int
    password: str
    extra: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """URL of database 0, password included."""
        return self.database(0)

    def database(self, number: int) -> str:
        """URL of database *number*."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{number}"

    def start(self, limit_s: float = 20) -> "RunningRedis":
        """Start and wait until it answers."""
        options = (
            "--save", "", "--appendonly", "yes", "--appendfsync", "always",
            "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory),
            "--requirepass", self.password, "--notify-keyspace-events", "Kz",
        )  # fmt: skip
        with (self.directory / "redis.log").open("ab") as log:
            parent = os.getpid()
            self.process = subprocess.Popen(
                [str(self.binary), *options, *self.extra],
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGKILL, parent),
            )
        end = time.monotonic() + limit_s
        with redis_sync.Redis.from_url(self.url, socket_timeout=1) as client:
            while True:
                try:
                    client.ping()
                except (redis_sync.RedisError, OSError):
                    if self.process.poll() is not None or time.monotonic() > end:
                        raise AssertionError(
                            (self.directory / "redis.log").read_text()[-2000:]
                        ) from None
                    time.sleep(0.01)
                else:
                    return self

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as an operator."""
        self._end(signal.SIGTERM)

    def restart(self) -> "RunningRedis":
        """Start again on the same port with the same data."""
        self.stop()
        return self.start()

    def _end(self, signal_number: int) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.send_signal(signal_number)
            self.process.wait(20)
            self.process = None


def start_redis(
    tmp_path: Path,
    binary: Path | None = None,
    *,
    port: int | None = None,
    extra: tuple[str, ...] = (),
) -> RunningRedis:
    """Start a private server with its data in *tmp_path*; *extra* are redis-server options."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    server = RunningRedis(
        binary or redis_binary(), tmp_path, port or unused_port(), "test-password", extra
    )
    return server.start()


def wait_until(condition: Callable[[], object], limit_s: float = 20, what: str = "") -> None:
    """Poll *condition* until it holds; AssertionError after *limit_s*. For tests of processes."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s} s: {what or condition}")
        time.sleep(0.02)


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    return unused_port()


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningRedis]]:
    """Servers shared by the tests that neither kill nor reconfigure them, by kind of binary."""
    running: dict[str, RunningRedis] = {}
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture
def redis_server(
    request: pytest.FixtureRequest,
    _servers: dict[str, RunningRedis],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunningRedis:
    """A private server, empty. Shared in the session: a test that kills one calls ``start_redis``.

    ``@pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)`` runs a test
    on 7 and on the embedded 6.2.
    """
    kind = getattr(request, "param", "system")
    server = _servers.get(kind)
    if server is None or server.process is None or server.process.poll() is not None:
        server = start_redis(tmp_path_factory.mktemp(f"redis-{kind}"), redis_binary(kind))
        _servers[kind] = server
    with redis_sync.Redis.from_url(server.url) as client:
        client.flushall()
    return server


@pytest.fixture
def settings(redis_server: RunningRedis, tmp_path: Path) -> Settings:
    """Settings of a private stack: cache, streams and queue are databases 0, 1 and 2."""
    return Settings(
        redis_url=redis_server.database(0),
        redis_streams_url=redis_server.database(1),
        redis_queue_url=redis_server.database(2),
        queue_ui_port=unused_port(),
        data_dir=tmp_path / "data",
        config_file=tmp_path / "arqscope.toml",
    )


@pytest.fixture
async def cache_redis(settings: Settings) -> AsyncIterator[Redis]:
    """Client of the cache role, empty."""
    client = connect(settings.url("cache"))
    yield client
    await client.aclose()


@pytest.fixture
async def streams_redis(settings: Settings) -> AsyncIterator[Redis]:
    """Client of the streams role, empty."""
    client = connect(settings.url("streams"))
    yield client
    await client.aclose()


@pytest.fixture
async def queue_redis(settings: Settings) -> AsyncIterator[Redis]:
    """Client of the queue role, empty."""
    client = connect(settings.url("queue"))
    yield client
    await client.aclose()
