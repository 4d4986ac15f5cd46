"""Schedules: a cron job as the workers that keep it tell it, how its last tick ended, its times in words. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Self

from app.errors import BadRecord

#: schedules one worker tells of; more is no schedule but a program
MAX_TOLD: Final = 50
MAX_CHARS: Final = 200
#: fields of a schedule, and how many values each may have
FIELDS: Final[Mapping[str, range]] = {
    "month": range(1, 13),
    "day": range(1, 32),
    "weekday": range(7),
    "hour": range(24),
    "minute": range(60),
    "second": range(60),
}
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
#: clock times listed one by one; more are told as hours and minutes
MAX_TIMES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a function of a worker is run by itself."""

    name: str  #: of the function, as it is enqueued
    times: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict
    )  #: field → values; absent: any
    next_ms: int = 0  #: epoch ms; 0: not known yet
    zone: str = "UTC"
    unique: bool = True  #: whether a tick runs once, however many workers keep it
    attempts: int = 1

    def to_plain(self) -> dict[str, Any]:
        """As it is told in a heartbeat; compact, since it is sent every few seconds."""
        told: dict[str, Any] = {
            "n": self.name,
            "w": self.times,
            "x": self.next_ms,
            "a": self.attempts,
        }
        return (
            told
            | ({} if self.zone == "UTC" else {"z": self.zone})
            | ({} if self.unique else {"m": 1})
        )

    @classmethod
    def from_plain(cls, raw: Mapping[str, Any]) -> Self:
        """Decode; BadRecord when it is not one."""
        try:
            times = {
                name: tuple(sorted({int(v) for v in raw["w"][name]} & set(FIELDS[name])))
                for name in FIELDS
                if name in raw["w"]
            }
            return cls(
                name=str(raw["n"])[:MAX_CHARS], times=times, next_ms=int(raw["x"]),
                zone=str(raw.get("z", "UTC"))[:60], unique="m" not in raw, attempts=int(raw["a"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRecord(f"not a schedule: {error}") from error

    @property
    def words(self) -> str:
        """When, in words: ``Mon to Fri at 09:00``, ``every 10 min``."""
        return in_words(self.times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """How a run of a schedule ended."""

    job_id: str
    outcome: str  #: records.Outcome
    ended_ms: int
    took_ms: int
    error: str = ""

    def to_json(self) -> str:
        """Encode."""
        return json.dumps([self.job_id, self.outcome, self.ended_ms, self.took_ms, self.error])

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Decode; BadRecord when it is not one."""
        try:
            job_id, outcome, ended_ms, took_ms, error = json.loads(text)
            return cls(job_id=str(job_id), outcome=str(outcome), ended_ms=int(ended_ms),
                       took_ms=int(took_ms), error=str(error)[:MAX_CHARS])  # fmt: skip
        except (ValueError, TypeError) as error:
            raise BadRecord(f"not a tick: {error}") from error


def told(schedules: Iterable[Schedule]) -> str:
    """What a heartbeat says of a worker's schedules; empty when it has none."""
    plain = [one.to_plain() for one in schedules][:MAX_TOLD]
    return json.dumps(plain, separators=(",", ":")) if plain else ""


def heard(text: str) -> list[Schedule]:
    """The schedules of a heartbeat; what cannot be read is passed over."""
    try:
        listed = json.loads(text or "[]")
    except ValueError:
        return []
    found = []
    for raw in listed[:MAX_TOLD] if isinstance(listed, list) else []:
        try:
            found.append(Schedule.from_plain(raw))
        except BadRecord:
            continue
    return found


# -- words ----------------------------------------------------------------------------------------


def in_words(times: Mapping[str, tuple[int, ...]]) -> str:
    """A cron specification in words; a field that is not there is any."""
    clock = _clock(times.get("hour"), times.get("minute"), times.get("second"))
    date = _date(times)
    if not date:
        return clock if clock.startswith("every") else f"every day {clock}"
    return f"{date} {clock}" if clock.startswith("at ") else f"{clock}, {date}"


def _clock(
    hours: tuple[int, ...] | None, minutes: tuple[int, ...] | None, seconds: tuple[int, ...] | None
) -> str:
    if hours is None and minutes is None:
        return _often(seconds, "second", "s", "minute")
    only_full = seconds == (0,)
    rest = "" if only_full else f", {_often(seconds, 'second', 's', 'minute')}"
    if seconds is not None and len(seconds) == 1 and not only_full:
        rest = f" at second {seconds[0]}"
    if hours is None:
        often = _often(minutes, "minute", "min", "hour")
        return often if only_full else f"{often}{rest}"
    if (
        minutes is not None
        and seconds is not None
        and len(hours) * len(minutes) * len(seconds) <= MAX_TIMES
    ):
        tail = "" if only_full else ":{:02d}"
        at = [f"{h:02d}:{m:02d}{tail.format(s)}" for h in hours for m in minutes for s in seconds]
        return f"at {_listed(at)}"
    often = _often(minutes, "minute", "min", "hour")
    return f"{often}{rest}, from {_spans(hours, '{:02d} h')}"


def _often(values: tuple[int, ...] | None, word: str, short: str, of: str) -> str:
    """``every minute``, ``every 10 min``, ``every hour at minute 5 and 35``."""
    if values is None:
        return f"every {word}"
    if values == (0,):
        return f"every {of}"
    steps = {b - a for a, b in pairwise(values)}
    if len(values) > 1 and len(steps) == 1:
        step = steps.pop()
        if values[0] < step and values[-1] + step >= 60 and 60 % step == 0:
            begin = f" from {word} {values[0]}" if values[0] else ""
            return f"every {word}" if step == 1 else f"every {step} {short}{begin}"
    return f"every {of} at {word} {_listed([str(v) for v in values])}"


def _date(times: Mapping[str, tuple[int, ...]]) -> str:
    parts = []
    if "weekday" in times:
        parts.append(_spans(times["weekday"], "{}", DAYS))
    if "day" in times:
        word = "day" if len(times["day"]) == 1 else "days"
        parts.append(f"on {word} {_spans(times['day'], '{}')} of the month")
    if "month" in times:
        parts.append(f"in {_spans(times['month'], '{}', ('', *MONTHS))}")
    return " ".join(parts)


def _spans(values: tuple[int, ...], form: str, names: tuple[str, ...] = ()) -> str:
    """Values that follow one another as ``a to b``, three or more."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    said = []
    for run in runs:
        shown = [form.format(names[v] if names else v) for v in run]
        said += [f"{shown[0]} to {shown[-1]}"] if len(run) > 2 else shown
    return _listed(said) if said else "never"


def _listed(words: list[str]) -> str:
    if len(words) < 2:
        return "".join(words) or "never"
    return f"{', '.join(words[:-1])} and {words[-1]}"


__all__ = ["MAX_TOLD", "Schedule", "Tick", "heard", "in_words", "told"]
