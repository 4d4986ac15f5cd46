"""Actions on pending entries: release one to the next processor, skip it, delete it."""

from typing import Final, Literal

from app import keys
from app.actions.asking import ActionReport, Actor, Connections, Role, asked, permit
from app.actions.events import check_stream
from app.declarations import NAME_PATTERN
from app.errors import InvalidRequest, NotFound
from app.settings import Settings
from app.streams import entries
from app.streams.events import ENTRY_ID
from app.wire.scripts import script

Verb = Literal["claim", "ack", "delete"]
_RECENT_KEPT: Final = 1_000
_DONE: Final = {
    "claim": ("claim_pending", "{} is released: the next processor takes it"),
    "ack": ("skip_pending", "{} was acknowledged without being handled"),
    "delete": ("delete_pending", "{} was deleted from the stream, for every group"),
}


async def change_pending(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    stream: str,
    group: str,
    entry_id: str,
    verb: Verb,
    *,
    consumer: str = "",
) -> ActionReport:
    """Release a pending entry (``claim``, to *consumer* if given), skip it (``ack``) or ``delete`` it.

    Deleting needs the role admin: the entry is gone for every group and cannot be retried. Raises
    NotFound when the stream, the group or the entry's being pending is not there.
    """
    check_stream(settings, stream)
    if not ENTRY_ID.fullmatch(entry_id):
        raise NotFound("pending entry", entry_id)
    if consumer and not NAME_PATTERN.fullmatch(consumer):
        raise InvalidRequest(f"consumer={consumer[:60]!r} is not a name", field="consumer")
    await entries.check_group(connections.streams, stream, group)
    action, sentence = _DONE[verb]
    needs: Role = "admin" if verb == "delete" else "operator"
    target = f"{stream}/{group}/{entry_id}"
    await permit(connections, settings, actor, action, target, {"to": consumer}, needs=needs)
    word, holder, kind = await asked(
        script(__file__, "change_pending").run(
            connections.streams,
            [
                stream,
                keys.event_totals(stream),
                keys.recent_events(stream),
                keys.event_attempts(stream),
                keys.dead_open(stream),
                keys.dead_retrying(stream),
            ],
            [
                group,
                entry_id,
                verb,
                consumer,
                _RECENT_KEPT,
                actor.name[:128],
                keys.dead_record(stream, ""),
            ],
        )
    )
    if word == "missing":
        raise NotFound("pending entry", entry_id)
    return ActionReport(
        action=action,
        changed=True,
        detail={"stream": stream, "group": group, "id": entry_id, "type": kind, "consumer": holder},
        message=sentence.format(entry_id),
    )
