"""Actions on dead letters: retry, edited or not, discard, archive, and take that back."""

import json
from pathlib import Path
from typing import Any, Final

from app import keys
from app.actions.asking import ActionReport, Actor, Connections, asked, check_queue, permit
from app.enqueue import MAX_DELAY_S, codec_of
from app.errors import ActionRefused, InvalidRequest, NotFound, UnknownFunction
from app.letters import redrive, spill
from app.letters.edit import LetterEdit, edited_event, edited_job
from app.letters.redrive import Edited, Shelf, Verdict
from app.payloads.codec import raw_bytes
from app.records import LetterState
from app.settings import Settings

MAX_REASON_CHARS: Final = 400


async def retry_letter(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    source: str,
    letter_id: str,
    delay_s: float = 0,
    edit: LetterEdit | None = None,
) -> ActionReport:
    """Put one dead letter back on its queue or stream: same bytes, new id; pressed twice, once.

    With *edit* the retry carries edited arguments; the letter keeps what died, and audit and lineage
    tell the hashes of both. A retry the processor scheduled for later is brought forward, unless it
    is edited. Raises NotFound, InvalidRequest for an edit, or ActionRefused when the letter is
    closed, its payload is gone, or another retry of it is under way.
    """
    if not 0 <= delay_s <= MAX_DELAY_S:
        raise InvalidRequest(f"delay={delay_s!r} is out of range", field="delay")
    shelf = await shelf_of(connections, settings, source)
    edited = None if edit is None else await _edited(shelf, settings, letter_id, edit)
    told: dict[str, Any] = {"delay": delay_s}
    if edited is not None:
        told |= {"edited": True, "before": edited.before, "after": edited.after}
    await permit(connections, settings, actor, "retry_letter", _target(source, letter_id), told)
    done = await redrive.redrive(
        shelf,
        letter_id,
        Verdict(actor=actor.name, decision="RETRY", reason=f"asked for by {actor.name}"),
        delay_s=delay_s,
        edited=edited,
    )
    detail = {"id": done.id, "source": source, "letter": letter_id, "outcome": done.word}
    if edited is not None:
        detail |= {"before": edited.before, "after": edited.after}
    match done.word:
        case "redriven":
            as_edited = ", edited" if edited is not None else ""
            message = f"{letter_id} runs again as {done.id}{as_edited}"
        case "already" if edited is not None and not await _carries(shelf, letter_id, edited):
            raise ActionRefused(
                f"{letter_id} is being retried already, as {done.id}, without these arguments"
            )
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


async def import_letters(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    path: Path,
    *,
    dry_run: bool = False,
) -> ActionReport:
    """Bring the dead letters of an archive file back, each once; those that are here stay as they are.

    Raises BadRecord, before anything is brought back, when a line of the file is damaged, and
    NotFound when there is no such file.
    """

    def shelf(line: spill.Line) -> Shelf:
        redis = connections.streams if line.kind == "event" else connections.holding(line.source)
        return Shelf(redis, line.source, line.kind)

    lines, _ = await spill.unspill(path, shelf, dry_run=True)
    detail: dict[str, Any] = {"file": path.name, "letters": lines}
    if dry_run:
        message = f"{path.name} holds {lines:,} dead letters and is whole; nothing was changed"
        return ActionReport(action="import_letters", changed=False, detail=detail, message=message)
    await permit(connections, settings, actor, "import_letters", path.name, detail)
    back, here = await spill.unspill(path, shelf)
    return ActionReport(
        action="import_letters",
        changed=back > 0,
        detail={**detail, "brought_back": back, "here": here},
        message=f"{back:,} dead letters of {path.name} came back, {here:,} were here",
    )


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
    shelf = await shelf_of(connections, settings, source)
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


async def _edited(shelf: Shelf, settings: Settings, letter_id: str, edit: LetterEdit) -> Edited:
    letter = await redrive.read_letter(shelf, letter_id)
    if letter is None:
        raise NotFound("dead letter", letter_id)
    raw = raw_bytes(
        await redrive.asked(shelf.redis.get(keys.dead_payload(shelf.source, letter_id)))
    )
    if shelf.kind == "event":
        return edited_event(edit, raw)
    if edit.name is not None and not settings.generic_jobs:
        known = await asked(shelf.redis.zrange(keys.functions(shelf.source), 0, 999))
        if known and edit.name not in known:
            raise UnknownFunction(edit.name, sorted(known))
    return edited_job(edit, letter, raw, codec_of(settings))


async def _carries(shelf: Shelf, letter_id: str, edited: Edited) -> bool:
    """Whether the retry under way is of these very arguments: pressed twice."""
    record = keys.dead_record(shelf.source, letter_id)
    n = await redrive.asked(shelf.redis.hget(record, "redrives"))
    text = await redrive.asked(shelf.redis.hget(record, f"redrive:{n}"))
    return bool(text) and json.loads(text).get("after") == edited.after


async def shelf_of(connections: Connections, settings: Settings, source: str) -> Shelf:
    """Where the dead letters of *source* lie; NotFound, with the known names, else."""
    if source in settings.stream_names:
        return Shelf(connections.streams, source, "event")
    await check_queue(connections, settings, source)
    return Shelf(connections.holding(source), source, "job")


def _target(source: str, letter_id: str) -> str:
    return f"{source}/{letter_id}"
