"""Read history: a range of one source as a frame, what happened in it, and the page as of a moment."""

import asyncio
import contextlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis

from app import audit, deeds, frames, keys
from app.annals.canvas import Canvas
from app.annals.chunks import Chunk
from app.annals.historian import HOURS_KEPT_MS, MINUTES_KEPT_MS, MOMENTS
from app.annals.tiers import TierRow
from app.columns import Schema, moment, text
from app.errors import BadRecord, InvalidRequest, NotFound
from app.payloads.codec import raw_bytes
from app.records import JobRun
from app.sampling.album import Album
from app.sampling.sample import Sample
from app.sampling.stream_readings import event_row
from app.snapshot import Snapshot
from app.wire.batch import Batch, into
from app.wire.connections import GONE

#: steps a range is divided into at most
MAX_POINTS: Final = 2_000
#: tells the client of the server that holds a queue
Holding = Callable[[str], Redis]
#: moments looked back for one that was stored, per kind
_TRIES: Final = 3
RUNS_THEN: Final = 1000
#: audit lines looked at for the annotations of a range
AUDIT_WINDOW: Final = 2_000
MARKS_SHOWN: Final = 1_000
#: what operators did that explains a change in a chart
ANNOTATED: Final = frozenset(
    {
        "pause_queue", "resume_queue", "set_concurrency", "clean_queue", "control_workers",
        "start_operation", "import_letters", "drain_queue",
    }
)  # fmt: skip
#: columns of history as the log of streams calls them
_OF_A_STREAM: Final = {
    "source": "stream", "complete_per_s": "processed_per_s", "waiting": "lag", "oldest_wait_s": "lag_s",
}  # fmt: skip
ANNOTATION_COLUMNS: Final = Schema(
    "One row per deploy, pause or operation of a range, oldest first.",
    at=moment("when it happened"),
    kind=text("deploy, or the action's name"),
    source=text("queue or stream; empty: all"),
    text=text("what it was, in words"),
    actor=text("who did it; empty: it was seen by heartbeats"),
)


async def history(
    redis: Redis, source: str, start_ms: float, end_ms: float, *, now_ms: float, points: int = 1000
) -> pd.DataFrame:
    """History of a queue or stream as TIER_COLUMNS on a regular grid of at most *points* steps.

    One round trip. Minutes while they are kept (7 d), else hours; ``attrs`` say ``tier`` and
    ``step_s``. Counts are exact, means rounded to five digits, percentiles within
    records.BUCKET_ERROR: of packed minutes those of their five minutes, of packed hours those of
    their three hours. A step nobody saw is NaN. Raises InvalidRequest for an empty range or too
    many points.
    """
    grid = grid_of(start_ms, end_ms, now_ms=now_ms, points=points)
    got: dict[str, Any] = {}
    batch = Batch(redis)
    packed, still_open = grid.commands(source)
    batch.ask_bytes(into(got, "chunks"), *packed)
    batch.ask(into(got, "open"), *still_open)
    await batch.run()
    # a week takes 40 ms: the loop has others to serve
    return await asyncio.to_thread(grid.frame, source, got["chunks"], got["open"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The regular grid a range is read on, the commands that read it and what to make of the replies."""

    first_s: int
    step_s: int
    steps: int
    by_minute: bool
    numbers: range  #: of the packed chunks: hours, or days

    @property
    def attrs(self) -> dict[str, Any]:
        """What the frame says of itself."""
        return {"tier": "minutes" if self.by_minute else "hours", "step_s": self.step_s}

    def commands(self, source: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The two commands that read *source*."""
        make = keys.history_minutes if self.by_minute else keys.history_hours
        return (
            ("MGET", *(make(source, number) for number in self.numbers)),
            ("HGETALL", keys.history_open(source)),
        )

    def frame(
        self, source: str, chunks: Sequence[Any], still_open: Mapping[str, str]
    ) -> pd.DataFrame:
        """TIER_COLUMNS of *source* from the replies; ``attrs`` say ``tier`` and ``step_s``."""
        row_s = 60 if self.by_minute else 3600
        span_s = row_s * (60 if self.by_minute else 24)
        canvas = Canvas(self.first_s, self.step_s, self.steps)
        for number, packed in zip(self.numbers, chunks, strict=True):
            if packed is not None:
                with contextlib.suppress(BadRecord):  # a gap, as if nobody had seen it
                    canvas.put(Chunk.of(raw_bytes(packed)), number * span_s, row_s)
        _put_open(canvas, still_open, by_minute=self.by_minute)
        frame = canvas.frame(source)
        frame.attrs.update(self.attrs)
        return frame


def grid_of(start_ms: float, end_ms: float, *, now_ms: float, points: int = 1000) -> Grid:
    """The grid of a range, at most *points* steps; InvalidRequest for an empty one or too many."""
    if not start_ms < end_ms:
        raise InvalidRequest("the range is empty", field="start", hint="start before end")
    if not 1 <= points <= MAX_POINTS:
        hint = f"between 1 and {MAX_POINTS}"
        raise InvalidRequest(f"points={points} is out of range", field="points", hint=hint)
    by_minute = start_ms >= now_ms - MINUTES_KEPT_MS
    row_s = 60 if by_minute else 3600
    step_s = row_s * max(1, -(-int((end_ms - start_ms) / 1000) // (row_s * points)))
    first_s = int(start_ms / 1000) // step_s * step_s
    span_s = row_s * (60 if by_minute else 24)
    # Beside what is kept nothing can be found, however wide the range: it must not cost a key each.
    kept_s = int(now_ms - (MINUTES_KEPT_MS if by_minute else HOURS_KEPT_MS)) // 1000
    last = min(int(end_ms / 1000), int(now_ms) // 1000 + span_s) // span_s
    first = min(max(first_s, kept_s - span_s) // span_s, last)
    return Grid(
        first_s=first_s,
        step_s=step_s,
        steps=min(points + 1, math.ceil((end_ms / 1000 - first_s) / step_s)),
        by_minute=by_minute,
        numbers=range(first, last + 1),
    )


def _put_open(canvas: Canvas, fields: Mapping[str, str], *, by_minute: bool) -> None:
    rows: dict[str, dict[int, TierRow]] = {"m": {}, "h": {}}
    for name, row in fields.items():
        with contextlib.suppress(BadRecord, KeyError, ValueError):
            rows[name[0]][int(name[1:])] = TierRow.from_json(row)
    if not by_minute and rows["h"]:
        canvas.put(Chunk.of_rows(rows["h"]), 0, 3600)
    minutes = rows["m"]
    if not by_minute:  # of the hour that is not over
        minutes = {minute: row for minute, row in minutes.items() if minute // 60 not in rows["h"]}
    if minutes:
        canvas.put(Chunk.of_rows(minutes), 0, 60)


async def annotations(redis: Redis, start_ms: float, end_ms: float) -> pd.DataFrame:
    """Deploys, pauses and operations between two moments, as ANNOTATION_COLUMNS.

    At most 1,000 deploys and what the newest 2,000 audit lines of the range say; ``attrs["cut"]`` tells
    that there were more of either, the oldest of which are left out.
    """
    got: dict[str, Any] = {}
    batch = Batch(redis)
    batch.ask_raw(
        into(got, "marks"), "ZREVRANGEBYSCORE", keys.MARKS, int(end_ms), int(start_ms),
        "WITHSCORES", "LIMIT", 0, MARKS_SHOWN,
    )  # fmt: skip
    batch.ask(
        into(got, "audit"),
        "XREVRANGE", keys.AUDIT, int(end_ms), int(start_ms), "COUNT", AUDIT_WINDOW,
    )  # fmt: skip
    await batch.run()
    marks = got.get("marks") or []
    rows = [_mark_row(text, float(at)) for text, at in zip(marks[::2], marks[1::2], strict=True)]
    lines = got.get("audit") or []
    for entry_id, fields in lines:
        try:
            line = audit.line_of(entry_id, fields)
        except BadRecord:
            continue
        if line.action in ANNOTATED and "refused" not in line.detail:
            told = deeds.in_words(line.detail)
            rows.append(
                {"at": line.at_ms, "kind": line.action, "source": line.target, "text": told,
                 "actor": line.actor}
            )  # fmt: skip
    rows.reverse()  # read newest first; of one moment, too, the older stands before the newer
    rows.sort(key=lambda row: row["at"])
    frame = frames.frame_of(rows, ANNOTATION_COLUMNS)
    frame.attrs["cut"] = len(lines) >= AUDIT_WINDOW or len(marks) >= 2 * MARKS_SHOWN
    return frame


def _mark_row(text: str, at_ms: float) -> dict[str, Any]:
    try:
        mark: Mapping[str, Any] = json.loads(text)
    except ValueError:
        mark = {}
    before = f" (before: {mark['before']})" if mark.get("before") else ""
    note = f": {mark['note']}" if mark.get("note") else ""
    return {
        "at": at_ms,
        "kind": str(mark.get("kind", "deploy")),
        "source": str(mark.get("source", "")),
        "text": f"{mark.get('version', '?')}{before}{note}",
        "actor": str(mark.get("actor", "")),
    }


async def as_of(
    queue_redis: Redis,
    streams_redis: Redis,
    at_ms: float,
    *,
    now_ms: float,
    holding: Holding | None = None,
) -> Snapshot:
    """The snapshot the pages would have shown at *at_ms*: the last moment stored before it.

    Moments are stored every minute for 2 h, every hour for 7 d and every day for 90 d; ``taken_at``
    says which it is. Runs and handled events come from their streams, as far as these reach back;
    lists hold at most 100 workers, jobs and letters. NotFound when nothing was stored near. *holding*
    tells the server of a queue's runs, where that is not *queue_redis*; one that is away has told none.
    """
    candidates = [
        (int(at_ms // 60_000) // every - back, kind, every)
        for kind, (every, kept_ms) in MOMENTS.items()
        if at_ms >= now_ms - kept_ms
        for back in range(_TRIES)
    ]
    found: Any = (
        await queue_redis.mget([keys.moment(k, n) for n, k, _ in candidates]) if candidates else []
    )
    samples = [
        sample for text in found if (sample := _moment(text)) and sample.at_us <= at_ms * 1000
    ]
    if not samples:
        raise NotFound("moment", pd.Timestamp(int(at_ms * 1000), unit="us", tz="UTC").isoformat())
    sample = max(samples, key=lambda one: one.at_us)
    then_ms = sample.at_us // 1000
    queues = [str(row["queue"]) for row in sample.queues]
    runs = await _runs_until(queue_redis, queues, then_ms, holding or (lambda _: queue_redis))
    streams = [str(row["stream"]) for row in sample.streams]
    sample.events = await _events_until(streams_redis, streams, then_ms)
    made = Album().add(sample, runs)
    hour = (then_ms - 3_600_000, then_ms)
    made |= {
        name: _as_log(
            [await history(queue_redis, s, *hour, now_ms=now_ms, points=60) for s in sources],
            columns,
            names,
        )
        for name, sources, columns, names in (
            ("history", queues, frames.HISTORY_COLUMNS, {"source": "queue"}),
            ("stream_history", streams, frames.STREAM_HISTORY_COLUMNS, _OF_A_STREAM),
        )
    }
    return Snapshot(taken_at=pd.Timestamp(sample.at_us, unit="us", tz="UTC"), number=1, **made)


def _moment(text: str | bytes | None) -> Sample | None:
    if text is None:
        return None
    try:
        return Sample.from_json(zlib.decompress(raw_bytes(text)))
    except (BadRecord, zlib.error):
        return None


async def _runs_until(
    home: Redis, queues: Sequence[str], then_ms: int, holding: Holding
) -> list[JobRun]:
    found: list[JobRun] = []

    def take(entries: Sequence[Any]) -> None:
        for _, fields in entries:
            try:
                found.append(JobRun.from_json(fields.get("r", "")))
            except BadRecord:
                continue

    if not queues:
        return found
    batches: dict[Redis, Batch] = {}
    each = max(10, RUNS_THEN // len(queues))
    for queue in queues:
        redis = holding(queue)
        batch = batches.setdefault(redis, Batch(redis))
        batch.ask(take, "XREVRANGE", keys.runs(queue), then_ms, "-", "COUNT", each)
    for redis, batch in batches.items():
        try:
            await batch.run()
        except GONE:
            if redis is home:
                raise
    found.sort(key=lambda run: run.finished_ms)
    return found


async def _events_until(redis: Redis, streams: Sequence[str], then_ms: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    batch = Batch(redis)
    for stream in streams:
        batch.ask(
            lambda entries: rows.extend(event_row(i, f) for i, f in reversed(entries) if f),
            "XREVRANGE", keys.recent_events(stream), then_ms, "-", "COUNT", 200,
        )  # fmt: skip
    await batch.run()
    return rows


def _as_log(
    logs: Sequence[pd.DataFrame], columns: frames.Columns, names: Mapping[str, str]
) -> pd.DataFrame:
    """Minutes of several sources in the columns of a second-by-second log."""
    if not logs:
        return frames.empty_frame(columns)
    joined = pd.concat(logs, ignore_index=True).rename(columns=names)
    name = list(columns)[1]
    joined[name] = joined[name].astype("category")
    joined = joined.sort_values("at", kind="stable", ignore_index=True)
    return joined[list(columns)]
