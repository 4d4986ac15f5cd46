"""Actions on causes: say that one is known, ignored or resolved, who looks after it, and a note."""

from typing import Final

from app.actions.asking import ActionReport, Actor, Connections, permit
from app.errors import InvalidRequest, NotFound
from app.letters import causes
from app.letters.causes import CauseState
from app.settings import Settings

MAX_OWNER_CHARS: Final = 100
MAX_NOTE_CHARS: Final = 2_000
#: what a person may say; only the processor finds a cause regressed
SETTABLE: Final = (CauseState.NEW, CauseState.KNOWN, CauseState.IGNORED, CauseState.RESOLVED)


async def change_cause(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    fingerprint: str,
    *,
    state: str | None = None,
    owner: str | None = None,
    note: str | None = None,
) -> ActionReport:
    """Set state, owner or note of a cause; None leaves it as it is. Raises NotFound.

    An ignored cause raises no alert. A resolved one that comes again is regressed, and told at once.
    """
    if state is None and owner is None and note is None:
        raise InvalidRequest("nothing to change", field="state", hint="give state, owner or note")
    if state is not None and state not in SETTABLE:
        hint = f"one of {', '.join(SETTABLE)}"
        raise InvalidRequest(f"state={state[:40]!r} cannot be set", field="state", hint=hint)
    for name, text, limit in (
        ("owner", owner, MAX_OWNER_CHARS),
        ("note", note, MAX_NOTE_CHARS),
    ):
        if text is not None and len(text) > limit:
            raise InvalidRequest(f"{name} has more than {limit} characters", field=name)
    detail = {"state": state, "owner": owner, "note": note}
    told = {name: value for name, value in detail.items() if value is not None}
    await permit(connections, settings, actor, "change_cause", fingerprint, told)
    word = await causes.change(
        connections.queue,
        fingerprint,
        actor=actor.name,
        state=None if state is None else CauseState(state),
        owner=owner,
        note=note,
    )
    if word == "missing":
        raise NotFound("cause", fingerprint)
    now = ", ".join(f"{name} {value or 'none'}" for name, value in told.items())
    changed = word == "changed"
    return ActionReport(
        action="change_cause",
        changed=changed,
        detail={"fingerprint": fingerprint, **told},
        message=f"{fingerprint}: {now[:200]}" + ("" if changed else " already"),
    )
