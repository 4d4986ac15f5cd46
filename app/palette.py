"""Colours, icons, words and number formats of everything a person sees, keyed by the enums. Pure.

A colour never stands alone: every state has a colour per theme, an icon and a word. A number
nobody knows is ``–``, never 0.
"""  # noqa: RUF002

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import pandas as pd

from app.records import JobState, LetterState, Outcome

Theme = Literal["light", "dark"]
#: a moment long ago, where only a date is wanted
EPOCH: Final = pd.Timestamp(0, unit="us", tz="UTC")

UNKNOWN: Final = "–"  # noqa: RUF001 - the sign of an unknown value


class Verdict(StrEnum):
    """What the first screen says about the whole."""

    OK = "OK"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Look:
    """How one state looks: a word, a colour per theme, an icon (path data of a 16 x 16 SVG)."""

    word: str
    light: str
    dark: str
    icon: str

    def colour(self, theme: Theme) -> str:
        """Return the colour for *theme*."""
        return self.dark if theme == "dark" else self.light


_CLOCK: Final = "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 5v3l2 2"
_CHECK: Final = "M3 8.5l3.2 3.2L13 5"
_CROSS: Final = "M4 4l8 8M12 4l-8 8"
_PLAY: Final = "M5 3.5v9l7-4.5z"
_PAUSE: Final = "M5.5 3.5v9M10.5 3.5v9"
_AGAIN: Final = "M13 8a5 5 0 1 1-1.6-3.7M13 2.5v3h-3"
_QUEUE: Final = "M3 4.5h10M3 8h10M3 11.5h6"
_STOP: Final = "M4.5 4.5h7v7h-7z"
_UNKNOWN: Final = "M6 6a2 2 0 1 1 2.6 1.9c-.4.2-.6.6-.6 1.1M8 11.6v.2"
_WARN: Final = "M8 2.5l6 11H2zM8 6.5v3M8 11.6v.2"
_STREAM: Final = "M2.5 6c2-2 3.5-2 5.5 0s3.5 2 5.5 0M2.5 10.5c2-2 3.5-2 5.5 0s3.5 2 5.5 0"

_GREEN: Final = ("#16a34a", "#34a85e")
_RED: Final = ("#ef4444", "#d95c5c")
_ORANGE: Final = ("#f97316", "#dd955a")
_AMBER: Final = ("#d97706", "#c9a13a")
_GREY: Final = ("#6b6560", "#a29e96")

JOB_LOOK: Final[Mapping[JobState, Look]] = {
    JobState.QUEUED: Look("waiting", *_AMBER, _QUEUE),
    JobState.RUNNING: Look("running", "#2563eb", "#5b8ad7", _PLAY),
    JobState.DEFERRED: Look("deferred", "#7c3aed", "#9374dc", _CLOCK),
    JobState.RETRYING: Look("retrying", *_ORANGE, _AGAIN),
    JobState.COMPLETE: Look("complete", *_GREEN, _CHECK),
    JobState.FAILED: Look("failed", *_RED, _CROSS),
    JobState.DEAD: Look("dead", *_RED, _CROSS),
    JobState.ABORTED: Look("aborted", "#c026d3", "#c366d1", _STOP),
}
PAUSED_LOOK: Final = Look("paused", *_GREY, _PAUSE)
UNKNOWN_LOOK: Final = Look("unknown", *_GREY, _UNKNOWN)

OUTCOME_LOOK: Final[Mapping[Outcome, Look]] = {
    Outcome.COMPLETE: JOB_LOOK[JobState.COMPLETE],
    Outcome.RETRY: JOB_LOOK[JobState.RETRYING],
    Outcome.DEAD: JOB_LOOK[JobState.DEAD],
    Outcome.ABORTED: JOB_LOOK[JobState.ABORTED],
    Outcome.SHUTDOWN: Look("shut down", *_GREY, _PAUSE),
}
LETTER_LOOK: Final[Mapping[LetterState, Look]] = {
    LetterState.NEW: Look("open", *_RED, _CROSS),
    LetterState.RETRYING: JOB_LOOK[JobState.RETRYING],
    LetterState.RESOLVED: Look("resolved", *_GREEN, _CHECK),
    LetterState.DISCARDED: Look("discarded", *_GREY, _STOP),
    LetterState.ARCHIVED: Look("archived", *_GREY, _STOP),
    LetterState.SPILLED: Look("moved to a file", *_GREY, _STOP),
}
#: why something became a dead letter, by the reason its record tells
_DEATHS: Final[Mapping[str, str]] = {
    "permanent": "it said that no retry would help",
    "timeout": "its last attempt took too long",
    "crash": "workers vanished while they ran it",
    "expired": "it expired before it was begun",
    "malformed": "what it carries cannot be read",
    "undecodable": "what it carries cannot be read",
    "unknown-function": "no worker of its queue knows its function",
    "aborted": "somebody aborted it",
}
#: what a worker process says of itself
WORKER_LOOK: Final[Mapping[str, Look]] = {
    "running": Look("running", *_GREEN, _PLAY),
    "quiet": Look("quiet", *_GREY, _PAUSE),
    "draining": Look("draining", *_AMBER, _CLOCK),
    "degraded": Look("degraded", *_RED, _WARN),
}
VERDICT_LOOK: Final[Mapping[Verdict, Look]] = {
    Verdict.OK: Look("OK", *_GREEN, _CHECK),
    Verdict.DEGRADED: Look("degraded", *_AMBER, _WARN),
    Verdict.DOWN: Look("down", *_RED, _CROSS),
    Verdict.UNKNOWN: Look("no sample yet", *_GREY, _UNKNOWN),
}
#: icons of controls and of what has no state
ICONS: Final[Mapping[str, str]] = {
    "retry": _AGAIN,
    "close": _CROSS,
    "pause": _PAUSE,
    "resume": _PLAY,
    "done": _CHECK,
    "stream": _STREAM,
    "warn": _WARN,
    "overview": "M2.5 2.5h4.5v6H2.5zM9 2.5h4.5v3.5H9zM9 8.5h4.5v5H9zM2.5 11h4.5v2.5H2.5z",
    "jobs": "M5.5 4h8M5.5 8h8M5.5 12h8M2.5 4h.1M2.5 8h.1M2.5 12h.1",
    "dead": "M2.5 8.5h3l1 2h3l1-2h3M2.5 8.5v4.5h11V8.5l-2-5.5h-7zM6.5 5l3 2.5M9.5 5l-3 2.5",
    "workers": "M4.5 4.5h7v7h-7zM6.5 2v2.5M9.5 2v2.5M6.5 11.5V14M9.5 11.5V14M2 6.5h2.5M2 9.5h2.5M11.5 6.5H14M11.5 9.5H14",
    "operations": "M8 2l6 3-6 3-6-3zM2 8l6 3 6-3M2 11l6 3 6-3",
    "settings": "M2.5 5h6M11.5 5h2M2.5 11h2M7.5 11h6M8.5 3.2v3.6h3V3.2zM4.5 9.2v3.6h3V9.2z",
    "history": "M2.5 8a5.5 5.5 0 1 0 1.7-4M2.5 2v3h3M8 5v3l2 1.5",
    "alerts": "M4 11V7.5a4 4 0 0 1 8 0V11l1.2 1.5H2.8zM6.8 14h2.4",
    "schedules": "M2.5 3.5h11v10h-11zM2.5 6.5h11M5.5 2v3M10.5 2v3",
    "pubsub": "M8 8h.1M5.4 10.6a3.7 3.7 0 0 1 0-5.2M10.6 5.4a3.7 3.7 0 0 1 0 5.2M3.2 12.8a6.8 6.8 0 0 1 0-9.6M12.8 3.2a6.8 6.8 0 0 1 0 9.6",
    "queue": _QUEUE,
    "menu": "M2.5 4.5h11M2.5 8h11M2.5 11.5h11",
    "theme": "M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12",
    "help": "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M6.3 6.2a1.8 1.8 0 1 1 2.4 1.7c-.5.2-.7.5-.7 1M8 11.1v.1",
    "note": "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M8 7.5v3.5M8 5v.1",
    "more": "M6 4l4 4-4 4",
    "add": "M8 3.5v9M3.5 8h9",
    "download": "M8 2.5v7M5 6.8l3 3 3-3M2.5 11.5v2h11v-2",
    "mark": "M2 12a6 6 0 0 1 12 0M5 12a3 3 0 0 1 6 0M8 12h.1",
}

#: one colour per queue, (light, dark), told apart from each other and from green and red
SERIES: Final = (
    ("#2563eb", "#6b9bea"),
    ("#b45309", "#d6a24a"),
    ("#7c3aed", "#b48af6"),
    ("#0e7490", "#4fb3c8"),
    ("#be185d", "#e07aa6"),
    ("#4d7c0f", "#9cc35a"),
    ("#475569", "#a3b1c4"),
    ("#9333ea", "#c79af0"),
)


def series_colour(index: int, theme: Theme) -> str:
    """Colour of the series number *index*, the same in every chart of a page."""
    return SERIES[index % len(SERIES)][theme == "dark"]


def svg(icon: str, size: int = 14) -> str:
    """An icon as an SVG string that takes the colour of the text around it; *icon* is ours."""
    return (
        f'<svg class="icon" width="{size}" height="{size}" viewBox="0 0 16 16" fill="none" '
        'stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" '
        f'aria-hidden="true"><path d="{icon}"/></svg>'
    )


# --- numbers -------------------------------------------------------------------------------------


def is_unknown(value: float | None) -> bool:
    """Whether *value* is what nobody could read."""
    return value is None or math.isnan(value) or math.isinf(value)


def count(value: float | None) -> str:
    """Whole numbers with thousands separated: ``12,480``."""
    return UNKNOWN if value is None or is_unknown(value) else f"{round(value):,}"


def cause_of_death(reason: str, attempts: int) -> str:
    """Why a dead letter is one, in words: ``all 3 attempts failed``; unknown where nothing is told."""
    if reason == "attempts":
        if attempts < 1:
            return "no attempt was left"
        return "its only attempt failed" if attempts == 1 else f"all {attempts:,} attempts failed"
    return _DEATHS.get(reason, reason) or UNKNOWN


def rate(value: float | None) -> str:
    """A rate with as many digits as say something: ``0``, ``0.42``, ``6``, ``7.5``, ``130``."""
    if value is None or is_unknown(value):
        return UNKNOWN
    if value == 0:
        return "0"
    if value < 0.005:
        return "<0.01"
    if value >= 9.95:
        return f"{round(value):,}"
    return (f"{value:.2f}" if value < 0.995 else f"{value:.1f}").removesuffix(".0")


def duration(seconds: float | None) -> str:
    """Two largest units, none of them 0: ``42 ms``, ``3.4 s``, ``2 m 05 s``, ``3 h 10 m``, ``4 d``."""
    if seconds is None or is_unknown(seconds):
        return UNKNOWN
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    return whole_duration(round(seconds))


def whole_duration(seconds: int) -> str:
    """As ``duration``, of whole seconds: ``3 s``, ``2 m 05 s``, ``1 h``."""
    if seconds < 60:
        return f"{seconds} s"
    for size, great, step, small in _UNITS:
        if seconds >= size:
            rest = seconds % size // step
            return f"{seconds // size} {great}" + (f" {rest:02d} {small}" if rest else "")
    raise AssertionError  # pragma: no cover - the last unit takes 60 s


#: s of a unit, its sign, s of the one below it, its sign
_UNITS: Final = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s"))


def plain_duration(seconds: float) -> str:
    """A length somebody chose, with the part of a second they chose: ``1 s``, ``12.5 s``, ``1 h 30 m``."""
    if 1 <= seconds < 60:
        return f"{round(seconds, 1):g} s"
    return duration(seconds)


def span(seconds: float) -> str:
    """A stretch of time in one unit, as ranges are called: ``60 min``, ``24 h``, ``7 d``; else as ``duration``."""
    for size, unit, least in ((86_400, "d", 2), (3_600, "h", 2), (60, "min", 1)):
        if seconds >= size * least and not seconds % size:
            return f"{int(seconds // size):,} {unit}"
    return duration(seconds)


def age(then: pd.Timestamp | None, now: pd.Timestamp) -> str:
    """How long ago *then* was: ``just now``, ``12 s ago``, ``3 h 10 m ago``."""
    if then is None or pd.isna(then) or pd.isna(now):
        return UNKNOWN
    seconds = math.floor((now - then).total_seconds())
    return "just now" if seconds < 1 else f"{whole_duration(seconds)} ago"


def size(size_bytes: float | None) -> str:
    """Bytes in binary units: ``812 B``, ``3.4 MiB``."""
    if size_bytes is None or is_unknown(size_bytes):
        return UNKNOWN
    value, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
