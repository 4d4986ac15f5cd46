"""streaq: `streaq_peer.py work|fill|pick '{"port": …}'`, run with bench/.venvs/streaq."""

import asyncio
import json
import random
import sys
import time

import uvloop
from stamps import Stamps
from streaq import Worker

command, options = sys.argv[1], json.loads(sys.argv[2])
stamps = Stamps(options.get("out", "/dev/null"))
worker = Worker(
    redis_url=f"redis://127.0.0.1:{options['port']}",
    queue_name="q",
    concurrency=options.get("slots", 100),
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(name="noop")
async def noop() -> None:
    stamps.begin()


@worker.task(name="nap")
async def nap(ms: float) -> None:
    stamps.begin()
    await asyncio.sleep(ms / 1000)


@worker.task(name="mark")
async def mark(sent_at: float) -> None:
    stamps.mark(sent_at)


async def fill(count: int, ms: float) -> None:
    async with worker:
        for start in range(0, count, 1000):
            some = range(start, min(start + 1000, count))
            await worker.enqueue_many([nap.enqueue(ms) if ms else noop.enqueue() for _ in some])


async def pick(count: int, low_s: float, high_s: float) -> None:
    async with worker:
        for _ in range(count):
            await asyncio.sleep(random.uniform(low_s, high_s))
            await mark.enqueue(time.time())


if command == "work":
    worker.run_sync()
elif command == "fill":
    uvloop.run(fill(options["count"], options["ms"]))
else:
    uvloop.run(pick(options["count"], options["low_s"], options["high_s"]))
