"""What a handler may do, once however often an event is delivered: enqueue, publish, notify.

The id of every effect derives from the event, the handler and the how-manieth effect of its kind it
is, so a processor killed between two Redis servers neither loses nor doubles it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from redis.exceptions import RedisError

from app import audit, keys, parcels
from app.enqueue import Enqueued, JobRequest, place, rows_of
from app.errors import RedisRefused, RedisUnavailable
from app.payloads.codec import MAX_CID_CHARS, Codec
from app.placement import HOME
from app.publisher import Publisher
from app.streams.events import Event, NewEvent, check_text
from app.streams.notifications import notification, send
from app.wire.connections import Connections, explained
from app.wire.scripts import script

EVENT_QUEUE: Final = "event-driven-jobs"
#: s an event's dedup of effects is kept: longer than any outage it must bridge
HANDLED_S: Final = 7 * 86_400
#: things of one kind whose status is kept
STATUSES_KEPT: Final = 1_000
#: s the mark of a sent notification is kept: one per notification, so not for long
NOTIFIED_S: Final = 600


class Effects:
    """The connections effects go through; one per processor."""

    def __init__(self, connections: Connections, *, stream: str, codec: Codec) -> None:
        streams, cache = connections.streams, connections.cache
        self.streams = streams
        self.cache = cache
        self.connections = connections
        self.codec = codec
        self.publisher = Publisher(streams, cache, stream=stream, source="event-processor")

    async def enqueue(self, queue: str, request: JobRequest) -> Enqueued:
        """Put one job on *queue*; while a further queue server is away, write it down at home.

        So an event for its queues holds up no other; the job has its id, and is carried when it is back.
        """
        where = self.connections
        rows = rows_of(queue, [request], self.codec)
        try:
            return (await place(where.holding(queue), queue, rows))[0]
        except (RedisUnavailable, RedisRefused):
            if where.placement.server_of(queue) == HOME:
                raise
            if not await parcels.post(where.queue, queue, rows):
                raise
            return Enqueued(rows[0].id, created=True)


class EventContext:
    """One handler's hands while it handles one event."""

    __slots__ = ("_counts", "_effects", "_handler", "attempt", "event", "marks")

    def __init__(self, effects: Effects, event: Event, handler: str, attempt: int) -> None:
        self.event = event
        self.attempt = attempt  #: 1 on the first
        self._effects = effects
        self._handler = handler
        self._counts: dict[str, int] | None = None
        self.marks: set[str] | None = None  #: entries the dedup of this event has in Redis

    @property
    def publisher(self) -> Publisher:
        """The plain publisher: what it does is repeated when the event is delivered again."""
        return self._effects.publisher

    @property
    def idempotency_key(self) -> str:
        """The same for every delivery: hand it to services that deduplicate."""
        return f"{self.event.identity}:{self._handler}"

    async def enqueue(
        self, function: str, data: Any, *, queue: str = EVENT_QUEUE, **options: Any
    ) -> Enqueued:
        """Put a job on *queue* once; *options* are those of JobRequest (``delay_s`` …)."""
        suffix = self._effect("job").removeprefix("job:").replace(":", "-")
        request = JobRequest(
            name=function,
            args=(data,),
            id=f"evt-{self.event.identity}-{suffix}",
            correlation_id=self.event.trace_id[:MAX_CID_CHARS],
            **options,
        )
        return await self._effects.enqueue(queue, request)

    async def publish(
        self, event_type: str, data: Any = None, *, user_id: str = "", workspace_id: str = ""
    ) -> str:
        """Append a further event once, with this one's correlation id; return its entry id."""
        publisher = self._effects.publisher
        fields = publisher.fields(
            NewEvent(
                type=event_type,
                data={} if data is None else data,
                user_id=user_id or self.event.user_id,
                workspace_id=workspace_id or self.event.workspace_id,
                correlation_id=self.event.trace_id,
            )
        )
        flat = [text for pair in fields.items() for text in pair]
        mark = self._effect("event")
        self.marks = {*(self.marks or ()), mark}
        handled = keys.handled(publisher.stream, self.event.identity)
        return str(
            await _asked(
                lambda: script(__file__, "publish_event").run(
                    self._effects.streams,
                    [publisher.stream, handled],
                    [mark, HANDLED_S, *flat],
                ),
                "redis://streams",
            )
        )

    async def note_status(self, kind: str, subject: str, status: str, text: str = "") -> bool:
        """Keep what this event says about a thing; False when a later event has said something.

        Shown by ``GET /streams/{stream}/statuses/{kind}``, kept 7 days, 1,000 subjects per kind.
        """
        stream = self._effects.publisher.stream
        event, subject = self.event, subject[:256]
        fields = {"status": status, "type": event.type, "at": event.timestamp, "text": text[:500]}
        fields |= {"userId": event.user_id, "correlationId": event.trace_id}
        flat = [part for pair in fields.items() for part in pair]
        reply = await _asked(
            lambda: script(__file__, "note_status").run(
                self._effects.streams,
                [keys.status(stream, kind, subject), keys.statuses(stream, kind)],
                [
                    subject,
                    event.replayed_from or event.identity,
                    HANDLED_S,
                    STATUSES_KEPT,
                    keys.status(stream, kind, ""),
                    *flat,
                ],
            ),
            "redis://streams",
        )
        return bool(reply)

    async def audit(self, action: str, target: str, detail: Mapping[str, Any]) -> None:
        """Write one line into the audit, once. For what is rare: the audit is capped."""
        stream = self._effects.publisher.stream
        await audit.record(
            self._effects.connections.queue,
            f"event:{self.event.source or stream}",
            action,
            target,
            {**detail, "event": self.event.id, "cid": self.event.trace_id},
            once=f"{stream}:{self.event.identity}:{self._effect('audit')}",
        )

    async def notify_user(self, user_id: str, message: Any, kind: str = "notification") -> int:
        """Tell one user once; return the listeners, -1 when an earlier delivery told them."""
        check_text("userId", user_id)
        return await self._notify(keys.user_channel(user_id), message, kind, userId=user_id)

    async def notify_workspace(
        self, workspace_id: str, message: Any, kind: str = "notification"
    ) -> int:
        """Tell one workspace once; return the listeners, -1 when an earlier delivery told them."""
        check_text("workspaceId", workspace_id)
        return await self._notify(
            keys.workspace_channel(workspace_id), message, kind, workspaceId=workspace_id
        )

    async def broadcast(self, message: Any, kind: str = "broadcast") -> int:
        """Tell everyone once; return the listeners, -1 when an earlier delivery told them."""
        return await self._notify(keys.BROADCAST_CHANNEL, message, kind)

    async def _notify(self, channel: str, message: Any, kind: str, **more: str) -> int:
        text = notification(
            message, kind, correlationId=self.event.trace_id, eventId=self.event.id, **more
        )
        stream = self._effects.publisher.stream
        mark = keys.notified(stream, self.event.identity, self._effect("notification"))
        return await send(self._effects.cache, channel, text, mark=mark, mark_s=NOTIFIED_S)

    def _effect(self, kind: str) -> str:
        """Name the next effect of *kind*: the same at every delivery of a deterministic handler."""
        counts = self._counts = self._counts or {}
        number = counts[kind] = counts.get(kind, 0) + 1
        return f"{kind}:{self._handler}" + (f":{number}" if number > 1 else "")


async def _asked(ask: Callable[[], Awaitable[Any]], where: str) -> Any:
    try:
        return await ask()
    except (RedisError, OSError) as error:
        raise explained(error, where) from error
