"""Windows: the stretch of time a page's charts show, live or stored, as its address asks for it. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from app.pages.address import Address

#: epoch ms a moment may have: nothing of ours is older or lies further ahead
EARLIEST_MS, LATEST_MS = 1_500_000_000_000, 4_000_000_000_000


@dataclass(frozen=True, slots=True)
class Range:
    """A range somebody may choose: its word, its length, the step it is stored in, all s."""

    word: str
    span_s: int
    step_s: int


#: name in an address → what it is; minutes are kept 7 days, hours 90
RANGES: Final[Mapping[str, Range]] = {
    "60m": Range("60 min", 3_600, 60),
    "6h": Range("6 h", 21_600, 60),
    "24h": Range("24 h", 86_400, 300),
    "7d": Range("7 d", 604_800, 3_600),
    "30d": Range("30 d", 2_592_000, 10_800),
    "90d": Range("90 d", 7_776_000, 21_600),
}


@dataclass(frozen=True, slots=True)
class Window:
    """A stored stretch: whole steps from *start_ms* to *end_ms*."""

    name: str
    start_ms: float
    end_ms: float
    step_s: int
    is_fixed: bool = False  #: whether it stays where it is while time goes on

    @property
    def key(self) -> tuple[object, ...]:
        """What stays the same while the window slides with time."""
        return (self.name, self.step_s, *((self.start_ms, self.end_ms) if self.is_fixed else ()))


def moment_of(text: str) -> float | None:
    """Epoch ms of an address's moment: ISO 8601 (UTC where it has no zone) or epoch ms; None: neither."""
    if text.isdecimal() and len(text) < 16:
        ms = float(text)
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            return None
        ms = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000
    return ms if EARLIEST_MS <= ms <= LATEST_MS else None


def moment_text(ms: float) -> str:
    """A moment as an address carries it, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def window_of(
    address: Address, now_ms: float, *, then_ms: float | None = None, usual: str = ""
) -> Window | None:
    """The stored window an address asks for, ending now or at *then_ms*; None: live samples.

    *usual* is the range where none is asked for; the past has no live samples, so there it is an hour.
    """
    end_ms = now_ms if then_ms is None else then_ms
    since, until = moment_of(address.get("start")), moment_of(address.get("end"))
    if since is not None:
        until = min(until if until is not None else end_ms, end_ms)
        if since < until:
            step_s = _step(until - since)
            return Window(
                "", _floor(since, step_s), _floor(until, step_s) + step_s * 1000, step_s, True
            )
    name = address.get("range")
    if name not in RANGES:  # none is asked for, or one nobody knows
        name = usual
    if name not in RANGES:
        if then_ms is None:
            return None
        name = "60m"
    asked = RANGES[name]
    end = _floor(end_ms, asked.step_s)
    return Window(name, end - asked.span_s * 1000, end, asked.step_s, then_ms is not None)


def _step(span_ms: float) -> int:
    """The step of a stretch of any length: that of the shortest range that is as long."""
    for one in RANGES.values():
        if span_ms <= one.span_s * 1000:
            return one.step_s
    return max(one.step_s for one in RANGES.values())


def _floor(ms: float, step_s: int) -> float:
    return math.floor(ms / 1000 / step_s) * step_s * 1000.0


__all__ = ["RANGES", "Range", "Window", "moment_of", "moment_text", "window_of"]
