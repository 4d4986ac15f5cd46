"""Causes of dead letters as a list, and one of them opened: its standing, what its letters share."""

from collections.abc import Mapping
from typing import Final

import pandas as pd

from app import palette
from app.courses import Course
from app.explanation import Explanation
from app.pages import cause_periods
from app.pages.address import href
from app.pages.markup import (
    Html,
    button,
    clipped,
    facts,
    figure,
    heading,
    join,
    link,
    moment,
    panel,
    records,
    row,
    safe_text,
    sparkline,
    table,
    tabs,
    tag,
)
from app.pages.overview import stale, without_type
from app.pages.scene import Scene
from app.snapshot import Snapshot

MAX_CAUSES: Final = 12


def opened(scene: Scene, found: Explanation | None, tallies: cause_periods.Tallies | None) -> Html:
    """One cause, how often it struck, and why it strikes."""
    return join(_cause(scene, found, tallies), _why(found))


def listed(snapshot: Snapshot) -> pd.DataFrame:
    """The causes a list shows: the commonest that have letters now."""
    return _with_letters(snapshot).head(MAX_CAUSES)


def _with_letters(snapshot: Snapshot) -> pd.DataFrame:
    return snapshot.causes[snapshot.causes["count"] > 0]


def causes(
    scene: Scene, found: Mapping[str, Course] | None, tallies: cause_periods.Tallies | None
) -> Html | None:
    """The causes, as a list or by period, whichever the address asks for; nothing when there is none.

    *found*, *tallies*: what is known of their past; None: it is being read, or is not stored.
    """
    snapshot, address = scene.snapshot, scene.address
    count, late = len(_with_letters(snapshot)), len(cause_periods.listed(snapshot))
    if not late:
        return None
    is_by_period = address.get("view") == "periods"
    views = tabs(
        [(address.but(view="").href, "Causes", palette.count(count), not is_by_period),
         (address.but(view="periods").href, "Deaths by period", palette.count(late), is_by_period)],
        label="Views of causes",
    )  # fmt: skip
    shown = (
        join(cause_periods.head(), cause_periods.matrix(scene, tallies))
        if is_by_period
        else _list(scene, found)
    )
    return panel(views, shown, label="Causes", css=stale(snapshot, "queue", "streams"))


def _list(scene: Scene, found: Mapping[str, Course] | None) -> Html:
    """The causes that have letters now, commonest first."""
    snapshot = scene.snapshot
    causes = _with_letters(snapshot)
    made = []
    for cause in records(listed(snapshot)):
        course = None if found is None else found.get(str(cause["fingerprint"]))
        where = href("dead-letters", cause=cause["fingerprint"])
        kind = str(cause["error_type"] or "Error")
        act = None
        if scene.may_act:
            act = button(
                "Retry …", "ask", mark=palette.ICONS["retry"], what="retry-group",
                cause=cause["fingerprint"], label=f"Retry the {cause['count']} letters of {kind[:60]}",
            )  # fmt: skip
        made.append(
            row(
                str(cause["fingerprint"]),
                (link(where, palette.count(cause["count"]), class_="strong",
                      aria_label=f"Show the {cause['count']} letters of {kind[:60]}"), "num"),
                (link(where, cause_periods.named(cause)), "wide"),
                (_standing_word(str(cause["state"])), "opt"),
                (clipped(cause["functions"], 80, kind="soft"), "opt"),
                (_deaths(course, is_past=scene.is_past), "trend opt"),
                (_odds(course, is_past=scene.is_past), "num"),
                (moment(cause["first_seen"], scene.now), "soft opt"),
                (moment(cause["last_seen"], scene.now), "soft opt"),
                (act, "act"),
            )
        )  # fmt: skip
    rest = len(causes) - len(made)
    return join(
        tag("p", "commonest first", f", and {rest} rarer ones" if rest > 0 else "", class_="note body"),
        table([("Letters", "num"), ("Cause", ""), ("Status", "opt"), ("Functions", "opt"),
               ("Deaths, 24 h", "trend opt"), ("Retry odds", "num"), ("First", "opt"),
               ("Last", "opt"), ("", "act")], made, caption="Causes, commonest first",
              empty="No cause has letters that wait for a decision."),
    )  # fmt: skip


def _standing_word(word: str) -> Html:
    tone = "failed" if word == "regressed" else "unknown"
    return tag("span", safe_text(word, 40), class_=f"badge c-{tone}")


def _deaths(course: Course | None, *, is_past: bool) -> Html:
    """Deaths hour by hour; what nobody counted is unknown, not 0."""
    if course is None or not course.deaths:
        why = "not stored for a moment of the past" if is_past else (
            "its deaths are not counted yet" if course is not None else "it is not read yet, or cannot be")  # fmt: skip
        return figure(palette.UNKNOWN, why=why)
    said = (
        f"Deaths of the last {len(course.deaths)} clock hours: {sum(course.deaths)}, at most "
        f"{max(course.deaths)} in one, {course.deaths[-1]} in the one that runs"
    )
    return tag("span", sparkline(course.deaths, said), title=said, class_="trend-line c-dead")


def _odds(course: Course | None, *, is_past: bool) -> Html:
    """The share of its retries that ended well; unknown where none has ended."""
    if course is None or not course.retries:
        why = "not stored for a moment of the past" if is_past else (
            "no retry of it has ended yet" if course is not None else "it is not read yet, or cannot be")  # fmt: skip
        return figure(palette.UNKNOWN, why=why)
    said = (
        f"{course.ended_well} of {course.retries} retries ended well "
        f"(95%: {course.low:.0%} to {course.high:.0%}), among the newest letters"
    )
    return tag("span", f"{course.odds:.0%}", tag("small", f" of {course.retries}"), class_="figure",
               title=said)  # fmt: skip


def _cause(scene: Scene, found: Explanation | None, tallies: cause_periods.Tallies | None) -> Html:
    """One cause, opened."""
    fingerprint = scene.address.get("cause")
    known_causes = scene.snapshot.causes
    rows = records(known_causes[known_causes["fingerprint"] == fingerprint])
    back = link(scene.address.but(cause="", page="").href, "All causes", class_="button plain")
    if not rows:
        nothing = "No open letter has this cause now."
        return panel(heading("Cause"), tag("p", nothing, " ", back, class_="empty"), label="Cause")
    cause = rows[0]
    acts = None
    if scene.may_act:
        data = {"cause": fingerprint}
        acts = tag(
            "span",
            button("Retry all …", "ask", kind="primary", mark=palette.ICONS["retry"],
                   what="retry-group", **data),
            button("Discard all …", "ask", what="discard-group", **data),
            button("Archive all …", "ask", what="archive-group", **data),
            class_="end",
        )  # fmt: skip
    return panel(
        tag("header", tag("h2", safe_text(cause["error_type"] or "Error", 80)),
            tag("span", back, acts, class_="end"), class_="head"),
        tag("p", safe_text(without_type(cause), 600), class_="body break"),
        _status(scene, found),
        facts([
            ("Open or being retried", palette.count(cause["count"])),
            ("Functions", safe_text(cause["functions"], 200)),
            ("First seen", moment(cause["first_seen"], scene.now)),
            ("Last seen", moment(cause["last_seen"], scene.now)),
            ("Fingerprint", tag("code", fingerprint)),
            *_standing(found),
        ]),
        cause_periods.of_cause(scene, tallies),
        label="Cause", css=stale(scene.snapshot, "queue", "streams"), data_key="cause",
    )  # fmt: skip


def _standing(found: Explanation | None) -> list[tuple[str, object]]:
    if found is None:
        return []
    return [
        ("Deaths ever", palette.count(found.cause.count)),
    ]


def _status(scene: Scene, found: Explanation | None) -> Html | None:
    """What a person decided about the cause, whose it is, and the decisions left to take."""
    if found is None:
        return None
    cause = found.cause
    owner = f"owned by {cause.owner}" if cause.owner else "nobody owns it"
    acts = [
        button(word, "cause-state", kind="quiet once", cause=cause.fingerprint, state=state)
        for state, word in (("known", "Mark known"), ("ignored", "Ignore"), ("resolved", "Mark resolved"))
        if state != cause.state
    ]  # fmt: skip
    acts.append(
        button("Owner and note …", "ask", kind="quiet", what="cause-note", cause=cause.fingerprint)
    )
    note = tag("p", tag("b", "Note: "), safe_text(cause.note, 2_000), class_="body break",
               data_key="note") if cause.note else None  # fmt: skip
    return join(
        note,
        tag("div", tag("span", str(cause.state), class_="badge c-unknown"),
            tag("span", safe_text(owner, 100), class_="soft"), acts if scene.may_act else None,
            class_="toolbar", data_key="status"),
    )  # fmt: skip


def _why(found: Explanation | None) -> Html | None:
    """What the letters of a cause have in common, how retries went, what changed before it began."""
    if found is None:
        return None
    shared = [
        row(
            f"{s['argument']}={s['value']}",
            (tag("code", safe_text(s["argument"], 80)), ""),
            (clipped(s["value"], 120, kind="mono"), "wide"),
            (f"{s['failed_share']:.0%}", "num"),
            (f"{s['ok_share']:.0%}", "num"),
        )
        for s in records(found.shared.head(6))
    ]
    odds = records(found.odds)
    tried = (
        f"{odds[0]['odds']:.0%} of {odds[0]['retries']} retries ended well "
        f"(95%: {odds[0]['low']:.0%} to {odds[0]['high']:.0%})."
        if odds and odds[0]["retries"] else "No retry of it has ended yet, so there are no odds."
    )  # fmt: skip
    nothing = found.shared_note or "No argument tells its failures from successes."
    note = (
        f"{found.failures} of its letters compared with {found.successes} sampled successes"
        if found.successes
        else ""
    )
    return panel(
        heading("Why it strikes", note),
        tag("p", tag("b", "Retry odds: "), tried, class_="body"),
        table([("Argument", ""), ("Value", ""), ("Of its failures", "num"), ("Of successes", "num")],
              shared, caption="Shared arguments", empty=nothing),
        changed(found.changes, "What changed in the hour before it began"),
        label="Why it strikes",
    )  # fmt: skip


def changed(changes: pd.DataFrame, title: str) -> Html | None:
    """What changed before a moment, under *title*; nothing when nothing is known to have."""
    made = [
        row(
            f"{c['at']}-{c['what']}",
            (safe_text(str(c["kind"]).capitalize(), 40), ""),
            (clipped(str(c["what"]).replace("_", " "), 160, kind="soft"), "wide"),
            (clipped(c["who"], 60, kind="soft"), "opt"),
            (f"{palette.duration(c['before_s'])} before", "num"),
        )
        for c in records(changes.head(5))
    ]
    if not made:
        return None
    columns = [("What", ""), ("Detail", ""), ("Who", "opt"), ("When", "num")]
    return join(heading(title, level=3), table(columns, made, caption=title, empty=""))


__all__ = ["causes", "changed", "listed", "opened"]
