"""Recall: what was stored, read once for all who look. Ranges, moments, annotations; bounded, per process."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Final, TypeVar

import pandas as pd
from redis.asyncio import Redis

from app import frames
from app.annals import past
from app.annals.tiers import TIER_COLUMNS
from app.snapshot import Snapshot

T = TypeVar("T")

#: answers kept, and s an answer about a time that is not over is good for
KEPT: Final = 64
FRESH_S: Final = 20.0
#: a moment's snapshot holds lists: fewer of them are kept
MOMENTS_KEPT: Final = 12


class Answers:
    """Answers by question, the oldest forgotten; who asks while it is read waits for the same answer."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._held: dict[Hashable, tuple[float, Any]] = {}
        self._asked: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(
        self, key: Hashable, read: Callable[[], Awaitable[T]], fresh_s: float = FRESH_S
    ) -> T:
        now = time.monotonic()
        at, found = self._held.get(key, (-fresh_s, None))
        if now - at < fresh_s and found is not None:
            told: T = found
            return told
        task = self._asked.get(key)
        if task is None:
            task = asyncio.ensure_future(self._read(key, read))
            self._asked[key] = task
        answer: T = await asyncio.shield(task)
        return answer

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        try:
            found = await read()
        finally:
            self._asked.pop(key, None)
        self._held.pop(key, None)
        self._held[key] = (time.monotonic(), found)
        while len(self._held) > self._kept:
            del self._held[next(iter(self._held))]
        return found


class Recall:
    """Reads stored history for pages; belongs to the event loop its clients belong to."""

    def __init__(self, queue: Redis, streams: Redis, holding: past.Holding | None = None) -> None:
        self._queue, self._streams, self._holding = queue, streams, holding
        self._ranges, self._marks, self._shared = Answers(KEPT), Answers(KEPT), Answers(KEPT)
        self._moments = Answers(MOMENTS_KEPT)

    async def rows(
        self, sources: Sequence[str], start_ms: float, end_ms: float, step_s: int
    ) -> pd.DataFrame:
        """Stored history of *sources* as TIER_COLUMNS on a grid of *step_s*, by time.

        ``attrs["step_s"]`` is the step got: hours where minutes are not kept any more. A stream's
        columns also have the names its live charts use.
        """
        key = (tuple(sources), int(start_ms), int(end_ms), step_s)
        points = max(1, round((end_ms - start_ms) / 1000 / step_s))

        async def read() -> pd.DataFrame:
            now_ms = time.time() * 1000
            found = [
                await past.history(
                    self._queue, source, start_ms, end_ms, now_ms=now_ms,
                    points=min(points, past.MAX_POINTS),
                )
                for source in sources
            ]  # fmt: skip
            return joined(found)

        return await self._ranges.get(key, read)

    async def moment(self, at_ms: float) -> Snapshot:
        """The snapshot stored last before *at_ms*; NotFound when none is near."""

        async def read() -> Snapshot:
            return await past.as_of(
                self._queue, self._streams, at_ms, now_ms=time.time() * 1000, holding=self._holding
            )

        return await self._moments.get(int(at_ms), read, 600.0)

    async def shared(
        self, key: Hashable, read: Callable[[], Awaitable[T]], fresh_s: float = FRESH_S
    ) -> T:
        """What *read* finds, read once for all who ask for *key* within *fresh_s*."""
        return await self._shared.get(key, read, fresh_s)

    async def marks(self, start_ms: float, end_ms: float) -> pd.DataFrame:
        """What happened, as ANNOTATION_COLUMNS; the range is widened to whole minutes."""
        start, end = int(start_ms // 60_000) * 60_000, -int(-end_ms // 60_000) * 60_000

        async def read() -> pd.DataFrame:
            return await past.annotations(self._queue, start, end)

        return await self._marks.get((start, end), read, 10.0)


def joined(found: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Grids of several sources as one frame, by time."""
    if not found:
        return frames.empty_frame(TIER_COLUMNS).assign(processed_per_s=0.0, lag=0.0, lag_s=0.0)
    made = pd.concat(found, ignore_index=True).sort_values("at", kind="stable", ignore_index=True)
    made = made[["at", "source", *(c for c in made.columns if c not in ("at", "source"))]].assign(
        processed_per_s=made["complete_per_s"], lag=made["waiting"], lag_s=made["oldest_wait_s"]
    )
    made.attrs["step_s"] = found[0].attrs["step_s"]
    return made


__all__ = ["Recall", "joined"]
