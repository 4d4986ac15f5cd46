"""Publish marked events at a steady rate: `event_producer.py '{"port": …, "per_s": …}'`."""

import asyncio
import json
import sys
import time
from typing import Any

import uvloop
from redis.asyncio import Redis

options: dict[str, Any] = json.loads(sys.argv[1])


async def publish() -> None:
    redis = Redis(host="127.0.0.1", port=options["port"])
    begin = time.monotonic()
    for number in range(options["count"]):
        wait_s = begin + number / options["per_s"] - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        data = json.dumps({"sent_at": time.time()})
        await redis.xadd(options["stream"], {"type": "bench.mark", "source": "b", "data": data})
    await redis.aclose()


uvloop.run(publish())
