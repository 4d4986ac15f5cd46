"""Queues of stock arq that nobody declared: found by one bounded look, shown with what can be known.

Nothing is installed, and nothing is written but the names found (``keys.FOREIGN``), where we may. What
stock arq does not tell (who works, how many run now, what was ever done) is unknown, not zero.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd
from arq.constants import health_check_key_suffix
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import frames, keys
from app.columns import Schema, number, text
from app.wire.batch import Batch, into
from app.wire.connections import is_refusal

#: keys one look passes at most, a step of it, and the pause after each: at most a few percent of Redis
WINDOW: Final = 200_000
STEP: Final = 1_000
PAUSE_S: Final = 0.01
MAX_FOREIGN: Final = 100
_HEALTH: Final = re.compile(
    r"j_complete=(\d+) j_failed=(\d+) j_retried=(\d+) j_ongoing=(\d+) queued=(\d+)"
)
#: arq's health record lives one second longer than the interval it is written at
_HEALTH_EXTRA_MS: Final = 1_000

FOREIGN_COLUMNS: Final = Schema(
    "One row per queue of stock arq; counters are of the worker that wrote the health record last.",
    queue=text("name of the queue"),
    depth=number("jobs", "waiting, deferred, and (stock workers leave them in) running"),
    due=number("jobs", "due now, running ones included"),
    deferred=number("jobs", "due later"),
    oldest_wait_s=number("s", "age of the oldest due job, running ones included"),
    running_at_least=number("jobs", "of the 200 oldest due jobs, those with a lock"),
    ongoing=number("jobs", "running in that worker; NaN: no record"),
    complete=number("jobs", "ended well since that worker started; NaN: no record"),
    failed=number("jobs", "failed since that worker started; NaN: no record"),
    retried=number("jobs", "retried since that worker started; NaN: no record"),
    health_expires_s=number("s", "until the record expires; NaN: no worker wrote one"),
    health=text("the record, as written"),
)
#: due jobs whose locks are looked at
_HEAD: Final = 200


@dataclass(slots=True)
class Look:
    """What a look has seen so far."""

    queues: set[str] = field(default_factory=set)
    scanned: int = 0
    ended: bool = False
    complete: bool = False  #: every key was passed, not only the window
    jobs: int = 0  #: payloads among the keys passed
    results: int = 0
    running: int = 0  #: locks, of stock workers and ours

    @property
    def window(self) -> str:
        """What was looked at, in words."""
        if not self.ended:
            return f"looking: {self.scanned:,} keys so far"
        how = "all" if self.complete else "the first"
        return f"{how} {self.scanned:,} keys"


async def look_around(
    redis: Redis, known: Iterable[str] = (), *, look: Look | None = None, window: int = WINDOW
) -> Look:
    """Pass up to *window* keys with SCAN and find the queues among them that are not *known*.

    A queue is a sorted set whose first member has a payload of arq, or whose stock worker left a
    health record. Never on a timer: when a server starts, and when somebody asks.
    """
    look = look or Look()
    passed = set(known)
    cursor = 0
    while True:
        cursor, names = await redis.scan(cursor, count=STEP)
        look.scanned += len(names)
        await _sort_out(redis, [str(name) for name in names], passed, look)
        if cursor == 0 or look.scanned >= window or len(look.queues) >= MAX_FOREIGN:
            break
        await asyncio.sleep(PAUSE_S)
    look.complete, look.ended = cursor == 0, True
    return look


async def _sort_out(redis: Redis, names: list[str], known: set[str], look: Look) -> None:
    candidates = []
    for name in names:
        if name.startswith(keys.ARQ_JOB):
            look.jobs += 1
        elif name.startswith(keys.ARQ_RESULT):
            look.results += 1
        elif name.startswith(keys.ARQ_IN_PROGRESS):
            look.running += 1
        elif name.endswith(health_check_key_suffix):
            queue = name.removesuffix(health_check_key_suffix)
            if queue not in known:
                look.queues.add(queue)
        elif not (
            name.startswith(("arqscope:", keys.ARQ_RETRY))
            or name == keys.ARQ_ABORT
            or name in known
            or name in look.queues
        ):
            candidates.append(name)
    kinds: dict[str, Any] = {}
    await _asked(redis, kinds, candidates, lambda name: ("TYPE", name))
    sets = [name for name in candidates if kinds.get(name) == "zset"]
    heads: dict[str, Any] = {}
    await _asked(redis, heads, sets, lambda name: ("ZRANGE", name, 0, 0))
    heads = {name: head[0] for name, head in heads.items() if head}
    exist: dict[str, Any] = {}
    await _asked(redis, exist, list(heads), lambda name: ("EXISTS", keys.arq_job(heads[name])))
    for name in heads:
        if exist.get(name):
            look.queues.add(name)


async def _asked(redis: Redis, target: dict[str, Any], names: list[str], command: Any) -> None:
    batch = Batch(redis)
    for name in names:
        batch.ask_raw(into(target, name), *command(name))
    await batch.run()


async def remember(redis: Redis, queues: Iterable[str]) -> bool:
    """Keep the names of foreign queues for the next server; False where we may not write."""
    names = sorted(queues)[:MAX_FOREIGN]
    if not names:
        return True
    try:
        await redis.sadd(keys.FOREIGN, *names)  # type: ignore[misc]
    except RedisError as error:
        if is_refusal(error):
            return False
        raise
    return True


async def remembered(redis: Redis) -> set[str]:
    """Names of foreign queues found before."""
    found: Any = await redis.smembers(keys.FOREIGN)  # type: ignore[misc]
    return {str(name) for name in list(found)[:MAX_FOREIGN]}


async def foreign_frame(redis: Redis, queues: Iterable[str]) -> pd.DataFrame:
    """What can be known about stock queues, as FOREIGN_COLUMNS. Two round trips."""
    names = sorted(queues)[:MAX_FOREIGN]
    now: Any = await redis.time()
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    got: dict[str, Any] = {}
    batch = Batch(redis)
    for name in names:
        health = name + health_check_key_suffix
        for what, *command in (
            ("depth", "ZCARD", name),
            ("due", "ZCOUNT", name, "-inf", now_ms),
            ("head", "ZRANGEBYSCORE", name, "-inf", now_ms, "LIMIT", 0, _HEAD),
            ("first", "ZRANGE", name, 0, 0, "WITHSCORES"),
            ("health", "GET", health),
            ("expires", "PTTL", health),
        ):
            batch.ask_raw(into(got, f"{what}|{name}"), *command)
    await batch.run()
    locks: dict[str, Any] = {}
    heads = [name for name in names if got.get(f"head|{name}")]
    await _asked(
        redis,
        locks,
        heads,
        lambda name: ("EXISTS", *(keys.arq_in_progress(i) for i in got[f"head|{name}"])),
    )
    return frames.frame_of(
        (_row(name, got, locks.get(name, 0), now_ms) for name in names), FOREIGN_COLUMNS
    )


def _row(name: str, got: Mapping[str, Any], locks: int, now_ms: int) -> dict[str, Any]:
    depth, due = got.get(f"depth|{name}"), got.get(f"due|{name}")
    first = got.get(f"first|{name}")
    health = str(got.get(f"health|{name}") or "")
    told = _HEALTH.search(health)
    expires = int(got.get(f"expires|{name}") or -2)
    row: dict[str, Any] = {
        "queue": name,
        "depth": depth,
        "due": due,
        "deferred": None if depth is None or due is None else depth - due,
        "oldest_wait_s": max(0.0, (now_ms - float(first[1])) / 1000) if first and due else None,
        "running_at_least": locks,
        "health": health[:300],
        "health_expires_s": max(0, expires - _HEALTH_EXTRA_MS) / 1000 if health else None,
    }
    if told is not None:
        complete, failed, retried, ongoing, _ = (int(number) for number in told.groups())
        row |= {"complete": complete, "failed": failed, "retried": retried, "ongoing": ongoing}
    return row
