"""Time for a sampler: a wall clock that does not jump, and how long really passed between reads."""

import time
from collections.abc import Callable
from typing import Final

#: s the wall clock may differ from ours unnoticed
TOLERANCE_S: Final = 1.0
#: s a difference must last before we believe the wall clock
PATIENCE_S: Final = 10.0


class Clock:
    """Wall time carried on by the monotonic clock; a step of the wall clock is followed late.

    A step that is taken back within ten seconds (a virtual machine waking up) never shows.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall, self._steady = wall, steady
        self._anchor = wall() - steady()
        self._off_since: float | None = None

    def now_s(self) -> float:
        """Return epoch seconds."""
        steady = self._steady()
        off = self._wall() - steady - self._anchor
        if abs(off) <= TOLERANCE_S:
            self._off_since = None
        elif self._off_since is None:
            self._off_since = steady
        elif steady - self._off_since >= PATIENCE_S:
            self._anchor += off
            self._off_since = None
        return steady + self._anchor


class Passed:
    """The time line of one Redis' answers: by its clock, within what our monotonic clock allows.

    The commands ran some time between sending and hearing. Redis' own clock says when, as long as
    it did not step; a step is cut to what is possible.
    """

    def __init__(self) -> None:
        self.at_s = 0.0  #: seconds on a time line of its own, never backwards
        self._before: tuple[float, float, float] | None = None

    def note(self, sent_s: float, heard_s: float, redis_s: float | None) -> float:
        """Take one answer's times (monotonic, monotonic, Redis' epoch); return ``at_s``."""
        if self._before is not None:
            sent, heard, redis = self._before
            least, most = max(0.0, sent_s - heard), heard_s - sent
            told = (least + most) / 2 if redis_s is None else redis_s - redis
            self.at_s += min(most, max(least, told))
        self._before = (sent_s, heard_s, redis_s if redis_s is not None else (sent_s + heard_s) / 2)
        return self.at_s
