"""Every frame of the snapshot, as JSON or CSV: what a notebook sees, for everything else."""

import re
from typing import Annotated, Any, Final

import pandas as pd
from fastapi import APIRouter, Path
from fastapi.responses import Response

from app import frames
from app.api.access import Caller, Now
from app.errors import NotFound

router = APIRouter(tags=["frames"])

#: a spreadsheet runs what begins like this
_FORMULA: Final = re.compile(r"^[=+\-@\t\r]")
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
async def frame_names(now: Now, _: Caller) -> dict[str, Any]:
    """List the frames with their columns and types."""
    return {
        name: {str(column): str(dtype) for column, dtype in now.frame(name).dtypes.items()}
        for name in frames.FRAMES
    }


@router.get("/frames/{name}.{kind}")
async def frame(
    name: Annotated[str, Path(max_length=64)],
    kind: Annotated[str, Path(max_length=8)],
    now: Now,
    _: Caller,
) -> Response:
    """Return one frame of the newest snapshot, as ``.json`` or ``.csv``."""
    if name not in frames.FRAMES:
        raise NotFound("frame", name, list(frames.FRAMES))
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
    raise NotFound("format", kind, ["json", "csv"])


@router.get("/workers")
async def workers(now: Now, _: Caller) -> Response:
    """Return the live processes, as the last heartbeats told."""
    return Response(records_json(now.workers), media_type="application/json")
