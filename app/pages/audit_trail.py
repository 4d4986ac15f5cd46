"""What operators did: every action with who, what, to what, newest first."""

import re
from dataclasses import dataclass
from typing import Any, Final

from app import audit as chain
from app import deeds
from app.audit import AuditLine
from app.errors import InvalidRequest
from app.pages import travel
from app.pages.address import Address
from app.pages.markup import (
    Html,
    clipped,
    heading,
    link,
    moment_ms,
    panel,
    row,
    table,
    tag,
)
from app.pages.scene import Reach, Scene

PAGE_ROWS: Final = 30


@dataclass(frozen=True, slots=True)
class Found:
    """One page of the audit."""

    items: list[AuditLine]
    cursor: str | None


async def load(reach: Reach, address: Address) -> Found:
    """The newest lines, or those before the cursor."""
    cursor = address.get("cursor")
    if cursor and not re.fullmatch(r"\d{1,20}-\d{1,20}", cursor):
        raise InvalidRequest("the cursor is not one of ours", field="cursor")
    then = travel.then_asked(address)
    newest = "+" if then is None else str(int(then))
    lines = await chain.recent(
        reach.connections.queue, PAGE_ROWS, f"({cursor}" if cursor else newest
    )
    return Found(lines, lines[-1].id if len(lines) == PAGE_ROWS else None)


def audit(scene: Scene, found: Any) -> Html:
    """The table of the audit."""
    head = heading(
        "Audit",
        "what operators did, newest first; each line is chained to the one before",
        _until(scene),
    )
    if scene.trouble or not isinstance(found, Found):
        said = f"The audit cannot be read: {scene.trouble}" if scene.trouble else "Reading …"
        return panel(head, tag("p", said, class_="empty"), label="Audit")
    made = [
        row(
            line.id,
            (moment_ms(line.at_ms, scene.now), "soft"),
            (clipped(line.actor, 60), ""),
            (clipped(deeds.did(line.action), 60), ""),
            (clipped(line.target, 200, kind="mono soft"), "to"),
            (clipped(deeds.in_words(line.detail), 300, kind="soft"), "wide opt"),
        )
        for line in found.items
    ]
    first = (
        link(scene.address.but(cursor="").href, "Newest", class_="button")
        if scene.address.get("cursor")
        else None
    )
    older = (
        link(scene.address.but(cursor=found.cursor).href, "Older", class_="button")
        if found.cursor
        else None
    )
    bar = (
        tag("div", tag("span", first, older, class_="end"), class_="toolbar")
        if first or older
        else None
    )
    columns = [("When", ""), ("Who", ""), ("Did", ""), ("To", ""), ("Detail", "opt")]
    return panel(
        head,
        table(columns, made, caption="Audit, newest first", empty="Nobody has done anything yet."),
        bar, label="Audit",
    )  # fmt: skip


def _until(scene: Scene) -> str:
    return f"up to {scene.then:%Y-%m-%d %H:%M:%S} UTC" if scene.then is not None else ""


__all__ = ["Found", "audit", "load"]
