"""What a fleet costs: one timed sample, its frames and /stats, from 10 queues and 20 workers to 1,000 and 500.

``python -m bench.fleet`` prints a row per size: the dashboard's cost, and Redis' own, at one sample a second.
"""

import asyncio
import json
import sys
import time
from typing import Any, Final

from app import keys
from app.collector import Collector
from app.records import JobRun, Outcome, WorkerInfo
from app.settings import Settings
from app.snapshot import stats
from app.wire.connections import connect
from bench.machine import Server, machine, median, percentile, redis_server

SIZES: Final = ((10, 20), (100, 50), (200, 100), (500, 250), (1_000, 500))
SAMPLES: Final = 40
#: queues that end a job between two samples
BUSY: Final = 20
WAITING: Final = 50  #: jobs waiting in each queue


async def furnish(url: str, queues: int, workers: int) -> list[str]:
    """Make queues with waiting jobs, counters and a history of runs, and workers that beat."""
    redis = connect(url, timeout_s=30)
    await redis.flushall()
    now = int(time.time() * 1000)
    names = [f"q{n:04}" for n in range(queues)]
    pipe = redis.pipeline(transaction=False)
    for name in names:
        pipe.sadd(keys.QUEUES, name)
        pipe.zadd(name, {f"{name}-{n}": now - 1000 + n for n in range(WAITING)})
        pipe.hset(keys.totals(name), mapping={"accepted": 500, "complete": 400, "failed": 9})
    for n in range(workers):
        jobs = [
            {"id": f"r{n}-{k}", "function": "generic", "started_ms": now, "attempt": 1}
            for k in range(5)
        ]
        info = WorkerInfo(
            id=f"w{n}", role="worker", host="h", pid=n, source=names[n % queues], version="1",
            since_ms=now, beat_ms=now + 3_600_000, slots=5, busy=5, jobs=json.dumps(jobs),
        )  # fmt: skip
        pipe.hset(keys.worker(info.id), mapping=info.to_fields())
        pipe.zadd(keys.WORKERS, {info.id: now})
    await pipe.execute()
    await redis.aclose(close_connection_pool=True)
    return names


async def cost(server: Server, queues: int, workers: int) -> dict[str, Any]:
    """Measure SAMPLES timed samples, each of which finds BUSY queues changed."""
    url = f"redis://127.0.0.1:{server.port}"
    names = await furnish(url, queues, workers)
    redis = connect(url)
    settings = Settings(redis_url=url, redis_streams_url=url, redis_queue_url=url)
    collector = Collector(settings)
    await collector.sample()
    took, commands, looked, told = [], [], [], []
    sent = int((await redis.info("stats"))["total_net_output_bytes"])
    own, theirs = time.process_time(), server.cpu_s()
    for n in range(SAMPLES):
        now = int(time.time() * 1000)
        pipe = redis.pipeline(transaction=False)
        for name in names[:BUSY]:
            run = JobRun(
                job_id=f"y{n}", queue=name, function="generic", outcome=Outcome.COMPLETE, attempt=1,
                worker="w0", enqueued_ms=now, due_ms=now, started_ms=now, finished_ms=now,
            )  # fmt: skip
            pipe.xadd(keys.runs(name), {"r": run.to_json()}, maxlen=10_000)
            pipe.hincrby(keys.totals(name), "complete", 1)
        await pipe.execute()
        began = time.perf_counter()
        snapshot = await collector.sample(full=False)
        took.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        for frame in ("queues", "workers", "running", "dead_letters", "history"):
            snapshot.frame(frame)
        looked.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        json.dumps(stats(snapshot, settings))
        told.append((time.perf_counter() - began) * 1000)
        commands.append(snapshot.cost_commands)
    own, theirs = time.process_time() - own, server.cpu_s() - theirs
    sent = int((await redis.info("stats"))["total_net_output_bytes"]) - sent
    await collector.stop()
    await redis.aclose(close_connection_pool=True)
    return {
        "queues": len(snapshot.queues), "workers": len(snapshot.workers), "commands": median(commands),
        "sample_ms": median(took), "sample_p95_ms": percentile(took, 0.95), "frames_ms": median(looked),
        "stats_ms": median(told), "cpu_ms": own / SAMPLES * 1000, "redis_cpu_ms": theirs / SAMPLES * 1000,
        "kb": sent / SAMPLES / 1024,
    }  # fmt: skip


def main() -> None:
    """Print a row per size."""
    write = sys.stdout.write
    write(f"{machine()}\n")
    for queues, workers in SIZES:
        with redis_server() as server:
            found = asyncio.run(cost(server, queues, workers))
        write("  ".join(f"{name}={value:.1f}" for name, value in found.items()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
