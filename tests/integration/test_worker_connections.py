"""The worker over every kind of connection it may be given: TCP, a socket file, TLS; as URL and as arq's."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job, JobStatus
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue
from app.errors import SettingsError
from app.payload import Codec
from tests.conftest import RunningRedis, start_redis, unused_port
from tests.integration.test_worker import QUEUE, func, linger
from workers.engine import EngineOptions, Worker


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if not openssl:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no openssl to make a certificate")
    directory = tmp_path_factory.mktemp("tls")
    crt, key = directory / "server.crt", directory / "server.key"
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += [
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(crt),
    ]
    subprocess.run([openssl, *command], check=True, capture_output=True)
    return crt, key


@pytest.fixture
def tls_port() -> int:
    return unused_port()


@pytest.fixture
def server(tmp_path: Path, certificate: tuple[Path, Path], tls_port: int) -> Iterator[RunningRedis]:
    """One server that listens on all three."""
    crt, key = certificate
    extra = ("--unixsocket", str(tmp_path / "redis.sock"), "--tls-port", str(tls_port))
    extra += ("--tls-cert-file", str(crt), "--tls-key-file", str(key))
    extra += ("--tls-ca-cert-file", str(crt), "--tls-auth-clients", "no")
    started = start_redis(tmp_path / "data", extra=extra)
    yield started
    started.stop()


@pytest.mark.parametrize("given", ["url", "arq"])
@pytest.mark.parametrize("kind", ["tcp", "socket", "tls"])
async def test_a_worker_claims_renews_and_records_over_any_connection(
    kind: str,
    given: str,
    server: RunningRedis,
    certificate: tuple[Path, Path],
    tls_port: int,
    tmp_path: Path,
) -> None:
    """
    The renewing thread has a connection of its own: where it cannot connect, nothing is claimed for long.
    """
    ca, password = str(certificate[0]), server.password
    socket = str(tmp_path / "redis.sock")
    urls = {
        "tcp": server.database(3),
        "socket": f"unix://:{password}@{socket}?db=3",
        "tls": f"rediss://:{password}@127.0.0.1:{tls_port}/3?ssl_ca_certs={ca}",
    }
    common: dict[str, Any] = {"database": 3, "password": password, "conn_retries": 0}
    theirs = {
        "tcp": RedisSettings(host="127.0.0.1", port=server.port, **common),
        "socket": RedisSettings(unix_socket_path=socket, **common),
        "tls": RedisSettings(host="127.0.0.1", port=tls_port, ssl=True, ssl_ca_certs=ca, **common),
    }
    lease_s = 0.4
    options = EngineOptions(
        url=urls[kind] if given == "url" else "", lease_s=lease_s, codec=Codec()
    )
    worker = Worker(
        functions=[func(linger, name="linger")],
        queue_name=QUEUE,
        redis_settings=theirs[kind] if given == "arq" else None,
        burst=True,
        max_jobs=1,
        handle_signals=False,
        ctx={"arqscope": options},
    )
    client = Redis.from_url(server.database(3))
    for number in range(2):
        await enqueue(
            client, QUEUE, JobRequest(name="linger", args=(1.5 * lease_s,), id=f"j{number}")
        )

    await worker.main()
    await worker.close()

    for number in range(2):
        assert await Job(f"j{number}", client, QUEUE).status() is JobStatus.complete
    assert await client.hget(keys.totals(QUEUE), "crashed") is None
    await client.aclose(close_connection_pool=True)


async def test_sentinels_named_wrongly_are_refused_clearly() -> None:
    """
    arq's settings may name sentinels, as a list; connecting elsewhere in silence would be worse than a no.
    """
    settings = RedisSettings(host="127.0.0.1", sentinel=True)
    worker = Worker(
        functions=[func(linger, name="linger")], redis_settings=settings, handle_signals=False
    )

    with pytest.raises(SettingsError, match="sentinel"):
        await worker.main()
