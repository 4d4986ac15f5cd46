"""The rail at the left: the pages, and the queues as a tree with their counts."""

import math
from collections.abc import Iterable
from typing import Any, Final

from app import palette
from app.pages.address import PLACES, Address, href
from app.pages.markup import Html, icon, link, records, tag
from app.pages.summary import firing, summarise
from app.snapshot import Snapshot

#: pages with an entry, and their icons
ENTRIES: Final = (
    ("queues", "overview"),
    ("jobs", "jobs"),
    ("dead-letters", "dead"),
    ("streams", "stream"),
    ("pubsub", "pubsub"),
    ("workers", "workers"),
    ("schedules", "schedules"),
    ("history", "history"),
    ("alerts", "alerts"),
    ("operations", "operations"),
    ("settings", "settings"),
)
#: queues listed before the filter box is offered
MANY: Final = 6
MAX_QUEUES: Final = 200
#: what the numbers beside pages count
_TITLES: Final = {"dead-letters": "wait for a decision", "workers": "live", "alerts": "firing"}


def rail(snapshot: Snapshot, address: Address) -> Html:
    """The navigation; the page shown is marked."""
    current = address.place.under or address.page
    counts = _counts(snapshot)
    pages = [
        link(
            name,
            icon(palette.ICONS[mark], 15),
            tag("span", PLACES[name].title, class_="word"),
            _count(*counts[name], title=_TITLES[name]) if name in counts else None,
            aria_current="page" if name == current else None,
            data_letter_key=PLACES[name].key or None,
            data_key=name,
        )
        for name, mark in ENTRIES
    ]
    return tag(
        "nav",
        pages,
        tag("h2", "Queues"),
        _filter(snapshot),
        _tree(snapshot, address),
        class_="rail",
        aria_label="Pages and queues",
    )


def _counts(snapshot: Snapshot) -> dict[str, tuple[float, bool]]:
    now = summarise(snapshot)
    live = float(len(snapshot.workers)) if snapshot.number else math.nan
    alerts = float(len(firing(snapshot))) if snapshot.number else math.nan
    return {
        "dead-letters": (now.dead, now.dead > 0),
        "workers": (live, False),
        "alerts": (alerts, alerts > 0),
    }


def _count(value: float, alarm: bool, title: str) -> Html | None:
    if palette.is_unknown(value) or not value:
        return None
    shown = palette.count(value)
    return tag("span", shown, class_="n alarm" if alarm else "n", title=f"{shown} {title}")


def _filter(snapshot: Snapshot) -> Html | None:
    if len(snapshot.queues) < MANY:
        return None
    return tag("input", type="text", placeholder="Filter queues", data_narrow=True,
               aria_label="Filter queues", autocomplete="off", data_key="narrow")  # fmt: skip


def groups(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Queues that share the part before ``:`` (or ``-``), two or more of them, under that part."""
    ordered = list(names)
    out: list[tuple[str, list[str]]] = []
    for delimiter in (":", "-"):
        heads: dict[str, list[str]] = {}
        for name in ordered:
            head, found, _ = name.partition(delimiter)
            if found:
                heads.setdefault(head, []).append(name)
        for head, members in heads.items():
            if len(members) > 1:
                out.append((head + delimiter, members))
                ordered = [name for name in ordered if name not in members]
    return [("", ordered), *out] if ordered else out


def _tree(snapshot: Snapshot, address: Address) -> list[Html]:
    rows = records(snapshot.queues.head(MAX_QUEUES))
    by_name = {str(row["queue"]): (number, row) for number, row in enumerate(rows)}
    first = next(iter(by_name), "")
    made: list[Html] = []
    for head, members in groups(by_name):
        if head:
            made.append(tag("div", head, class_="group", data_key=f"group-{head}"))
        for name in members:
            number, row = by_name[name]
            made.append(_queue(name, number, row, address, is_first=name == first, head=head))
    if len(snapshot.queues) > MAX_QUEUES:
        rest = len(snapshot.queues) - MAX_QUEUES
        made.append(tag("div", f"and {rest} more", class_="group"))
    return made


def _queue(
    name: str, number: int, row: dict[str, Any], address: Address, *, is_first: bool, head: str
) -> Html:
    here = address.page == "queue" and address.get("name") == name
    waiting = row["waiting"]
    title = f"{palette.count(waiting)} waiting in {name}"
    mark = icon(palette.ICONS["pause"], 11) if row["paused"] else None
    return link(
        href("queue", name=name),
        tag("i", class_="swatch", style=f"--tone:var(--s-{number % len(palette.SERIES)})"),
        tag("span", name.removeprefix(head) or name, class_="word"),
        mark,
        tag("span", palette.count(waiting), class_="n", title=title),
        class_="queue",
        title=name,
        aria_current="page" if here else None,
        data_letter_key="q" if is_first else None,
        data_queue_name=name,
        data_own=True,
        data_key=f"queue-{name}",
    )


__all__ = ["ENTRIES", "groups", "rail"]
