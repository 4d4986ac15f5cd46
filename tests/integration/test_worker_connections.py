"""The worker over every kind of connection it may be given: TCP, a socket file, TLS; as URL and as arq's."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job, JobStatus
from redis import ConnectionPool
from redis.asyncio import Redis
from redis.exceptions import DataError, NoScriptError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeout

from app import keys
from app.enqueue import JobRequest, enqueue
from app.errors import SettingsError
from app.payloads.codec import Codec
from tests.conftest import RunningRedis, lacking, start_redis, unused_port
from tests.integration.worker_rig import QUEUE, func, linger
from tests.waiting import until
from workers.claims.leases import LeaseKeeper
from workers.claims.pools import pool_of
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.runs.outcomes import Ending, Outbox, _is_unsendable


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if not openssl:
        lacking("openssl")
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


async def test_every_connection_of_arqs_settings_is_made_by_the_recipe(
    server: RunningRedis,
) -> None:
    """
    arq pings while it makes its pool: that connection had no time-out, and was the one used most.
    """
    settings = RedisSettings(host="127.0.0.1", port=server.port, password=server.password)
    worker = Worker([func(linger, name="linger")], queue_name=QUEUE, redis_settings=settings)

    client = await pool_of(worker)
    await client.ping()

    made: list[Any] = list(client.connection_pool._available_connections)
    assert [one.socket_timeout for one in made] == [6.0]
    await client.aclose(close_connection_pool=True)


def test_a_job_claimed_again_meanwhile_keeps_its_lease(server: RunningRedis) -> None:
    """
    What a renewal says of an old token is nothing about the new one.
    """
    lost: list[str] = []
    pool = ConnectionPool.from_url(server.url)
    keeper = LeaseKeeper(pool, QUEUE, lease_s=3, on_lost=lost.extend)
    keeper.held |= {"again": "w#1", "gone": "w#1"}
    asked = keeper._redis.evalsha

    def claimed_meanwhile(*arguments: Any) -> Any:
        reply = asked(*arguments)
        keeper.held["again"] = "w#2"
        return reply

    keeper._redis.evalsha = claimed_meanwhile  # type: ignore[method-assign]
    keeper._renew()
    keeper.stop()

    assert lost == ["gone"]


async def test_an_outbox_outlives_a_connection_that_cannot_even_be_closed(
    server: RunningRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Redis refuses (READONLY), and closing what is left of the connection times out.
    """
    troubles: list[str] = []
    client = Redis.from_url(server.url)
    outbox = Outbox(client, QUEUE, on_trouble=troubles.append)

    async def refused(_: Any) -> Any:
        raise ReadOnlyError("You can't write against a read only replica.")

    async def stuck(**_: Any) -> None:
        raise RedisTimeout("Timed out closing connection")

    monkeypatch.setattr(outbox, "_send", refused)
    monkeypatch.setattr(client.connection_pool, "disconnect", stuck)
    outbox.start()
    outbox.put(Ending(id="j1", token="w#1", kind="C"))
    await until(lambda: asyncio.sleep(0, len(troubles) >= 2))

    assert len(outbox) == 1
    monkeypatch.undo()
    await outbox.stop()
    await client.aclose(close_connection_pool=True)


def test_a_script_the_server_forgot_is_sent_again_not_given_up() -> None:
    """
    redis-py takes the NOSCRIPT off its text; the ending's result was thrown away for it.
    """
    assert not _is_unsendable(NoScriptError("No matching script. Please use EVAL."))
    assert _is_unsendable(DataError("Invalid input of type"))
