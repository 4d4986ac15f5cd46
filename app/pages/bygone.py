"""Bygones: what pages whose lists are read live show of a stored moment, and which know the present only. Pure."""

from collections.abc import Callable
from typing import Any, Final

from app import palette
from app.pages.address import Address, href
from app.pages.jobs import WORDS, chosen_state
from app.pages.markup import (
    Html,
    clipped,
    figure,
    icon,
    join,
    link,
    moment,
    panel,
    records,
    row,
    select,
    table,
    tabs,
    tag,
)
from app.pages.scene import Scene
from app.palette import OUTCOME_LOOK
from app.records import Outcome

#: rows of a list; a moment holds at most 100 running jobs and 1,000 runs
ROWS: Final = 100


def jobs(scene: Scene) -> Html:
    """The page of jobs as of a moment: what ran, and what had ended by then."""
    address = scene.address
    queues = [str(name) for name in scene.snapshot.queues["queue"]]
    form = tag(
        "form",
        tag("input", type="hidden", name="state", value=address.get("state")),
        select("queue", [("", "All queues"), *((q, q) for q in queues)], address.get("queue"),
               label="Queue"),
        data_go="jobs",
    )  # fmt: skip
    return join(
        tag("div", tag("h1", "Jobs"), class_="title"),
        job_panel(scene, address.get("queue"), form),
    )


def job_panel(scene: Scene, queue: str, *tools: object) -> Html:
    """Jobs of a *queue* (empty: of all) by the states that are stored: running and ended."""
    wanted = chosen_state(scene.address)
    if wanted in ("waiting", "deferred"):
        wanted = "complete"
    entries: list[tuple[str, str, object, bool]] = [
        (scene.address.but(state=name).href, WORDS[name], None, name == wanted)
        for name in ("running", "complete", "failed")
    ]
    body = _running(scene, queue) if wanted == "running" else _ended(scene, queue, wanted)
    said = tag("span", "waiting and deferred jobs are stored as counts only", class_="end")
    return panel(
        tabs(entries, label="States"),
        tag("div", tools, said, class_="toolbar", data_key="tools"),
        body,
        label="Jobs",
    )


def _running(scene: Scene, queue: str) -> Html:
    found = scene.snapshot.running
    if queue:
        found = found[found["queue"] == queue]
    made = [
        row(
            f"{job['queue']}/{job['job_id']}",
            (clipped(job["function"], 80), ""),
            (clipped(job["job_id"], 160, kind="mono soft"), "wide"),
            (clipped(job["queue"], 128, kind="soft"), "opt"),
            (figure(palette.duration(job["running_s"]), why="its start is not known"), "num"),
        )
        for job in records(found.head(ROWS))
    ]
    return table([("Function", ""), ("Id", ""), ("Queue", "opt"), ("Running", "num")], made,
                 caption="Jobs that were running", empty=_nothing(scene, "No job was running."))  # fmt: skip


def _ended(scene: Scene, queue: str, wanted: str) -> Html:
    runs = scene.snapshot.runs
    good = runs["outcome"] == "complete"
    runs = runs[good if wanted == "complete" else ~good]
    if queue:
        runs = runs[runs["queue"] == queue]
    made = [
        _run(scene, number, run) for number, run in enumerate(records(runs.tail(ROWS).iloc[::-1]))
    ]
    columns = [("", "tick"), ("Function", ""), ("Id", "opt"), ("Queue", "opt"), ("Error", ""),
               ("Took", "num opt"), ("Ended", "")]  # fmt: skip
    return table(columns, made, caption="Runs that had ended",
                 empty=_nothing(scene, "No such run before it is remembered."))  # fmt: skip


def _run(scene: Scene, number: int, run: dict[str, Any]) -> Html:
    outcome = str(run["outcome"])
    look = OUTCOME_LOOK[Outcome(outcome)]
    css = {"dead": "dead", "retry": "retrying", "complete": "complete"}.get(outcome, "unknown")
    mark = tag("span", icon(look.icon, 12), tag("span", look.word, class_="hidden"),
               class_=f"state c-{css}", title=look.word)  # fmt: skip
    return row(
        f"{run['queue']}/{run['job_id']}/{run['attempt']}/{'' if run['job_id'] else number}",
        (mark, "tick"),
        (link(href("job", queue=run["queue"], id=run["job_id"]), clipped(run["function"], 80)), ""),
        (clipped(run["job_id"], 160, kind="mono soft"), "id opt"),
        (clipped(run["queue"], 128, kind="soft"), "opt"),
        (clipped(run["error"], 300, kind="soft") if run["error"] else "", "wide"),
        (figure(palette.duration(run["run_s"]), why="not told"), "num opt"),
        (moment(run["finished"], scene.now), "soft"),
    )


def _nothing(scene: Scene, said: str) -> str:
    return "Not known yet." if scene.snapshot.number == 0 else said


def present_only(what: str) -> Callable[[Scene], Html]:
    """A page that knows the present only, and says so."""

    def above(scene: Scene) -> Html:
        address: Address = scene.address
        now = link(address.but(at="").href, "See it as it is now", data_now=True, class_="button")
        return join(
            tag("div", tag("h1", address.place.title), class_="title"),
            panel(
                tag("p", f"{what} Counts, workers, causes and charts of then are on the other pages.",
                    class_="empty"),
                tag("div", now, class_="body"),
                label=address.place.title,
            ),
        )  # fmt: skip

    return above


__all__ = ["job_panel", "jobs", "present_only"]
