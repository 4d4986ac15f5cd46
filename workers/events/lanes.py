"""Lanes: bounded concurrency that keeps the order of each partition. Pure asyncio.

Items of one lane are settled one after the other, lanes beside each other. A few runner tasks take
whatever is ready, so that an item whose handlers never suspend costs no task and no loop turn. An
item may ask to be alone: then nothing else runs beside it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from workers.cancellation import end

T = TypeVar("T")

#: s a runner works without letting the loop turn
SLICE_S: Final = 0.004


class Lanes(Generic[T]):
    """At most *limit* items are worked on at a time; *settle* is awaited for each.

    *settle* returns None when it is through with the item, else the seconds after which it wants
    it again; the item's lane waits meanwhile, its slot does not. What *settle* raises fails *fault*.
    """

    def __init__(
        self,
        settle: Callable[[T], Awaitable[float | None]],
        limit: int,
        *,
        is_alone: Callable[[T], bool] = lambda _: False,
    ) -> None:
        self._settle = settle
        self._limit = limit
        self._wants_alone = is_alone
        self.fault: asyncio.Future[None] | None = None  #: fails with what *settle* raised
        self.busy = 0  #: items worked on at this moment
        self._ready: deque[tuple[Hashable, T]] = deque()
        self._behind: dict[Hashable, deque[T] | None] = {}  #: items waiting for their lane's turn
        self._idle: list[asyncio.Future[None]] = []
        self._runners: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._is_alone = False
        self._is_draining = False

    def add(self, lane: Hashable, item: T) -> None:
        """Append *item* to its lane; a lane of None is the item's own."""
        if lane is not None:
            if lane in self._behind:
                behind = self._behind[lane]
                if behind is None:
                    self._behind[lane] = deque((item,))
                else:
                    behind.append(item)
                return
            self._behind[lane] = None
        self._ready.append((lane, item))
        self._wake()

    def stop(self) -> None:
        """Start no further item; those under way go on."""
        self._is_draining = True
        for timer in self._timers:
            timer.cancel()
        while self._idle:
            _release(self._idle.pop())

    async def drain(self, limit_s: float) -> None:
        """Stop; let the items under way end, and cancel them after *limit_s*."""
        self.stop()
        if self._runners:
            _, late = await asyncio.wait(self._runners, timeout=limit_s)
            await end(late)

    def _wake(self) -> None:
        """See to it that somebody takes what is ready."""
        if self._idle:
            _release(self._idle.pop())
        elif len(self._runners) < self._limit and not self._is_draining:
            runner = asyncio.create_task(self._run(), name="lane-runner")
            self._runners.add(runner)
            runner.add_done_callback(self._ended)

    def _next(self) -> tuple[Hashable, T] | None:
        if not self._ready or self._is_alone or self._is_draining:
            return None
        if self._wants_alone(self._ready[0][1]):
            if self.busy:  # first in line: nobody passes it, whoever ends last takes it
                return None
            self._is_alone = True
        self.busy += 1
        return self._ready.popleft()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        turn_ends = loop.time() + SLICE_S
        while not self._is_draining:
            taken = self._next()
            if taken is None:
                idle = loop.create_future()
                self._idle.append(idle)
                try:
                    await idle
                finally:
                    if idle in self._idle:
                        self._idle.remove(idle)
                turn_ends = loop.time() + SLICE_S
                continue
            lane, item = taken
            if self._ready and (self._idle or len(self._runners) < self._limit):
                self._wake()  # should this item suspend, another runner goes on
            try:
                again_s = await self._settle(item)
            except BaseException:
                self._leave()
                raise
            self._leave()
            if again_s is not None:
                self._later(again_s, lane, item)
            elif lane is not None:
                self._advance(lane)
            if loop.time() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = loop.time() + SLICE_S

    def _leave(self) -> None:
        self.busy -= 1
        if self._is_alone or not self.busy:
            self._is_alone = False
            if self._ready and self._idle:
                self._wake()

    def _advance(self, lane: Hashable) -> None:
        behind = self._behind[lane]
        if behind:
            self._ready.append((lane, behind.popleft()))
        else:
            del self._behind[lane]

    def _later(self, delay_s: float, lane: Hashable, item: T) -> None:
        def again() -> None:
            self._timers.discard(timer)
            self._ready.append((lane, item))
            self._wake()

        if not self._is_draining:
            timer = asyncio.get_running_loop().call_later(delay_s, again)
            self._timers.add(timer)

    def _ended(self, runner: "asyncio.Task[None]") -> None:
        self._runners.discard(runner)
        error = None if runner.cancelled() else runner.exception()
        if error is not None and self.fault is not None and not self.fault.done():
            self.fault.set_exception(error)
        elif self._ready:
            self._wake()


def _release(idle: "asyncio.Future[None]") -> None:
    if not idle.done():
        idle.set_result(None)
