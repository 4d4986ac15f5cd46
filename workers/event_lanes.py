"""Lanes and slots: bounded concurrency that keeps the order of each partition. Pure asyncio.

Items of one lane are settled one after the other; lanes run beside each other, each item taking a
slot while it is worked on. An item may ask to be alone: then nothing else runs beside it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from workers.cancellation import end

T = TypeVar("T")


class Slots:
    """At most *limit* holders at a time, or one that is alone; first come, first served."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._is_alone = False
        self._waiting: deque[tuple[asyncio.Future[None], bool]] = deque()
        self.taken = 0  #: holders at this moment

    @asynccontextmanager
    async def take(self, *, alone: bool = False) -> AsyncIterator[None]:
        """Hold a slot; *alone* waits until nobody else does and keeps everybody out."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, alone))
        self._grant()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self.taken -= 1
                self._is_alone = False
            self._grant()

    def _grant(self) -> None:
        """Let in whoever is first in line, while there is room."""
        while self._waiting:
            turn, alone = self._waiting[0]
            room = 1 if alone else self._limit
            if not turn.cancelled():
                if self._is_alone or self.taken >= room:
                    return
                self.taken += 1
                self._is_alone = alone
                turn.set_result(None)
            self._waiting.popleft()


class Lanes(Generic[T]):
    """One task per partition that has items; *settle* is awaited for each item in turn."""

    def __init__(self, settle: Callable[[T], Awaitable[None]]) -> None:
        self._settle = settle
        self.fault: asyncio.Future[None] | None = None  #: fails with what *settle* raised
        self._lanes: dict[str, deque[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, partition: str, item: T) -> None:
        """Append *item* to its lane."""
        lane = self._lanes.get(partition)
        if lane is not None:
            lane.append(item)
            return
        lane = self._lanes[partition] = deque((item,))
        task = asyncio.create_task(self._run(partition, lane))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def drain(self, limit_s: float) -> None:
        """Start no further item; let those under way end, and cancel them after *limit_s*."""
        for lane in self._lanes.values():
            while len(lane) > 1:
                lane.pop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=limit_s)
            await end(late)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.fault is not None and not self.fault.done():
            self.fault.set_exception(error)

    async def _run(self, partition: str, lane: deque[T]) -> None:
        try:
            while lane:
                await self._settle(lane[0])
                lane.popleft()
        finally:
            del self._lanes[partition]
