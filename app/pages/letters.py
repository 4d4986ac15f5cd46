"""Dead letters: causes first, then the letters, a page at a time, with Retry and Discard.

While rows are selected the list is held: nothing is added, sorted or taken away under the pointer.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from app import palette
from app.pages.markup import (
    Html,
    button,
    clipped,
    heading,
    icon,
    moment,
    records,
    row,
    safe_text,
    table,
    tag,
)
from app.palette import LETTER_LOOK, Look
from app.records import LetterState
from app.snapshot import Snapshot

PAGE_ROWS: Final = 10
MAX_CAUSES: Final = 6
#: letters one press may act on; more is an operation with a rate and an end
MAX_CHOSEN: Final = 100

_COLUMNS: Final = (
    ("", ""),
    ("State", ""),
    ("Function", ""),
    ("Error", ""),
    ("Attempts", "num"),
    ("Retries", "num"),
    ("Queue", ""),
    ("Id", ""),
    ("Died", ""),
    ("", ""),
)


def key_of(letter: dict[str, Any]) -> str:
    """``source/id``, what a row is known by in the browser."""
    return f"{letter['source']}/{letter['id']}"


@dataclass
class LetterList:
    """What one viewer looks at: filter, page, selection."""

    fingerprint: str = ""
    source: str = ""
    page: int = 0
    chosen: set[str] = field(default_factory=set)
    held: list[dict[str, Any]] = field(default_factory=list)
    _shown: list[dict[str, Any]] = field(default_factory=list)

    # -- what the viewer does --------------------------------------------------------------------

    def choose(self, key: str, *, on: bool) -> None:
        """Select or deselect the row *key* of the page shown; the first one holds the list."""
        if key not in {key_of(letter) for letter in self._shown}:
            return
        if on and len(self.chosen) < MAX_CHOSEN:
            if not self.chosen:
                self.held = list(self._shown)
            self.chosen.add(key)
        else:
            self.chosen.discard(key)
        if not self.chosen:
            self.held = []

    def choose_page(self, *, on: bool) -> None:
        """Select or deselect every row of the page shown that can be acted on."""
        for letter in list(self._shown):
            if letter["state"] == LetterState.NEW or not on:
                self.choose(key_of(letter), on=on)

    def clear(self) -> None:
        """Deselect all; the list moves again."""
        self.chosen.clear()
        self.held = []

    def filter(self, *, fingerprint: str | None = None, source: str | None = None) -> None:
        """Show one cause or one source only; an empty word shows all."""
        self.clear()
        self.page = 0
        if fingerprint is not None:
            self.fingerprint = "" if fingerprint == self.fingerprint else fingerprint[:64]
        if source is not None:
            self.source = source[:128]

    def turn(self, by: int) -> None:
        """Go to another page."""
        self.clear()
        self.page = max(0, self.page + by)

    # -- what the viewer sees --------------------------------------------------------------------

    def matching(self, letters: pd.DataFrame) -> pd.DataFrame:
        """The letters the filter lets through."""
        found = letters
        if self.fingerprint:
            found = found[found["fingerprint"] == self.fingerprint]
        return found[found["source"] == self.source] if self.source else found

    def rows(self, letters: pd.DataFrame) -> list[dict[str, Any]]:
        """The page shown: held rows with their present state, or the newest letters."""
        if self.held:
            now = {(r["source"], r["id"]): r for r in records(letters)}
            return [
                dict(now.get((r["source"], r["id"]), {**r, "state": "closed"})) for r in self.held
            ]
        found = self.matching(letters)
        pages = max(1, -(-len(found) // PAGE_ROWS))
        self.page = min(self.page, pages - 1)
        start = self.page * PAGE_ROWS
        window = found.iloc[start : start + PAGE_ROWS]
        return records(window)

    def show(self, snapshot: Snapshot, *, may_act: bool) -> Html:
        """The whole section."""
        letters = snapshot.dead_letters
        self._shown = self.rows(letters)
        now = snapshot.taken_at
        matching = len(self.matching(letters))
        stale = bool(set(snapshot.problems) & {"queue", "streams"})
        return tag(
            "section",
            heading(
                "Dead letters",
                _window(snapshot, len(letters)),
                anchor="dead",
            ),
            self._causes(snapshot, now),
            self._toolbar(snapshot, matching, may_act=may_act),
            table(
                _COLUMNS if may_act else _COLUMNS[1:-1],
                [self._row(letter, now, may_act=may_act) for letter in self._shown],
                caption="Dead letters, newest first",
                empty=self._nothing(snapshot, len(letters)),
            ),
            class_="panel stale" if stale else "panel",
            aria_label="Dead letters",
        )

    def _nothing(self, snapshot: Snapshot, letters: int) -> str:
        if snapshot.number == 0:
            return "Not known yet."
        if letters:
            return "No dead letter matches the filter."
        return "No dead letters. A job that uses up its attempts appears here, with its payload."

    def _causes(self, snapshot: Snapshot, now: pd.Timestamp) -> Html | None:
        causes = snapshot.causes[snapshot.causes["count"] > 0]
        if causes.empty:
            return None
        listed = []
        for cause in records(causes.head(MAX_CAUSES)):
            chosen = cause["fingerprint"] == self.fingerprint
            listed.append(
                tag(
                    "button",
                    tag("span", palette.count(cause["count"]), class_="n"),
                    tag(
                        "span",
                        tag("b", safe_text(cause["error_type"] or "Error", 80)),
                        " ",
                        tag("span", safe_text(_without_type(cause), 200), class_="soft"),
                        class_="text",
                        title=str(cause["error"])[:300],
                    ),
                    tag("span", safe_text(cause["functions"], 60), class_="soft"),
                    tag("span", moment(cause["last_seen"], now), class_="soft when"),
                    type="button",
                    class_="cause",
                    data_intent="cause",
                    data_fingerprint=cause["fingerprint"],
                    data_key=f"cause-{cause['fingerprint']}",
                    aria_pressed="true" if chosen else "false",
                    aria_label=f"Show the {cause['count']} letters of {str(cause['error_type'])[:80]}",
                )
            )
        rest = len(causes) - len(listed)
        more = tag("span", f"and {rest} rarer causes", class_="note") if rest > 0 else None
        return tag("div", listed, more, class_="causes", aria_label="Causes, commonest first",
                   role="group")  # fmt: skip

    def _toolbar(self, snapshot: Snapshot, matching: int, *, may_act: bool) -> Html:
        if self.chosen:
            some = f"{len(self.chosen)} selected"
            held = tag("span", "the list is held while rows are selected", class_="note")
            controls = [
                button(
                    "Retry selected",
                    "retry-chosen",
                    kind="primary once",
                    mark=palette.ICONS["retry"],
                ),
                button("Discard selected", "discard-chosen", kind="quiet once"),
                button("Clear", "clear", kind="plain"),
            ]
            return tag("div", tag("b", some), controls, held, class_="toolbar", data_key="tools")
        sources = sorted({str(s) for s in snapshot.dead_letters["source"]} | {self.source} - {""})
        options = [tag("option", "All queues and streams", value="", selected=not self.source)]
        options += [tag("option", s, value=s, selected=s == self.source) for s in sources]
        select = tag("select", options, data_intent="source", aria_label="Show letters of")
        cause = (
            button("All causes", "cause", kind="plain", mark=palette.ICONS["close"],
                   fingerprint=self.fingerprint)
            if self.fingerprint else None
        )  # fmt: skip
        first = self.page * PAGE_ROWS + 1
        last = min(matching, first + PAGE_ROWS - 1)
        where = f"{first}–{last} of {palette.count(matching)}" if matching else ""  # noqa: RUF001
        turning = None
        if matching > PAGE_ROWS:
            turning = [
                tag("button", "Newer", type="button", class_="button", data_intent="turn",
                    data_by="-1", disabled=self.page == 0),
                tag("button", "Older", type="button", class_="button", data_intent="turn",
                    data_by="1", disabled=last >= matching),
            ]  # fmt: skip
        tools = [select, cause] if len(sources) > 1 or self.source or cause else None
        end = tag("span", where, turning, class_="end")
        said = "Select rows to act on several at once." if may_act else "You may look, not act."
        hint = tag("span", said, class_="note")
        return tag("div", tools, hint, end, class_="toolbar", data_key="tools")

    def _row(self, letter: dict[str, Any], now: pd.Timestamp, *, may_act: bool) -> Html:
        key = key_of(letter)
        is_open = letter["state"] == LetterState.NEW
        look, css = _look(str(letter["state"]))
        said = tag(
            "span", icon(look.icon, 12), look.word, class_=f"state c-{css}", title=_decision(letter)
        )
        error = tag(
            "span",
            tag("b", safe_text(letter["error_type"] or letter["reason"] or "Error", 60)),
            " ",
            safe_text(_without_type(letter), 400),
            class_="clip",
            title=str(letter["error"])[:600],
        )
        cells: list[tuple[object, str]] = [
            (said, ""),
            (clipped(letter["name"], 80), ""),
            (error, "wide"),
            (palette.count(letter["attempts"]), "num"),
            (palette.count(letter["redrives"]) if letter["redrives"] else "", "num"),
            (clipped(letter["source"], 128, kind="soft"), ""),
            (clipped(letter["id"], 160, kind="mono soft"), "id"),
            (moment(letter["died"], now), "soft"),
        ]
        if may_act:
            name = f"{str(letter['name'])[:60]} {str(letter['id'])[:60]}"
            box = tag(
                "input", type="checkbox", data_intent="choose", data_letter=key,
                checked=key in self.chosen, aria_label=f"Select {name}",
            )  # fmt: skip
            data = {"letter": key}
            acts = (
                [
                    button("Retry", "retry", mark=palette.ICONS["retry"], kind="quiet once",
                           label=f"Retry {name}", **data),
                    button("Discard", "discard", kind="plain once", label=f"Discard {name}", **data),
                ]
                if is_open else None
            )  # fmt: skip
            cells = [(box, ""), *cells, (tag("span", acts, class_="row-actions"), "act")]
        return row(key, *cells, css="chosen" if key in self.chosen else "")


def _without_type(letter: dict[str, Any]) -> str:
    text, kind = str(letter["error"]), str(letter["error_type"])
    return text.removeprefix(f"{kind}: ") if kind else text


def _decision(letter: dict[str, Any]) -> str:
    said = f"buried because of: {letter['reason']}" if letter["reason"] else ""
    if letter["decision"]:
        said += f"; policy: {letter['decision']} {letter['decision_reason']}"
    return said


def _look(word: str) -> tuple[Look, str]:
    css = {"new": "dead", "retrying": "retrying", "resolved": "complete"}
    try:
        return LETTER_LOOK[LetterState(word)], css.get(word, "unknown")
    except ValueError:
        return Look("closed", *palette.SERIES[6], palette.ICONS["close"]), "unknown"


def _window(snapshot: Snapshot, listed: int) -> str:
    if snapshot.number == 0:
        return ""
    known = snapshot.queues["dead_open"].sum() + snapshot.queues["dead_retrying"].sum()
    if known > listed:
        return f"the newest {listed:,} of {palette.count(known)}"
    return "open and retrying, newest first"


__all__ = ["LetterList", "key_of"]
