"""Actions on operations: start one (or see what it would do), pause, resume, abort."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from app import operations
from app.actions.asking import ActionReport, Actor, Connections, permit
from app.actions.letters import MAX_REASON_CHARS, shelf_of
from app.errors import ActionRefused, InvalidRequest, NotFound
from app.operations import Operation, OperationState, Role
from app.operations.kinds import kind_of
from app.settings import Settings

SAMPLE: Final = 5


async def start_operation(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    kind: str,
    source: str,
    filter: Mapping[str, str] | None = None,  # noqa: A002 - the word of the contract
    *,
    reason: str = "",
    rate_per_s: float | None = None,
    canary: int = 0,
    canary_max_failed: float = 0.0,
    canary_wait_s: float = 300.0,
    dry_run: bool = False,
) -> ActionReport:
    """Start a bulk action; an equal one that is still open is joined (``changed`` false then).

    ``detail["operation"]`` is its id, ``matched`` how many it is about, counted before it starts.
    *dry_run* counts and shows a few, and changes nothing. Raises InvalidRequest, NotFound for the
    source, ActionRefused when 100 are open.
    """
    what = kind_of(kind)
    shelf = await shelf_of(connections, settings, source)
    role: Role = "streams" if shelf.kind == "event" else "queue"
    operations.check_pace(rate_per_s, canary, canary_max_failed, canary_wait_s)
    if canary and not what.has_canary:
        raise InvalidRequest(
            f"canary={canary} makes no sense for {kind}", field="canary", hint="leave it out"
        )
    operation = Operation(
        id=operations.new_id(),
        kind=kind,
        source=source,
        role=role,
        filter=what.check(role, filter or {}),
        reason=reason[:MAX_REASON_CHARS],
        actor=actor.name,
        rate_per_s=rate_per_s,
        canary=canary,
        canary_max_failed=canary_max_failed,
        canary_wait_s=canary_wait_s,
    )
    matched = await what.count(connections, operation)
    told = {"kind": kind, "filter": operation.filter, "matched": matched}
    if dry_run:
        sample = await what.sample(connections, operation, SAMPLE)
        return ActionReport(
            action="start_operation",
            changed=False,
            detail={**told, "source": source, "dry_run": True, "sample": sample},
            message=f"{kind} of {source} would be about {matched:,}; nothing was changed",
        )
    pace = {"rate": rate_per_s, "canary": canary, "reason": operation.reason}
    audited = {**told, "filter": _text(operation.filter), **pace, "operation": operation.id}
    await permit(connections, settings, actor, "start_operation", source, audited)
    made, created = await operations.create(connections.queue, replace(operation, matched=matched))
    word = "started" if created else "is open already, and was joined"
    return ActionReport(
        action="start_operation",
        changed=created,
        detail={**told, "source": source, "operation": made.id, "state": str(made.state)},
        message=f"{made.id} ({kind} of {source}, {made.matched:,} matched) {word}",
    )


async def pause_operation(
    connections: Connections, settings: Settings, actor: Actor, operation_id: str
) -> ActionReport:
    """Let an open operation do nothing until it is resumed."""
    now = await _permitted(connections, settings, actor, "pause_operation", operation_id)
    word = await operations.pause(connections.queue, operation_id)
    return _report("pause_operation", now, word, OperationState.PAUSED, "is paused")


async def resume_operation(
    connections: Connections, settings: Settings, actor: Actor, operation_id: str
) -> ActionReport:
    """Let a paused operation go on; one its canary rule stopped goes on without it."""
    now = await _permitted(connections, settings, actor, "resume_operation", operation_id)
    word = await operations.resume(connections.queue, operation_id)
    if word == "taken":
        raise ActionRefused(f"{operation_id} cannot go on: an equal operation is open")
    return _report("resume_operation", now, word, None, "goes on")


async def abort_operation(
    connections: Connections, settings: Settings, actor: Actor, operation_id: str
) -> ActionReport:
    """End an open operation; what it did stays done."""
    now = await _permitted(connections, settings, actor, "abort_operation", operation_id)
    word = await operations.abort(connections.queue, operation_id, f"aborted by {actor.name}")
    return _report("abort_operation", now, word, OperationState.ABORTED, "is aborted")


async def _permitted(
    connections: Connections, settings: Settings, actor: Actor, action: str, operation_id: str
) -> Operation:
    now = await operations.read(connections.queue, operation_id)
    detail = {"kind": now.kind, "source": now.source, "done": now.done}
    await permit(connections, settings, actor, action, operation_id, detail)
    return now


def _report(
    action: str, now: Operation, word: str, same: OperationState | None, sentence: str
) -> ActionReport:
    detail: dict[str, Any] = {"operation": now.id, "kind": now.kind, "source": now.source}
    match word:
        case "done":
            changed = True
        case "missing":
            raise NotFound("operation", now.id)
        case other:
            state = OperationState(other.removeprefix("state:"))
            changed = False
            if same is None and state.is_open:
                sentence = "is not paused"
            elif state is not same:
                raise ActionRefused(f"{action} does not apply to {now.id}: it is {state}")
    return ActionReport(
        action=action, changed=changed, detail=detail, message=f"{now.id} {sentence}"
    )


def _text(conditions: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in conditions.items())
