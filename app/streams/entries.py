"""Read streams for people: entries of a range, one entry, what is pending. Bounded; never writes.

A page looks at no more than 5,000 entries, whatever the filter; it says how many it looked at and
where to go on, so that a rare type is found by asking on, not by blocking Redis.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from app import keys
from app.errors import BadRecord, InvalidRequest, NotFound
from app.streams.events import ENTRY_ID, Event, check_pattern, matches
from app.wire.connections import explained

#: entries one page looks at, and entries per call to Redis: each may have 256 KB
WINDOW: Final = 5_000
_CHUNK: Final = 100
MAX_PAGE: Final = 500
#: characters of ``data`` shown in a list
PREVIEW: Final = 2_048
_STREAMS: Final = "redis://streams"
_DIGITS: Final = re.compile(r"\d{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Which entries are wanted; an empty field wants all."""

    type: str = ""  #: exact, ``prefix.*`` or ``*``
    user_id: str = ""
    workspace_id: str = ""
    correlation_id: str = ""

    def __post_init__(self) -> None:
        if self.type:
            check_pattern(self.type)

    def wants(self, raw: Mapping[str, str]) -> bool:
        """Whether the entry with fields *raw* is wanted."""
        return (
            (not self.type or matches(self.type, raw.get("type", "")))
            and (not self.user_id or raw.get("userId") == self.user_id)
            and (not self.workspace_id or raw.get("workspaceId") == self.workspace_id)
            and (not self.correlation_id or raw.get("correlationId") == self.correlation_id)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesPage:
    """Some entries; *scanned* were looked at, at most *window*; *cursor* None: that was all."""

    items: list[dict[str, Any]]
    cursor: str | None
    scanned: int
    window: int = WINDOW


def position(text: str, field: str) -> str:
    """An entry id, epoch ms or ISO 8601 time with a zone as a bound of a range; InvalidRequest else.

    A bare time takes in all entries of its millisecond, as the beginning and as the end.
    """
    if ENTRY_ID.fullmatch(text) or _DIGITS.fullmatch(text):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or moment.timestamp() < 0:
        raise InvalidRequest(
            f"{field}={text[:60]!r} is neither an entry id nor a time",
            field=field,
            hint="1795442400000-0, 1795442400000 or 2026-11-23T14:00:00+00:00",
        )
    return f"{moment.timestamp() * 1000:.0f}"


async def entries_page(
    redis: Redis,
    stream: str,
    wanted: EntryFilter,
    *,
    start: str = "-",
    end: str = "+",
    cursor: str = "",
    limit: int = 50,
    newest_first: bool = True,
) -> EntriesPage:
    """One page of the entries of *stream* from *start* to *end* that are *wanted*."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit={limit} is out of range", field="limit", hint="1 to 500")
    if cursor and not ENTRY_ID.fullmatch(cursor):
        hint = "pass the cursor of the page before, unchanged"
        raise InvalidRequest(f"cursor={cursor[:60]!r} is not valid", field="cursor", hint=hint)
    items: list[dict[str, Any]] = []
    scanned, at = 0, cursor
    read: Any = redis.xrevrange if newest_first else redis.xrange
    while scanned < WINDOW:
        low = start if newest_first or not at else f"({at}"
        high = end if not newest_first or not at else f"({at}"
        count = min(_CHUNK, WINDOW - scanned)
        rows = await asked(read(stream, **{"min": low, "max": high, "count": count}))
        for entry_id, raw in rows:
            scanned, at = scanned + 1, str(entry_id)
            if wanted.wants(raw):
                items.append(entry_row(at, raw))
                if len(items) == limit:
                    return EntriesPage(items=items, cursor=at, scanned=scanned)
        if len(rows) < count:
            return EntriesPage(items=items, cursor=None, scanned=scanned)
    return EntriesPage(items=items, cursor=at, scanned=scanned)


def entry_row(entry_id: str, raw: Mapping[str, str], preview: int = PREVIEW) -> dict[str, Any]:
    """One entry for people; what is malformed says why."""
    row: dict[str, Any] = {"id": entry_id, "at_ms": int(entry_id.partition("-")[0])}
    for name in ("type", "timestamp", "source", "userId", "workspaceId", "correlationId"):
        row[name] = raw.get(name, "")[:256]
    for name in ("eventId", "redrivenFrom", "replayedFrom"):
        if raw.get(name):
            row[name] = raw[name][:256]
    size = len(raw.get("data", ""))
    row["data_chars"] = size
    if size > preview:
        row["note"] = f"{size:,} characters of data, open the entry to see"
        return row
    try:
        row["data"] = Event.from_entry(entry_id, raw).data
    except BadRecord as error:
        row["malformed"] = str(error)[:300]
    return row


async def entry(redis: Redis, stream: str, entry_id: str) -> dict[str, Any]:
    """One entry in full: its fields as written, where it is pending, its dead letter; NotFound."""
    if not ENTRY_ID.fullmatch(entry_id):
        raise NotFound("entry", entry_id)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.xrange(stream, entry_id, entry_id, count=1)
        pipe.exists(keys.dead_record(stream, entry_id))
        pipe.hgetall(keys.handled(stream, entry_id))
        rows, has_letter, handled = await asked(pipe.execute())
    if not rows:
        raise NotFound("entry", entry_id)
    raw = rows[0][1]
    found = entry_row(entry_id, raw, preview=1_000_000)
    found["fields"] = {str(name)[:256]: str(value)[:300_000] for name, value in raw.items()}
    found["dead_letter"] = entry_id if has_letter else None
    found["handlers_done"] = sorted(n[2:] for n in handled if n.startswith("h:"))
    found["pending"] = []
    for group in await groups_of(redis, stream):
        held = await asked(redis.xpending_range(stream, str(group["name"]), entry_id, entry_id, 1))
        found["pending"] += [_pending_row(str(group["name"]), row) for row in held]
    return found


async def groups_of(redis: Redis, stream: str) -> list[dict[str, Any]]:
    """XINFO GROUPS; empty for a stream nobody wrote to."""
    try:
        found: list[dict[str, Any]] = await redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return []
        raise explained(error, _STREAMS) from error
    except (RedisError, OSError) as error:
        raise explained(error, _STREAMS) from error
    return found


async def consumers_of(redis: Redis, stream: str, group: str) -> list[dict[str, Any]]:
    """The consumers of a group with what they hold, and ms since they were heard of."""
    await check_group(redis, stream, group)
    found: Any = await asked(redis.xinfo_consumers(stream, group))
    return [
        {"name": str(one["name"]), "pending": one["pending"], "idle_ms": one["idle"]}
        for one in found[:1_000]
    ]


async def pending_page(
    redis: Redis,
    stream: str,
    group: str,
    *,
    consumer: str = "",
    min_idle_ms: int = 0,
    cursor: str = "",
    limit: int = 50,
) -> EntriesPage:
    """One page of what *group* was given and has not acknowledged, oldest first."""
    await check_group(redis, stream, group)
    if cursor and not ENTRY_ID.fullmatch(cursor):
        raise InvalidRequest(f"cursor={cursor[:60]!r} is not valid", field="cursor")
    rows: Any = await asked(
        redis.xpending_range(
            stream,
            group,
            f"({cursor}" if cursor else "-",
            "+",
            limit,
            consumername=consumer or None,
            idle=min_idle_ms or None,
        )
    )
    async with redis.pipeline(transaction=False) as pipe:
        for row in rows:
            pipe.xrange(stream, row["message_id"], row["message_id"], count=1)
        found = await asked(pipe.execute()) if rows else []
    items = []
    for row, hit in zip(rows, found, strict=True):
        item = _pending_row(group, row)
        item["entry"] = entry_row(str(hit[0][0]), hit[0][1]) if hit else None  # None: was deleted
        items.append(item)
    last = items[-1]["id"] if len(items) == limit else None
    return EntriesPage(items=items, cursor=last, scanned=len(items))


def _pending_row(group: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": str(row["message_id"]),
        "group": group,
        "consumer": str(row["consumer"]),
        "idle_ms": int(row["time_since_delivered"]),
        "deliveries": int(row["times_delivered"]),
    }


async def check_group(redis: Redis, stream: str, group: str) -> None:
    """Raise NotFound, with the known names, unless *stream* has *group*."""
    known = [str(one["name"]) for one in await groups_of(redis, stream)]
    if group not in known:
        raise NotFound("group", group, known)


async def statuses(redis: Redis, stream: str, kind: str, limit: int = 100) -> list[dict[str, Any]]:
    """What events last said about the things of one *kind* (sync, job, user …), newest first."""
    subjects: Any = await asked(redis.zrevrange(keys.statuses(stream, kind), 0, limit - 1))
    async with redis.pipeline(transaction=False) as pipe:
        for subject in subjects:
            pipe.hgetall(keys.status(stream, kind, subject))
        found = await asked(pipe.execute()) if subjects else []
    return [
        {"kind": kind, "subject": subject, **fields}
        for subject, fields in zip(subjects, found, strict=True)
        if fields
    ]


async def asked(reply: Any) -> Any:
    """Await a reply of the streams Redis; its errors become ours."""
    try:
        return await reply
    except (RedisError, OSError) as error:
        raise explained(error, _STREAMS) from error
