"""Actions on history: say that something was deployed, so that charts show when."""

import json
import time

from app import keys
from app.actions.asking import ActionReport, Actor, Connections, asked, check_queue, permit
from app.errors import InvalidRequest
from app.settings import Settings

MAX_TEXT = 200


async def mark_deploy(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    version: str,
    *,
    queue: str = "",
    note: str = "",
    at_ms: int | None = None,
) -> ActionReport:
    """Mark a deploy of *version*, of all queues or of one; told twice, it is marked once.

    *at_ms* is now when left out, and may lie up to 90 days back. Raises InvalidRequest, NotFound for a
    queue nobody knows, ActionRefused.
    """
    now_ms = int(time.time() * 1000)
    when = now_ms if at_ms is None else at_ms
    if not 1 <= len(version) <= MAX_TEXT:
        raise InvalidRequest(
            "version is empty or too long", field="version", hint="1 to 200 letters"
        )
    if len(note) > MAX_TEXT:
        raise InvalidRequest("note is too long", field="note", hint=f"at most {MAX_TEXT} letters")
    if not now_ms - 90 * 86_400_000 <= when <= now_ms + 60_000:
        raise InvalidRequest("at is out of range", field="at", hint="in the last 90 days")
    if queue:
        await check_queue(connections, settings, queue)
    detail = {"version": version, "note": note}
    await permit(connections, settings, actor, "mark_deploy", queue, detail)
    mark = {
        "kind": "deploy",
        "source": queue,
        "version": version,
        "note": note,
        "actor": actor.name,
    }
    if at_ms is not None:
        mark["at"] = str(at_ms)
    text = json.dumps(mark, sort_keys=True)
    last = await asked(connections.queue.zscore(keys.MARKS, text))
    changed = last is None or when - float(last) > 60_000
    if changed:
        await asked(connections.queue.zadd(keys.MARKS, {text: when}))
    return ActionReport(
        action="mark_deploy",
        changed=changed,
        detail=detail | {"queue": queue, "at_ms": when},
        message=f"{version} marked" if changed else f"{version} was marked a moment ago",
    )
