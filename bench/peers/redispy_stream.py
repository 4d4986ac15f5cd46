"""Plain redis-py as a consumer of a stream: `redispy_stream.py '{"port": …, "count": 1}'`.

``count`` 1 reads and acknowledges one at a time; more reads batches, and sends one XACK for all and
the next read in one pipeline. Nothing else: no retry, no dead letter, no count, no order.
"""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis

options: dict[str, Any] = json.loads(sys.argv[1])
late: list[float] = []


async def handle(fields: dict[str, str]) -> None:
    data = json.loads(fields["data"])
    if "sent_at" in data:
        late.append((time.time() - data["sent_at"]) * 1000)


async def consume() -> None:
    redis = Redis(host="127.0.0.1", port=options["port"], decode_responses=True)
    stream, group, count = options["stream"], options["group"], options["count"]
    done: list[str] = []
    while True:
        if done and count > 1:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.xack(stream, group, *done)
                pipe.xreadgroup(group, "me", {stream: ">"}, count=count)
                _, reply = await pipe.execute()
            done = []
            if not reply:
                continue
        else:
            reply = await redis.xreadgroup(group, "me", {stream: ">"}, count=count, block=1000)
        for _, entries in reply:
            for entry_id, fields in entries:
                await handle(fields)
                if count == 1:
                    await redis.xack(stream, group, entry_id)
                else:
                    done.append(entry_id)


async def main() -> None:
    consuming = asyncio.create_task(consume())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consuming.cancel)
    await asyncio.wait([consuming])


uvloop.run(main())
Path(options["out"]).write_text("".join(f"{ms:.3f}\n" for ms in late), "ascii")
