"""A deployment to examine, on a Redis that its tests reconfigure."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import keys
from app.actions import Connections
from app.doctor.examination import examine
from app.doctor.findings import Diagnosis, Finding
from app.records import WorkerInfo
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import RunningRedis, start_redis

QUEUE = "async-processing"
STREAM = "pyairtable-events"
GROUP = "event-processors"
DAY_MS = 86_400_000


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """One server for all tests of the doctor: they reconfigure it."""
    running = start_redis(
        tmp_path_factory.mktemp("doctor"), extra=("--maxmemory", "200mb", "--maxclients", "500")
    )
    yield running
    running.stop()


@pytest.fixture
async def clinic(server: RunningRedis, tmp_path: Path) -> AsyncIterator["Clinic"]:
    settings = Settings(
        redis_url=server.database(0),
        redis_streams_url=server.database(1),
        redis_queue_url=server.database(2),
        data_dir=tmp_path,
        dead_letter_cap=100,
    )
    made = Clinic(settings)
    await made.queue.flushall()
    await made.queue.config_resetstat()
    yield made
    await made.close()


class Clinic:
    """A deployment to examine: clients, settings, and the clock of its Redis."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queue, self.streams, self.cache = (
            connect(settings.url(role)) for role in ("queue", "streams", "cache")
        )
        self.now_ms = int(time.time() * 1000)

    async def examine(self, **more: Any) -> Diagnosis:
        settings = self.settings.model_copy(update=more)
        return await examine(
            Connections(queue=self.queue, streams=self.streams, cache=self.cache), settings
        )

    async def finding(self, hazard: str, where: str = "", **more: Any) -> Finding:
        diagnosis = await self.examine(**more)
        found = [f for f in diagnosis.findings if f.hazard == hazard and where in f.where]
        assert found, [f"{f.hazard} at {f.where}" for f in diagnosis.findings]
        assert found[0].evidence
        assert found[0].remedy
        return found[0]

    async def close(self) -> None:
        for client in (self.queue, self.streams, self.cache):
            await client.aclose(close_connection_pool=True)

    async def job(self, job_id: str, *, due_ms: int = 0, left_ms: int = 300 * DAY_MS) -> None:
        await self.queue.zadd(QUEUE, {job_id: due_ms or self.now_ms - 1000})
        if left_ms:
            await self.queue.set(keys.arq_job(job_id), b"{}", px=left_ms)

    async def worker(self, **more: Any) -> None:
        fields = {
            "id": "w1", "role": "worker", "host": "h", "pid": 1, "source": QUEUE, "version": "1",
            "since_ms": self.now_ms, "beat_ms": self.now_ms, "slots": 5, "state": "running",
        }  # fmt: skip
        info = WorkerInfo(**{**fields, **more})
        await self.queue.hset(keys.worker(info.id), mapping=info.to_fields())
        await self.queue.zadd(keys.WORKERS, {info.id: self.now_ms})
