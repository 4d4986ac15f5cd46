"""The second view of causes: how many letters each made in the last hours and days, and how sure that is."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from app import palette
from app.letters.tallies import PERIODS, WORDS, Tally, unknown
from app.pages.address import Address, href
from app.pages.markup import Html, clipped, link, records, row, safe_text, table, tag
from app.pages.overview import known, without_type
from app.pages.scene import Scene
from app.snapshot import Snapshot

MAX_CAUSES: Final = 50
#: what a table looks back
_SPAN: Final = pd.Timedelta(hours=max(PERIODS.values()))

Tallies = Mapping[str, tuple[Tally, ...]]


def listed(snapshot: Snapshot) -> pd.DataFrame:
    """The causes of the table: those that have letters now, or struck within its longest period."""
    causes = snapshot.causes
    is_late = causes["last_seen"] >= snapshot.taken_at - _SPAN
    return causes[(causes["count"] > 0) | is_late].head(MAX_CAUSES)


def period_of(address: Address) -> str:
    """The period the letters shown died in; empty: any."""
    return address.get("died") if address.get("died") in PERIODS else ""


def since(address: Address, now: pd.Timestamp) -> pd.Timestamp | None:
    """When that period began; None: it is not asked for."""
    period = period_of(address)
    return now - pd.Timedelta(hours=PERIODS[period]) if period else None


def matrix(scene: Scene, found: Tallies | None) -> Html:
    """Cause by period, every number a link to the letters it counts that are still there."""
    causes = records(listed(scene.snapshot))
    told = {
        str(cause["fingerprint"]): _of(scene, found, str(cause["fingerprint"])) for cause in causes
    }
    most = [max((t.likely for t in column if t.likely == t.likely), default=0.0)
            for column in zip(*told.values(), strict=True)]  # fmt: skip
    made = []
    for cause in causes:
        kind = str(cause["error_type"] or "Error")
        fingerprint = str(cause["fingerprint"])
        where = _letters(cause, "")
        cells = [
            (_cell(cause, kind, tally, top), "num heat")
            for tally, top in zip(told[fingerprint], most, strict=True)
        ]
        made.append(
            row(fingerprint, (link(where, named(cause)), "wide"),
                (clipped(cause["functions"], 80, kind="soft"), "opt"), *cells)
        )  # fmt: skip
    periods = [(WORDS[period], "num heat") for period in PERIODS]
    return table([("Cause", ""), ("Functions", "opt"), *periods], made, caption="Deaths by cause and period",
                 empty=known(scene.snapshot, "No cause has struck in the last 7 d."))  # fmt: skip


def named(cause: dict[str, Any]) -> Html:
    """A cause on one line: type and message, and its functions where their column gives way."""
    kind = str(cause["error_type"] or "Error")
    functions = tag("span", " in ", safe_text(cause["functions"], 80), class_="narrow")
    return tag("span", tag("b", safe_text(kind, 60)), functions, " ", safe_text(without_type(cause), 240),
               class_="clip", title=str(cause["error"])[:300])  # fmt: skip


def head() -> Html:
    """What the table counts, and what its signs mean."""
    return tag(
        "p", "How many became dead letters, whatever became of them since. ≈ is an estimate, ≥ at least, "
        f"{palette.UNKNOWN} unknown: the tooltip says why.", class_="note body",
    )  # fmt: skip


def of_cause(scene: Scene, found: Tallies | None) -> Html:
    """The row of one cause, as figures."""
    fingerprint = scene.address.get("cause")
    causes = scene.snapshot.causes
    cause = {"fingerprint": fingerprint, "count": 1}
    for known_cause in records(causes[causes["fingerprint"] == fingerprint]):
        cause = known_cause
    made = [
        tag("div", tag("dt", "Deaths, ", WORDS[tally.period]),
            tag("dd", _cell(cause, "this cause", tally, 0.0)), data_key=tally.period)
        for tally in _of(scene, found, fingerprint)
    ]  # fmt: skip
    return tag("dl", made, class_="pairs periods", data_key="periods")


def _of(scene: Scene, found: Tallies | None, fingerprint: str) -> tuple[Tally, ...]:
    if scene.is_past:
        return unknown("not stored for a moment of the past")
    if found is None:
        return unknown("it is not read yet, or cannot be")
    return found.get(fingerprint) or unknown("its deaths are not counted yet")


def _letters(cause: Mapping[str, object], period: str) -> str:
    """The address of a cause's letters; of closed ones where no other is left."""
    state = "" if cause["count"] else "closed"
    return href("dead-letters", cause=cause["fingerprint"], died=period, state=state)


def _cell(cause: Mapping[str, object], kind: str, tally: Tally, top: float) -> Html:
    """One number as a link; an unknown one is a dash, and says why on hover."""
    words = f"the last {WORDS[tally.period]}"
    shown = figure_of(tally)
    is_unknown = tally.low is None
    title = f"not known: {tally.note}" if is_unknown else tally.note or f"{shown} in {words}"
    share = tally.likely / top if top and tally.likely == tally.likely else 0.0
    css = "unknown" if is_unknown else "none" if tally.likely == 0 else "figure"
    return link(
        _letters(cause, tally.period), shown, class_=css, title=title,
        aria_label=f"{shown} deaths of {kind[:60]} in {words}: show its letters",
        style=f"--heat:{share:.2f}" if share else None,
    )  # fmt: skip


def figure_of(tally: Tally) -> str:
    """The number as it is shown: 12, ≈ 14, ≥ 12 or a dash."""
    if tally.low is None:
        return palette.UNKNOWN
    if tally.high is None:
        return f"≥ {palette.count(tally.low)}"
    return palette.count(tally.low) if tally.is_exact else f"≈ {palette.count(round(tally.likely))}"


__all__ = [
    "Tallies",
    "figure_of",
    "head",
    "listed",
    "matrix",
    "named",
    "of_cause",
    "period_of",
    "since",
]
