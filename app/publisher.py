"""Publish events to the stream and notifications to people: the producer's side."""

import json
import secrets
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.connections import explained
from app.errors import InvalidRequest, PayloadTooLarge
from app.events import MAX_DATA_BYTES, MAX_FIELD_CHARS, Event, NewEvent, check_text
from app.payload import safe_str

#: entries and bytes per pipeline: a batch must not hold up Redis' other clients
BATCH: Final = 500
BATCH_BYTES: Final = 1_048_576
_STREAMS: Final = "redis://streams"
_CACHE: Final = "redis://cache"


def now_iso() -> str:
    """The present moment as ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def notification(message: Any, kind: str, **more: str) -> str:
    """Encode a notification: JSON with ``timestamp``, ``type`` and ``message``."""
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
    if size > MAX_DATA_BYTES:
        raise PayloadTooLarge(
            f"the message takes {size:,} bytes, the limit is {MAX_DATA_BYTES:,}", field="message"
        )
    return text


class Publisher:
    """Publish to one *stream*, and notify over the cache Redis.

    Everything is checked before it is sent: InvalidRequest or PayloadTooLarge name the field.
    RedisUnavailable or RedisRefused come within about 2 s.
    """

    def __init__(
        self, streams: Redis, cache: Redis, *, stream: str, source: str = "arqscope"
    ) -> None:
        self._streams = streams
        self._cache = cache
        self.stream = stream
        self.source = source

    # -- events --------------------------------------------------------------------------------

    async def publish(
        self,
        event_type: str,
        data: Any = None,
        *,
        user_id: str = "",
        workspace_id: str = "",
        correlation_id: str = "",
    ) -> str:
        """Append one event and return its entry id."""
        event = NewEvent(
            type=event_type,
            data={} if data is None else data,
            user_id=user_id,
            workspace_id=workspace_id,
            correlation_id=correlation_id,
        )
        return (await self.publish_many([event]))[0]

    async def publish_many(self, events: Iterable[NewEvent]) -> list[str]:
        """Append events in order, pipelined; every one is checked before the first is sent."""
        rows = [self.fields(event) for event in events]
        ids: list[str] = []
        for batch in _batches(rows):
            try:
                async with self._streams.pipeline(transaction=False) as pipe:
                    for fields in batch:
                        pipe.xadd(self.stream, cast(Any, fields))
                    ids += await pipe.execute()
            except (RedisError, OSError) as error:
                raise explained(error, _STREAMS) from error
        return ids

    def fields(self, event: NewEvent) -> dict[str, str]:
        """Return the stream entry of *event*; a correlation id is made where it has none."""
        return Event(
            id="",
            type=event.type,
            data=event.data,
            timestamp=now_iso(),
            source=event.source or self.source,
            user_id=event.user_id,
            workspace_id=event.workspace_id,
            correlation_id=event.correlation_id or secrets.token_hex(8),
        ).to_fields()

    async def user_event(self, action: str, user_id: str, data: Any = None, **more: str) -> str:
        """Publish ``user.<action>`` about *user_id*."""
        return await self.publish(f"user.{action}", data, user_id=user_id, **more)

    async def workspace_event(
        self, action: str, workspace_id: str, data: Any = None, **more: str
    ) -> str:
        """Publish ``workspace.<action>`` about *workspace_id*."""
        return await self.publish(f"workspace.{action}", data, workspace_id=workspace_id, **more)

    async def airtable_event(self, action: str, base_id: str, data: Any = None, **more: str) -> str:
        """Publish ``airtable.<action>`` (such as ``sync.requested``) about base *base_id*."""
        return await self.publish(f"airtable.{action}", _with(data, baseId=base_id), **more)

    async def job_event(self, action: str, job_id: str, data: Any = None, **more: str) -> str:
        """Publish ``job.<action>`` about job *job_id*."""
        return await self.publish(f"job.{action}", _with(data, jobId=job_id), **more)

    async def auth_event(self, action: str, user_id: str, data: Any = None, **more: str) -> str:
        """Publish ``auth.<action>`` about *user_id*."""
        return await self.publish(f"auth.{action}", data, user_id=user_id, **more)

    # -- notifications -------------------------------------------------------------------------

    async def notify_user(self, user_id: str, message: Any, type: str = "notification") -> int:  # noqa: A002
        """Tell one user, on ``user:<id>``; return how many listeners heard it."""
        _check_receiver("userId", user_id)
        return await self._notify(
            keys.user_channel(user_id), notification(message, type, userId=user_id)
        )

    async def notify_workspace(
        self,
        workspace_id: str,
        message: Any,
        type: str = "notification",  # noqa: A002
    ) -> int:
        """Tell one workspace, on ``workspace:<id>``; return how many listeners heard it."""
        _check_receiver("workspaceId", workspace_id)
        return await self._notify(
            keys.workspace_channel(workspace_id),
            notification(message, type, workspaceId=workspace_id),
        )

    async def broadcast(self, message: Any, type: str = "broadcast") -> int:  # noqa: A002
        """Tell everyone, on ``system:broadcast``; return how many listeners heard it."""
        return await self._notify(keys.BROADCAST_CHANNEL, notification(message, type))

    async def _notify(self, channel: str, text: str) -> int:
        send = cast(Callable[[str, str], Awaitable[int]], self._cache.publish)
        try:
            return int(await send(channel, text))
        except (RedisError, OSError) as error:
            raise explained(error, _CACHE) from error


def _check_receiver(name: str, value: str) -> None:
    check_text(name, value)
    if not value:
        raise InvalidRequest(
            f"{name} is empty", field=name, hint=f"at most {MAX_FIELD_CHARS} characters"
        )


def _with(data: Any, **more: str) -> Any:
    """Add *more* to an object; anything else is wrapped."""
    if data is None:
        return more
    return {**more, **data} if isinstance(data, dict) else {**more, "value": data}


def _batches(rows: list[dict[str, str]]) -> Iterable[list[dict[str, str]]]:
    """Cut *rows* into pipelines bounded in entries and bytes."""
    batch: list[dict[str, str]] = []
    size = 0
    for row in rows:
        weight = len(row["data"])
        if batch and (len(batch) >= BATCH or size + weight > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += weight
    if batch:
        yield batch
