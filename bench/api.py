"""T5 and T7: the HTTP server, its guard, audit and collector on, asked from another process."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import urlopen

from bench.machine import (
    ROOT,
    cpu_s,
    environment,
    free_port,
    median,
    redis_server,
    started,
    wait_for,
)
from bench.results import Row

QUEUE = "async-processing"
WAITING = 100_000
SESSIONS = 5
JOB = {"name": "generic", "data": {"records": 1000}}

_SERVE = "from app.server import serve; from app.settings import Settings; serve(Settings.load(env_file=None))"
_FILL = f"""
import asyncio, sys
from app.wire.connections import connect
from app.enqueue import JobRequest, enqueue_many

async def fill(url, count):
    redis = connect(url, timeout_s=20)
    for start in range(0, count, 1000):
        await enqueue_many(redis, {QUEUE!r}, [
            JobRequest(name="generic", args=({{"n": n}},), id=f"w{{n}}") for n in range(start, start + 1000)
        ])

asyncio.run(fill(sys.argv[1], int(sys.argv[2])))
"""
#: what a server does that lists the jobs to count them: arq's own call, once
_LIST = f"""
import asyncio, sys, time
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool
from app.payloads.codec import Codec

async def listed(url):
    pool = ConnectionPool.from_url(url)
    redis = ArqRedis(pool, job_deserializer=Codec().decode, default_queue_name={QUEUE!r})
    began = time.perf_counter()
    jobs = await redis.queued_jobs(queue_name={QUEUE!r})
    print(len(jobs), (time.perf_counter() - began) * 1000)

asyncio.run(listed(sys.argv[1]))
"""


@contextlib.contextmanager
def _server(waiting: int) -> Iterator[tuple[int, str, int]]:
    """Run the product's server over *waiting* jobs; yields its port, the queue's URL and its process id."""
    with redis_server() as server:
        url = f"redis://127.0.0.1:{server.port}"
        if waiting:
            fill = [sys.executable, "-c", _FILL, f"{url}/0", str(waiting)]
            subprocess.run(fill, check=True, cwd=ROOT, env=environment())
        port = free_port()
        with started(
            [sys.executable, "-c", _SERVE],
            REDIS_QUEUE_URL=f"{url}/0",
            REDIS_STREAMS_URL=f"{url}/1",
            REDIS_URL=f"{url}/2",
            QUEUE_UI_PORT=str(port),
            LOG_LEVEL="WARNING",
        ) as process:
            wait_for(lambda: _answers(port), 120, "the server does not answer")
            yield port, f"{url}/0", process.pid


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/stats", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@contextlib.contextmanager
def _watched(port: int, sessions: int) -> Iterator[None]:
    """Keep *sessions* pages open and streaming."""
    line = [sys.executable, "-m", "bench.http_load", "watch", str(port), str(sessions)]
    process = subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "open":
            raise RuntimeError("the pages did not open")
        yield
    finally:
        process.kill()
        process.wait()


def _load(
    port: int,
    connections: int,
    seconds: float,
    method: str,
    path: str,
    body: str = "",
    *,
    pid: int = 0,
) -> dict[str, float]:
    """Ask for *seconds*; ``cpu_us`` is what one answer cost the process *pid*, all its threads."""
    line = [sys.executable, "-m", "bench.http_load", "load", str(port), str(connections), str(seconds), method, path]  # fmt: skip
    busy_s = cpu_s(pid) if pid else 0.0
    ended = subprocess.run(
        line, input=body, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    told = json.loads(ended.stdout)
    statuses = told.pop("statuses")
    if set(statuses) - {"200", "201"}:
        raise RuntimeError(f"{path} answered {statuses}")
    spent_s = cpu_s(pid) - busy_s if pid else 0.0
    return dict(told) | {"cpu_us": spent_s / sum(statuses.values()) * 1e6}


def measure_stats(*, quick: bool, rounds: int) -> list[Row]:
    """T5."""
    waiting = WAITING // 10 if quick else WAITING
    taken: list[dict[str, float]] = []
    with _server(waiting) as (port, url, pid):
        listing = subprocess.run(
            [sys.executable, "-c", _LIST, url],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        listed_ms = float(listing[1])
        with _watched(port, SESSIONS):
            _load(port, 8, 1, "GET", "/stats")
            for n in range(rounds):
                taken.append(_load(port, 8, 2 if quick else 5, "GET", "/stats", pid=pid))
                print(f"    round {n + 1}  /stats {taken[-1]}", flush=True)
    per_s, p50, p99 = (median([t[name] for t in taken]) for name in ("per_s", "p50_ms", "p99_ms"))
    how = f"{waiting:,} jobs wait, {SESSIONS} pages stream, 8 connections"
    return [
        Row(id="T5.rate", what="GET /stats", unit="requests/s", ours=per_s, target="≥ 2,500 requests/s",
            met=per_s >= 2_500, settings=how, rounds=rounds),
        Row(id="T5.p99", what="GET /stats, 99th percentile", unit="ms", ours=p99, target="≤ 10 ms",
            met=p99 <= 10, settings=how, rounds=rounds),
        Row(id="T5.cpu", what="CPU of the server per GET /stats, its pages included", unit="µs",
            ours=median([t["cpu_us"] for t in taken]), settings=how, rounds=rounds),
        Row(id="T5.listing", what="GET /stats, median, beside counting by listing the jobs (arq's queued_jobs, once)",
            unit="ms", ours=p50, peers={"arq": listed_ms}, target="≤ arq / 500", met=p50 <= listed_ms / 500,
            settings=how, rounds=rounds),
    ]  # fmt: skip


def measure_submit(*, quick: bool, rounds: int) -> list[Row]:
    """T7."""
    seconds = 2 if quick else 5
    many = json.dumps([JOB] * 1_000)
    singles: list[dict[str, float]] = []
    lists: list[dict[str, float]] = []
    for n in range(rounds):
        with _server(0) as (port, _, pid):
            _load(port, 16, 1, "POST", f"/jobs/{QUEUE}", json.dumps(JOB))
            singles.append(
                _load(port, 16, seconds, "POST", f"/jobs/{QUEUE}", json.dumps(JOB), pid=pid)
            )
            time.sleep(0.2)
            lists.append(_load(port, 2, seconds, "POST", f"/jobs/{QUEUE}", many, pid=pid))
        print(f"    round {n + 1}  single {singles[-1]}  lists {lists[-1]}", flush=True)
    single = median([t["per_s"] for t in singles])
    jobs = median([t["per_s"] for t in lists]) * 1_000
    return [
        Row(id="T7.single", what="POST /jobs/{queue}, one job each", unit="jobs/s", ours=single,
            target="≥ 1,500 jobs/s", met=single >= 1_500, settings="one server process, 16 connections",
            rounds=rounds),
        Row(id="T7.single-cpu", what="CPU of the server per POST of one job", unit="µs",
            ours=median([t["cpu_us"] for t in singles]), settings="one server process, 16 connections",
            rounds=rounds),
        Row(id="T7.list-cpu", what="CPU of the server per job of a list of 1,000", unit="µs",
            ours=median([t["cpu_us"] for t in lists]) / 1_000, settings="one server process, 2 connections",
            rounds=rounds),
        Row(id="T7.list", what="POST /jobs/{queue}, lists of 1,000", unit="jobs/s", ours=jobs,
            target="≥ 25,000 jobs/s", met=jobs >= 25_000, settings="one server process, 2 connections",
            rounds=rounds),
    ]  # fmt: skip
