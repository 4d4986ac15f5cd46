"""Streams: their groups with lag in events and in seconds, and the entries themselves."""

import contextlib
import json
from dataclasses import dataclass
from typing import Any, Final

from app import palette, reader
from app.pages.address import Address
from app.pages.markup import (
    Html,
    clipped,
    figure,
    heading,
    icon,
    join,
    link,
    moment_ms,
    panel,
    records,
    row,
    table,
    tag,
)
from app.pages.overview import events, known, stale
from app.pages.scene import Page, Reach, Scene
from app.pages.values import block, text_of

PAGE_ROWS: Final = 30


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a stream's raw entries."""

    stream: str
    items: list[dict[str, str]]
    cursor: str | None


async def load(reach: Reach, address: Address) -> Found:
    """The newest entries of the stream asked for, or those before the cursor."""
    stream = address.get("stream") or reach.settings.stream_name
    page = await reader.events_page(
        reach.connections.streams, stream, address.get("cursor") or None, PAGE_ROWS
    )
    wanted = address.get("type")
    items = [entry for entry in page.items if not wanted or entry.get("type") == wanted]
    return Found(stream, items, page.cursor)


def _above(scene: Scene) -> Html:
    return join(tag("div", tag("h1", "Streams"), class_="title"), groups(scene))


def groups(scene: Scene) -> Html:
    """A row per consumer group, and per stream nobody reads."""
    snapshot, made = scene.snapshot, []
    of_stream = {s["stream"]: s for s in records(snapshot.streams)}
    unread = dict(of_stream)
    for group in records(snapshot.groups):
        stream = of_stream.get(group["stream"], {})
        unread.pop(group["stream"], None)
        about = "≈ " if group["lag_is_estimate"] else ""
        lag = palette.count(group["lag"])
        made.append(
            row(
                f"{group['stream']}/{group['group']}",
                (clipped(group["stream"], 128), ""),
                (clipped(group["group"], 128, kind="soft"), "wide opt"),
                (figure(palette.count(stream.get("length")), why="not known"), "num opt"),
                (figure(palette.rate(stream.get("per_s")), why="not known"), "num opt"),
                (figure(lag if lag == palette.UNKNOWN else about + lag,
                        why="Redis cannot tell it after entries were deleted"), "num"),
                (figure(palette.duration(group["lag_s"]), why="not known"), "num"),
                (figure(palette.count(group["pending"]), why="not known"), "num"),
                (figure(palette.count(group["consumers"]), why="not known"), "num opt"),
                (figure(palette.count(stream.get("dead_open")), why="not known"), "num opt"),
            )
        )  # fmt: skip
    made += [
        row(str(name), (clipped(name, 128), ""),
            (tag("span", "no group reads it", class_="soft"), "wide opt"),
            (figure(palette.count(s["length"]), why="not known"), "num opt"), *[("", "num")] * 6)
        for name, s in unread.items()
    ]  # fmt: skip
    columns = [("Stream", ""), ("Group", "opt"), ("Length", "num opt"), ("Events/s", "num opt"),
               ("Lag", "num"), ("Behind", "num"), ("Pending", "num"), ("Consumers", "num opt"),
               ("Dead", "num opt")]  # fmt: skip
    nothing = "No event stream yet. The first event published makes it."
    return panel(
        heading("Groups", "lag: events not yet delivered; pending: delivered, not yet acknowledged"),
        table(columns, made, caption="Streams and consumer groups", empty=known(snapshot, nothing)),
        label="Groups", css=stale(snapshot, "streams"),
    )  # fmt: skip


def _below(scene: Scene) -> Html:
    return join(_entries(scene), events(scene.snapshot))


def _entries(scene: Scene) -> Html:
    found: Found | None = scene.found
    name = found.stream if found else scene.settings.stream_name
    head = heading("Entries", f"of {name}, newest first")
    if scene.trouble or found is None:
        said = f"The entries cannot be read: {scene.trouble}" if scene.trouble else "Reading …"
        return panel(head, tag("p", said, class_="empty"), label="Entries")
    made: list[Html] = []
    for entry in found.items:
        made += _rows(scene, entry)
    wanted = scene.address.get("type")
    types = sorted({e.get("type", "") for e in found.items} - {""})
    form = tag(
        "form",
        tag("input", type="hidden", name="stream", value=scene.address.get("stream")),
        tag("input", type="search", name="type", value=wanted, list="types",
            placeholder="Type, exactly", aria_label="Type of event", autocomplete="off"),
        tag("datalist", [tag("option", value=t) for t in types[:60]], id="types"),
        tag("button", "Filter", type="submit", class_="button"),
        data_go="streams",
    )  # fmt: skip
    first = (
        link(scene.address.but().href, "Newest", class_="button")
        if scene.address.get("cursor")
        else None
    )
    older = (
        link(scene.address.but(cursor=found.cursor).href, "Older", class_="button")
        if found.cursor
        else None
    )
    told = f"matching among {PAGE_ROWS} entries" if wanted else ""
    nothing = (
        "No entry of this type among those looked through." if wanted else "The stream is empty."
    )
    return panel(
        head,
        tag("div", form, tag("span", told, first, older, class_="end"), class_="toolbar"),
        table([("", "tick"), ("Type", ""), ("Source", "opt"), ("User", "opt"), ("Correlation", "opt"),
               ("Id", "opt"), ("When", "")], made, caption="Entries, newest first", empty=nothing),
        label="Entries", css=stale(scene.snapshot, "streams"),
    )  # fmt: skip


def _rows(scene: Scene, entry: dict[str, str]) -> list[Html]:
    key = entry["id"]
    more = f"more-{key}"
    twist = tag("button", icon(palette.ICONS["more"], 12), type="button", class_="twist",
                data_opens=more, aria_expanded="false", aria_label=f"Show entry {key[:40]}")  # fmt: skip
    fields: dict[str, Any] = {k: v for k, v in entry.items() if k not in ("id", "at_ms")}
    with contextlib.suppress(KeyError, ValueError, RecursionError):
        fields["data"] = json.loads(fields["data"])
    cells: list[tuple[object, str]] = [
        (twist, "tick"),
        (clipped(entry.get("type", ""), 80), "wide"),
        (clipped(entry.get("source", ""), 80, kind="soft"), "opt"),
        (clipped(entry.get("userId", ""), 80, kind="soft"), "opt"),
        (clipped(entry.get("correlationId", ""), 80, kind="mono soft"), "id opt"),
        (clipped(key, 60, kind="mono soft"), "opt"),
        (moment_ms(float(entry.get("at_ms") or 0), scene.now), "soft"),
    ]
    hidden = tag("tr", tag("td", block(text_of(fields), label="Fields"), colspan="7"), class_="more",
                 hidden=True, data_own=True, data_key=more)  # fmt: skip
    return [row(key, *cells), hidden]


PAGE = Page(above=_above, below=_below, load=load, charts=("lag", "events"))

__all__ = ["PAGE", "Found", "load"]
