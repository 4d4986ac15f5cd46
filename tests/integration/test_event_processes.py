"""Event processors as processes that get killed, and the Redis servers beside them too."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import ROOT, start_redis, wait_until
from tests.processing import STREAM, both_versions, has, letters, processing, quick, settled
from tests.waiting import until
from workers.event_router import Registry

HANDLERS = """
import os, signal
from pathlib import Path
from workers.event_router import on

@on("crash.always")
async def die(event, context):
    os.kill(os.getpid(), signal.SIGKILL)

@on("work.*")
async def work(event, context):
    with open(os.environ["WORK_LOG"], "a") as log:
        log.write(event.id + "\\n")
    await context.enqueue("generic", {"n": event.data}, queue="async-processing")
    if event.data == 3 and Path(os.environ["WORK_LOG"] + ".die").exists():
        Path(os.environ["WORK_LOG"] + ".die").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Processors:
    """Starts event processors as processes of their own."""

    def __init__(self, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "event_test_handlers.py").write_text(HANDLERS, encoding="utf-8")
        self.log = tmp_path / "work.log"
        self.started: list[subprocess.Popen[bytes]] = []
        self.environ = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
            "REDIS_URL": settings.redis_url,
            "REDIS_STREAMS_URL": settings.redis_streams_url,
            "REDIS_QUEUE_URL": settings.redis_queue_url,
            "ARQSCOPE_HANDLERS": "event_test_handlers",
            "ARQSCOPE_LEASE_S": "0.6",
            "BLOCK_TIME": "50",
            "WORK_LOG": str(self.log),
        }
        self.directory = tmp_path

    def start(self) -> subprocess.Popen[bytes]:
        with (self.directory / "processor.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.event_processor"],
                env=self.environ,
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def let_one_die(self) -> None:
        Path(f"{self.log}.die").touch()

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait(10)


@pytest.fixture
def processors(settings, tmp_path):
    made = Processors(settings, tmp_path)
    yield made
    made.close()


@both_versions
async def test_a_processor_killed_in_the_middle_of_an_event_loses_nothing(
    processors, streams_redis, queue_redis
):
    processors.let_one_die()
    for number in range(50):
        await streams_redis.xadd(STREAM, {"type": "work.made", "data": str(number)})

    first = processors.start()
    await asyncio.to_thread(first.wait, 20)
    second = processors.start()
    await settled(streams_redis, 50)
    second.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(second.wait, 20)

    assert (first.returncode, code) == (-signal.SIGKILL, 0)
    assert await queue_redis.zcard("async-processing") == 50  # none missing, none doubled
    assert [(one.error, one.traceback) for one in await letters(streams_redis)] == []


async def test_an_event_that_kills_its_processor_is_buried_alone(
    processors, streams_redis, queue_redis
):
    for number in range(20):
        await streams_redis.xadd(STREAM, {"type": "work.made", "data": str(100 + number)})
    poison = await streams_redis.xadd(STREAM, {"type": "crash.always", "data": "1"})
    for number in range(20):
        await streams_redis.xadd(STREAM, {"type": "work.made", "data": str(200 + number)})

    def crash() -> bool:
        process = processors.start()
        wait_until(lambda: process.poll() is not None or _dead(processors), 20)
        return process.poll() is not None

    def _dead(processors: Processors) -> bool:
        return b"event buried" in (processors.directory / "processor.log").read_bytes()

    crashes = 0
    while await asyncio.to_thread(crash):
        crashes += 1
    await settled(streams_redis, 41)

    (letter,) = await letters(streams_redis)
    assert (letter.id, letter.reason, letter.attempts) == (poison, "crash", crashes)
    assert await queue_redis.zcard("async-processing") == 40


async def test_a_redis_that_is_killed_is_waited_for(tmp_path):
    server = start_redis(tmp_path / "redis")
    settings = Settings(
        redis_url=server.database(0),
        redis_streams_url=server.database(1),
        redis_queue_url=server.database(2),
    )
    registry = Registry()
    handled: list[str] = []

    @registry.on("*")
    async def handle(event, context):
        handled.append(event.id)
        await context.enqueue("generic", {})

    streams = connect(settings.url("streams"), retries=5)
    async with processing(quick(settings), registry):
        await streams.xadd(STREAM, {"type": "a.b", "data": "1"})
        await settled(streams, 1)
        server.kill()
        await asyncio.to_thread(server.start)
        for _ in range(20):
            await streams.xadd(STREAM, {"type": "a.b", "data": "2"})
        await settled(streams, 21)
    await streams.aclose()
    server.stop()

    assert len(set(handled)) == 21


async def test_a_queue_redis_that_is_away_costs_no_attempt(tmp_path, settings, streams_redis):
    """
    The event waits for the queue's Redis, and makes one job when it is back.
    """
    server = start_redis(tmp_path / "queue")
    server.stop()
    apart = quick(settings, redis_queue_url=server.database(0), event_attempts=1)
    registry = Registry()
    tried: list[str] = []

    @registry.on("*")
    async def handle(event, context):
        tried.append(event.id)
        await context.enqueue("generic", {})

    await streams_redis.xadd(STREAM, {"type": "a.b", "data": "1"})
    async with processing(apart, registry) as processor:
        await until(lambda: has(tried, 2))
        trouble = processor.describe()
        await asyncio.to_thread(server.start)
        await settled(streams_redis, 1)

    queue = connect(server.database(0))
    assert await queue.zcard("event-driven-jobs") == 1
    await queue.aclose()
    server.stop()
    assert (trouble["state"], "queue" in trouble["trouble"]) == ("degraded", True)
    assert [(one.error, one.traceback) for one in await letters(streams_redis)] == []
