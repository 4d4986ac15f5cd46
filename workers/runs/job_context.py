"""What a job function finds under ``ctx["job"]``: progress, log, checkpoints, stop flag, once.

Progress and log are for people: the last run's words. Checkpoint and marks are the job's own
memory: all its runs share them, retries of its dead letter included, and no other job that is
enqueued later under the same id does.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, cast

from redis.asyncio import Redis

from app import keys
from app.errors import InvalidRequest
from app.next_jobs import MAX_NEXT, RESULT, NextJob, check_chain, next_id, root_of
from app.payloads.codec import dumps, loads, safe_str

KEPT_S: Final = 7 * 86_400
#: s the memory of a job outlives its last use: its dead letter may wait long for a retry
MEMORY_KEPT_S: Final = 30 * 86_400
MAX_LOG_LINES: Final = 200
MAX_CHECKPOINT_BYTES: Final = 262_144


class JobHandle:
    """One run's connection to the outside, passed to job functions as ``ctx["job"]``."""

    __slots__ = (
        "_declared",
        "_key",
        "_memory",
        "_redis",
        "_stopping",
        "_tell",
        "attempt",
        "correlation_id",
        "id",
        "next_jobs",
        "queue",
    )

    def __init__(
        self,
        redis: Redis,
        queue: str,
        job_id: str,
        attempt: int,
        enqueued_ms: int,
        correlation_id: str,
        stopping: Callable[[], bool],
        declared: int = 0,
        tell: Callable[[float, float, str], None] | None = None,
    ) -> None:
        self.id = job_id
        self.queue = queue
        self.attempt = attempt  #: 1 on the first run
        self.correlation_id = correlation_id
        self._redis = redis
        self._key = keys.progress(queue, self.idempotency_key)
        self._memory = keys.job_memory(queue, self.idempotency_key, enqueued_ms)
        self._stopping = stopping
        self._declared = declared  #: next jobs the payload names
        self._tell = tell
        self.next_jobs: list[NextJob] | None = None  #: made when this run completes

    @property
    def idempotency_key(self) -> str:
        """The same text for every run of this job: hand it to services that deduplicate."""
        return root_of(self.id)

    def should_stop(self) -> bool:
        """Whether the worker is draining: save a checkpoint and ``lay_back``, or end soon."""
        return self._stopping()

    def lay_back(self) -> NoReturn:
        """Give the job back to its queue, at no attempt; raises RuntimeError unless ``should_stop``."""
        if not self._stopping():
            raise RuntimeError("lay_back() is for a job whose should_stop() is true")
        raise asyncio.CancelledError

    def then(
        self,
        name: str,
        data: Any = RESULT,
        *,
        queue: str = "",
        delay_s: float = 0.0,
        then: Sequence[NextJob] = (),
    ) -> str:
        """Have job *name* made when this run completes, with *data* or else its result; its id.

        Nothing is made when the run fails. Raises InvalidRequest for what cannot be a job.
        """
        later = NextJob(name=name, queue=queue, data=data, delay_s=delay_s, then=tuple(then))
        self.next_jobs = list(check_chain([*(self.next_jobs or ()), later]))
        number = self._declared + len(self.next_jobs)
        if number > MAX_NEXT:
            raise InvalidRequest(f"then: at most {MAX_NEXT} next jobs of one job", field="then")
        return next_id(self.id, number)

    async def progress(self, done: float, total: float, message: str = "") -> None:
        """Report *done* of *total* (any unit), shown on the job's page."""
        if self._tell is not None:
            self._tell(done, total, message)
        await self._write(
            self._key,
            {
                "done": f"{done:g}",
                "total": f"{total:g}",
                "message": safe_str(message, 500),
                "progress_ms": str(int(time.time() * 1000)),
            },
            KEPT_S,
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
        await self._write(self._memory, {"checkpoint": raw}, MEMORY_KEPT_S)

    async def restore(self, default: Any = None) -> Any:
        """Return the last checkpoint of this job, or *default*."""
        raw = await cast(Any, self._redis.hget(self._memory, "checkpoint"))
        return default if raw is None else loads(raw)

    async def once(self, name: str) -> bool:
        """Whether this call is the first with *name* in all runs of this job.

        The mark is set before the effect: a worker that dies between the two has skipped the
        effect. Where that is worse than doing it twice, give ``idempotency_key`` to the receiver.
        """
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(self._memory, f"once:{name}", "1")
            pipe.expire(self._memory, MEMORY_KEPT_S)
            first, _ = await pipe.execute()
        return bool(first)

    async def sleep(self, seconds: float) -> None:
        """Sleep, in steps short enough to notice a draining worker; returns early then."""
        end = time.monotonic() + seconds
        while not self._stopping() and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, 0.25))

    async def _write(self, key: str, fields: dict[str, Any], kept_s: int) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(key, mapping=fields)
            pipe.expire(key, kept_s)
            await pipe.execute()
