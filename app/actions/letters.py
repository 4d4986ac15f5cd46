"""Actions on dead letters: retry, discard, archive, and take that back."""

from typing import Final

from app import redrive
from app.actions.asking import ActionReport, Actor, Connections, check_queue, permit
from app.enqueue import MAX_DELAY_S
from app.errors import ActionRefused, InvalidRequest, NotFound
from app.records import LetterState
from app.redrive import Shelf, Verdict
from app.settings import Settings

MAX_REASON_CHARS: Final = 400


async def retry_letter(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    source: str,
    letter_id: str,
    delay_s: float = 0,
) -> ActionReport:
    """Put one dead letter back on its queue or stream: same bytes, new id; pressed twice, once.

    A retry the processor scheduled for later is brought forward. Raises NotFound, or ActionRefused
    when the letter is closed or its payload is gone.
    """
    if not 0 <= delay_s <= MAX_DELAY_S:
        raise InvalidRequest(f"delay={delay_s!r} is out of range", field="delay")
    shelf = await _shelf(connections, settings, source)
    await permit(
        connections, settings, actor, "retry_letter", _target(source, letter_id), {"delay": delay_s}
    )
    done = await redrive.redrive(
        shelf,
        letter_id,
        Verdict(actor=actor.name, decision="RETRY", reason=f"asked for by {actor.name}"),
        delay_s=delay_s,
    )
    detail = {"id": done.id, "source": source, "letter": letter_id, "outcome": done.word}
    match done.word:
        case "redriven":
            message = f"{letter_id} runs again as {done.id}"
        case "promoted":
            message = f"the retry {done.id} was waiting and runs now"
        case "already":
            message = f"already retried, as {done.id}"
        case "missing":
            raise NotFound("dead letter", letter_id)
        case "no-payload":
            raise ActionRefused(f"{letter_id} cannot be retried: its payload is gone")
        case word:
            state = word.removeprefix("state:")
            raise ActionRefused(f"{letter_id} cannot be retried: it is {state}")
    return ActionReport(action="retry_letter", changed=done.changed, detail=detail, message=message)


async def discard_letter(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    source: str,
    letter_id: str,
    reason: str = "",
) -> ActionReport:
    """Give up on a dead letter; it can be taken back for 24 h, and is kept for FAILED_JOB_TTL."""
    return await _close(
        connections, settings, actor, source, letter_id, LetterState.DISCARDED, reason
    )


async def archive_letter(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    source: str,
    letter_id: str,
    reason: str = "",
) -> ActionReport:
    """Put a dead letter aside as dealt with; it can be taken back for 24 h."""
    return await _close(
        connections, settings, actor, source, letter_id, LetterState.ARCHIVED, reason
    )


async def undo_discard(
    connections: Connections, settings: Settings, actor: Actor, source: str, letter_id: str
) -> ActionReport:
    """Open a discarded or archived letter again; ActionRefused after 24 h."""
    return await _close(connections, settings, actor, source, letter_id, LetterState.NEW, "")


_NAMES: Final = {
    LetterState.DISCARDED: ("discard_letter", "DISCARD", "discarded"),
    LetterState.ARCHIVED: ("archive_letter", "ARCHIVE", "archived"),
    # a decision of its own, so that the processor leaves it to the person who took it back
    LetterState.NEW: ("undo_discard", "NONE", "open again"),
}


async def _close(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    source: str,
    letter_id: str,
    state: LetterState,
    reason: str,
) -> ActionReport:
    action, decision, outcome = _NAMES[state]
    reason = reason[:MAX_REASON_CHARS]
    shelf = await _shelf(connections, settings, source)
    await permit(
        connections, settings, actor, action, _target(source, letter_id), {"reason": reason}
    )
    verdict = Verdict(
        actor=actor.name, decision=decision, reason=reason or f"{action} by {actor.name}"
    )
    word = await redrive.close(shelf, letter_id, state, verdict)
    match word:
        case "done" | "already":
            changed = word == "done"
        case "missing":
            raise NotFound("dead letter", letter_id)
        case "late":
            raise ActionRefused(f"{letter_id} was closed more than 24 h ago")
        case other:
            now = other.removeprefix("state:")
            raise ActionRefused(f"{letter_id} cannot be {outcome}: it is {now}")
    return ActionReport(
        action=action,
        changed=changed,
        detail={"source": source, "letter": letter_id, "state": str(state)},
        message=f"{letter_id} is {outcome}" + ("" if changed else " already"),
    )


async def _shelf(connections: Connections, settings: Settings, source: str) -> Shelf:
    if source in settings.stream_names:
        return Shelf(connections.streams, source, "event")
    await check_queue(connections, settings, source)
    return Shelf(connections.queue, source, "job")


def _target(source: str, letter_id: str) -> str:
    return f"{source}/{letter_id}"
