"""Tallies: how many letters a cause made in the last hours and days, and how well that is known. Reads only.

Deaths are counted by the clock hour (72 of them) and the day (30; UTC). A period that begins within one of
these has what certainly lies in it, what may, and what is likely when that hour or day is spread evenly.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.frames import TALLY_COLUMNS, frame_of
from app.letters.causes import CAUSES_KEPT, HOURS_KEPT
from app.wire.batch import Batch, into
from app.wire.connections import explained

#: period → hours
PERIODS: Final[Mapping[str, int]] = {"1h": 1, "3h": 3, "24h": 24, "3d": 72, "7d": 168}
#: the same in words
WORDS: Final[Mapping[str, str]] = {
    "1h": "1 h",
    "3h": "3 h",
    "24h": "24 h",
    "3d": "3 d",
    "7d": "7 d",
}
_HOUR_MS: Final = 3_600_000
_DAY_H: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Deaths of one cause in one period."""

    period: str
    low: int | None = None  #: that certainly lie in it; None: nobody counted
    high: int | None = None  #: that may lie in it; None: that is not known
    likely: float = math.nan
    note: str = ""  #: why it is not known, or not exactly

    @property
    def is_exact(self) -> bool:
        """Whether it is a count and not an estimate."""
        return self.low is not None and self.low == self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What the counters hold of one cause. Times are epoch ms."""

    ever: int | None  #: None: nobody counted it
    first_ms: int = 0
    last_ms: int = 0
    buckets: Mapping[str, int]  #: ``h<epoch hour>`` and ``d<epoch day>`` → deaths


def unknown(note: str) -> tuple[Tally, ...]:
    """The tallies of a cause of which nothing is known, for the reason *note*."""
    return tuple(Tally(period=period, note=note) for period in PERIODS)


def tallies(
    count: Count, now_ms: int, *, is_counting: bool = True, is_full: bool = False
) -> tuple[Tally, ...]:
    """Deaths in each period before *now_ms*.

    *is_counting*: whether somebody counts deaths now; *is_full*: whether causes were forgotten to make room.
    """
    if count.ever is None:
        return unknown("its deaths are not counted yet")
    return tuple(
        _tally(period, hours, count, now_ms, is_counting=is_counting, is_full=is_full)
        for period, hours in PERIODS.items()
    )


def _tally(
    period: str, hours: int, count: Count, now_ms: int, *, is_counting: bool, is_full: bool
) -> Tally:
    low, edge, share = _within(count.buckets, hours, now_ms)
    start_ms = now_ms - hours * _HOUR_MS
    if count.first_ms >= start_ms:  # the hour it begins in holds none from before
        low, edge = low + edge, 0
    elif count.last_ms < start_ms:
        edge = 0
    if not is_counting:
        note = "no dead-letter processor is alive: what died since is not counted"
        return Tally(period=period, low=low, likely=low + edge * share, note=note) if low else (
            Tally(period=period, note=note))  # fmt: skip
    if is_full and count.first_ms >= start_ms:
        note = f"the newest {CAUSES_KEPT:,} causes are kept: what this one did before is not known"
        return Tally(period=period, low=low, likely=low, note=note)
    if not edge:
        return Tally(period=period, low=low, high=low, likely=low)
    unit = "hour" if hours < HOURS_KEPT else "day"
    note = f"{low:,} to {low + edge:,}: deaths are counted by the {unit}, and it begins within one"
    return Tally(period=period, low=low, high=low + edge, likely=low + edge * share, note=note)


def _within(buckets: Mapping[str, int], hours: int, now_ms: int) -> tuple[int, int, float]:
    """Deaths certainly within the last *hours*, deaths that may be, and the share of these that is likely."""
    hour, day = now_ms // _HOUR_MS, now_ms // (_DAY_H * _HOUR_MS)
    inside = 1 - (now_ms % _HOUR_MS) / _HOUR_MS  # of the clock hour the period begins in
    if hours <= HOURS_KEPT:
        low = sum(buckets.get(f"h{hour - n}", 0) for n in range(hours))
        first = hour - hours
        if hours < HOURS_KEPT:
            return low, buckets.get(f"h{first}", 0), inside
        # that hour is not kept any more: it is among those of its day which the kept hours leave
        of_day = range(first + 1, (first // _DAY_H + 1) * _DAY_H)
        rest = buckets.get(f"d{first // _DAY_H}", 0) - sum(buckets.get(f"h{h}", 0) for h in of_day)
        return low, max(0, rest), inside / (first % _DAY_H + 1)
    days = hours // _DAY_H
    low = sum(buckets.get(f"d{day - n}", 0) for n in range(days))
    into_day = (now_ms % (_DAY_H * _HOUR_MS)) / (_DAY_H * _HOUR_MS)
    return low, buckets.get(f"d{day - days}", 0), 1 - into_day


async def read_tallies(
    queue: Redis, fingerprints: Sequence[str], *, is_counting: bool
) -> dict[str, tuple[Tally, ...]]:
    """The tallies of each of *fingerprints*; one round trip."""
    if not fingerprints:
        return {}
    got: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    buckets: dict[str, Any] = {}
    batch = Batch(queue)
    batch.ask(into(got, "now"), "TIME")
    batch.ask(into(got, "kept"), "ZCARD", keys.CAUSES)
    for name in fingerprints:
        batch.ask(into(facts, name), "HMGET", keys.cause(name), "count", "first_ms", "last_ms")
        batch.ask(into(buckets, name), "HGETALL", keys.cause_counts(name))
    try:
        await batch.run()
    except (RedisError, OSError) as error:
        raise explained(error, "redis://queue") from error
    now_ms = int(got["now"][0]) * 1000 + int(got["now"][1]) // 1000
    is_full = int(got.get("kept") or 0) >= CAUSES_KEPT
    return {
        name: tallies(
            _count(facts.get(name) or (None,) * 3, buckets.get(name) or {}), now_ms,
            is_counting=is_counting, is_full=is_full,
        )
        for name in fingerprints
    }  # fmt: skip


def _count(facts: Sequence[str | None], raw: Mapping[str, str]) -> Count:
    ever, first, last = (_whole(text) for text in facts)
    numbers = {name: number for name, text in raw.items() if (number := _whole(text)) is not None}
    return Count(ever=ever, first_ms=first or 0, last_ms=last or 0, buckets=numbers)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None


def tallies_frame(
    causes: pd.DataFrame, told: Mapping[str, Iterable[Tally]], hours: Mapping[str, int] = PERIODS
) -> pd.DataFrame:
    """One row per cause of *causes* and period, in their order."""
    return frame_of(
        (
            {
                "fingerprint": cause["fingerprint"],
                "error_type": cause["error_type"],
                "functions": cause["functions"],
                "period": tally.period,
                "hours": hours[tally.period],
                "deaths": None if math.isnan(tally.likely) else tally.likely,
                "at_least": tally.low,
                "at_most": tally.high,
                "note": tally.note,
            }
            for cause in causes.to_dict("records")
            for tally in told.get(str(cause["fingerprint"]), unknown("it is not kept any more"))
        ),
        TALLY_COLUMNS,
    )


__all__ = [
    "PERIODS",
    "WORDS",
    "Count",
    "Tally",
    "read_tallies",
    "tallies",
    "tallies_frame",
    "unknown",
]
