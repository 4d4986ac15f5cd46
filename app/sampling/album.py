"""Samples to frames: made when looked at, kept where nothing changed, the last hour appended."""

from collections.abc import Iterable
from typing import Any

from app import frames
from app.history import ColumnLog
from app.letters.causes import Cause
from app.records import JobRun
from app.sampling import record_rows
from app.sampling.sample import Rows, Sample
from app.snapshot import Lazy


class Album:
    """The frames of the newest sample, and the second-by-second log of an hour."""

    def __init__(self) -> None:
        self._log = ColumnLog(frames.HISTORY_COLUMNS)
        self._stream_log = ColumnLog(frames.STREAM_HISTORY_COLUMNS)
        self._running: Rows = []
        self._causes: list[tuple[Cause, float, float]] = []
        self._kept: dict[str, Lazy] = {
            name: Lazy(lambda columns=columns: frames.empty_frame(columns))  # type: ignore[misc]
            for name, columns in frames.FRAMES.items()
        }

    def add(self, sample: Sample, runs: Iterable[JobRun] | None = None) -> dict[str, Any]:
        """Take one sample and the newest runs (None: as before); return every frame, lazily."""
        kept = self._kept
        if sample.workers is not None:
            kept["workers"] = _made(sample.workers, frames.WORKER_COLUMNS)
        if sample.running is not None:
            self._running = sample.running
        if sample.queue_answered:
            rows, now_ms = self._running, sample.now_ms
            kept["running"] = Lazy(lambda: record_rows.running_since(rows, now_ms))
        if sample.letters is not None:
            kept["dead_letters"] = _made(sample.letters, frames.DEAD_LETTER_COLUMNS)
        if sample.causes is not None:
            self._causes = [(Cause.from_fields(c), h, d) for c, h, d in sample.causes]
        if sample.letters is not None or sample.causes is not None:
            letters, causes = kept["dead_letters"], self._causes
            kept["causes"] = Lazy(lambda: record_rows.causes_frame(letters(), causes))
        if sample.events is not None:
            kept["events"] = _made(sample.events, frames.EVENT_COLUMNS)
        if sample.functions is not None:
            kept["functions"] = _made(sample.functions, frames.FUNCTION_COLUMNS)
        if sample.operations is not None:
            kept["operations"] = _made(sample.operations, frames.OPERATION_COLUMNS)
        if sample.alerts is not None:
            kept["alerts"] = _made(sample.alerts, frames.ALERT_COLUMNS)
        if runs is not None:
            newest = tuple(runs)
            kept["runs"] = Lazy(lambda: record_rows.runs_frame(newest))
        kept["queues"] = _made(sample.queues, frames.QUEUE_COLUMNS)
        kept["streams"] = _made(sample.streams, frames.STREAM_COLUMNS)
        kept["groups"] = _made(sample.groups, frames.GROUP_COLUMNS)
        kept["redis"] = _made(sample.redis, frames.REDIS_COLUMNS)
        self._log.append(sample.at_us, sample.queues)
        kept["history"] = Lazy(self._log.view())
        self._stream_log.append(sample.at_us, sample.stream_history)
        kept["stream_history"] = Lazy(self._stream_log.view())
        return dict(kept)


def _made(rows: Rows, columns: frames.Columns) -> Lazy:
    return Lazy(lambda: frames.frame_of(rows, columns))
