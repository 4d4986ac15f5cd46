"""Publish events to streams and notifications to people: the producer's side.

``Publisher`` is for programs with an event loop, ``SyncPublisher`` for scripts and notebooks.
"""

import asyncio
import secrets
import threading
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.declarations import NAME_PATTERN
from app.errors import InvalidRequest
from app.settings import Settings
from app.streams.events import MAX_FIELD_CHARS, Event, NewEvent, check_text
from app.streams.notifications import notification, now_iso, send
from app.wire.connections import connect, explained
from app.wire.scripts import script

#: entries and bytes per script call: a batch must not hold up Redis' other clients
BATCH: Final = 500
BATCH_BYTES: Final = 1_048_576
#: s a caller's event id is remembered: asking again within them publishes nothing
PUBLISHED_S: Final = 86_400
#: s a call is remembered: longer than a client goes on repeating one whose reply was lost
_CALL_S: Final = 10
#: s a plain call waits for its answer; Redis clients give up after about 2
_ANSWER_S: Final = 60.0
_STREAMS: Final = "redis://streams"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Published:
    """What became of one event."""

    id: str  #: of the stream entry
    created: bool  #: False: an event of that event id was published before, nothing was changed


class Publisher:
    """Publish to one *stream*, or another named in a call, and notify over the cache Redis.

    Everything is checked before it is sent: InvalidRequest or PayloadTooLarge name the field.
    RedisUnavailable or RedisRefused come within about 2 s; then the outcome is unknown, and asking
    again with the same ``event_id`` publishes the event once.
    """

    def __init__(
        self, streams: Redis, cache: Redis, *, stream: str, source: str = "arqscope"
    ) -> None:
        self._streams = streams
        self._cache = cache
        self.stream = check_stream(stream)
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
        event_id: str = "",
        stream: str = "",
    ) -> str:
        """Append one event and return its entry id."""
        event = NewEvent(
            type=event_type,
            data={} if data is None else data,
            user_id=user_id,
            workspace_id=workspace_id,
            correlation_id=correlation_id,
            event_id=event_id,
        )
        return (await self.append([event], stream=stream))[0].id

    async def publish_many(self, events: Iterable[NewEvent], *, stream: str = "") -> list[str]:
        """Append events in order and return their entry ids; every one is checked before the first
        is sent."""
        return [done.id for done in await self.append(events, stream=stream)]

    async def append(self, events: Iterable[NewEvent], *, stream: str = "") -> list[Published]:
        """Append events in order, a script call per 500 or 1 MB; says which were there already.

        When it raises half way, a prefix of the events is published.
        """
        name = check_stream(stream) if stream else self.stream
        rows = [(event.event_id, self.fields(event)) for event in events]
        done: list[Published] = []
        for batch in _batches(rows):
            flat: list[Any] = []
            for event_id, fields in batch:
                flat += (event_id, 2 * len(fields))
                for pair in fields.items():
                    flat += pair
            try:
                reply = await script(__file__, "publish").run(
                    self._streams,
                    [name, keys.publish_call(name, secrets.token_hex(8))],
                    [_CALL_S, keys.published(name, ""), PUBLISHED_S, *flat],
                )
            except (RedisError, OSError) as error:
                raise explained(error, _STREAMS) from error
            done += [
                Published(str(reply[i]), str(reply[i + 1]) == "1") for i in range(0, len(reply), 2)
            ]
        return done

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
            event_id=event.event_id,
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
        text = notification(message, type, userId=user_id)
        return await send(self._cache, keys.user_channel(user_id), text)

    async def notify_workspace(
        self,
        workspace_id: str,
        message: Any,
        type: str = "notification",  # noqa: A002
    ) -> int:
        """Tell one workspace, on ``workspace:<id>``; return how many listeners heard it."""
        _check_receiver("workspaceId", workspace_id)
        text = notification(message, type, workspaceId=workspace_id)
        return await send(self._cache, keys.workspace_channel(workspace_id), text)

    async def broadcast(self, message: Any, type: str = "broadcast") -> int:  # noqa: A002
        """Tell everyone, on ``system:broadcast``; return how many listeners heard it."""
        return await send(self._cache, keys.BROADCAST_CHANNEL, notification(message, type))


class SyncPublisher:
    """The publisher with plain calls, for scripts and notebooks; a running event loop is no hindrance.

        with SyncPublisher() as publisher:
            publisher.user_event("created", "user123", {"email": "user@example.com"})

    Settings come from the environment or ``.env`` unless given. It talks to Redis in a thread of its
    own and may be called from several threads; calls raise what ``Publisher`` raises.
    """

    def __init__(
        self, settings: Settings | None = None, *, stream: str = "", source: str = "script"
    ) -> None:
        settings = settings or Settings.load()
        self._clients = (connect(settings.url("streams")), connect(settings.url("cache")))
        self._publisher = Publisher(
            *self._clients, stream=stream or settings.stream_name, source=source
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="arqscope-publisher", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; a second call does nothing."""
        if self._loop.is_closed():
            return
        for client in self._clients:
            self._wait(client.aclose(close_connection_pool=True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def publish(self, event_type: str, data: Any = None, **more: str) -> str:
        """Append one event and return its entry id; *more* as for ``Publisher.publish``."""
        return self._wait(self._publisher.publish(event_type, data, **more))

    def publish_many(self, events: Iterable[NewEvent], *, stream: str = "") -> list[str]:
        """Append events in order and return their entry ids."""
        return self._wait(self._publisher.publish_many(list(events), stream=stream))

    def user_event(self, action: str, user_id: str, data: Any = None, **more: str) -> str:
        """Publish ``user.<action>`` about *user_id*."""
        return self._wait(self._publisher.user_event(action, user_id, data, **more))

    def workspace_event(self, action: str, workspace_id: str, data: Any = None, **more: str) -> str:
        """Publish ``workspace.<action>`` about *workspace_id*."""
        return self._wait(self._publisher.workspace_event(action, workspace_id, data, **more))

    def airtable_event(self, action: str, base_id: str, data: Any = None, **more: str) -> str:
        """Publish ``airtable.<action>`` about base *base_id*."""
        return self._wait(self._publisher.airtable_event(action, base_id, data, **more))

    def job_event(self, action: str, job_id: str, data: Any = None, **more: str) -> str:
        """Publish ``job.<action>`` about job *job_id*."""
        return self._wait(self._publisher.job_event(action, job_id, data, **more))

    def auth_event(self, action: str, user_id: str, data: Any = None, **more: str) -> str:
        """Publish ``auth.<action>`` about *user_id*."""
        return self._wait(self._publisher.auth_event(action, user_id, data, **more))

    def notify_user(self, user_id: str, message: Any, type: str = "notification") -> int:  # noqa: A002
        """Tell one user; return how many listeners heard it."""
        return self._wait(self._publisher.notify_user(user_id, message, type))

    def notify_workspace(self, workspace_id: str, message: Any, type: str = "notification") -> int:  # noqa: A002
        """Tell one workspace; return how many listeners heard it."""
        return self._wait(self._publisher.notify_workspace(workspace_id, message, type))

    def broadcast(self, message: Any, type: str = "broadcast") -> int:  # noqa: A002
        """Tell everyone; return how many listeners heard it."""
        return self._wait(self._publisher.broadcast(message, type))

    def _wait(self, asked: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            asked.close()
            raise RuntimeError("this publisher is closed")
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(_ANSWER_S)


def check_stream(name: str) -> str:
    """Return *name* when it may name a stream; InvalidRequest says what it must be."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise InvalidRequest(
            f"stream={str(name)[:60]!r} is not a stream name",
            field="stream",
            hint="letters, digits and _.:~- only, at most 128",
        )
    return name


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


def _batches(
    rows: list[tuple[str, dict[str, str]]],
) -> Iterable[list[tuple[str, dict[str, str]]]]:
    """Cut *rows* into script calls bounded in entries and bytes."""
    batch: list[tuple[str, dict[str, str]]] = []
    size = 0
    for row in rows:
        weight = len(row[1]["data"])
        if batch and (len(batch) >= BATCH or size + weight > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += weight
    if batch:
        yield batch
