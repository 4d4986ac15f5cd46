"""What a job function finds under ``ctx["job"]``: progress, log, checkpoints, stop flag, once."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final, cast

from redis.asyncio import Redis

from app import keys
from app.payload import dumps, loads, safe_str

KEPT_S: Final = 7 * 86_400
MAX_LOG_LINES: Final = 200
MAX_CHECKPOINT_BYTES: Final = 262_144


class JobHandle:
    """One run's connection to the outside, passed to job functions as ``ctx["job"]``."""

    __slots__ = ("_key", "_redis", "_stopping", "attempt", "correlation_id", "id", "queue")

    def __init__(
        self,
        redis: Redis,
        queue: str,
        job_id: str,
        attempt: int,
        correlation_id: str,
        stopping: Callable[[], bool],
    ) -> None:
        self.id = job_id
        self.queue = queue
        self.attempt = attempt  #: 1 on the first run
        self.correlation_id = correlation_id
        self._redis = redis
        self._key = keys.progress(queue, job_id)
        self._stopping = stopping

    @property
    def idempotency_key(self) -> str:
        """The same text for every run of this job: hand it to services that deduplicate."""
        return self.id.partition("~r")[0]

    def should_stop(self) -> bool:
        """Whether the worker is draining: save a checkpoint and return or await soon."""
        return self._stopping()

    async def progress(self, done: float, total: float, message: str = "") -> None:
        """Report *done* of *total* (any unit), shown on the job's page."""
        await self._write(
            {
                "done": f"{done:g}",
                "total": f"{total:g}",
                "message": safe_str(message, 500),
                "progress_ms": str(int(time.time() * 1000)),
            }
        )

    async def log(self, text: str) -> None:
        """Append one line (at most 2,000 characters, the last 200 lines are kept)."""
        key = f"{self._key}:log"
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(key, json.dumps([int(time.time() * 1000), safe_str(text, 2000)]))
            pipe.ltrim(key, -MAX_LOG_LINES, -1)
            pipe.expire(key, KEPT_S)
            await pipe.execute()

    async def checkpoint(self, value: Any) -> None:
        """Save *value* (JSON, at most 256 KB) for a later run of this job to ``restore``."""
        raw = dumps(value)
        if len(raw) > MAX_CHECKPOINT_BYTES:
            raise ValueError(f"a checkpoint of {len(raw):,} bytes is over {MAX_CHECKPOINT_BYTES:,}")
        await self._write({"checkpoint": raw})

    async def restore(self, default: Any = None) -> Any:
        """Return the last checkpoint of this job, or *default*."""
        raw = await cast(Any, self._redis.hget(self._key, "checkpoint"))
        return default if raw is None else loads(raw)

    async def once(self, name: str) -> bool:
        """Whether this call is the first with *name* in all runs of this job (kept 7 days)."""
        first = await cast(Any, self._redis.hsetnx(self._key, f"once:{name}", "1"))
        await cast(Any, self._redis.expire(self._key, KEPT_S))
        return bool(first)

    async def sleep(self, seconds: float) -> None:
        """Sleep, in steps short enough to notice a draining worker; returns early then."""
        end = time.monotonic() + seconds
        while not self._stopping() and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, 0.25))

    async def _write(self, fields: dict[str, Any]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(self._key, mapping=fields)
            pipe.expire(self._key, KEPT_S)
            await pipe.execute()
