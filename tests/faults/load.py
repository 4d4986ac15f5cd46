"""A producer under fault: goes on whatever happens, and remembers when each id was acknowledged."""

import asyncio
import time

from redis.asyncio import Redis

from app.enqueue import JobRequest, enqueue_many
from app.errors import RedisRefused, RedisUnavailable
from tests.faults.rig import Rig
from tests.waiting import until


class Load:
    """Batches of ten, one after the other; an unknown outcome is repeated with the same ids."""

    def __init__(self, rig: Rig, producer: Redis | None = None) -> None:
        self.rig = rig
        self.producer = producer or rig.producer
        self.acked_at: dict[str, float] = {}
        self.refused = 0
        self.longest_gap_s = 0.0
        self._stop = asyncio.Event()
        self._go = asyncio.Event()
        self._go.set()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> "Load":
        self._task = asyncio.create_task(self._run())
        return self

    async def hold(self) -> None:
        """Send nothing more, and return when nothing is under way; ``go_on`` ends it."""
        self._go.clear()
        await self._idle.wait()

    def go_on(self) -> None:
        """Produce again after ``hold``."""
        self._go.set()

    async def stop(self) -> None:
        self._stop.set()
        self._go.set()
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        number, last = 0, time.monotonic()
        while not self._stop.is_set():
            if not self._go.is_set():
                self._idle.set()
                await self._go.wait()
                self._idle.clear()
                last = time.monotonic()
                continue
            requests = [
                JobRequest(name="work", args=(0.005,), id=f"l{number + n}") for n in range(10)
            ]
            while True:  # an unknown outcome is repeated with the same ids
                try:
                    answers = await enqueue_many(self.producer, self.rig.queue, requests)
                except (RedisRefused, RedisUnavailable):
                    self.refused += 1
                    if self._stop.is_set():
                        return
                    await asyncio.sleep(0.05)
                else:
                    break
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now
            self.acked_at.update((answer.id, now) for answer in answers)
            self.rig.acked.update(answer.id for answer in answers)
            number += 10
            await asyncio.sleep(0.02)


async def grown(rig: Rig, by: int) -> None:
    """Wait until *by* more jobs are accepted."""
    wanted = len(rig.acked) + by
    await until(lambda: asyncio.sleep(0, len(rig.acked) >= wanted), timeout_s=40)
