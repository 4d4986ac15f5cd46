"""saq: `saq_peer.py work|fill|pick '{"port": …}'`, run with bench/.venvs/saq."""

import asyncio
import json
import random
import sys
import time
from typing import Any

import uvloop
from saq import Queue, Worker
from stamps import Stamps

command, options = sys.argv[1], json.loads(sys.argv[2])
stamps = Stamps(options.get("out", "/dev/null"))
queue = Queue.from_url(f"redis://127.0.0.1:{options['port']}", name="q")


async def noop(ctx: Any) -> None:
    stamps.begin()


async def nap(ctx: Any, *, ms: float) -> None:
    stamps.begin()
    await asyncio.sleep(ms / 1000)


async def mark(ctx: Any, *, sent_at: float) -> None:
    stamps.mark(sent_at)


async def fill(count: int, ms: float) -> None:
    await queue.connect()
    for start in range(0, count, 200):
        some = range(start, min(start + 200, count))
        if ms:
            await asyncio.gather(*(queue.enqueue("nap", ms=ms) for _ in some))
        else:
            await asyncio.gather(*(queue.enqueue("noop") for _ in some))
    await queue.disconnect()


async def pick(count: int, low_s: float, high_s: float) -> None:
    await queue.connect()
    for _ in range(count):
        await asyncio.sleep(random.uniform(low_s, high_s))
        await queue.enqueue("mark", sent_at=time.time())
    await queue.disconnect()


async def work() -> None:
    await queue.connect()
    worker = Worker(queue, [noop, nap, mark], concurrency=options["slots"])
    await worker.start()


if command == "work":
    uvloop.run(work())
elif command == "fill":
    uvloop.run(fill(options["count"], options["ms"]))
else:
    uvloop.run(pick(options["count"], options["low_s"], options["high_s"]))
