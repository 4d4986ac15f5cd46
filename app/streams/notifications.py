"""Notifications over pub/sub, each remembered for a while: sent, and read again by who comes back.

Pub/sub alone forgets. Beside every channel the cache Redis keeps the last notifications, written in
the script that publishes; a listener that was away asks for what came after the last id it saw.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.errors import InvalidRequest, PayloadTooLarge
from app.payloads.codec import safe_str
from app.streams.events import ENTRY_ID
from app.wire.connections import explained
from app.wire.scripts import script

#: a notification is a hint: what it is about is read where it is kept
MAX_BYTES: Final = 32_768
#: notifications remembered per channel, s they are, and channels that are
KEPT: Final = 50
KEPT_S: Final = 3_600
KEPT_CHANNELS: Final = 2_000
_CACHE: Final = "redis://cache"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a channel's memory holds after an id, oldest first: (id, JSON text)."""

    notifications: tuple[tuple[str, str], ...]
    is_complete: bool  #: False: others may have been forgotten since that id


def now_iso() -> str:
    """The present moment as ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def notification(message: Any, kind: str, **more: str) -> str:
    """Encode a notification: JSON with ``timestamp``, ``type`` and ``message``.

    Raises InvalidRequest for what is not JSON, PayloadTooLarge above 32 KB.
    """
    try:
        text = json.dumps(
            {"timestamp": now_iso(), "type": kind, "message": message, **more},
            ensure_ascii=False,
            allow_nan=False,
        )
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"the message cannot be stored as JSON: {safe_str(error, 200)}", field="message"
        ) from error
    if size > MAX_BYTES:
        raise PayloadTooLarge(
            f"the message takes {size:,} bytes, the limit is {MAX_BYTES:,}",
            field="message",
            hint="send a reference to the data",
        )
    return text


async def send(cache: Redis, channel: str, text: str, *, mark: str = "", mark_s: int = 0) -> int:
    """Publish *text*, made by ``notification``, on *channel*; return how many listeners heard it.

    With *mark*, a key, it is sent once in *mark_s* seconds: -1 says that it was. Raises
    RedisUnavailable or RedisRefused.
    """
    names = [keys.replay(channel), keys.REPLAY_CHANNELS, *([mark] if mark else [])]
    limits = [KEPT, KEPT_S, KEPT_CHANNELS, keys.replay(""), mark_s]
    try:
        reply = await script(__file__, "notify").run(cache, names, [channel, text, *limits])
    except (RedisError, OSError) as error:
        raise explained(error, _CACHE) from error
    return int(reply[0])


async def newest_id(cache: Redis, channel: str) -> str:
    """Id of the last notification remembered; ``0-0`` when there is none."""
    rows = await cache.xrevrange(keys.replay(channel), count=1)
    return str(rows[0][0]) if rows else "0-0"


async def remembered(cache: Redis, channel: str, after: str) -> Remembered:
    """Read what was sent on *channel* after id *after*; ``0`` reads all that is remembered."""
    after = "0-0" if after == "0" else after
    check_id(after)
    rows = await cache.xrange(keys.replay(channel), min=after, count=KEPT + 1)
    found = [
        (str(entry_id), with_id(str(entry_id), fields.get("m", "{}"))) for entry_id, fields in rows
    ]
    is_known = bool(found) and found[0][0] == after
    return Remembered(tuple(found[1:] if is_known else found), is_known or after == "0-0")


def check_id(after: str) -> str:
    """Return *after* when it is an id of ours; InvalidRequest else."""
    if not ENTRY_ID.fullmatch(after):
        raise InvalidRequest(
            f"Last-Event-ID={after[:60]!r} is not an id",
            field="Last-Event-ID",
            hint="pass the last id received, or 0 for all that is remembered",
        )
    return after


def with_id(entry_id: str, text: str) -> str:
    """Return the notification as its listeners heard it, its id the first field."""
    return f'{{"id":"{entry_id}",{text[1:]}'


def id_of(text: str) -> str:
    """The id in a notification as heard; empty for one that another program published."""
    head = text[:64]
    found = ENTRY_ID.match(head, 7) if head.startswith('{"id":"') else None
    return found.group() if found else ""
