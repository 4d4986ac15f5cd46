"""Actions on events and notifications: publish one, tell somebody something."""

from typing import Any

from app.actions.asking import ActionReport, Actor, Connections, permit
from app.errors import InvalidRequest
from app.publisher import Publisher
from app.settings import Settings


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
) -> ActionReport:
    """Append one event to the stream; ``detail["id"]`` is its entry id."""
    publisher = _publisher(connections, settings, source)
    detail = {"type": type, "user": user_id, "workspace": workspace_id, "cid": correlation_id}
    await permit(connections, settings, actor, "publish_event", settings.stream_name, detail)
    entry = await publisher.publish(
        type,
        {} if data is None else data,
        user_id=user_id,
        workspace_id=workspace_id,
        correlation_id=correlation_id,
    )
    return ActionReport(
        action="publish_event",
        changed=True,
        detail={"id": entry, "type": type, "stream": settings.stream_name},
        message=f"{type} was published as {entry}",
    )


async def notify(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    receiver: str,
    message: Any,
    type: str = "notification",  # noqa: A002 - the specification's word
) -> ActionReport:
    """Send a notification to ``user:<id>``, ``workspace:<id>`` or ``system:broadcast``."""
    publisher = _publisher(connections, settings, "arqscope")
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


def _publisher(connections: Connections, settings: Settings, source: str) -> Publisher:
    return Publisher(
        connections.streams, connections.cache, stream=settings.stream_name, source=source
    )
