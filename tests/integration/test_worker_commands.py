"""The two ways to start a worker: the stock ``arq`` command and ours give the same one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue
from app.settings import Settings
from tests.conftest import ROOT
from tests.waiting import until

STOCK = (str(Path(sys.executable).parent / "arq"), "workers.settings.AsyncProcessing")
OURS = (sys.executable, "-m", "workers.settings", "async-processing")


@contextmanager
def started(command: tuple[str, ...], settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": settings.url("cache"),
        "REDIS_STREAMS_URL": settings.url("streams"),
        "REDIS_QUEUE_URL": settings.url("queue"),
    }
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


@pytest.mark.parametrize("command", [STOCK, OURS], ids=["arq", "arqscope"])
async def test_either_command_runs_our_worker_and_stops_clean(
    command: tuple[str, ...], settings: Settings, queue_redis: Redis
) -> None:
    """
    The job is done, the run is reported (stock arq writes no report), SIGTERM ends it with 0.
    """
    request = JobRequest(name="data-sync", args=({"baseId": "a", "records": 10},), id="j1")
    await enqueue(queue_redis, "async-processing", request)

    with started(command, settings) as process:
        await until(lambda: queue_redis.xlen(keys.runs("async-processing")), timeout_s=20)
        await until(lambda: queue_redis.zcard(keys.WORKERS))
        process.send_signal(signal.SIGTERM)
        code = process.wait(15)

    assert code == 0
    assert await queue_redis.exists(keys.arq_result("j1"))
    assert await queue_redis.zcard(keys.WORKERS) == 0


async def test_a_killed_workers_job_runs_again_within_the_lease(
    settings: Settings, queue_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Stock arq would hold this job of the 3,600 s queue for an hour.
    """
    monkeypatch.setenv("ARQSCOPE_LEASE_S", "2")
    queue = "long-running-jobs"
    ours = (sys.executable, "-m", "workers.settings", queue)
    data = {"duration": 1500}
    await enqueue(queue_redis, queue, JobRequest(name="data-sync", args=(data,), id="j1"))
    with started(ours, settings) as process:
        await until(lambda: queue_redis.hexists(keys.running(queue), "j1"), timeout_s=20)
        process.kill()
        process.wait(10)

    with started(ours, settings):
        await until(lambda: queue_redis.exists(keys.arq_result("j1")), timeout_s=12)

    assert (await queue_redis.hgetall(keys.totals(queue)))["crashed"] == "1"
