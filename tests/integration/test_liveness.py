"""`arqscope alive`: what a container's health check asks."""

import asyncio
import socket
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from app import keys
from app.cli import app
from app.liveness import living
from app.settings import Settings
from workers.heartbeat import Heartbeat


@pytest.fixture
def ask(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("REDIS_QUEUE_URL", settings.url("queue"))

    async def run(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, ["alive", *words])

    return run


async def test_a_process_that_beats_is_alive_for_its_role_and_queue_alone(
    ask: Any, queue_redis: Redis
) -> None:
    await Heartbeat(queue_redis, "worker", "async-processing").beat()

    assert (await ask("worker")).exit_code == 0
    assert (await ask("worker", "async-processing")).exit_code == 0
    assert (await ask("worker", "long-running-jobs")).exit_code == 1
    refused = await ask("events")
    assert (refused.exit_code, "no events of this machine" in refused.output) == (1, True)


async def test_a_process_of_another_machine_and_a_dead_one_do_not_count(queue_redis: Redis) -> None:
    heartbeat = Heartbeat(queue_redis, "worker", "async-processing")
    await heartbeat.beat()

    assert await living(queue_redis, "worker", host="elsewhere") == []
    assert len(await living(queue_redis, "worker", host=socket.gethostname())) == 1
    await queue_redis.delete(keys.worker(heartbeat.id))  # what its time to live does
    assert await living(queue_redis, "worker") == []


async def test_a_redis_that_is_away_is_ill_unless_forgiven(
    ask: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_QUEUE_URL", f"redis://:hush@127.0.0.1:{free_port}/0")

    plain, forgiven = await ask("worker"), await ask("worker", "--forgive-redis")

    assert (plain.exit_code, forgiven.exit_code) == (1, 0)
    assert "does not answer" in plain.output
    assert "hush" not in plain.output + forgiven.output
