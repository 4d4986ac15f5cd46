"""A rehearsed past for a private stack: minutes of history as if a queue had been served, made up and seeded.

For notebooks and trials that would have to wait half an hour for a forecast. Written the way the real
writer writes, so that everything that reads history reads it. Never for a deployment somebody relies on.
"""

import random
import time
from typing import Any, Final

from app import keys
from app.annals.historian import Historian
from app.errors import ActionRefused
from app.records import bucket_of
from app.sampling.sample import Sample
from app.scope.deployment import Loop
from app.settings import Settings
from app.wire.connections import connect

MAX_MINUTES: Final = 240


def rehearse(
    settings: Settings,
    queue: str,
    *,
    minutes: int = 30,
    arrivals_per_s: float = 2.0,
    service_per_s: float = 2.5,
    backlog: float = 0.0,
    workers: float = 1.0,
    slots: float = 5.0,
    run_s: float = 1.0,
    seed: int = 7,
) -> int:
    """Write *minutes* of a made-up past of *queue* up to the last full minute; the rows written.

    Counts are drawn around the rates (a normal draw with their square root, as of a busy Poisson
    process), durations around *run_s*; *backlog* is what waited in the end. ActionRefused where the
    queue was accepted jobs before: a past that happened is not painted over.
    """
    if not 1 <= minutes <= MAX_MINUTES:
        raise ActionRefused(f"minutes={minutes} is out of range: 1 to {MAX_MINUTES}")
    loop = Loop()
    try:
        return loop.call(
            _write(
                settings, queue, minutes, arrivals_per_s, service_per_s, backlog,
                {"workers": workers, "slots": slots}, run_s, random.Random(seed),  # noqa: S311 - a rehearsal
            )
        )  # fmt: skip
    finally:
        loop.close()


async def _write(
    settings: Settings,
    queue: str,
    minutes: int,
    arrivals_per_s: float,
    service_per_s: float,
    backlog: float,
    staff: dict[str, float],
    run_s: float,
    dice: random.Random,
) -> int:
    if settings.placement.servers:
        raise ActionRefused(
            "a rehearsal with several queue servers is not supported yet: unset REDIS_QUEUE_SHARDS for it"
        )
    redis = connect(settings.url("queue"))
    try:
        totals: Any = redis.hget(keys.totals(queue), "accepted")
        if int(await totals or 0):
            raise ActionRefused(f"{queue} has a past of its own; rehearse before the first job")
        historian, written = Historian(), 0
        last = int(time.time() // 60) - 1
        held = backlog - 60 * minutes * (arrivals_per_s - service_per_s)
        for minute in range(last - minutes + 1, last + 1):
            arrived = _drawn(dice, arrivals_per_s * 60)
            ended = _drawn(dice, service_per_s * 60)
            held = max(0.0, held + arrived - ended)
            counts = {"|a|accepted": arrived, "rehearsed|o|complete": ended}
            for _ in range(min(ended, 200)):
                ran = bucket_of(1000 * run_s * dice.lognormvariate(0, 0.3))
                waited = bucket_of(1000 * (0.01 + held / max(service_per_s, 0.01)))
                for name in (f"rehearsed|r|{ran}", f"rehearsed|w|{waited}"):
                    counts[name] = counts.get(name, 0) + 1
            await redis.hset(keys.minute(queue, minute), mapping=counts)  # type: ignore[misc]
            await redis.pexpire(keys.minute(queue, minute), 7_200_000)
            for second in (10, 40):
                at_ms = minute * 60_000 + second * 1000
                historian.see(
                    Sample(at_us=at_ms * 1000, now_ms=at_ms, queues=[_row(queue, held, staff)])
                )
            written += await historian.write(redis, (minute + 1) * 60_000 + 4_000)
        return written
    finally:
        await redis.aclose()


def _drawn(dice: random.Random, mean: float) -> int:
    return max(0, round(dice.gauss(mean, mean**0.5)))


def _row(queue: str, held: float, staff: dict[str, float]) -> dict[str, Any]:
    return {
        "queue": queue, "waiting": held, "deferred": 0, "running": min(held, staff["slots"]), **staff,
        "dead_open": 0.0, "redriven": 0, "oldest_wait_s": 0.0, "paused": False,
    }  # fmt: skip
