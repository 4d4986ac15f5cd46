"""Dead letters: causes first, then the letters, a page at a time, with what can be done to them."""

from typing import Any

import pandas as pd

from app import palette
from app.pages import one_cause
from app.pages.address import href
from app.pages.findings import PAGE_ROWS, STATES, Found, chosen_state, is_read, load
from app.pages.markup import (
    Html,
    button,
    clipped,
    icon,
    join,
    link,
    moment,
    moment_ms,
    panel,
    records,
    row,
    safe_text,
    table,
    tabs,
    tag,
)
from app.pages.overview import known, stale, without_type
from app.pages.scene import Page, Scene
from app.pages.sieve import matching, page_number, toolbar
from app.palette import LETTER_LOOK, Look
from app.records import LetterState
from app.snapshot import Snapshot


def key_of(letter: dict[str, Any]) -> str:
    """``source/id``, what a row is known by in the browser."""
    return f"{letter['source']}/{letter['id']}"


def shown(scene: Scene) -> list[dict[str, Any]]:
    """The rows of the page shown."""
    if is_read(scene.address):
        items = scene.found.items if isinstance(scene.found, Found) else []
        return [
            {name: getattr(letter, name) for name in letter.__slots__}
            | {"died": pd.Timestamp(letter.changed_ms or letter.died_ms, unit="ms", tz="UTC")}
            for letter in items
        ]
    found = matching(scene.snapshot.dead_letters, scene.address, scene.now)
    start = page_number(scene.address, len(found)) * PAGE_ROWS
    return records(found.iloc[start : start + PAGE_ROWS])


def keys_of(scene: Scene) -> list[str]:
    """The rows that may be selected: open letters."""
    return [key_of(letter) for letter in shown(scene) if letter["state"] == LetterState.NEW]


# -- what is shown --------------------------------------------------------------------------------


def _above(scene: Scene) -> Html:
    found = scene.found if isinstance(scene.found, Found) else Found()
    return join(
        tag("div", tag("h1", "Dead letters"),
            tag("span", _window(scene.snapshot), class_="note"), class_="title"),
        one_cause.opened(scene, found.explained, found.tallies) if scene.address.get("cause")
        else one_cause.causes(scene, found.courses, found.tallies),
        panel(
            _tabs(scene),
            toolbar(scene),
            listing(scene),
            label="Dead letters", css=stale(scene.snapshot, "queue", "streams"),
        ),
    )  # fmt: skip


def _window(snapshot: Snapshot) -> str:
    if snapshot.number == 0:
        return ""
    total = snapshot.queues["dead_open"].sum() + snapshot.queues["dead_retrying"].sum()
    listed = len(snapshot.dead_letters)
    if total > listed:
        return f"grouped the newest {listed:,} of {palette.count(total)}"
    return f"all {listed:,} that are open or being retried" if listed else ""


def _tabs(scene: Scene) -> Html:
    snapshot, current = scene.snapshot, chosen_state(scene.address)
    known_now = snapshot.number > 0

    def count(column: str) -> str | None:
        if not known_now or scene.address.get("cause"):  # of all causes: not what is listed
            return None
        added = float(snapshot.queues[column].sum(skipna=False))
        if not snapshot.streams.empty:
            added += float(snapshot.streams[column].sum(skipna=False))
        return palette.count(added)

    counts = {"open": count("dead_open"), "retrying": count("dead_retrying"), "closed": None}
    return tabs(
        [(scene.address.but(state="" if name == "open" else name, page="").href, word, counts[name],
          name == current) for name, word in STATES.items()],
        label="States of dead letters",
    )  # fmt: skip


def listing(scene: Scene) -> Html:
    """The table of letters."""
    if scene.trouble:
        return tag("p", f"The letters cannot be read: {scene.trouble}", class_="empty")
    rows, acts = shown(scene), scene.may_act
    keys = keys_of(scene)
    all_box = tag("input", type="checkbox", data_intent="choose-all", aria_label="Select this page",
                  checked=bool(keys) and scene.chosen >= set(keys))  # fmt: skip
    closed = chosen_state(scene.address) == "closed"
    columns: list[tuple[Any, str]] = [
        ("State", "opt"), ("Function", ""), ("Error", ""), ("Attempts", "num opt"),
        ("Retries", "num opt"), ("Queue", "opt"), ("Id", "opt"), ("Closed" if closed else "Died", "opt"),
    ]  # fmt: skip
    if acts:
        columns = [(all_box if keys else "", "tick"), *columns, ("", "act")]
    return table(
        columns,
        [_row(scene, letter) for letter in rows],
        caption="Dead letters, newest first",
        empty=known(scene.snapshot, _nothing(scene)),
    )


def _nothing(scene: Scene) -> str:
    address = scene.address
    if chosen_state(address) == "closed":
        return "No letter was closed here lately."
    if any(address.get(name) for name in ("cause", "source", "function", "died")):
        return "No dead letter matches the filter."
    if chosen_state(address) == "retrying":
        return "No dead letter is being retried."
    return "No dead letters. A job that uses up its attempts appears here, with its payload."


def _row(scene: Scene, letter: dict[str, Any]) -> Html:
    key = key_of(letter)
    look, css = look_of(str(letter["state"]))
    said = tag(
        "span", icon(look.icon, 12), look.word, class_=f"state c-{css}", title=decision(letter)
    )
    error = tag(
        "span", tag("b", safe_text(letter["error_type"] or letter["reason"] or "Error", 60)), " ",
        safe_text(without_type(letter), 400), class_="clip", title=str(letter["error"])[:600],
    )  # fmt: skip
    where = href("dead-letter", source=letter["source"], id=letter["id"])
    cells: list[tuple[object, str]] = [
        (said, "opt"),
        (link(where, clipped(letter["name"], 80), class_="strong"), ""),
        (link(where, error), "wide"),
        (palette.count(letter["attempts"]), "num opt"),
        (palette.count(letter["redrives"]) if letter["redrives"] else "", "num opt"),
        (clipped(letter["source"], 128, kind="soft"), "opt"),
        (clipped(letter["id"], 160, kind="mono soft"), "id opt"),
        (moment(letter["died"], scene.now), "soft opt"),
    ]
    if scene.may_act:
        cells = [(_box(scene, letter, key), "tick"), *cells, (acts_of(letter, key), "act")]
    return row(key, *cells, css="chosen" if key in scene.chosen else "")


def _box(scene: Scene, letter: dict[str, Any], key: str) -> Html | None:
    if letter["state"] != LetterState.NEW:
        return None
    name = f"{str(letter['name'])[:60]} {str(letter['id'])[:60]}"
    return tag("input", type="checkbox", data_intent="choose", data_row=key,
               checked=key in scene.chosen, aria_label=f"Select {name}")  # fmt: skip


def acts_of(letter: dict[str, Any], key: str) -> Html | None:
    """What can be done to one letter in a list."""
    name = f"{str(letter['name'])[:60]} {str(letter['id'])[:60]}"
    if letter["state"] in (LetterState.DISCARDED, LetterState.ARCHIVED):
        return button(
            "Take back", "undo-discard", kind="plain once", label=f"Take back {name}", row=key
        )
    if letter["state"] != LetterState.NEW:
        return None
    return tag(
        "span",
        button("Retry", "retry", mark=palette.ICONS["retry"], kind="quiet once",
               label=f"Retry {name}", row=key),
        tag("span", button("Discard", "discard", kind="plain once", label=f"Discard {name}", row=key),
            class_="opt"),
        class_="row-actions",
    )  # fmt: skip


def decision(letter: dict[str, Any]) -> str:
    """Why it was buried, and what the policy said."""
    why = palette.cause_of_death(letter["reason"], letter["attempts"])
    said = f"why it died: {why}" if letter["reason"] else ""
    if letter["decision"]:
        said += f"; policy: {letter['decision']} {letter['decision_reason']}"
    return said


def look_of(word: str) -> tuple[Look, str]:
    """Look and colour of a letter's state."""
    css = {"new": "dead", "retrying": "retrying", "resolved": "complete"}
    try:
        return LETTER_LOOK[LetterState(word)], css.get(word, "unknown")
    except ValueError:
        return Look("closed", *palette.SERIES[6], palette.ICONS["close"]), "unknown"


PAGE = Page(above=_above, load=load, keys=keys_of)

__all__ = ["PAGE", "Found", "chosen_state", "decision", "key_of", "keys_of", "load", "look_of",
           "moment_ms"]  # fmt: skip
