"""The overview: what is running, waiting and broken now, and where to look first."""

from app import palette
from app.pages import cards
from app.pages.address import href
from app.pages.markup import (
    Html,
    button,
    clipped,
    figure,
    heading,
    icon,
    join,
    link,
    moment,
    panel,
    records,
    row,
    safe_text,
    table,
    tag,
)
from app.pages.scene import Page, Scene
from app.pages.summary import DEMO, firing, verdict
from app.palette import JOB_LOOK, VERDICT_LOOK, Verdict
from app.records import JobState, Outcome
from app.snapshot import Snapshot

#: rows of a table of the overview; the pages of their own show all
ROWS = 8


def _above(scene: Scene) -> Html:
    return join(
        tag("div", tag("h1", "Overview"), _actions(scene), class_="title"),
        _trouble(scene.snapshot, is_demo=scene.settings.demo),
        cards.cards(scene.snapshot, may_act=scene.may_act),
    )


def _actions(scene: Scene) -> Html | None:
    if not scene.may_act:
        return tag("span", "You may look, not act: ", scene.refusal, class_="note end")
    submit = button("Submit a job", "ask", mark=palette.ICONS["add"], kind="quiet", what="submit")
    return tag("span", submit, class_="end")


def _trouble(snapshot: Snapshot, *, is_demo: bool = False) -> Html | None:
    """The verdict's reasons, where the eye falls first; of a demo also that it fails on purpose."""
    state, reasons = verdict(snapshot, most=3)
    if state is not Verdict.DEGRADED or not reasons:
        return None
    to_alerts = (
        link("alerts", "Show the alerts", class_="button") if len(firing(snapshot)) else None
    )
    listed = [tag("p", reason) for reason in ([DEMO, *reasons] if is_demo else reasons)]
    return tag(
        "div",
        icon(VERDICT_LOOK[state].icon, 15),
        tag("div", listed),
        tag("span", to_alerts, class_="end") if to_alerts else None,
        class_="banner c-verdict-degraded",
        role="status",
        data_key="trouble",
    )


def _below(scene: Scene) -> Html:
    snapshot = scene.snapshot
    return join(
        tag("div", causes(snapshot), failures(snapshot), class_="columns"),
        tag("div", running(scene), events(snapshot), class_="columns"),
    )


def causes(snapshot: Snapshot) -> Html:
    """What jobs die of, commonest first."""
    listed = []
    open_causes = snapshot.causes[snapshot.causes["count"] > 0]
    for cause in records(open_causes.head(ROWS)):
        kind = str(cause["error_type"] or "Error")
        where = href("dead-letters", cause=cause["fingerprint"])
        said = tag(
            "span", tag("b", safe_text(kind, 60)),
            tag("span", " in ", safe_text(cause["functions"], 60), class_="narrow"), " ",
            safe_text(without_type(cause), 240), class_="clip", title=str(cause["error"])[:300],
        )  # fmt: skip
        listed.append(
            row(
                str(cause["fingerprint"]),
                (link(where, palette.count(cause["count"]), class_="strong",
                      aria_label=f"{cause['count']} letters of {kind[:60]}"), "num"),
                (link(where, said), "wide"),
                (clipped(cause["functions"], 60, kind="soft"), "opt"),
                (moment(cause["last_seen"], snapshot.taken_at), "soft"),
            )
        )  # fmt: skip
    nothing = "No dead letters. A job that uses up its attempts appears here, with its payload."
    shown = f"the commonest {ROWS} of {len(open_causes)}" if len(open_causes) > ROWS else ""
    return panel(
        heading("Why jobs die", "open dead letters by cause", shown),
        table([("Letters", "num"), ("Cause", ""), ("Function", "opt"), ("Last", "")], listed,
              caption="Causes of dead letters, commonest first",
              empty=known(snapshot, nothing)),
        label="Why jobs die", css=stale(snapshot, "queue", "streams"),
    )  # fmt: skip


def failures(snapshot: Snapshot) -> Html:
    """The newest runs that did not end well."""
    runs = snapshot.runs
    bad = runs[runs["outcome"].isin(["retry", "dead"])].iloc[::-1].head(ROWS)
    listed = []
    for number, run in enumerate(records(bad)):
        job_id, queue = str(run["job_id"]), str(run["queue"])
        look = palette.OUTCOME_LOOK[Outcome(str(run["outcome"]))]
        css = "dead" if run["outcome"] == "dead" else "retrying"
        mark = tag("span", icon(look.icon, 12), tag("span", look.word, class_="hidden"),
                   class_=f"state c-{css}", title=look.word)  # fmt: skip
        listed.append(
            row(
                f"{queue}/{job_id}/{run['attempt']}/{number if not job_id else ''}",
                (mark, "tick"),
                (link(href("job", queue=queue, id=job_id), clipped(run["function"], 60)), ""),
                (clipped(run["error"], 300, kind="soft"), "wide"),
                (moment(run["finished"], snapshot.taken_at), "soft"),
            )
        )
    return panel(
        heading("Newest failed runs", f"among the last {palette.count(len(runs))} runs"),
        table([("", "tick"), ("Function", ""), ("Error", ""), ("When", "")], listed,
              caption="Newest failed runs",
              empty=known(snapshot, "No run among them failed.")),
        label="Newest failed runs", css=stale(snapshot, "queue"),
    )  # fmt: skip


def running(scene: Scene) -> Html:
    """Running jobs, longest first."""
    snapshot = scene.snapshot
    jobs, total = snapshot.running.head(ROWS), len(snapshot.running)
    made = []
    for job in records(jobs):
        queue, job_id = str(job["queue"]), str(job["job_id"])
        made.append(
            row(
                f"{queue}/{job_id}",
                (link(href("job", queue=queue, id=job_id), clipped(job["function"], 80)), ""),
                (clipped(job_id, 160, kind="mono soft"), "id wide"),
                (clipped(queue, 128, kind="soft"), "opt"),
                (palette.count(job["attempt"]), "num opt"),
                (figure(palette.duration(job["running_s"]), why="its start is not known"), "num"),
            )
        )
    columns = [("Function", ""), ("Id", ""), ("Queue", "opt"), ("Attempt", "num opt"),
               ("Running", "num")]  # fmt: skip
    more = (
        link(href("jobs", state="running"), f"all {total}", class_="note") if total > ROWS else None
    )
    return panel(
        heading("Running jobs", "longest first" if total else "", more),
        table(columns, made, caption="Running jobs, longest first",
              empty=known(snapshot, "No job is running.")),
        label="Running jobs", css=stale(snapshot, "queue"),
    )  # fmt: skip


def events(snapshot: Snapshot) -> Html:
    """The newest handled events."""
    newest = snapshot.events.iloc[::-1].head(ROWS)
    made = []
    for event in records(newest):
        outcome = str(event["outcome"])
        fine = outcome in ("", "ok", "handled", "complete", "processed")
        look = JOB_LOOK[JobState.COMPLETE if fine else JobState.FAILED]
        said = tag("span", icon(look.icon, 12), clipped(outcome or "handled", 40),
                   class_=f"state c-{'complete' if fine else 'failed'}")  # fmt: skip
        made.append(
            row(
                str(event["id"]),
                (clipped(event["type"], 80), "wide"),
                (said, ""),
                (figure(palette.duration(event["ms"] / 1000), why="not told"), "num opt"),
                (moment(event["at"], snapshot.taken_at), "soft"),
            )
        )
    columns = [("Type", ""), ("Outcome", ""), ("Took", "num opt"), ("When", "")]
    return panel(
        heading("Newest events", link("streams", "all streams", class_="note")),
        table(columns, made, caption="Newest events",
              empty=known(snapshot, "No event has been handled yet.")),
        label="Newest events", css=stale(snapshot, "streams"),
    )  # fmt: skip


def without_type(cause: dict[str, object]) -> str:
    """An error's message without its type in front."""
    text, kind = str(cause["error"]), str(cause["error_type"])
    return text.removeprefix(f"{kind}: ") if kind else text


def stale(snapshot: Snapshot, *sources: str) -> str:
    """Class of a panel of what *sources* told: greyed while one of them is lost."""
    return "panel stale" if set(sources) & set(snapshot.problems) else "panel"


def known(snapshot: Snapshot, nothing: str) -> str:
    """What an empty list says: *nothing*, once something has been read."""
    return "Not known yet." if snapshot.number == 0 else nothing


PAGE = Page(
    above=_above, below=_below, charts=("throughput", "backlog", "wait", "run"), is_shared=True
)

__all__ = ["PAGE", "causes", "events", "failures", "known", "running", "stale", "without_type"]
