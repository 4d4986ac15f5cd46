"""The snapshot: the immutable bundle of frames that pages, API and notebook all see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self

import pandas as pd

from app import frames
from app.settings import Settings

_NONE: Mapping[str, Any] = MappingProxyType({})


class Lazy:
    """A frame made when somebody first looks at it, once; snapshots may share one."""

    __slots__ = ("_frame", "_make")

    def __init__(self, make: Callable[[], pd.DataFrame]) -> None:
        self._make: Callable[[], pd.DataFrame] | None = make
        self._frame: pd.DataFrame | None = None

    def __call__(self) -> pd.DataFrame:
        """Return the frame."""
        make = self._make  # read once: threads may race, and then each makes the same frame
        if make is not None:
            self._frame = make()
            self._make = None
        frame = self._frame
        if frame is None:  # pragma: no cover - _frame is set before _make is dropped
            raise RuntimeError("a lazy frame without a maker")
        return frame


class _Field:
    """A field of the snapshot that holds a frame, or a Lazy one until it is looked at."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> pd.DataFrame:
        if instance is None:
            raise AttributeError(self._name)  # dataclass: this field has no default
        found = instance.__dict__[self._name]
        if isinstance(found, Lazy):
            found = instance.__dict__[self._name] = found()
        frame: pd.DataFrame = found
        return frame

    def __set__(self, instance: object, value: pd.DataFrame | Lazy) -> None:
        instance.__dict__[self._name] = value


@dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """What one sample saw. Frames and their units: ``frames``; nobody edits them.

    A source that did not answer is named in ``problems``, its numbers are NaN, and its lists
    (workers, dead letters …) are those of ``stale_since``. Frames are made when first looked at.
    """

    taken_at: pd.Timestamp
    problems: Mapping[str, str] = field(default_factory=lambda: _NONE)  #: source -> error, masked
    stale_since: Mapping[str, pd.Timestamp] = field(default_factory=lambda: _NONE)
    cost_commands: int = 0  #: Redis commands this sample sent, all sources
    cost_ms: float = 0.0  #: time from asking to having the rows
    cost_p95_ms: float = 0.0  #: 95th percentile of the last minute's samples
    interval_s: float = 1.0  #: s between samples now; longer while Redis is slow
    role: str = "alone"  #: alone · leader (others read what we store) · follower (we read theirs)
    number: int = 0  #: samples the collector took so far; 0: none yet
    queues: _Field = _Field()
    functions: _Field = _Field()
    workers: _Field = _Field()
    running: _Field = _Field()
    runs: _Field = _Field()
    dead_letters: _Field = _Field()
    causes: _Field = _Field()
    streams: _Field = _Field()
    groups: _Field = _Field()
    events: _Field = _Field()
    redis: _Field = _Field()
    operations: _Field = _Field()
    alerts: _Field = _Field()
    history: _Field = _Field()
    stream_history: _Field = _Field()

    @classmethod
    def empty(cls, taken_at: pd.Timestamp | None = None) -> Self:
        """Return the snapshot before the first sample: no rows, every column with its dtype."""
        empty: dict[str, Any] = {
            name: frames.empty_frame(columns) for name, columns in frames.FRAMES.items()
        }
        return cls(taken_at=taken_at or pd.Timestamp(0, unit="us", tz="UTC"), **empty)

    @property
    def is_counting(self) -> bool:
        """Whether a dead-letter processor is alive: it counts deaths."""
        return bool((self.workers["role"] == "dead-letters").any())

    def frame(self, name: str) -> pd.DataFrame:
        """Return the frame called *name*; KeyError with the known names."""
        if name not in frames.FRAMES:
            raise KeyError(f"no frame {name!r}; there are {', '.join(frames.FRAMES)}")
        found: pd.DataFrame = getattr(self, name)
        return found


def _count(frame: pd.DataFrame, column: str) -> int | None:
    """Sum of *column*; None when a row of it is unknown or there is no row."""
    values = frame[column]
    return None if values.isna().any() or values.empty else int(values.sum())


def _whole(value: float) -> int | None:
    """A number of one row; None where it is unknown."""
    return None if value != value else int(value)


#: what ``/stats`` calls a column of the queues frame
_SHOWN: Mapping[str, str] = MappingProxyType(
    {
        "waiting": "waiting",
        "active": "running",
        "completed": "complete",
        "failed": "dead_total",
        "delayed": "deferred",
        "aborted": "aborted",
        "failedRuns": "failed",
        "retried": "retried",
        "accepted": "accepted",
        "workers": "workers",
    }
)


def stats(snapshot: Snapshot, settings: Settings) -> dict[str, dict[str, int | bool | None]]:
    """The specification's ``/stats``: counts per queue, dead letters as a queue; unknown is None.

    ``failed`` are jobs that ran out of attempts; runs that failed and were tried again are
    ``failedRuns``.
    """
    answer: dict[str, dict[str, int | bool | None]] = {}
    # a column at a time: with a thousand queues a frame per queue would take seconds
    columns = {
        name: snapshot.queues[name].to_list() for name in ("queue", "paused", *_SHOWN.values())
    }
    rows = {name: number for number, name in enumerate(columns["queue"])}
    for name in dict.fromkeys((*settings.queue_names, *rows)):
        number = rows.get(name)
        row: dict[str, int | bool | None] = {
            word: None if number is None else _whole(columns[column][number])
            for word, column in _SHOWN.items()
        }
        answer[str(name)] = row | {"paused": number is not None and bool(columns["paused"][number])}
    answer[settings.dlq_queue_name] = {
        word: _added(_count(snapshot.queues, column), _count(snapshot.streams, column))
        for word, column in (
            ("waiting", "dead_open"),
            ("active", "dead_retrying"),
            ("completed", "resolved"),
            ("failed", "discarded"),
        )
    } | {"delayed": 0}
    return answer


def _added(jobs: int | None, events: int | None) -> int | None:
    return None if jobs is None or events is None else jobs + events


assert {f.name for f in fields(Snapshot)} >= set(frames.FRAMES)  # noqa: S101 - one vocabulary
