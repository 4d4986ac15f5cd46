"""taskiq with its Redis stream broker: `taskiq_peer.py work|fill|pick '{"port": …}'`."""

import asyncio
import json
import random
import sys
import time

import uvloop
from stamps import Stamps
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

command, options = sys.argv[1], json.loads(sys.argv[2])
stamps = Stamps(options.get("out", "/dev/null"))
broker = RedisStreamBroker(f"redis://127.0.0.1:{options['port']}", queue_name="q")


@broker.task(task_name="noop")
async def noop() -> None:
    stamps.begin()


@broker.task(task_name="nap")
async def nap(ms: float) -> None:
    stamps.begin()
    await asyncio.sleep(ms / 1000)


@broker.task(task_name="mark")
async def mark(sent_at: float) -> None:
    stamps.mark(sent_at)


async def fill(count: int, ms: float) -> None:
    await broker.startup()
    for start in range(0, count, 50):
        some = range(start, min(start + 50, count))
        if ms:
            await asyncio.gather(*(nap.kiq(ms) for _ in some))
        else:
            await asyncio.gather(*(noop.kiq() for _ in some))
    await broker.shutdown()


async def pick(count: int, low_s: float, high_s: float) -> None:
    await broker.startup()
    for _ in range(count):
        await asyncio.sleep(random.uniform(low_s, high_s))
        await mark.kiq(time.time())
    await broker.shutdown()


async def work() -> None:
    await broker.startup()
    await run_receiver_task(broker, max_async_tasks=options["slots"])


if command == "work":
    uvloop.run(work())
elif command == "fill":
    uvloop.run(fill(options["count"], options["ms"]))
else:
    uvloop.run(pick(options["count"], options["low_s"], options["high_s"]))
