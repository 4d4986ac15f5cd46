"""T11: what ninety days of history take in Redis, and how fast a chart of it is there."""

import asyncio
import json
import random
import time
import zlib
from typing import Final

from app import keys
from app.annals.chunks import HOURS_GROUP, MINUTES_GROUP, pack
from app.annals.historian import MOMENTS
from app.annals.past import history
from app.annals.tiers import TierRow, merged_rows
from app.records import bucket_of
from app.wire.connections import connect
from bench.machine import Server, median, redis_server
from bench.results import Row

_DAY_S: Final = 86_400
#: durations a minute of a busy queue spreads over
_RUNS: Final = 60


def busy_row(chance: random.Random) -> TierRow:
    """A minute of a busy queue: 60 jobs of three functions, every level and every count in use."""
    histograms: dict[str, dict[int, int]] = {"wait": {}, "run": {}, "e2e": {}}
    for _ in range(_RUNS):
        run_ms = chance.lognormvariate(chance.choice((3, 6, 9)), 0.4)
        wait_ms = chance.lognormvariate(4, 1)
        for kind, ms in (("run", run_ms), ("wait", wait_ms), ("e2e", run_ms + wait_ms)):
            bucket = bucket_of(ms)
            histograms[kind][bucket] = histograms[kind].get(bucket, 0) + 1
    waiting = chance.uniform(0, 5_000)
    return TierRow(
        {
            "waiting": waiting, "waiting_max": waiting * 1.3, "deferred": chance.randrange(300),
            "running": chance.uniform(0, 50), "oldest_wait_s": chance.uniform(0, 600), "slots": 50,
            "workers": 10, "dead_open": chance.randrange(40), "held": waiting + 50,
        },
        {
            "samples": 60, "accepted": chance.randrange(120), "complete": chance.randrange(120),
            "retried": chance.randrange(9), "dead": chance.randrange(3),
            "aborted": chance.randrange(2), "shutdown": chance.randrange(2),
        },
        histograms,
    )  # fmt: skip


async def fill(server: Server, queues: int, days: int) -> None:
    """Write the chunks and moments of *days* days for *queues* queues, as the collector would."""
    redis = connect(f"redis://127.0.0.1:{server.port}", timeout_s=30, decode_responses=False)
    chance = random.Random(1)
    hour = int(time.time()) // 3600
    minutes = [pack({n: busy_row(chance) for n in range(60)}, MINUTES_GROUP) for _ in range(24)]
    whole = [merged_rows(busy_row(chance) for _ in range(60)) for _ in range(24)]
    hours = [pack({n: chance.choice(whole) for n in range(24)}, HOURS_GROUP) for _ in range(10)]
    for queue in range(queues):
        pipe = redis.pipeline(transaction=False)
        for n in range(min(days, 7) * 24):
            pipe.set(keys.history_minutes(f"q{queue}", hour - 1 - n), chance.choice(minutes))
        for n in range(days):
            pipe.set(keys.history_hours(f"q{queue}", hour // 24 - 1 - n), chance.choice(hours))
        for n in range(60):
            name = f"m{hour * 60 + n}"
            pipe.hset(keys.history_open(f"q{queue}"), name, busy_row(chance).to_json())
        await pipe.execute()
    workers = [
        {"id": f"host-{n}:{n}:ab{n:02}", "role": "worker", "source": f"q{n % queues}", "slots": 10,
         "cpu_s": chance.random() * 1e4, "rss_bytes": chance.randrange(10**8), "beat": chance.random()}
        for n in range(100)
    ]  # fmt: skip
    letters = [
        {"id": f"{chance.getrandbits(128):032x}", "error": "ValueError: no base", "died": n * 1e9}
        for n in range(100)
    ]
    told = [
        {"queue": f"q{n}"} | {f"c{k}": chance.random() for k in range(22)} for n in range(queues)
    ]
    moment = zlib.compress(json.dumps([told, workers, letters]).encode(), 9)
    for kind, (every, kept_ms) in MOMENTS.items():
        for n in range(kept_ms // 60_000 // every):
            await redis.set(keys.moment(kind, hour * 60 // every - n), moment)
    await redis.aclose()


async def charts(server: Server, queues: int, rounds: int) -> dict[str, float]:
    """Median milliseconds from asking to having the frame of a range of one queue."""
    redis = connect(f"redis://127.0.0.1:{server.port}", timeout_s=30)
    now_ms = time.time() * 1000
    found = {}
    for name, days in (("24 h", 1.0), ("7 d", 6.9), ("90 d", 90.0)):
        spent = []
        for n in range(rounds):
            begin = time.perf_counter()
            frame = await history(
                redis, f"q{n % queues}", now_ms - days * _DAY_S * 1000, now_ms, now_ms=now_ms
            )
            spent.append((time.perf_counter() - begin) * 1000)
            assert frame["complete"].notna().any()
        found[name] = median(spent)
    await redis.aclose()
    return found


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T11."""
    queues, days = (2, 10) if quick else (20, 90)
    with redis_server() as server:
        before = int(server.redis.info("memory")["used_memory"])  # type: ignore[index]
        asyncio.run(fill(server, queues, days))
        used = int(server.redis.info("memory")["used_memory"]) - before  # type: ignore[index]
        spent = asyncio.run(charts(server, queues, max(5, rounds * 3)))
    worst = max(spent.values())
    each = used / queues / 1e6
    told = ", ".join(f"{name} {ms:.0f} ms" for name, ms in spent.items())
    settings = f"{queues} busy queues, {days} days, moments of the whole deployment included"
    return [
        Row(id="T11.memory", what="history in Redis per queue", unit="MB", ours=each,
            target="≤ 1.5 MB", met=each <= 1.5, settings=settings, rounds=1),
        Row(id="T11.chart", what="frame of a range of one queue, the slowest range", unit="ms",
            ours=worst, target="≤ 150 ms", met=worst <= 150, settings=f"{settings}; {told}",
            rounds=max(5, rounds * 3)),
    ]  # fmt: skip
