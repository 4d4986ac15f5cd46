"""Every frame of the snapshot, as JSON, CSV or Parquet: what a notebook sees, for everything else."""

import asyncio
import time
from datetime import datetime
from typing import Annotated, Any, Final

import pandas as pd
from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from app import frames, reader
from app.actions.asking import check_queue
from app.annals import past
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.moments import Moment, epoch_ms
from app.api.strict_json import StrictRoute
from app.declarations import NAME_PATTERN
from app.enqueue import codec_of
from app.errors import NotFound
from app.exports.files import parquet, records_json, safe_csv
from app.letters.tallies import read_tallies, tallies_frame
from app.plans.ask import WINDOW, Ask
from app.plans.commands import plan_of, runs_of
from app.server import Runtime
from app.snapshot import Snapshot
from app.wire.batch import Batch
from app.wire.connections import GONE, explained

router = APIRouter(tags=["frames"], route_class=StrictRoute)

KINDS: Final = ("json", "csv", "parquet")
_UNSAFE_HEADERS: Final = {"Cache-Control": "no-store"}


@router.get("/frames", response_model=dict[str, answers.FrameSchema])
async def frame_names(_: Caller) -> dict[str, Any]:
    """List the frames: what a row is, and each column's type, unit and meaning."""
    return {
        name: {
            "row": schema.row,
            "columns": {
                column: {"dtype": str(told.dtype), "unit": told.unit, "meaning": told.meaning}
                for column, told in schema.about.items()
            },
        }
        for name, schema in {**frames.FRAMES, **frames.ASKED_FRAMES}.items()
    }


@router.get("/frames/jobs.{kind}", response_model=answers.many(answers.JobFrameRow))
async def jobs(
    kind: Annotated[str, Path(max_length=8)],
    shared: Shared,
    _: Caller,
    queue: Annotated[str, Query(min_length=1, max_length=128)],
    state: Annotated[reader.JobsOf, Query()] = "waiting",
    cursor: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 500,
) -> Response:
    """Return a page of a queue's jobs as a frame; the header ``X-Cursor`` continues it."""
    if kind not in KINDS:
        raise NotFound("format", kind, KINDS)
    await check_queue(shared.connections, shared.settings, queue)
    page = await reader.jobs_page(
        shared.connections.holding(queue),
        queue,
        state,
        cursor,
        limit,
        codec=codec_of(shared.settings),
    )
    answer = _as_file(reader.jobs_frame(page.items), "jobs", kind)
    if page.cursor is not None:
        answer.headers["X-Cursor"] = page.cursor
    return answer


@router.get("/frames/cause_periods.{kind}", response_model=answers.many(answers.TallyRow))
async def cause_periods(
    kind: Annotated[str, Path(max_length=8)], now: Now, shared: Shared, _: Caller
) -> Response:
    """Return deaths per cause in the last 1 h, 3 h, 24 h, 3 d and 7 d, with what is not known of them."""
    if kind not in KINDS:
        raise NotFound("format", kind, KINDS)
    told = await read_tallies(
        shared.connections.queue,
        [str(name) for name in now.causes["fingerprint"]],
        is_counting=now.is_counting,
    )
    return _as_file(tallies_frame(now.causes, told), "cause_periods", kind)


@router.get("/frames/{name}.{kind}", response_model=list[dict[str, Any]])
async def frame(
    name: Annotated[str, Path(max_length=64)],
    kind: Annotated[str, Path(max_length=8)],
    now: Now,
    shared: Shared,
    _: Caller,
    at: Annotated[Moment | None, Query(description="as of this moment, ISO 8601")] = None,
) -> Response:
    """Return one frame of the newest snapshot, or as of a moment, as ``.json``, ``.csv`` or ``.parquet``."""
    if name not in frames.FRAMES:
        raise NotFound("frame", name, [*frames.FRAMES, *frames.ASKED_FRAMES])
    if kind not in KINDS:
        raise NotFound("format", kind, KINDS)
    if at is not None:
        now = await _as_of(shared, at)
    return _as_file(now.frame(name), name, kind)


def _as_file(found: pd.DataFrame, name: str, kind: str) -> Response:
    if kind == "json":
        return Response(records_json(found), media_type="application/json", headers=_UNSAFE_HEADERS)
    body, media_type = (
        (safe_csv(found), "text/csv")
        if kind == "csv"
        else (parquet(found), "application/vnd.apache.parquet")
    )
    saved = {"Content-Disposition": f'attachment; filename="{name}.{kind}"'}
    return Response(body, media_type=media_type, headers=_UNSAFE_HEADERS | saved)


async def _as_of(shared: Runtime, at: datetime) -> Snapshot:
    redis = shared.connections
    try:
        return await past.as_of(
            redis.queue,
            redis.streams,
            epoch_ms(at),
            now_ms=time.time() * 1000,
            holding=redis.holding,
        )
    except GONE as error:
        raise explained(error, "redis://queue") from error


@router.get("/runs/{queue}.{kind}", response_model=answers.many(answers.RunRow))
async def runs(
    queue: Annotated[str, Path(min_length=1, max_length=128, pattern=NAME_PATTERN.pattern)],
    kind: Annotated[str, Path(max_length=8)],
    shared: Shared,
    _: Caller,
    since: Annotated[Moment | None, Query(description="ISO 8601: finished then or later")] = None,
    until: Annotated[Moment | None, Query(description="ISO 8601")] = None,
    limit: Annotated[int, Query(ge=1, le=WINDOW)] = 1_000,
) -> Response:
    """Return the finished runs of a queue, newest first, as far as they are kept (about 10,000)."""
    if kind not in KINDS:
        raise NotFound("format", kind, KINDS)
    await check_queue(shared.connections, shared.settings, queue)
    ask = Ask(
        what="runs",
        sources=(queue,),
        since_ms=None if since is None else int(epoch_ms(since)),
        until_ms=None if until is None else int(epoch_ms(until)),
        limit=limit,
    )
    plan = plan_of(ask, shared.collector.snapshot, now_ms=time.time() * 1000)
    replies: list[Any] = []
    batch = Batch(shared.connections.holding(queue))
    for step in plan.steps:
        batch.ask_bytes(replies.append, *step.command)
    try:
        await batch.run()
    except GONE as error:
        raise explained(error, "redis://queue") from error

    def made() -> Response:
        return _as_file(ask.finish(runs_of(replies)), f"runs-{queue}", kind)

    return await asyncio.to_thread(made)  # 10,000 rows take 0.3 s


@router.get("/workers", response_model=answers.many(answers.WorkerRow))
async def workers(now: Now, _: Caller) -> Response:
    """Return the live processes, as the last heartbeats told."""
    return Response(records_json(now.workers), media_type="application/json")
