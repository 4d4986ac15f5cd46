"""Records and values of jobs as JSON answers; whatever a job's data holds, this does not fail."""

import json
from dataclasses import asdict
from typing import Any

from fastapi.responses import Response
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from app.reader import Page


def encoded(value: Any, status: int = 200) -> Response:
    """Answer with *value*: dataclasses as objects, NaN as null, what JSON cannot hold as text."""
    try:
        body = to_json(value, inf_nan_mode="null", serialize_unknown=True, fallback=str)
    except (PydanticSerializationError, ValueError):
        # bytes that were never UTF-8, kept by surrogateescape: \udcXX in JSON, but valid JSON
        plain = to_jsonable_python(value, serialize_unknown=True, fallback=str)
        body = json.dumps(plain, default=str).encode("ascii")
    return Response(
        body, status, media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def paged(page: Page[Any]) -> Response:
    """Answer with one page: ``items``, and the ``cursor`` to ask for the next one."""
    items = [item if isinstance(item, dict) else asdict(item) for item in page.items]
    return encoded(
        {
            "items": items,
            "cursor": page.cursor,
            "scanned": page.scanned,
            "window": page.window,
            "partial": page.partial,
        }
    )
