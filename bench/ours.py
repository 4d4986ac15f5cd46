"""Our side under measurement: `python -m bench.ours work|fill|pick '{"port": …}'`.

The worker is the product's with every safety on, in a process of its own: lease and its renewing
thread, fence, dead letters, run reports, counters, heartbeat, abort and control listening.
"""

import asyncio
import cProfile
import json
import logging
import random
import sys
import time
from typing import Any

import uvloop
from arq.worker import func

from app.enqueue import JobRequest, enqueue, enqueue_many
from app.payloads.codec import Codec
from app.wire.connections import connect
from bench.peers.stamps import Stamps
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.retry_policy import RetryPolicy

QUEUE = "arq:queue"  # arq's default, so that a stock producer needs no setting


def work(url: str, options: dict[str, Any]) -> None:
    """Run one worker until it is killed."""
    stamps = Stamps(options["out"])

    async def noop(ctx: Any) -> None:
        stamps.begin()

    async def nap(ctx: Any, ms: float) -> None:
        stamps.begin()
        await asyncio.sleep(ms / 1000)

    async def mark(ctx: Any, sent_at: float) -> None:
        stamps.mark(sent_at)

    logging.basicConfig(level="WARNING")
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    engine = EngineOptions(
        url=url,
        policy=RetryPolicy(attempts=3, base_s=1.0, cap_s=60.0),
        codec=Codec(allow_pickle=bool(options.get("pickle"))),
        lease_s=30.0,
        drain_s=1.0,
    )
    worker = Worker(
        functions=[func(f, name=f.__name__) for f in (noop, nap, mark)],
        queue_name=QUEUE,
        max_jobs=options["slots"],
        keep_result=3600,
        allow_abort_jobs=True,
        health_check_interval=10,
        ctx={"arqscope": engine},
    )
    if not options.get("profile"):
        worker.run()
        return
    profile = cProfile.Profile()
    profile.enable()
    try:
        worker.run()
    finally:
        profile.disable()
        profile.dump_stats(options["profile"])


async def fill(url: str, count: int, ms: float) -> None:
    """Put *count* jobs on the queue."""
    redis = connect(url)
    request = JobRequest(name="nap", args=(ms,)) if ms else JobRequest(name="noop")
    for start in range(0, count, 5000):
        await enqueue_many(redis, QUEUE, [request] * min(5000, count - start))
    await redis.aclose(close_connection_pool=True)


async def pick(url: str, count: int, low_s: float, high_s: float) -> None:
    """Put jobs on an idle queue, one at a time."""
    redis = connect(url)
    for _ in range(count):
        await asyncio.sleep(random.uniform(low_s, high_s))
        await enqueue(redis, QUEUE, JobRequest(name="mark", args=(time.time(),)))
    await redis.aclose(close_connection_pool=True)


def main() -> None:
    command, options = sys.argv[1], json.loads(sys.argv[2])
    url = f"redis://127.0.0.1:{options['port']}/0"
    if command == "work":
        work(url, options)
    elif command == "fill":
        uvloop.run(fill(url, options["count"], options["ms"]))
    else:
        uvloop.run(pick(url, options["count"], options["low_s"], options["high_s"]))


if __name__ == "__main__":
    main()
