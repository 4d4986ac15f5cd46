"""Actions on events and notifications: publish some, tell somebody something."""

from collections.abc import Sequence
from typing import Any, Final

from app.actions.asking import ActionReport, Actor, Connections, permit
from app.errors import InvalidRequest, NotFound
from app.publisher import Published, Publisher
from app.settings import Settings
from app.streams.events import NewEvent

MAX_EVENTS: Final = 1_000  #: per call


def check_stream(settings: Settings, stream: str) -> str:
    """Return *stream*, or the first declared one where it is empty; NotFound names those there are."""
    known = settings.stream_names
    if stream and stream not in known:
        raise NotFound("stream", stream, known)
    return stream or known[0]


async def publish_event(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    type: str,  # noqa: A002 - the specification's word
    data: Any = None,
    *,
    source: str = "arqscope",
    user_id: str = "",
    workspace_id: str = "",
    correlation_id: str = "",
    event_id: str = "",
    stream: str = "",
) -> ActionReport:
    """Append one event to a stream; ``detail["id"]`` is its entry id."""
    event = NewEvent(
        type=type,
        data={} if data is None else data,
        user_id=user_id,
        workspace_id=workspace_id,
        correlation_id=correlation_id,
        source=source,
        event_id=event_id,
    )
    stream = check_stream(settings, stream)
    (done,) = await publish_events(connections, settings, actor, [event], stream=stream)
    word = "was published" if done.created else "was published before"
    return ActionReport(
        action="publish_event",
        changed=done.created,
        detail={"id": done.id, "type": type, "stream": stream},
        message=f"{type} {word} as {done.id}",
    )


async def publish_events(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    events: Sequence[NewEvent],
    *,
    stream: str = "",
) -> list[Published]:
    """Append up to 1,000 events to a stream, in order; those with a known event id only once."""
    stream = check_stream(settings, stream)
    if not 0 < len(events) <= MAX_EVENTS:
        raise InvalidRequest(f"{len(events)} events at once", hint=f"1 to {MAX_EVENTS:,}")
    publisher = _publisher(connections, stream, "arqscope")
    for event in events:
        publisher.fields(event)  # what cannot be sent is told before the audit says it was
    first = events[0]
    detail: dict[str, Any] = {"events": len(events), "types": sorted({e.type for e in events})[:20]}
    if len(events) == 1:
        detail = {"type": first.type, "user": first.user_id, "workspace": first.workspace_id}
        detail |= {"cid": first.correlation_id} | ({"id": first.event_id} if first.event_id else {})
    await permit(connections, settings, actor, "publish_event", stream, detail)
    return await publisher.append(events)


async def notify(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    receiver: str,
    message: Any,
    type: str = "notification",  # noqa: A002 - the specification's word
) -> ActionReport:
    """Send a notification to ``user:<id>``, ``workspace:<id>`` or ``system:broadcast``."""
    publisher = _publisher(connections, settings.stream_name, "arqscope")
    what, _, name = receiver.partition(":")
    if what not in ("user", "workspace") and receiver != "system:broadcast":
        raise InvalidRequest(
            f"receiver={receiver[:100]!r} is not a channel",
            field="receiver",
            hint="user:<id>, workspace:<id> or system:broadcast",
        )
    await permit(connections, settings, actor, "notify", receiver, {"type": type})
    match what:
        case "user":
            heard = await publisher.notify_user(name, message, type)
        case "workspace":
            heard = await publisher.notify_workspace(name, message, type)
        case _:
            heard = await publisher.broadcast(message, type)
    return ActionReport(
        action="notify",
        changed=heard > 0,
        detail={"receiver": receiver, "heard": heard},
        message=f"{heard} listener(s) of {receiver} were told",
    )


def _publisher(connections: Connections, stream: str, source: str) -> Publisher:
    return Publisher(connections.streams, connections.cache, stream=stream, source=source)
