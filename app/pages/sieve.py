"""The sieve of dead letters: which of them a page lists, the filters above, and what can be done to all of these."""

from urllib.parse import quote, urlencode

import pandas as pd

from app import palette
from app.letters.tallies import WORDS
from app.pages import cause_periods
from app.pages.address import Address
from app.pages.findings import PAGE_ROWS, Found, chosen_state, is_read
from app.pages.markup import Html, button, icon, link, select, tag
from app.pages.scene import Scene


def matching(letters: pd.DataFrame, address: Address, now: pd.Timestamp) -> pd.DataFrame:
    """The letters the address lets through, at *now*."""
    wanted = {"open": "new", "retrying": "retrying"}.get(chosen_state(address))
    found = letters if wanted is None else letters[letters["state"] == wanted]
    for name, column in (("cause", "fingerprint"), ("source", "source"), ("function", "name")):
        if address.get(name):
            found = found[found[column] == address.get(name)]
    start = cause_periods.since(address, now)
    return found if start is None else found[found["died"] >= start]


def page_number(address: Address, rows: int) -> int:
    """The page asked for, from 0, within what there is."""
    asked = address.get("page")
    number = int(asked) if asked.isdecimal() and len(asked) < 6 else 0
    return min(number, max(0, -(-rows // PAGE_ROWS) - 1))


def toolbar(scene: Scene) -> Html:
    """Filters and pages; of rows that are selected, what can be done to them."""
    if scene.chosen:
        count = len(scene.chosen)
        controls = [
            button(
                f"Retry {count}", "retry-chosen", kind="primary once", mark=palette.ICONS["retry"]
            ),
            button(f"Discard {count}", "discard-chosen", kind="quiet once"),
            button(f"Archive {count}", "archive-chosen", kind="quiet once"),
            button("Clear", "clear", kind="plain"),
        ]
        held = tag("span", "the list is held while rows are selected", class_="note")
        return tag(
            "div", tag("b", f"{count} selected"), controls, held, class_="toolbar", data_key="tools"
        )
    address, letters = scene.address, scene.snapshot.dead_letters
    sources = sorted({*map(str, letters["source"]), *map(str, scene.snapshot.queues["queue"]),
                      *map(str, scene.snapshot.streams["stream"]), address.get("source")} - {""})  # fmt: skip
    closed = chosen_state(address) == "closed"
    functions = sorted({*map(str, letters["name"]), address.get("function")} - {""})
    form = tag(
        "form",
        tag("input", type="hidden", name="cause", value=address.get("cause")),
        tag("input", type="hidden", name="view", value=address.get("view")),
        tag("input", type="hidden", name="state", value=address.get("state")),
        select("source", [("", "All queues and streams"), *[(s, s) for s in sources]],
               address.get("source"), label="Show letters of"),
        select("function", [("", "Any function"), *[(f, f) for f in functions[:200]]],
               address.get("function"), label="Function"),
        select("died", [("", "Closed at any time" if closed else "Died at any time"),
                        *[(p, f"In the last {word}") for p, word in WORDS.items()]],
               cause_periods.period_of(address), label="When they were closed" if closed else "When they died"),
        data_go="dead-letters",
    )  # fmt: skip
    return tag(
        "div",
        form,
        _acts(scene),
        _export(scene),
        _paging(scene),
        class_="toolbar",
        data_key="tools",
    )


def _acts(scene: Scene) -> list[Html]:
    """What can be done to all that the filters let through; a cause alone has these beside its name."""
    address = scene.address
    given = {name: address.get(name) for name in ("cause", "source", "function", "died")}
    is_narrowed = any(value for name, value in given.items() if name != "cause")
    if not scene.may_act or not is_narrowed or chosen_state(address) != "open":
        return []
    words = (
        ("Retry all …", "retry-group"),
        ("Discard all …", "discard-group"),
        ("Archive all …", "archive-group"),
    )
    return [button(word, "ask", what=what, **given) for word, what in words]


def _export(scene: Scene) -> Html | None:
    """All that the filters let through as a file; of one queue or stream at a time."""
    address = scene.address
    letters = scene.snapshot.dead_letters
    if address.get("cause"):
        letters = letters[letters["fingerprint"] == address.get("cause")]
    sources = (
        [address.get("source")]
        if address.get("source")
        else sorted(set(map(str, letters["source"])))
    )
    if scene.is_past or not sources:
        return None
    said = tag("span", "CSV")
    if len(sources) > 1:
        return tag("span", icon(palette.ICONS["download"], 12), said, class_="button plain", role="link",
                   aria_disabled="true", title="one queue or stream is exported at a time: choose one")  # fmt: skip
    start = cause_periods.since(address, scene.now)
    wanted = {
        "format": "csv", "state": chosen_state(address), "name": address.get("function"),
        "fingerprint": address.get("cause"),
        # to the minute, so that the link does not change with every sample
        "since": "" if start is None else f"{start:%Y-%m-%dT%H:%MZ}",
    }  # fmt: skip
    query = urlencode({name: value for name, value in wanted.items() if value})
    return tag("a", icon(palette.ICONS["download"], 12), said, class_="button plain", download=True,
               href=f"../dead-letters/{quote(sources[0], safe='')}?{query}",
               aria_label="Export all that match as CSV", title="all that match, as a file")  # fmt: skip


def _paging(scene: Scene) -> Html:
    address = scene.address
    if is_read(address):
        found = scene.found
        left_out = found.window if isinstance(found, Found) else ""
        following = link(address.but(cursor=found.cursor).href, "Older", class_="button") if (
            isinstance(found, Found) and found.cursor) else None  # fmt: skip
        first = (
            link(address.but().href, "Newest", class_="button") if address.get("cursor") else None
        )
        return tag("span", left_out, first, following, class_="end")
    rows = len(matching(scene.snapshot.dead_letters, address, scene.now))
    number = page_number(address, rows)
    first_row, last_row = number * PAGE_ROWS + 1, min(rows, (number + 1) * PAGE_ROWS)
    where = f"{first_row}–{last_row} of {palette.count(rows)}" if rows else ""  # noqa: RUF001
    newer = (
        link(address.but(page=number - 1 or "").href, "Newer", class_="button") if number else None
    )
    older = (
        link(address.but(page=number + 1).href, "Older", class_="button")
        if last_row < rows
        else _behind(scene)
    )
    return tag("span", where, newer, older, class_="end")


def _behind(scene: Scene) -> Html | None:
    """The way on behind the newest letters that the snapshot holds; None when it holds all."""
    state = {"open": "dead_open", "retrying": "dead_retrying"}[chosen_state(scene.address)]
    held = scene.snapshot.dead_letters
    held = held[held["state"] == ("new" if state == "dead_open" else "retrying")]
    frames = ((scene.snapshot.queues, "queue"), (scene.snapshot.streams, "stream"))
    cut: list[
        int
    ] = []  #: of each source of which there are more, the ms of the oldest that is held
    for frame, column in frames:
        for name, total in zip(frame[column], frame[state], strict=True):
            mine = held[held["source"] == name]
            if total > len(mine) and len(mine) and scene.address.get("source") in ("", name):
                cut.append(int(mine["died"].min().timestamp() * 1000))
    if not cut:
        return None
    return link(scene.address.but(page="", cursor=str(max(cut))).href, "Older", class_="button")


__all__ = ["matching", "page_number", "toolbar"]
