"""Pages, and the cursors that continue them; the small decoders that every page needs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from redis.asyncio import Redis

from app.errors import BadRecord, InvalidRequest
from app.records import DeadLetter, JobRun

MAX_PAGE: Final = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some items, and where to go on; *scanned* tells how many records were looked at for them."""

    items: list[T]
    cursor: str | None  #: None: this was the last page
    scanned: int
    now_ms: int = 0
    window: str = ""  #: what was looked at, in words, when it was not everything
    partial: bool = False  #: the window ended before the page was full: go on with the cursor


def limited(limit: int) -> int:
    """Return *limit* when a page may be that long; InvalidRequest else."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(
            f"limit={limit} is out of range", field="limit", hint=f"between 1 and {MAX_PAGE}"
        )
    return limit


def bad_cursor(cursor: str) -> InvalidRequest:
    """The error of a cursor that is none of ours."""
    hint = "pass the cursor of the page before, unchanged"
    return InvalidRequest(f"cursor={cursor[:60]!r} is not valid", field="cursor", hint=hint)


def split_cursor(cursor: str) -> tuple[str, int]:
    """Cut ``score:seen`` into the score and how many members of it were seen; InvalidRequest else."""
    score, _, seen = cursor.rpartition(":")
    if not re.fullmatch(r"-?\d{1,17}(\.\d+)?", score) or not re.fullmatch(r"\d{1,9}", seen):
        raise bad_cursor(cursor)
    return score, int(seen)


async def by_score(
    redis: Redis,
    key: str,
    low: str,
    high: str,
    cursor: str | None,
    limit: int,
    *,
    newest: bool = False,
) -> tuple[list[tuple[str, float]], str | None]:
    """Members by score, and the cursor ``score:members of that score already seen``."""
    skip = 0
    if cursor is not None:
        score, skip = split_cursor(cursor)
        low, high = (low, score) if newest else (score, high)
    read: Any = redis.zrevrangebyscore if newest else redis.zrangebyscore
    first, last = (high, low) if newest else (low, high)
    found: Any = await read(key, first, last, start=skip, num=limit, withscores=True)
    pairs = [(str(member), float(score)) for member, score in found]
    if len(pairs) < limit:
        return pairs, None
    edge = pairs[-1][1]
    seen_there = sum(score == edge for _, score in pairs)
    if cursor is not None and float(cursor.rpartition(":")[0]) == edge:
        seen_there += skip
    return pairs, f"{edge:.0f}:{seen_there}"


async def stream_page(
    redis: Redis, key: str, cursor: str | None, count: int, *, newest: str = "+", oldest: str = "-"
) -> list[Any]:
    """Entries of a stream, newest first, after *cursor*; InvalidRequest for one that is none."""
    if cursor is not None and not re.fullmatch(r"\d{1,20}-\d{1,20}", cursor):
        raise bad_cursor(cursor)
    found: Any = await redis.xrevrange(key, f"({cursor}" if cursor else newest, oldest, count=count)
    return list(found)


def letter_of(raw: Mapping[str, str]) -> DeadLetter | None:
    """The letter a hash holds; None when it is not readable."""
    try:
        return DeadLetter.from_fields(raw)
    except BadRecord:
        return None


def run_of(text: str) -> JobRun | None:
    """The run a report holds; None when it is not readable."""
    try:
        return JobRun.from_json(text)
    except BadRecord:
        return None


def claim_of(text: str) -> dict[str, Any]:
    """What a claim in the running hash says; zeros when it says nothing."""
    parts = text.split(":", 3)
    if len(parts) < 4 or not all(part.isdecimal() for part in parts[:3]):
        return {"started_ms": 0, "due_ms": 0, "attempt": 0, "worker": ""}
    started, due, attempt = (int(part) for part in parts[:3])
    return {"started_ms": started, "due_ms": due, "attempt": attempt, "worker": parts[3]}
