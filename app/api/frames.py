"""Every frame of the snapshot, as JSON, CSV or Parquet: what a notebook sees, for everything else."""

import re
import time
from datetime import datetime
from typing import Annotated, Any, Final

import pandas as pd
from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from app import frames, past
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.moments import Moment, epoch_ms
from app.connections import GONE, explained
from app.errors import ActionRefused, NotFound
from app.server import Runtime
from app.snapshot import Snapshot

router = APIRouter(tags=["frames"])

#: a spreadsheet runs what begins like this
_FORMULA: Final = re.compile(r"^[=+\-@\t\r]")
KINDS: Final = ("json", "csv", "parquet")
_UNSAFE_HEADERS: Final = {"Cache-Control": "no-store"}


def records_json(frame: pd.DataFrame) -> str:
    """Rows as a JSON array: ISO times, null for what is unknown."""
    return str(frame.to_json(orient="records", date_format="iso", date_unit="ms"))


def safe_csv(frame: pd.DataFrame) -> str:
    """CSV no spreadsheet takes for formulas: such texts get an apostrophe before them."""
    shown = frame.copy()
    for column in shown.columns:
        if shown[column].dtype in ("object", "str", "string", "category"):
            shown[column] = [
                f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
                for value in shown[column]
            ]
    # With CRLF a cell that holds either of the two is quoted, and cannot begin a row.
    return shown.to_csv(index=False, lineterminator="\r\n")


@router.get("/frames")
async def frame_names(now: Now, _: Caller) -> dict[str, dict[str, str]]:
    """List the frames with their columns and types."""
    return {
        name: {str(column): str(dtype) for column, dtype in now.frame(name).dtypes.items()}
        for name in frames.FRAMES
    }


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
        raise NotFound("frame", name, list(frames.FRAMES))
    if kind not in KINDS:
        raise NotFound("format", kind, KINDS)
    if at is not None:
        now = await _as_of(shared, at)
    found = now.frame(name)
    if kind == "json":
        return Response(records_json(found), media_type="application/json", headers=_UNSAFE_HEADERS)
    if kind == "csv":
        return Response(
            safe_csv(found),
            media_type="text/csv",
            headers={
                **_UNSAFE_HEADERS,
                "Content-Disposition": f'attachment; filename="{name}.csv"',
            },
        )
    return Response(
        parquet(found),
        media_type="application/vnd.apache.parquet",
        headers={
            **_UNSAFE_HEADERS,
            "Content-Disposition": f'attachment; filename="{name}.parquet"',
        },
    )


def parquet(frame: pd.DataFrame) -> bytes:
    """The frame as Parquet, dtypes kept; ActionRefused where pyarrow is not installed."""
    try:
        body: bytes = frame.to_parquet(index=False)
    except ImportError as error:
        raise ActionRefused("Parquet needs pyarrow: pip install arqscope[notebook]") from error
    return body


async def _as_of(shared: Runtime, at: datetime) -> Snapshot:
    redis = shared.connections
    try:
        return await past.as_of(redis.queue, redis.streams, epoch_ms(at), now_ms=time.time() * 1000)
    except GONE as error:
        raise explained(error, "redis://queue") from error


@router.get("/workers", response_model=answers.many(answers.WorkerRow))
async def workers(now: Now, _: Caller) -> Response:
    """Return the live processes, as the last heartbeats told."""
    return Response(records_json(now.workers), media_type="application/json")
