"""Operations: every bulk action with its filter, pace, progress and end; below, what operators did."""

from dataclasses import dataclass
from typing import Final

from app import operations, palette
from app.annals.hindsight import operation_then
from app.operations import Operation, OperationState
from app.pages import audit_trail, travel
from app.pages.address import Address, href
from app.pages.markup import (
    Html,
    button,
    clipped,
    facts,
    heading,
    icon,
    join,
    link,
    moment_ms,
    panel,
    records,
    row,
    safe_text,
    table,
    tag,
)
from app.pages.scene import Page, Reach, Scene

LISTED: Final = 50
_LOOK: Final = {
    OperationState.WAITING: ("queued", "queue"),
    OperationState.CANARY: ("deferred", "schedules"),
    OperationState.RUNNING: ("running", "resume"),
    OperationState.PAUSED: ("paused", "pause"),
    OperationState.DONE: ("complete", "done"),
    OperationState.ABORTED: ("aborted", "close"),
    OperationState.STOPPED: ("failed", "warn"),
}
_KINDS: Final = {
    "retry_letters": "Retry dead letters", "discard_letters": "Discard dead letters",
    "archive_letters": "Archive dead letters", "replay_events": "Replay events",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """The newest operations and a page of the audit."""

    operations: list[Operation]
    lines: audit_trail.Found


async def load(reach: Reach, address: Address) -> Found:
    """Read both."""
    then, redis = travel.then_asked(address), reach.connections.queue
    newest = await (
        operations.recent(redis, LISTED) if then is None else operations.before(redis, then, LISTED)
    )
    return Found(newest, await audit_trail.load(reach, address))


def _above(scene: Scene) -> Html:
    found: Found | None = scene.found
    title = tag("div", tag("h1", "Operations"), class_="title")
    if scene.trouble or found is None:
        said = f"They cannot be read: {scene.trouble}" if scene.trouble else "Reading …"
        return join(title, panel(tag("p", said, class_="empty"), label="Operations"))
    shown, unknown = found.operations, frozenset[str]()
    if scene.is_past:
        shown, unknown = _as_of(scene, found.operations)
    return join(title, _table(scene, shown, unknown), audit_trail.audit(scene, found.lines))


def _as_of(scene: Scene, listed: list[Operation]) -> tuple[list[Operation], frozenset[str]]:
    """The operations as of the moment asked for, and those whose progress of then is not stored."""
    if scene.then is None:
        return [], frozenset()
    then_ms = scene.then.timestamp() * 1000
    seen = {str(one["id"]): one for one in records(scene.snapshot.operations)}
    found = [operation_then(one, seen.get(one.id), then_ms) for one in listed]
    known = [one for one in found if one is not None]
    return [one.operation for one in known], frozenset(
        one.operation.id for one in known if not one.knows_progress
    )


def _table(scene: Scene, listed: list[Operation], unknown: frozenset[str] = frozenset()) -> Html:
    made: list[Html] = []
    columns = [("", "tick opt"), ("State", ""), ("What", ""), ("Where", "opt"), ("Progress", "wide"),
               ("Not done", "num opt"), ("Who", "opt"), ("Started", "opt"), ("", "act")]  # fmt: skip
    if not scene.may_act:
        columns = columns[:-1]
    for operation in listed:
        made += _rows(scene, operation, len(columns), is_known=operation.id not in unknown)
    nothing = "No bulk action yet. Retry or discard a cause of dead letters, and it appears here."
    return panel(
        heading("Bulk actions", "newest first; the record of each is kept",
                "as they stood then" if scene.is_past else ""),
        table(columns, made, caption="Operations, newest first",
              empty="No bulk action had been asked for." if scene.is_past else nothing),
        label="Bulk actions",
    )  # fmt: skip


def _rows(scene: Scene, operation: Operation, width: int, *, is_known: bool) -> list[Html]:
    css, mark = _LOOK[operation.state]
    more = f"more-{operation.id}"
    twist = tag("button", icon(palette.ICONS["more"], 12), type="button", class_="twist", data_opens=more,
                aria_expanded="false", aria_label=f"Show the record of {operation.id}")  # fmt: skip
    word = _KINDS.get(operation.kind, operation.kind)
    cells: list[tuple[object, str]] = [
        (twist, "tick opt"),
        (tag("span", icon(palette.ICONS[mark], 12), tag("span", str(operation.state)),
             class_=f"state c-{css}", title=operation.note[:300]), ""),
        (clipped(word, 60), ""),
        (clipped(operation.source, 128, kind="soft"), "opt"),
        (_progress(operation) if is_known else _unknown(), "wide words"),
        (palette.count(operation.failed) if operation.failed else "", "num opt"),
        (clipped(operation.actor, 60, kind="soft"), "opt"),
        (moment_ms(operation.created_ms, scene.now), "soft opt"),
    ]  # fmt: skip
    if scene.may_act:
        cells.append((_controls(operation), "act"))
    record = tag("tr", tag("td", _record(scene, operation), colspan=str(width)), class_="more",
                 hidden=True, data_own=True, data_key=more)  # fmt: skip
    return [row(operation.id, *cells), record]


def _unknown() -> Html:
    why = "no moment that is stored holds it: it was open then, paused or not"
    return tag("span", "under way; how far is not stored", class_="soft", title=why)


def _progress(operation: Operation) -> Html:
    worked = operation.done + operation.failed
    share = 1.0 if operation.state is OperationState.DONE else (
        min(1.0, worked / operation.matched) if operation.matched else 0.0)  # fmt: skip
    tone = {"stopped": "failed", "aborted": "aborted", "done": "complete"}.get(
        operation.state, "running"
    )
    said = f"{palette.count(operation.done)} of {palette.count(operation.matched)}"
    return tag(
        "div",
        tag("div", tag("i", style=f"width:{share * 100:.0f}%"), class_=f"progress c-{tone}",
            role="progressbar", aria_valuenow=f"{share * 100:.0f}", aria_label=f"Progress of {operation.id}"),
        tag("span", said, f" · {operation.note}" if operation.note else "", class_="note"),
        class_="clip",
    )  # fmt: skip


def _controls(operation: Operation) -> Html | None:
    data = {"operation": operation.id}
    name = f"operation {operation.id}"
    made: list[Html] = []
    has_rest = not operation.matched or operation.done + operation.failed < operation.matched
    if operation.state is OperationState.PAUSED or (
        operation.state is OperationState.STOPPED and has_rest
    ):
        made.append(button("Go on", "steer-operation", kind="quiet once", verb="resume",
                           label=f"Go on with {name}", **data))  # fmt: skip
    elif operation.state.is_open:
        made.append(button("Pause", "steer-operation", kind="quiet once", verb="pause",
                           label=f"Pause {name}", **data))  # fmt: skip
    if operation.state.is_open:
        made.append(button("Abort …", "ask", kind="plain", what="abort-operation",
                           label=f"Abort {name}", **data))  # fmt: skip
    return tag("span", made, class_="row-actions") if made else None


def _record(scene: Scene, operation: Operation) -> Html:
    now = scene.now
    asked = ", ".join(f"{k} is {v}" for k, v in operation.filter.items()) or "every open letter"
    rate = f"{palette.rate(operation.rate_per_s)}/s" if operation.rate_per_s else "full speed"
    canary = f"{operation.canary} first, stops above {operation.canary_max_failed:.0%} failed" if (
        operation.canary) else "none"  # fmt: skip
    letters = "dead-letters"
    if operation.filter.get("fingerprint"):
        letters = href("dead-letters", cause=operation.filter["fingerprint"])

    def when(at: object) -> Html:
        return moment_ms(at.timestamp() * 1000 if at else 0, now)  # type: ignore[attr-defined]

    return facts(
        [
            ("Id", tag("code", operation.id)),
            ("Filter", safe_text(asked, 300)),
            ("Reason", safe_text(operation.reason or "none given", 400)),
            ("Rate", rate),
            ("Canary", canary),
            ("Looked at, did not match", palette.count(operation.skipped)),
            ("Began", when(operation.started_at)),
            ("Ended", when(operation.finished_at)),
            ("Letters", link(letters, "see them")),
        ]
    )  # fmt: skip


PAGE = Page(above=_above, load=load, reload_s=1.0, reads_past=True)

__all__ = ["PAGE", "Found", "load"]
