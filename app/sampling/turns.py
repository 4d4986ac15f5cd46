"""Rates of counters, and whose turn it is to be read: what a sampler remembers of names. Pure."""

import math
from collections.abc import Iterable
from typing import Final

_NAN: Final = math.nan


class Rates:
    """Counters to rates by monotonic time; a counter that went back gives NaN, never less than 0."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def per_s(self, name: str, value: float | None, now_s: float) -> float:
        """Rate of *name* since it was last told; NaN when there is nothing to compare with."""
        if value is None:
            return _NAN
        before = self._last.get(name)
        self._last[name] = (value, now_s)
        if before is None or now_s <= before[1] or value < before[0]:
            return _NAN
        return (value - before[0]) / (now_s - before[1])


class Rota:
    """Which of many names have their turn: those marked, then those longest not seen."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self.marked: set[str] = set()

    def take(self, names: Iterable[str], tick: int, limit: int, every: int) -> list[str]:
        """Return up to *limit* names that are marked or were last taken *every* ticks ago."""
        due = [
            name
            for name in names
            if name in self.marked or tick - self._seen.get(name, -every) >= every
        ]
        due.sort(key=lambda name: (name not in self.marked, self._seen.get(name, -1)))
        return due[:limit]

    def done(self, names: Iterable[str], tick: int) -> None:
        """Note that *names* were read."""
        for name in names:
            self._seen[name] = tick
            self.marked.discard(name)
