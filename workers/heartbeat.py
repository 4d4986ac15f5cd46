"""The heartbeat of a process: who it is and how it fares, in Redis every 5 s while it lives.

Every role (worker, event processor, dead-letter processor) beats the same way, so that one page
shows them all. A process that ends cleanly removes itself; one that dies is gone after 20 s.
"""

import asyncio
import contextlib
import logging
import resource
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from os import getpid
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from app import __version__, keys
from app.payloads.codec import safe_str
from app.records import WorkerInfo
from workers.cancellation import end

log = logging.getLogger("arqscope.heartbeat")

INTERVAL_S: Final = 5.0
#: a process that misses three beats is gone: its record's TTL
TTL_MS: Final = 20_000
INDEX_KEPT_MS: Final = 86_400_000
LAG_PROBE_S: Final = 0.25
#: s a stopping process spends on removing its record; a Redis that is away must not hold it
GOODBYE_S: Final = 2.0
_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = resource.getpagesize()


def rss_bytes() -> int:
    """Resident memory of this process; its peak where the system does not tell the present value."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def sources_alive(redis: Redis, role: str) -> set[str]:
    """Queues or streams that a living process of *role* serves, of the 500 that beat last."""
    since_ms = int(time.time() * 1000) - TTL_MS
    ids: list[bytes] = await redis.zrevrangebyscore(keys.WORKERS, "+inf", since_ms, 0, 500)
    async with redis.pipeline(transaction=False) as pipe:
        for raw in ids:
            pipe.hmget(keys.worker(raw.decode("utf-8", "replace")), ["role", "source"])
        found = await pipe.execute() if ids else []
    return {source.decode("utf-8", "replace") for kind, source in found if kind == role.encode()}


class Heartbeat:
    """Publish this process as a WorkerInfo until stopped.

    *redis* is a client of the queue Redis, *source* the queue or stream served. *describe* is asked
    at each beat for fields of WorkerInfo (slots, busy, state, …); what WorkerInfo has no word for
    becomes an extra field of the record. *beat_file* is touched after each beat that Redis took: a health
    check that looks at its age need not start Python to ask Redis.
    """

    def __init__(
        self,
        redis: Redis,
        role: str,
        source: str,
        *,
        describe: Callable[[], Mapping[str, Any]] = dict,
        interval_s: float = INTERVAL_S,
        beat_file: str = "",
    ) -> None:
        host = socket.gethostname()
        self.id = f"{host}:{getpid()}:{secrets.token_hex(2)}"
        self._redis = redis
        self._role = role
        self._source = source
        self._host = host
        self._describe = describe
        self._interval_s = interval_s
        self._since_ms = int(time.time() * 1000)
        self._lag_ms = 0.0
        self._beat_file = Path(beat_file) if beat_file else None
        self._is_failing = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to beat; a Redis that is away delays the first beat, not the caller."""
        self._tasks = [
            asyncio.create_task(self._beats(), name="heartbeat"),
            asyncio.create_task(self._measure_lag(), name="heartbeat-lag"),
        ]

    async def stop(self) -> None:
        """Stop beating and remove this process from the index."""
        await end(self._tasks)
        self._tasks.clear()
        if self._beat_file is not None:
            with contextlib.suppress(OSError):
                self._beat_file.unlink()
        try:
            async with asyncio.timeout(GOODBYE_S), self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(keys.worker(self.id))
                pipe.zrem(keys.WORKERS, self.id)
                await pipe.execute()
        except Exception as error:
            log.warning("heartbeat not removed", extra={"error": safe_str(error, 200)})

    def info(self) -> WorkerInfo:
        """Return what the next beat would say."""
        known = set(WorkerInfo.__dataclass_fields__) - {"extra"}
        told = dict(self._describe())
        extra = {name: str(told.pop(name)) for name in list(told) if name not in known}
        own: dict[str, Any] = {
            "id": self.id,
            "role": self._role,
            "host": self._host,
            "pid": getpid(),
            "source": self._source,
            "version": __version__,
            "since_ms": self._since_ms,
            "beat_ms": int(time.time() * 1000),
            "rss_bytes": rss_bytes(),
            "cpu_s": round(time.process_time(), 3),
            "loop_lag_ms": round(self._lag_ms, 1),
        }
        return WorkerInfo(**(own | told), extra=extra)

    async def beat(self) -> None:
        """Publish once; raises what Redis raises."""
        info = self.info()
        key = keys.worker(self.id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping=info.to_fields())
            pipe.pexpire(key, TTL_MS)
            pipe.zadd(keys.WORKERS, {self.id: info.beat_ms})
            pipe.zremrangebyscore(keys.WORKERS, "-inf", info.beat_ms - INDEX_KEPT_MS)
            if self._role == "worker":
                pipe.sadd(keys.QUEUES, self._source)
            if self._role == "worker" and info.functions:
                names = dict.fromkeys(info.functions.split(","), info.beat_ms)
                pipe.zadd(keys.functions(self._source), names)
                pipe.zremrangebyscore(
                    keys.functions(self._source), "-inf", info.beat_ms - INDEX_KEPT_MS
                )
            await pipe.execute()
        self._lag_ms = 0.0
        if self._beat_file is not None:
            self._beat_file.touch()

    async def _beats(self) -> None:
        while True:
            try:
                await self.beat()
                self._is_failing = False
            except Exception as error:  # redis-py also raises AttributeError, RuntimeError …
                if not self._is_failing:
                    log.warning("heartbeat failed", extra={"error": safe_str(error, 200)})
                self._is_failing = True
            await asyncio.sleep(
                min(1.0, self._interval_s) if self._is_failing else self._interval_s
            )

    async def _measure_lag(self) -> None:
        """Keep the longest time this beat that the loop was late to wake a sleeper."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_PROBE_S)
            late_ms = (time.monotonic() - before - LAG_PROBE_S) * 1000
            self._lag_ms = max(self._lag_ms, late_ms)
