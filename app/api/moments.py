"""Moments in a request: ISO 8601, never a bare number, which could be seconds or milliseconds."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Query
from pydantic import BeforeValidator

_ISO: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def _iso(value: Any) -> Any:
    if isinstance(value, str) and not _ISO.match(value):
        raise ValueError("a moment is ISO 8601: 2026-11-23T14:00:00Z")
    if isinstance(value, int | float):
        raise ValueError("a moment is a text in ISO 8601: 2026-11-23T14:00:00Z")
    return value


#: a moment, UTC where it has no zone
Moment = Annotated[datetime, BeforeValidator(_iso)]
AskedMoment = Annotated[
    Moment | None,
    Query(description="ISO 8601; UTC where it has no zone", examples=["2026-11-23T14:00:00Z"]),
]


def in_utc(at: datetime) -> datetime:
    """Return *at* with a zone."""
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def epoch_ms(at: datetime) -> float:
    """Epoch ms of a moment; 0 for what was before: nothing here is older."""
    return max(in_utc(at).timestamp() * 1000, 0.0)
