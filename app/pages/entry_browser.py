"""The entry browser: a stream's entries by time and content, newest first; followed live when asked."""

from dataclasses import dataclass
from typing import Any, Final

from app import palette
from app.errors import InvalidRequest
from app.pages import travel
from app.pages.address import Address, href
from app.pages.markup import (
    Html,
    button,
    clipped,
    heading,
    icon,
    link,
    moment_ms,
    panel,
    row,
    select,
    table,
    tag,
)
from app.pages.overview import stale
from app.pages.scene import Reach, Scene
from app.pages.values import block, text_of
from app.pages.window import moment_of
from app.streams.entries import EntriesPage, EntryFilter, entries_page, position

PAGE_ROWS: Final = 30
#: parameter of an address → field of EntryFilter
FILTERS: Final = {"type": "type", "user": "user_id", "workspace": "workspace_id",
                  "correlation": "correlation_id"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a stream's entries."""

    stream: str
    page: EntriesPage


async def load(reach: Reach, address: Address) -> Found:
    """The newest entries that match, of the time asked for, or those before the cursor."""
    stream = stream_of(address, reach.settings.stream_name)
    reach.settings.stream(
        stream
    )  # NotFound: other keys of a shared Redis are nobody's to read here
    wanted = EntryFilter(
        **{field: address.get(name) for name, field in FILTERS.items() if address.get(name)}
    )
    page = await entries_page(
        reach.connections.streams,
        stream,
        wanted,
        start=_bound(address, "from", "-"),
        end=_end(address),
        cursor=address.get("cursor"),
        limit=PAGE_ROWS,
    )
    return Found(stream, page)


def stream_of(address: Address, usual: str) -> str:
    """The stream an address asks for."""
    return address.get("stream") or usual


def _bound(address: Address, name: str, open_end: str) -> str:
    text = address.get(name)
    if not text:
        return open_end
    ms = moment_of(text)
    return str(int(ms)) if ms is not None else position(text, name)


def _end(address: Address) -> str:
    """Where the range ends: as asked, and not after the moment the page is shown as of."""
    asked, then = _bound(address, "to", "+"), travel.then_ms(address)
    if address.get("at") and then is None:
        raise InvalidRequest(f"at={address.get('at')[:40]!r} is not a moment", field="at")
    if then is None or (asked != "+" and int(asked.partition("-")[0]) <= then):
        return asked
    return str(int(then))


def browser(scene: Scene) -> Html:
    """The entries, with the filter above them."""
    found: Found | None = scene.found if isinstance(scene.found, Found) else None
    stream = stream_of(scene.address, scene.settings.stream_name)
    is_followed = bool(scene.address.get("tail")) and not scene.is_past
    told = "followed live, looked at every second" if is_followed else "newest first"
    head = heading("Entries", f"of {stream}, {told}", _tail(scene, is_followed))
    tools = tag(
        "div",
        _form(scene, stream),
        _paging(scene, found),
        class_="toolbar entries",
        data_key="tools",
    )
    if scene.trouble or found is None:
        said = f"The entries cannot be read: {scene.trouble}" if scene.trouble else "Reading …"
        return panel(head, tools, tag("p", said, class_="empty"), label="Entries")
    made: list[Html] = []
    for entry in found.page.items:
        made += _rows(scene, entry)
    is_filtered = any(scene.address.get(name) for name in (*FILTERS, "from", "to"))
    nothing = (
        f"None of the {palette.count(found.page.scanned)} entries looked at matches the filter."
        if is_filtered
        else "The stream is empty."
    )
    return panel(
        head,
        tools,
        table([("", "tick"), ("Type", ""), ("Source", "opt"), ("User", "opt"), ("Correlation", "opt"),
               ("Id", "opt"), ("When", "")], made, caption="Entries, newest first", empty=nothing),
        label="Entries", css=stale(scene.snapshot, "streams"),
    )  # fmt: skip


def _tail(scene: Scene, is_followed: bool) -> Html | None:
    if scene.is_past:
        return None
    if is_followed:
        return link(scene.address.but(tail="").href, icon(palette.ICONS["pause"], 12), "Stop following",
                    class_="button end")  # fmt: skip
    return link(scene.address.but(tail="1").href, icon(palette.ICONS["resume"], 12), "Follow live",
                class_="button end")  # fmt: skip


def _form(scene: Scene, stream: str) -> Html:
    address = scene.address
    names = [str(name) for name in scene.snapshot.streams["stream"]]
    names += [name for name in (stream,) if name not in names]
    types = sorted({str(t) for t in scene.snapshot.events["type"]})
    texts = (
        ("type", "Type, or user.*", "Type of event"),
        ("user", "User", "User"),
        ("correlation", "Correlation", "Correlation id"),
        ("from", "From: a time or an id", "From, a time or an entry id"),
        ("to", "To: a time or an id", "To, a time or an entry id"),
    )
    return tag(
        "form",
        select("stream", [(n, n) for n in names], stream, label="Stream"),
        [tag("input", type="search", name=name, value=address.get(name), placeholder=hint,
             aria_label=word, autocomplete="off", list="types" if name == "type" else None)
         for name, hint, word in texts],
        tag("datalist", [tag("option", value=t) for t in types[:60]], id="types"),
        tag("button", "Filter", type="submit", class_="button"),
        data_go="streams",
    )  # fmt: skip


def _paging(scene: Scene, found: Found | None) -> Html:
    if found is None:
        return tag("span", class_="end")
    address, page = scene.address, found.page
    is_filtered = any(address.get(name) for name in (*FILTERS, "from", "to"))
    told = f"looked at {palette.count(page.scanned)} entries" if is_filtered else ""
    clear = link(href("streams", stream=address.get("stream")), "Clear", class_="button plain")
    first = link(address.but().href, "Newest", class_="button") if address.get("cursor") else None
    older = (
        link(address.but(cursor=page.cursor).href, "Older", class_="button")
        if page.cursor
        else None
    )
    return tag("span", told, clear if is_filtered else None, first, older, class_="end")


def _rows(scene: Scene, entry: dict[str, Any]) -> list[Html]:
    key = str(entry["id"])
    more = f"more-{key}"
    twist = tag("button", icon(palette.ICONS["more"], 12), type="button", class_="twist",
                data_opens=more, aria_expanded="false", aria_label=f"Show entry {key[:40]}")  # fmt: skip
    fields = {k: v for k, v in entry.items() if k not in ("id", "at_ms", "data_chars") and v != ""}
    mark = (
        "replayed" if entry.get("replayedFrom") else "redriven" if entry.get("redrivenFrom") else ""
    )
    said = (
        tag("span", icon(palette.ICONS["retry"], 10), mark, class_="badge c-deferred")
        if mark
        else None
    )
    wrong = entry.get("malformed")
    name = clipped(entry.get("type") or (f"not an event: {wrong}" if wrong else ""), 80)
    cells: list[tuple[object, str]] = [
        (twist, "tick"),
        (tag("span", name, " ", said, class_="cause-line"), "wide fair"),
        (clipped(entry.get("source", ""), 80, kind="soft"), "opt"),
        (clipped(entry.get("userId", ""), 80, kind="soft"), "opt"),
        (clipped(entry.get("correlationId", ""), 80, kind="mono soft"), "id opt"),
        (clipped(key, 60, kind="mono soft"), "opt"),
        (moment_ms(float(entry.get("at_ms") or 0), scene.now), "soft"),
    ]
    hidden = tag("tr", tag("td", block(text_of(fields), label="Fields"), colspan="7"), class_="more",
                 hidden=True, data_own=True, data_key=more)  # fmt: skip
    return [row(key, *cells), hidden]


def controls(scene: Scene) -> Html | None:
    """Publish a test event, replay a range."""
    if not scene.may_act:
        return None
    stream = stream_of(scene.address, scene.settings.stream_name)
    given = {name: scene.address.get(name) for name in (*FILTERS, "from", "to")}
    kept = {name: value for name, value in given.items() if value}
    return tag(
        "span",
        button("Publish an event", "ask", mark=palette.ICONS["add"], what="publish", stream=stream),
        button("Replay …", "ask", mark=palette.ICONS["retry"], what="replay", stream=stream, **kept),
        class_="end",
    )  # fmt: skip


__all__ = ["FILTERS", "Found", "browser", "controls", "load", "stream_of"]
