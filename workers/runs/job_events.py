"""How jobs stand, told to the event stream: gathered, bounded, sent beside the work, never before it.

A job does not wait for its event and does not fail for it: what cannot be sent in time is dropped
and counted (``events_dropped`` in the heartbeat). The truth about jobs stays in the run reports.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from app.errors import ArqscopeError, InvalidRequest
from app.payloads.codec import JobPayload, safe_str
from app.publisher import Publisher
from app.settings import Settings
from app.streams.events import NewEvent
from app.wire.connections import connect

log = logging.getLogger("arqscope.worker")

#: events that may wait; beyond it the oldest go
MAX_WAITING: Final = 2_000
BATCH: Final = 200
#: s between two calls to Redis while there is something to send
ROUND_S: Final = 0.2
#: s between two progress events of one job
PROGRESS_S: Final = 1.0
GOODBYE_S: Final = 1.0
#: outcome of a run → event type; an interrupted run goes on elsewhere and says nothing
_TYPES: Final = {
    "complete": "job.completed",
    "retry": "job.failed",
    "dead": "job.failed",
    "aborted": "job.aborted",
}


@dataclass(frozen=True, slots=True)
class JobEnd:
    """One run that ended, recorded in Redis."""

    id: str
    queue: str
    job: JobPayload
    outcome: str
    attempt: int
    ran_ms: float
    waited_ms: float
    error: str


class JobEvents:
    """The batcher of one worker. Its methods but ``run`` and ``close`` do no I/O and raise nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: deque[NewEvent] = deque()
        self._arrived = asyncio.Event()
        self._publisher: Publisher | None = None
        self._clients: list[Any] = []
        self.dropped = 0
        self.sent = 0

    def ended(self, end: JobEnd) -> None:
        """Tell of a run that was recorded; ``final`` false: it will be tried again."""
        kind = _TYPES.get(end.outcome)
        if kind is None:
            return
        data: dict[str, Any] = {
            "jobId": end.id,
            "queue": end.queue,
            "function": safe_str(end.job.function, 128),
            "attempt": end.attempt,
            "final": end.outcome != "retry",
            "runMs": round(end.ran_ms, 1),
            "waitMs": round(max(0.0, end.waited_ms), 1),
        }
        if end.error:
            data["error"] = safe_str(end.error, 300)
        # the id makes sending a batch again after a lost reply harmless
        self._put(kind, data, end.job, f"{end.id}:{end.attempt}:{end.outcome}")

    def progress_of(
        self, job_id: str, queue: str, job: JobPayload
    ) -> Callable[[float, float, str], None]:
        """Return what a job calls with its progress; told once a second at most."""
        told_at = 0.0

        def tell(done: float, total: float, message: str) -> None:
            nonlocal told_at
            now = time.monotonic()
            if told_at and now - told_at < PROGRESS_S:
                return
            told_at = now
            data = {
                "jobId": job_id,
                "queue": queue,
                "function": safe_str(job.function, 128),
                "done": float(done),
                "total": float(total),
                "message": safe_str(message, 300),
            }
            self._put("job.progress", data, job, "")

        return tell

    def describe(self) -> Mapping[str, Any]:
        """What the heartbeat says."""
        return {"events_sent": self.sent, "events_dropped": self.dropped}

    async def run(self) -> None:
        """Send until cancelled; an outage is waited out while the newest 2,000 wait."""
        pause_s = ROUND_S
        while True:
            await self._arrived.wait()
            await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311
            try:
                while self._waiting:
                    await self._send()
            except InvalidRequest as error:  # sending it again cannot help
                lost = min(BATCH, len(self._waiting))
                for _ in range(lost):
                    self._waiting.popleft()
                self.dropped += lost
                log.warning("job events dropped", extra={"error": safe_str(error, 200)})
            except Exception as error:  # redis-py also raises AttributeError, RuntimeError …
                log.warning("job events wait", extra={"error": safe_str(error, 200)})
                pause_s = min(5.0, pause_s * 2)
            else:
                pause_s = ROUND_S
                self._arrived.clear()

    async def close(self) -> None:
        """Send what waits, for a second at most."""
        with contextlib.suppress(ArqscopeError, RedisError, OSError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                while self._waiting:
                    await self._send()
        self.dropped += len(self._waiting)
        self._waiting.clear()
        for client in self._clients:
            with contextlib.suppress(RedisError, OSError):
                await client.aclose(close_connection_pool=True)

    def _put(self, kind: str, data: dict[str, Any], job: JobPayload, event_id: str) -> None:
        data = {name: _storable(value) for name, value in data.items()}
        given = job.args[0] if job.args and isinstance(job.args[0], dict) else {}
        try:
            event = NewEvent(
                type=kind,
                data=data,
                user_id=_id(given.get("userId")),
                workspace_id=_id(given.get("workspaceId")),
                correlation_id=_id(job.options.get("cid")) or _id(data["jobId"]),
                event_id=_id(event_id),
            )
        except (ArqscopeError, ValueError) as error:
            self.dropped += 1
            log.debug("job event dropped", extra={"error": safe_str(error, 200)})
            return
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(event)
        self._arrived.set()

    async def _send(self) -> None:
        batch = [self._waiting[i] for i in range(min(BATCH, len(self._waiting)))]
        await self._told_by().append(batch)
        self.sent += len(batch)
        for event in batch:  # some may have been dropped meanwhile: the oldest are the same
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()

    def _told_by(self) -> Publisher:
        if self._publisher is None:
            settings = self._settings
            self._clients = [connect(settings.url(role)) for role in ("streams", "cache")]
            self._publisher = Publisher(
                *self._clients, stream=settings.stream_name, source="arqscope-worker"
            )
        return self._publisher


def _storable(value: Any) -> Any:
    """Return *value* as JSON and UTF-8 can hold it."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _id(value: object) -> str:
    """Return *value* when it can be a plain text field of an entry, else nothing."""
    if not isinstance(value, str) or len(value) > 256 or not value.isprintable():
        return ""
    return value
