"""The gate before a Redis that refuses our password: one attempt at a time for a whole process.

A process has several clients of one server (claims, blocking reads, pub/sub, leases, heartbeat). Each
of them tries again when its connection is refused; together they would hammer the server with a
wrong password. Behind the gate the first to come makes the next attempt when its time has come, all
others wait for what comes of it. A server that is merely gone is not a matter of the gate.
"""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Final

from redis.exceptions import AuthenticationError

#: s from a refusal to the next attempt, and s of jitter on top: two processes must not keep step
AGAIN_S: Final = 1.0
JITTER_S: Final = 0.2
#: s after which a turn that came to nothing (its event loop is blocked by a job) goes to another
TURN_S: Final = 4.0


class Gate:
    """Safe for threads and event loops. Open until a password is refused; open again once one is
    taken, or the server is gone.
    """

    def __init__(self, *, again_s: float = AGAIN_S, jitter_s: float = JITTER_S) -> None:
        self._again_s = again_s
        self._jitter_s = jitter_s
        self._lock = threading.Lock()
        self._refusal = ""
        self._refusals = 0  #: how many attempts were refused
        self._next_at = 0.0  #: monotonic
        self._turn: Future[None] | None = None  #: done when the turn is over
        self._turn_until = 0.0  #: monotonic

    @property
    def is_open(self) -> bool:
        """Whether attempts pass at once."""
        return not self._refusal

    async def pass_through(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Make *attempt*, or wait for another's.

        Raises what *attempt* raises, and AuthenticationError when the attempt waited for was refused.
        """
        mine: Future[None] | None = None
        try:
            while not self.is_open:
                turn, is_mine, seen = self._take_turn()
                if is_mine:
                    mine = turn
                    await asyncio.sleep(self._wait_s())
                    break
                await asyncio.wait([asyncio.wrap_future(turn)], timeout=self._patience_s())
                self._share_refusal(seen)
            await attempt()
        except BaseException as error:
            self._note(error, mine)
            raise
        self._note(None, mine)

    def pass_through_blocking(self, attempt: Callable[[], None]) -> None:
        """Do the same in a thread without an event loop."""
        mine: Future[None] | None = None
        try:
            while not self.is_open:
                turn, is_mine, seen = self._take_turn()
                if is_mine:
                    mine = turn
                    time.sleep(self._wait_s())
                    break
                wait([turn], timeout=self._patience_s())
                self._share_refusal(seen)
            attempt()
        except BaseException as error:
            self._note(error, mine)
            raise
        self._note(None, mine)

    def _take_turn(self) -> "tuple[Future[None], bool, int]":
        """Return the turn under way, whether it is the caller's, and how many were refused so far."""
        with self._lock:
            now = time.monotonic()
            if self._turn is not None and now < self._turn_until:
                return self._turn, False, self._refusals
            self._turn = Future()
            self._turn_until = max(now, self._next_at) + TURN_S
            return self._turn, True, self._refusals

    def _wait_s(self) -> float:
        return max(0.0, self._next_at - time.monotonic())

    def _patience_s(self) -> float:
        return max(0.0, self._turn_until - time.monotonic())

    def _share_refusal(self, seen: int) -> None:
        """Raise the refusal another met since *seen*: its attempt counts for all who waited."""
        with self._lock:
            if self._refusal and self._refusals != seen:
                raise _Shared(self._refusal)

    def _note(self, error: BaseException | None, turn: "Future[None] | None") -> None:
        """Take down what came of an attempt, and end the turn it was."""
        with self._lock:
            if isinstance(error, _Shared):
                return
            if isinstance(error, AuthenticationError):
                self._refusals += 1
                self._refusal = str(error)[:200] or "the password is refused"
                wait_s = self._again_s + self._jitter_s * random.random()  # noqa: S311
                self._next_at = time.monotonic() + wait_s
            elif error is None or isinstance(error, Exception):
                self._refusal = ""
            elif turn is not None and self._next_at <= time.monotonic():
                # cancelled as it tried: the next one comes a while later
                self._next_at = time.monotonic() + self._again_s
            if turn is not None and turn is self._turn:
                self._turn = None
        if turn is not None:
            turn.set_result(None)


class _Shared(AuthenticationError):
    """The refusal of an attempt that another client made for all."""
