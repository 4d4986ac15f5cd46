"""The built-in handlers of the specification's event types; each does something people can see.

* ``user.*``, ``workspace.*``, ``airtable.sync.*``: tell whom it concerns, over pub/sub, and keep the
  status (``GET /streams/{stream}/statuses/{kind}``)
* ``user.created``: a welcome, as a ``notification`` job
* ``user.deleted``, ``workspace.deleted``, ``user.role.changed``: a line in the audit
* ``auth.*``: the status of the user's access
* ``airtable.sync.requested``: the synchronisation, as a ``data-sync`` job
* ``job.*``: the status of the job; told to its user or workspace, never to everyone
* ``notification.send``: exactly what it asks for
* anything no pattern matches: counted and logged
"""

import json
import logging
from typing import Any, Final

from app.errors import PermanentError
from app.streams.events import Event
from workers.event_router import on, on_unmatched
from workers.events.context import EventContext

log = logging.getLogger("arqscope.events")

#: characters of an event's data that a notification carries; longer data is read from the stream
DATA_CHARS: Final = 4_096


def user_of(event: Event) -> str:
    """The user an event is about: its field, else ``data.userId``; empty when neither says."""
    return event.user_id or _text(event, "userId")


def workspace_of(event: Event) -> str:
    """The workspace an event is about: its field, else ``data.workspaceId``; empty when neither."""
    return event.workspace_id or _text(event, "workspaceId")


def _text(event: Event, name: str) -> str:
    value = event.value(name)
    return value[:256] if isinstance(value, str) else ""


def brief(event: Event, text: str, **more: Any) -> dict[str, Any]:
    """Return a message about *event*: *text*, and its data where that is short."""
    size = len(json.dumps(event.data, ensure_ascii=False))
    if size > DATA_CHARS:
        return {"text": text, **more, "entry": event.id, "dataChars": size}
    return {"text": text, **more, "data": event.data}


async def tell(
    event: Event, context: EventContext, message: Any, kind: str, *, everyone: bool = True
) -> None:
    """Notify the user the event is about, else its workspace, else everyone if *everyone*."""
    user_id, workspace_id = user_of(event), workspace_of(event)
    if user_id:
        await context.notify_user(user_id, message, kind)
    elif workspace_id:
        await context.notify_workspace(workspace_id, message, kind)
    elif everyone:
        await context.broadcast(message, kind)


@on("user.*")
async def tell_user(event: Event, context: EventContext) -> None:
    """Keep what happened to the account and tell its user."""
    action = event.type.partition(".")[2]
    if user_of(event):
        await context.note_status("user", user_of(event), action)
    await tell(event, context, brief(event, f"account {action}"), event.type)


@on("user.created")
async def welcome_user(event: Event, context: EventContext) -> None:
    """Send a welcome by a job of its own, so that a slow mail service holds up no event."""
    await context.enqueue(
        "notification",
        {
            "userId": user_of(event),
            "type": "welcome",
            "message": "Welcome!",
            "eventId": event.id,
        },
    )


@on("user.deleted", "user.role.changed", "workspace.deleted")
async def audit_change(event: Event, context: EventContext) -> None:
    """Write what somebody will ask about later into the audit."""
    subject = workspace_of(event) if event.type.startswith("workspace.") else user_of(event)
    await context.audit(event.type, subject or "?", {"data": json.dumps(event.data)[:400]})


@on("auth.*")
async def note_access(event: Event, context: EventContext) -> None:
    """Keep how a user last came in, or did not."""
    if user_of(event):
        await context.note_status("auth", user_of(event), event.type.partition(".")[2])


@on("workspace.*")
async def tell_workspace(event: Event, context: EventContext) -> None:
    """Keep what changed in the workspace and tell everyone in it."""
    action = event.type.partition(".")[2]
    message = brief(event, f"workspace {action}")
    workspace_id = workspace_of(event)
    if workspace_id:
        await context.note_status("workspace", workspace_id, action)
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
    """Keep how a synchronisation goes and tell whom it concerns."""
    status = event.type.rpartition(".")[2]
    base_id = _text(event, "baseId")
    if base_id:
        await context.note_status("sync", base_id, status, _text(event, "error"))
    await tell(event, context, brief(event, f"sync {status}", baseId=base_id), event.type)


@on("job.*")
async def tell_job(event: Event, context: EventContext) -> None:
    """Keep how a job stands and tell its user or workspace; jobs of nobody are not broadcast."""
    status = event.type.partition(".")[2]
    job_id = _text(event, "jobId")
    if job_id:
        await context.note_status("job", job_id, status, _text(event, "error"))
    message = brief(event, f"job {status}", jobId=job_id)
    await tell(event, context, message, event.type, everyone=False)


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
