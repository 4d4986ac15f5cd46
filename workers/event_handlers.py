"""The built-in handlers of the specification's event types; each does something people can see.

* ``user.*``, ``workspace.*``, ``airtable.sync.*``, ``job.*``: tell whom it concerns, over pub/sub
* ``user.created``: a welcome, as a ``notification`` job
* ``airtable.sync.requested``: the synchronisation, as a ``data-sync`` job
* ``notification.send``: exactly what it asks for
* anything no pattern matches: counted and logged
"""

import logging
from typing import Any

from app.errors import PermanentError
from app.events import Event
from workers.event_context import EventContext
from workers.event_router import on, on_unmatched

log = logging.getLogger("arqscope.events")


async def tell(event: Event, context: EventContext, message: Any, kind: str) -> None:
    """Notify the user the event is about, else its workspace, else everyone."""
    user_id = event.user_id or str(event.value("userId", "") or "")
    workspace_id = event.workspace_id or str(event.value("workspaceId", "") or "")
    if user_id:
        await context.notify_user(user_id, message, kind)
    elif workspace_id:
        await context.notify_workspace(workspace_id, message, kind)
    else:
        await context.broadcast(message, kind)


@on("user.*")
async def tell_user(event: Event, context: EventContext) -> None:
    """Tell the user what happened to the account."""
    action = event.type.partition(".")[2]
    await tell(event, context, {"text": f"account {action}", "data": event.data}, event.type)


@on("user.created")
async def welcome_user(event: Event, context: EventContext) -> None:
    """Send a welcome by a job of its own, so that a slow mail service holds up no event."""
    user_id = event.user_id or str(event.value("userId", "") or "")
    await context.enqueue(
        "notification",
        {"userId": user_id, "type": "welcome", "message": "Welcome!", "eventId": event.id},
    )


@on("workspace.*")
async def tell_workspace(event: Event, context: EventContext) -> None:
    """Tell everyone in the workspace what changed."""
    workspace_id = event.workspace_id or str(event.value("workspaceId", "") or "")
    message = {"text": f"workspace {event.type.partition('.')[2]}", "data": event.data}
    if workspace_id:
        await context.notify_workspace(workspace_id, message, event.type)
    else:
        await tell(event, context, message, event.type)


@on("airtable.sync.requested")
async def start_sync(event: Event, context: EventContext) -> None:
    """Synchronise the base asked for, as a job."""
    data = dict(event.data) if isinstance(event.data, dict) else {}
    await context.enqueue("data-sync", {**data, "eventId": event.id})


@on("airtable.sync.*")
async def tell_sync(event: Event, context: EventContext) -> None:
    """Tell whom it concerns how a synchronisation goes."""
    status = event.type.rpartition(".")[2]
    message = {"text": f"sync {status}", "baseId": event.value("baseId"), "data": event.data}
    await tell(event, context, message, event.type)


@on("job.*")
async def tell_job(event: Event, context: EventContext) -> None:
    """Tell whom it concerns how a job stands."""
    status = event.type.partition(".")[2]
    message = {"text": f"job {status}", "jobId": event.value("jobId"), "data": event.data}
    await tell(event, context, message, event.type)


@on("notification.send")
async def send_notification(event: Event, context: EventContext) -> None:
    """Send ``data.message`` to ``userId``, ``workspaceId`` or, with neither, everyone."""
    message = event.value("message")
    if message is None:
        raise PermanentError("notification.send needs data.message")
    await tell(event, context, message, str(event.value("type", "notification")))


@on_unmatched
async def note_unmatched(event: Event, context: EventContext) -> None:  # noqa: ARG001
    """Leave a trace of an event nobody handles; it is counted as unmatched."""
    log.warning("no handler for event", extra={"type": event.type, "entry": event.id})
