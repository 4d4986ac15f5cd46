"""Row C8 of FAULTS.md: a dashboard that is told to stop, with pages open and a bulk retry under way."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from app import keys, operations
from app.operations import OperationState
from app.wire.connections import connect
from bench.viewer import Viewer
from tests.conftest import start_redis
from tests.faults.conftest import Row
from tests.faults.nursery import ROOT, plain_environment
from tests.faults.rig import QUEUE, sized
from tests.faults.test_dead_letters import DRIVER
from tests.letters import bury_many
from tests.serving import start_server
from tests.waiting import until

#: submissions go to a queue of their own, so that the other holds what was retried and nothing else
SUBMITTED_TO = "long-running-jobs"


async def submit(client: httpx.AsyncClient, number: int, answered: list[str]) -> None:
    """Submit lists of jobs one after the other until the server is gone."""
    while True:
        jobs = [{"name": "generic", "options": {"jobId": f"b{number}-{n}"}} for n in range(100)]
        try:
            reply = await client.post(f"/jobs/{SUBMITTED_TO}", json=jobs)
        except httpx.HTTPError:
            return
        if reply.status_code in (200, 201):
            answered.extend(job["id"] for job in reply.json())
        number += 100


@pytest.mark.row("C8")
@pytest.mark.timeout(120)
async def test_c8_a_dashboard_told_to_stop_is_gone_in_time_and_loses_nothing(
    row: Row, tmp_path: Path
) -> None:
    """
    Pages are open, jobs are submitted and "retry all" is half done. What was answered is there, every
    letter is retried once, the port is free.
    """
    redis_server = start_redis(tmp_path / "redis", extra=("--appendfsync", "everysec"))
    server = start_server(
        redis_server, tmp_path, command=[sys.executable, "-m", "app.cli", "serve"]
    )
    redis = connect(redis_server.database(2), timeout_s=5.0)
    letters, sessions, rate = sized((4_000, 20, 400.0), (600, 3, 60.0))
    await bury_many(redis, (f"j{n:05}" for n in range(letters)))
    driver = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-c", DRIVER, redis_server.database(2)],
        cwd=ROOT,
        env={**plain_environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    answered: list[str] = []
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            viewers = [await Viewer(server.url).open(client) for _ in range(sessions)]
            asked = {"kind": "retry_letters", "source": QUEUE, "rate_per_s": rate}
            started = await client.post("/operations", json=asked)
            operation = started.json()["detail"]["operation"]
            bulk = [asyncio.create_task(submit(client, n, answered)) for n in (0, 10_000_000)]

            async def is_under_way() -> bool:
                return len(answered) >= 200 and await redis.zcard(QUEUE) > letters // 10

            await until(is_under_way, timeout_s=40)
            done_then = (await operations.read(redis, operation)).done
            server.process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            code = await asyncio.to_thread(server.process.wait, 20)
            took_s = time.monotonic() - told
            await asyncio.gather(*bulk)
            for viewer in viewers:
                await viewer.close()
        is_free = not _listens(server.port)
        present = await redis.zmscore(SUBMITTED_TO, answered)

        async def is_done() -> bool:
            return (await operations.read(redis, operation)).state is OperationState.DONE

        await until(is_done, timeout_s=60)
        pipe = redis.pipeline(transaction=False)
        for n in range(letters):
            pipe.hget(keys.dead_record(QUEUE, f"j{n:05}"), "redrives")
        redrives = Counter(await pipe.execute())
        retried = await redis.zcard(QUEUE)
    finally:
        for process in (driver, server.process):
            process.kill()
            process.wait()
        await redis.aclose()
        redis_server.stop()
    lost = sum(score is None for score in present)
    row.figure(
        sessions=sessions, exit_s=took_s, exit_code=code, answered=len(answered), lost=lost,
        letters=letters, done_when_told=done_then, retried=retried, port_free=is_free,
    )  # fmt: skip
    assert took_s <= 10
    assert code == 0
    assert lost == 0
    assert is_free
    assert done_then < letters
    assert redrives == {"1": letters}
    assert retried == letters


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
