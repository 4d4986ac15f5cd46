"""What happens now: running jobs, worker processes, streams with their groups, newest events."""

from app import palette
from app.pages.markup import (
    Html,
    button,
    clipped,
    figure,
    heading,
    icon,
    moment,
    records,
    row,
    state,
    table,
    tag,
)
from app.palette import JOB_LOOK, WORKER_LOOK
from app.records import JobState
from app.snapshot import Snapshot

#: rows of a table of the overview; the pages of their own show all
ROWS = 10


def running(snapshot: Snapshot, *, may_act: bool) -> Html:
    """Running jobs, longest first."""
    jobs, total = snapshot.running.head(ROWS), len(snapshot.running)
    made = []
    for job in records(jobs):
        key = f"{job['queue']}/{job['job_id']}"
        act = button("Abort", "ask-abort", kind="plain", job=key,
                     label=f"Abort {str(job['function'])[:60]} {str(job['job_id'])[:60]}")  # fmt: skip
        cells: list[tuple[object, str]] = [
            (clipped(job["function"], 80), ""),
            (clipped(job["job_id"], 160, kind="mono soft"), "id wide"),
            (clipped(job["queue"], 128, kind="soft"), ""),
            (palette.count(job["attempt"]), "num"),
            (figure(palette.duration(job["running_s"]), why="its start is not known"), "num"),
        ]
        made.append(row(key, *cells, *([(act, "act")] if may_act else [])))
    columns = [("Function", ""), ("Id", ""), ("Queue", ""), ("Attempt", "num"), ("Running", "num")]
    return _panel(
        snapshot, "queue", "Running jobs", _first(total, "longest first"),
        table(columns + ([("", "")] if may_act else []), made, caption="Running jobs, longest first",
              empty=_known(snapshot, "No job is running.")),
        anchor="running",
    )  # fmt: skip


def workers(snapshot: Snapshot) -> Html:
    """Live processes."""
    now = snapshot.taken_at
    made = []
    for worker in records(snapshot.workers):
        look = WORKER_LOOK.get(str(worker["state"]), palette.UNKNOWN_LOOK)
        css = {"running": "complete", "draining": "queued", "degraded": "failed"}
        title = str(worker["trouble"])[:300]
        slots = f"{worker['busy']} / {worker['slots']}" if worker["slots"] else ""
        made.append(
            row(
                str(worker["id"]),
                (state(look, css.get(str(worker["state"]), "unknown"), title=title), ""),
                (clipped(f"{worker['host']}:{worker['pid']}", 120), "wide"),
                (clipped(worker["source"], 128, kind="soft"), ""),
                (slots, "num"),
                (figure(palette.size(worker["rss_bytes"] or None), why="not told"), "num"),
                (f"{worker['loop_lag_ms']:.0f} ms", "num soft"),
                (moment(worker["beat"], now), "soft"),
            )
        )
    columns = [("State", ""), ("Process", ""), ("Serves", ""), ("Busy", "num"), ("Memory", "num"),
               ("Loop lag", "num"), ("Heartbeat", "")]  # fmt: skip
    nothing = "No live worker. Start one: arqscope worker async-processing"
    return _panel(
        snapshot, "queue", "Workers", _plural(len(made), "process", "processes"),
        table(columns, made, caption="Worker processes", empty=_known(snapshot, nothing)),
        anchor="workers",
    )  # fmt: skip


def streams(snapshot: Snapshot) -> Html:
    """Streams and their groups: how far behind, in events and in seconds."""
    made = []
    of_stream = {s["stream"]: s for s in records(snapshot.streams)}
    for group in records(snapshot.groups):
        stream = of_stream.pop(group["stream"], {})
        about = "≈ " if group["lag_is_estimate"] else ""
        lag = palette.count(group["lag"])
        made.append(
            row(
                f"{group['stream']}/{group['group']}",
                (clipped(group["stream"], 128), ""),
                (clipped(group["group"], 128, kind="soft"), "wide"),
                (figure(palette.count(stream.get("length")), why="not known"), "num"),
                (figure(palette.rate(stream.get("per_s")), why="not known"), "num"),
                (figure(lag if lag == palette.UNKNOWN else about + lag, why="not known"), "num"),
                (figure(palette.duration(group["lag_s"]), why="not known"), "num"),
                (figure(palette.count(group["pending"]), why="not known"), "num"),
                (figure(palette.count(group["consumers"]), why="not known"), "num"),
            )
        )
    made += [
        row(name, (clipped(name, 128), ""), (tag("span", "no group reads it", class_="soft"), "wide"),
            (figure(palette.count(s["length"]), why="not known"), "num"), *[("", "")] * 5)
        for name, s in of_stream.items()
    ]  # fmt: skip
    columns = [("Stream", ""), ("Group", ""), ("Length", "num"), ("Events/s", "num"), ("Lag", "num"),
               ("Behind", "num"), ("Pending", "num"), ("Consumers", "num")]  # fmt: skip
    nothing = "No event stream yet. The first event published makes it."
    return _panel(
        snapshot, "streams", "Streams", "lag in events and in time",
        table(columns, made, caption="Streams and consumer groups", empty=_known(snapshot, nothing)),
        anchor="streams",
    )  # fmt: skip


def events(snapshot: Snapshot) -> Html:
    """The newest handled events."""
    newest = snapshot.events.iloc[::-1].head(ROWS)
    now = snapshot.taken_at
    made = []
    for event in records(newest):
        fine = str(event["outcome"]) in ("", "ok", "handled", "complete", "processed")
        mark = icon(JOB_LOOK[JobState.COMPLETE if fine else JobState.FAILED].icon, 12)
        css = "complete" if fine else "failed"
        outcome = tag(
            "span", mark, clipped(event["outcome"] or "handled", 40), class_=f"state c-{css}"
        )
        made.append(
            row(
                str(event["id"]),
                (clipped(event["type"], 80), "wide"),
                (outcome, ""),
                (clipped(event["handlers"], 120, kind="soft"), ""),
                (figure(palette.duration(event["ms"] / 1000), why="not told"), "num"),
                (clipped(event["id"], 60, kind="mono soft"), "id"),
                (moment(event["at"], now), "soft"),
            )
        )
    columns = [
        ("Type", ""),
        ("Outcome", ""),
        ("Handlers", ""),
        ("Took", "num"),
        ("Id", ""),
        ("When", ""),
    ]
    return _panel(
        snapshot, "streams", "Newest events", _first(len(snapshot.events), "newest first"),
        table(columns, made, caption="Newest events",
              empty=_known(snapshot, "No event has been handled yet.")),
        anchor="events",
    )  # fmt: skip


def _panel(
    snapshot: Snapshot, source: str, title: str, note: str, body: Html, *, anchor: str
) -> Html:
    css = "panel stale" if source in snapshot.problems else "panel"
    return tag("section", heading(title, note, anchor=anchor), body, class_=css, aria_label=title)


def _known(snapshot: Snapshot, nothing: str) -> str:
    return "Not known yet." if snapshot.number == 0 else nothing


def _first(total: int, order: str) -> str:
    return f"{order}, first {ROWS} of {total}" if total > ROWS else order if total else ""


def _plural(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""


__all__ = ["events", "running", "streams", "workers"]
