"""A start with a Redis URL that is wrong: who gives up, who waits, and what both say."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from arq.worker import func
from pydantic import SecretStr
from redis.asyncio import Redis

from app import keys
from app.doctor import preflight
from app.enqueue import JobRequest, enqueue
from app.errors import RedisRefused, RedisUnavailable
from app.settings import Settings
from tests.conftest import ROOT, RunningRedis, start_redis, unused_port
from tests.integration.worker_rig import QUEUE, linger
from tests.waiting import until
from workers.engine import patience
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.settings import worker_settings

PLANTED = "planted-wrong-password"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningRedis]:
    started = start_redis(tmp_path / "data")
    yield started
    started.stop()


def _settings(server: RunningRedis, queue_url: str, password: str = "") -> Settings:
    return Settings(
        redis_url=server.database(0),
        redis_streams_url=server.database(1),
        redis_queue_url=queue_url,
        redis_password=SecretStr(password) if password else None,
    )


def _burst(settings: Settings) -> Worker:
    made = worker_settings("async-processing", settings)
    return Worker(**made, burst=True, handle_signals=False)


@asynccontextmanager
async def _boss(server: RunningRedis) -> AsyncIterator[Redis]:
    """An administrator whom no change of the default user's password locks out."""
    async with Redis.from_url(server.database(0)) as client:
        await client.acl_setuser(
            "boss",
            enabled=True,
            passwords=["+boss"],
            keys=["*"],
            channels=["*"],
            commands=["+@all"],
        )
    url = server.database(2).replace(f":{server.password}@", "boss:boss@")
    async with Redis.from_url(url) as boss:
        yield boss


@pytest.mark.parametrize(
    ("wrong", "setting", "said", "remedy"),
    [
        ("redis://:{planted}@{host}/2", "REDIS_QUEUE_URL", "invalid username-password", "password"),
        ("redis://bob:{planted}@{host}/2", "REDIS_QUEUE_URL", "invalid username", "user"),
        ("redis://{host}/2", "REDIS_PASSWORD", "Authentication required", "set REDIS_PASSWORD"),
        ("redis://:{right}@{host}/99", "REDIS_QUEUE_URL", "out of range", "end REDIS_QUEUE_URL in"),
        ("redis://mute:mute@{host}/2", "REDIS_QUEUE_URL", "permission", "ACL"),
    ],
    ids=["password", "user", "no-password", "database", "rights"],
)
async def test_a_burst_gives_up_at_once_where_waiting_cannot_help(
    server: RunningRedis, wrong: str, setting: str, said: str, remedy: str
) -> None:
    """
    Whoever waits for a burst is a script; for ever is no answer. One sentence: setting, value, remedy.
    """
    async with _boss(server) as boss:
        await boss.acl_setuser("mute", enabled=True, passwords=["+mute"], keys=["*"])
    host = f"127.0.0.1:{server.port}"
    url = wrong.format(planted=PLANTED, right=server.password, host=host)
    worker = _burst(_settings(server, url))

    with pytest.raises(RedisRefused) as caught:
        async with asyncio.timeout(
            patience.START_S
        ):  # else it waited, as for a server that is away
            await worker.main()
    await worker.close()

    told = str(caught.value)
    assert told.startswith(f"{setting}: ")
    assert said in told
    assert remedy in told
    assert host in told
    assert PLANTED not in told
    assert server.password not in told


async def test_the_password_that_is_wrong_is_sought_where_it_was_given(
    server: RunningRedis,
) -> None:
    """
    REDIS_PASSWORD fills in where the URL has none: then that is what to mend.
    """
    settings = _settings(server, f"redis://127.0.0.1:{server.port}/2", PLANTED)
    worker = _burst(settings)

    with pytest.raises(RedisRefused, match=r"^REDIS_PASSWORD: ") as caught:
        await worker.main()
    await worker.close()

    assert PLANTED not in str(caught.value)


def test_the_command_says_it_in_one_sentence_and_exits_1(server: RunningRedis) -> None:
    wrong = server.database(2).replace(server.password, PLANTED)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": server.database(0),
        "REDIS_STREAMS_URL": server.database(1),
        "REDIS_QUEUE_URL": wrong,
    }
    command = [sys.executable, "-m", "app.cli", "worker", "async-processing", "--burst"]

    ended = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("arqscope: REDIS_QUEUE_URL: Redis at redis://:***@127.0.0.1:")
    assert ended.stderr.count("\n") == 1
    assert PLANTED not in ended.stderr


async def test_a_burst_tells_of_a_server_that_stays_away(
    server: RunningRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "START_S", 0.1)
    worker = _burst(_settings(server, f"redis://127.0.0.1:{unused_port()}/2"))

    with pytest.raises(RedisUnavailable, match=r"^REDIS_QUEUE_URL: .*; start it, or mend"):
        await worker.main()
    await worker.close()


async def test_a_burst_waits_for_a_server_that_starts_beside_it(
    server: RunningRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "START_S", 60.0)
    worker = _burst(_settings(server, server.database(2)))
    server.stop()

    running = asyncio.create_task(worker.main())
    await until(lambda: asyncio.sleep(0, worker.trouble))
    server.start()
    await running
    await worker.close()

    assert worker.trouble == ""


async def test_a_burst_whose_server_goes_away_ends_after_a_lease(server: RunningRedis) -> None:
    """
    What it held belongs to others by then; the next burst finds the jobs where they were.
    """
    client = Redis.from_url(server.database(2))
    later = JobRequest(name="linger", args=(0,), id="later", delay_s=3600.0)
    await enqueue(client, QUEUE, later)
    options = EngineOptions(url=server.database(2), lease_s=0.5)
    worker = Worker(
        functions=[func(linger, name="linger")],
        queue_name=QUEUE,
        burst=True,
        handle_signals=False,
        ctx={"arqscope": options},
    )

    running = asyncio.create_task(worker.main())
    await until(lambda: asyncio.sleep(0, worker.claiming.rounds > 1))  # it waits for the job
    server.kill()
    with pytest.raises(RedisUnavailable):
        await running
    await worker.close()

    server.start()
    assert await client.zcard(QUEUE) == 1
    await client.aclose(close_connection_pool=True)


async def test_a_worker_that_stays_says_it_and_works_once_the_password_is_right(
    server: RunningRedis,
) -> None:
    """
    It may be a rotation: the server learns the new password after the worker has.
    """
    wrong = server.database(2).replace(server.password, PLANTED)
    made = worker_settings("async-processing", _settings(server, wrong))
    worker = Worker(**made, handle_signals=False)

    running = asyncio.create_task(worker.main())
    await until(lambda: asyncio.sleep(0, worker.trouble))
    told = worker.trouble
    async with _boss(server) as boss:
        await boss.config_set("requirepass", PLANTED)
        await until(lambda: boss.zcard(keys.WORKERS))
    await worker.close()
    await running

    assert "REDIS_QUEUE_URL: Redis at redis://:***@127.0.0.1:" in told
    assert "put the server's password" in told


async def test_a_worker_told_to_stop_while_it_is_refused_starts_nothing(
    server: RunningRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "arqscope")
    wrong = server.database(2).replace(server.password, PLANTED)
    made = worker_settings("async-processing", _settings(server, wrong))
    worker = Worker(**made, handle_signals=False)

    running = asyncio.create_task(worker.main())
    await until(lambda: asyncio.sleep(0, worker.trouble))
    await worker.close()
    await running

    assert "worker started" not in caplog.messages
    assert "on_shutdown raised" not in caplog.messages


async def test_every_start_names_the_setting_of_a_server_that_refuses(
    server: RunningRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Server, event processor and dead-letter processor ask before they start, the cache included; none stops.
    """
    settings = Settings(
        redis_url=server.database(0).replace(server.password, PLANTED),
        redis_streams_url=server.database(99),
        redis_queue_url=server.database(2),
    )

    await preflight.check(settings)

    refused = [record for record in caplog.records if record.message == "Redis refuses us"]
    assert [(r.levelname, r.__dict__["setting"]) for r in refused] == [
        ("ERROR", "REDIS_STREAMS_URL"),
        ("ERROR", "REDIS_URL"),
    ]
    assert PLANTED not in caplog.text + str([record.__dict__ for record in refused])
