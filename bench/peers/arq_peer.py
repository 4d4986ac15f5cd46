"""Stock arq: `arq_peer.py work|fill|pick '{"port": …}'`, run with bench/.venvs/arq."""

import asyncio
import json
import logging
import random
import sys
import time
from typing import Any

import uvloop
from arq.connections import RedisSettings, create_pool
from arq.constants import default_queue_name, job_key_prefix
from arq.jobs import serialize_job
from arq.worker import Worker, func
from stamps import Stamps

command, options = sys.argv[1], json.loads(sys.argv[2])
server = RedisSettings(host="127.0.0.1", port=options["port"])
stamps = Stamps(options.get("out", "/dev/null"))


async def noop(ctx: Any) -> None:
    stamps.begin()


async def nap(ctx: Any, ms: float) -> None:
    stamps.begin()
    await asyncio.sleep(ms / 1000)


async def mark(ctx: Any, sent_at: float) -> None:
    stamps.mark(sent_at)


async def fill(count: int, ms: float) -> None:
    """Write what ``enqueue_job`` writes, in pipelines: filling is not what is measured here."""
    pool = await create_pool(server)
    now_ms = int(time.time() * 1000)
    name, args = ("nap", (ms,)) if ms else ("noop", ())
    raw = serialize_job(name, args, {}, None, now_ms)
    for start in range(0, count, 2000):
        pipe = pool.pipeline(transaction=False)
        for i in range(start, min(start + 2000, count)):
            pipe.psetex(f"{job_key_prefix}{i:032x}", 86_400_000, raw)
            pipe.zadd(default_queue_name, {f"{i:032x}": now_ms})
        await pipe.execute()
    await pool.aclose()


async def pick(count: int, low_s: float, high_s: float) -> None:
    pool = await create_pool(server)
    for _ in range(count):
        await asyncio.sleep(random.uniform(low_s, high_s))
        await pool.enqueue_job("mark", time.time())
    await pool.aclose()


if command == "work":
    logging.disable(logging.INFO)
    tuned: dict[str, Any] = {}
    if options.get("tuned"):
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        tuned = {"max_jobs": options["slots"], "poll_delay": 0.01}
    asyncio.set_event_loop(asyncio.new_event_loop())
    functions = [func(f, name=f.__name__) for f in (noop, nap, mark)]
    Worker(functions=functions, redis_settings=server, **tuned).run()
elif command == "fill":
    asyncio.run(fill(options["count"], options["ms"]))
else:
    uvloop.run(pick(options["count"], options["low_s"], options["high_s"]))
