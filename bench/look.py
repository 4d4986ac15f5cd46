"""T4 and T6: what one look costs, however many jobs there are: a sample, a page of jobs, a search."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from app import keys
from app.collector import Collector
from app.declarations import QueuePolicy
from app.jobs.lists import jobs_page
from app.jobs.rows import JobFilter
from app.records import JobRun, Outcome, WorkerInfo
from app.settings import Settings
from app.wire.connections import connect
from bench import dashboards
from bench.machine import Server, median, redis_server
from bench.results import Row

QUEUES: Final = tuple(f"q{n}" for n in range(10))
STREAMS: Final = 3
WORKERS: Final = 20
SMALL: Final = 1_000
#: jobs of the queue that bull-board shows: its page costs the same at any depth
BULL_JOBS: Final = 100_000
_FILL: Final = """
local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])
for n = first, first + count - 1 do
  redis.call('ZADD', KEYS[1], 1700000000000 + n, 'j' .. n)
  local name = n % 1000 == 999 and 'rare' or 'generic'
  redis.call('SET', 'arq:job:j' .. n, 'j1:{"t":null,"f":"' .. name .. '","a":[{"tenant":' .. n .. '}],"k":{},"et":1}')
  redis.call('SET', 'arq:result:r' .. n, 'j1:{"t":1,"f":"generic","a":[],"k":{},"et":1,"s":true,"r":null}')
end
"""


async def fill(server: Server, jobs: int) -> None:
    """Fill one queue with *jobs* waiting and as many finished jobs."""
    redis = connect(f"redis://127.0.0.1:{server.port}", timeout_s=60)
    for first in range(0, jobs, 50_000):
        await redis.eval(_FILL, 1, QUEUES[0], str(first), str(min(50_000, jobs - first)))  # type: ignore[misc]
    await redis.aclose()


async def furnish(server: Server) -> Settings:
    """Make 10 queues, 3 streams with a group each, and 20 workers that run 5 jobs each."""
    url = f"redis://127.0.0.1:{server.port}"
    redis = connect(url)
    now = int(time.time() * 1000)
    for n in range(WORKERS):
        jobs = [
            {"id": f"r{n}-{k}", "function": "generic", "started_ms": now, "attempt": 1}
            for k in range(5)
        ]
        info = WorkerInfo(
            id=f"w{n}", role="worker", host="h", pid=n, source=QUEUES[n % 10], version="1",
            since_ms=now, beat_ms=now + 3_600_000, slots=5, busy=5, jobs=json.dumps(jobs),
        )  # fmt: skip
        await redis.hset(keys.worker(info.id), mapping=info.to_fields())  # type: ignore[misc]
        await redis.zadd(keys.WORKERS, {info.id: now})
    await redis.sadd(keys.QUEUES, *QUEUES)  # type: ignore[misc]
    names = [f"stream{n}" for n in range(STREAMS)]
    for name in names:
        await redis.xgroup_create(name, "g", id="0", mkstream=True)
        await redis.xadd(name, {"type": "a"})
    await redis.aclose()
    return Settings(
        redis_queue_url=url,
        redis_streams_url=url,
        redis_url=url,
        stream_name=names[0],
        queues=tuple(QueuePolicy(name=name) for name in QUEUES),
    )


async def ticks(server: Server, settings: Settings, count: int) -> tuple[list[float], list[int]]:
    """Milliseconds and commands of *count* timed samples while every queue ends a job a tick."""
    redis = connect(f"redis://127.0.0.1:{server.port}")
    collector = Collector(settings)
    collector._observation.streams = tuple(f"stream{n}" for n in range(STREAMS))
    await collector.sample()
    spent, commands = [], []
    for n in range(count + 20):
        now = int(time.time() * 1000)
        pipe = redis.pipeline(transaction=False)
        for queue in QUEUES:
            run = JobRun(
                job_id=f"y{n}", queue=queue, function="generic", outcome=Outcome.COMPLETE, attempt=1,
                worker="w0", enqueued_ms=now, due_ms=now, started_ms=now, finished_ms=now,
            )  # fmt: skip
            pipe.xadd(keys.runs(queue), {"r": run.to_json()}, maxlen=10_000)
            pipe.hincrby(keys.totals(queue), "complete", 1)
        await pipe.execute()
        snapshot = await collector.sample(full=False)
        if n >= 20:
            spent.append(snapshot.cost_ms)
            commands.append(snapshot.cost_commands)
    await collector.stop()
    await redis.aclose()
    return spent, commands


async def timed_ms(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """Milliseconds *work* takes, and its answer."""
    begin = time.perf_counter()
    found = await work()
    return (time.perf_counter() - begin) * 1000, found


async def pages(server: Server, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the first page, the next one, one in the middle, and a search for a function."""
    redis = connect(f"redis://127.0.0.1:{server.port}", timeout_s=10)
    found: dict[str, list[float]] = {"first": [], "next": [], "middle": [], "filter": []}
    depth = int(await redis.zcard(QUEUES[0]))
    middle = f"{1_700_000_000_000 + depth // 2}:1"
    nothing = JobFilter(function="nobody")
    for _ in range(rounds):
        ms, page = await timed_ms(lambda: jobs_page(redis, QUEUES[0], "waiting"))
        found["first"].append(ms)
        cursor = page.cursor
        for name, place in (("next", cursor), ("middle", middle)):
            ms, _ = await timed_ms(
                lambda place=place: jobs_page(redis, QUEUES[0], "waiting", place)
            )  # type: ignore[misc]
            found[name].append(ms)
        ms, page = await timed_ms(lambda: jobs_page(redis, QUEUES[0], "waiting", wanted=nothing))
        found["filter"].append(ms)
    await redis.aclose()
    return found


_rows: list[Row] = []


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T4."""
    _rows[:] = _measured(quick=quick, rounds=rounds)
    return [row for row in _rows if row.id.startswith("T4")]


def measure_pages(*, quick: bool, rounds: int) -> list[Row]:
    """T6, measured along with T4 when that ran before."""
    return [
        row for row in (_rows or _measured(quick=quick, rounds=rounds)) if row.id.startswith("T6")
    ]


def _measured(*, quick: bool, rounds: int) -> list[Row]:
    deep, peer = (20_000, 2_000) if quick else (1_000_000, 20_000)
    count = 30 if quick else 100
    taken: dict[int, list[float]] = {SMALL: [], deep: []}
    commands: list[int] = []
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for depth in (SMALL, deep):
            with redis_server() as server:

                async def once(server: Server = server, depth: int = depth) -> None:
                    settings = await furnish(server)
                    await fill(server, depth)
                    spent, sent = await ticks(server, settings, count)
                    taken[depth].append(median(spent))
                    commands.extend(sent)
                    if depth == deep:
                        for name, values in (await pages(server, 5)).items():
                            found.setdefault(name, []).append(median(values))

                asyncio.run(once())
            print(f"    {depth:>9,} jobs  sample {taken[depth][-1]:6.2f} ms", flush=True)
    with redis_server() as server:
        asyncio.run(fill(server, peer))
        listing = dashboards.arq_ms(server, QUEUES[0])
        page = dashboards.arq_dashboard_ms(server, QUEUES[0])
    board_jobs = 20_000 if quick else BULL_JOBS
    board = dashboards.bull_board_ms(board_jobs)
    times = deep / peer
    others = {"arq": listing * times, "arq-dashboard": page * times, "bull-board": board}
    others = {name: ms for name, ms in others.items() if ms == ms}
    small, large = median(taken[SMALL]), median(taken[deep])
    shape = "10 queues, 3 streams, 20 workers, one Redis"
    both = f"{deep:,} queued and {deep:,} finished jobs"
    rows = [
        Row(id="T4.sample", what="one sample, from asking to having the rows", unit="ms", ours=large,
            target="≤ 5 ms", met=large <= 5, settings=f"{shape}; {both}", rounds=rounds),
        Row(id="T4.commands", what="Redis commands of a sample, at most", unit="", ours=max(commands),
            target="≤ 70, 3 round trips", met=max(commands) <= 70, settings=shape, rounds=rounds),
        Row(id="T4.depth", what=f"sample at {deep:,} jobs, in times of one at {SMALL:,}", unit="x",
            ours=large / small, target="≤ 1.2", met=large / small <= 1.2, settings=shape, rounds=rounds),
    ]  # fmt: skip
    for name, what, limit in (
        ("first", "first page of 50 jobs", 60.0), ("next", "next page", 60.0),
        ("middle", "page in the middle of the queue", 60.0),
        ("filter", "search for a function within a window of 100,000", 1500.0),
    ):  # fmt: skip
        ms = median(found[name])
        peers = others if name == "first" else {}
        note = (
            f"; arq: queued_jobs() of {peer:,}, arq-dashboard: its page of {peer:,} over HTTP, both times "
            f"{deep // peer}; bull-board: its page of {board_jobs:,} over HTTP"
            if peers
            else ""
        )
        rows.append(
            Row(id=f"T6.{name}", what=what, unit="ms", ours=ms, peers=peers, target=f"≤ {limit:g} ms",
                met=ms <= limit, settings=both + note, rounds=rounds)
        )  # fmt: skip
    return rows
