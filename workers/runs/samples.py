"""Arguments of jobs that ended well, sampled: what failures are compared with.

A worker takes one job per function and interval, at first every second, later every 15 s, whatever
it runs: the cost does not grow with the load. A full list of 200 loses a random member for each new
one, so that it spans some 50 minutes of a busy worker.
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.payloads.arguments import encoded, flat
from app.payloads.codec import safe_str
from app.wire.scripts import script
from workers.cancellation import end

log = logging.getLogger("arqscope.worker")

SAMPLES_KEPT: Final = 200
SAMPLES_TTL_S: Final = 7 * 86_400
FIRST_INTERVAL_S: Final = 1.0
INTERVAL_S: Final = 15.0
#: samples taken at the first interval
FIRST_SAMPLES: Final = 100
GOODBYE_S: Final = 1.0
#: functions sampled: their names come from payloads
MAX_FUNCTIONS: Final = 200


class Sampler:
    """Samples the successes of one worker; ``due`` is asked for every job that ends well."""

    def __init__(self, redis: Redis, queue: str) -> None:
        self._redis = redis
        self._queue = queue
        self._next: dict[str, float] = {}
        self._taken: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def due(self, function: str, now_s: float) -> bool:
        """Whether a job of *function* that started at *now_s* (monotonic) is to be sampled."""
        return now_s >= self._next.get(function, 0.0)

    def take(
        self, function: str, args: Sequence[Any], kwargs: Mapping[str, Any], now_s: float
    ) -> None:
        """Keep these arguments; nothing waits for it, and a Redis that is away costs the sample."""
        if function not in self._next and len(self._next) >= MAX_FUNCTIONS:
            return
        taken = self._taken[function] = self._taken.get(function, 0) + 1
        pause_s = FIRST_INTERVAL_S if taken < FIRST_SAMPLES else INTERVAL_S
        # jitter, so that a load with a beat of its own is not sampled at the same point of it
        self._next[function] = now_s + pause_s * random.uniform(0.5, 1.5)  # noqa: S311
        try:
            text = encoded(flat(args, kwargs))
        except Exception as error:  # __str__ of a user's argument may raise anything
            log.debug("arguments not sampled", extra={"error": safe_str(error, 200)})
            return
        task = asyncio.get_running_loop().create_task(self._keep(function, text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Let what is on its way arrive, within a second."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GOODBYE_S)
        await end(self._tasks)

    async def _keep(self, function: str, text: str) -> None:
        try:
            await script(__file__, "keep_sample").run(
                self._redis,
                [keys.samples(self._queue, safe_str(function, 128))],
                [text, SAMPLES_KEPT, random.randrange(SAMPLES_KEPT), SAMPLES_TTL_S * 1000],  # noqa: S311
            )
        except (RedisError, OSError) as error:
            log.debug("sample not kept", extra={"error": safe_str(error, 200)})
