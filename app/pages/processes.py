"""Workers: how many processes, how busy, and each of them with what it runs now."""

import math
from typing import Any

import pandas as pd

from app import palette
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
    moment_ms,
    panel,
    records,
    row,
    state,
    table,
    tag,
)
from app.pages.overview import known, stale
from app.pages.scene import Page, Scene
from app.palette import WORKER_LOOK
from app.records import WorkerInfo
from app.sampling.record_rows import running_jobs

_TONE = {"running": "complete", "draining": "queued", "degraded": "failed"}


def _above(scene: Scene) -> Html:
    workers = scene.snapshot.workers
    queue = scene.address.get("queue")
    mine = workers[workers["source"] == queue] if queue else workers
    only = (
        tag("span", "of ", tag("b", queue), " ", link("workers", "show all"), class_="note")
        if queue
        else None
    )
    return join(
        tag("div", tag("h1", "Workers"), only, class_="title"),
        _figures(scene, mine),
        _table(scene, mine),
    )  # fmt: skip


def _figures(scene: Scene, workers: pd.DataFrame) -> Html:
    is_known = scene.snapshot.number > 0
    queue, queues = scene.address.get("queue"), scene.snapshot.queues
    served = queues[queues["queue"] == queue] if queue else queues  # as the strip counts them, now
    slots, busy = (float(served[name].sum(skipna=False)) for name in ("slots", "busy"))
    use = busy / slots if slots > 0 else math.nan
    memory = float(workers["rss_bytes"].sum())

    def cell(word: str, value: str, small: str = "", why: str = "not known yet") -> Html:
        shown = value if is_known else palette.UNKNOWN
        return tag("div", tag("dt", word), tag("dd", figure(shown, why=why), " ",
                   tag("small", small) if small and is_known else None), data_key=word)  # fmt: skip

    return tag(
        "dl",
        cell("Processes", palette.count(len(workers))),
        cell("Slots", palette.count(slots), "for jobs"),  # a stream's and the undertaker's are not
        cell("Busy", palette.count(busy)),
        cell(
            "Utilisation", f"{use:.0%}" if use == use else palette.UNKNOWN, why="there is no slot"
        ),
        cell(
            "Memory", palette.size(memory) if memory else palette.UNKNOWN, why="no process told it"
        ),
        class_="figures",
    )


def _table(scene: Scene, workers: pd.DataFrame) -> Html:
    columns = [("", "tick opt"), ("State", ""), ("Process", ""), ("Serves", "opt"), ("Version", "opt"),
               ("Since", "opt"), ("Busy", "num"), ("Memory", "num opt"), ("CPU", "num opt"),
               ("Loop lag", "num opt"), ("Heartbeat", "opt"), ("", "act")]  # fmt: skip
    if not scene.may_act:
        columns = columns[:-1]
    made: list[Html] = []
    for worker in records(workers):
        made += _rows(scene, worker, len(columns))
    nothing = tag(
        "span", "No live process. Start one: ", tag("code", "arqscope worker async-processing")
    )
    if scene.snapshot.number == 0:
        nothing = tag("span", known(scene.snapshot, ""))
    body = (
        table(columns, made, caption="Processes", empty="")
        if made
        else tag("p", nothing, class_="empty")
    )
    return panel(
        heading("Processes", "that beat within the last 20 s, as each told then"), body, label="Processes",
        css=stale(scene.snapshot, "queue"),
    )  # fmt: skip


def _rows(scene: Scene, worker: dict[str, Any], width: int) -> list[Html]:
    key, now = str(worker["id"]), scene.now
    word = str(worker["state"])
    look = WORKER_LOOK.get(word, palette.UNKNOWN_LOOK)
    jobs = _jobs(worker)
    is_worker = worker["role"] == "worker"
    lived = (now - worker["since"]).total_seconds() if not pd.isna(worker["since"]) else 0.0
    cpu = worker["cpu_s"] / lived if lived > 1 else math.nan
    more = f"more-{key}"
    twist = tag("button", icon(palette.ICONS["more"], 12), type="button", class_="twist", data_opens=more,
                aria_expanded="false", aria_label=f"Show what {key[:80]} runs") if jobs else None  # fmt: skip
    source = str(worker["source"])
    serves: object = link(href("queue", name=source), clipped(source, 128)) if is_worker else clipped(
        source or str(worker["role"]), 128, kind="soft")  # fmt: skip
    cells: list[tuple[object, str]] = [
        (twist, "tick opt"),
        (state(look, _TONE.get(word, "unknown"), title=str(worker["trouble"])[:300]), ""),
        (join(clipped(f"{worker['host']}:{worker['pid']}", 120),
              clipped(source or str(worker["role"]), 128, kind="narrow line soft")), "wide fair"),
        (serves, "opt"),
        (clipped(worker["version"], 40, kind="soft"), "opt"),
        (moment(worker["since"], now), "soft opt"),
        (f"{worker['busy']} / {worker['slots']}" if worker["slots"] else "", "num"),
        (figure(palette.size(worker["rss_bytes"] or None), why="not told"), "num opt"),
        (figure(f"{cpu:.0%}" if cpu == cpu else palette.UNKNOWN, why="it has just started",
                title="mean since it started, of one core"), "num opt"),
        (f"{worker['loop_lag_ms']:.0f} ms", "num soft opt"),
        (moment(worker["beat"], now), "soft opt"),
    ]  # fmt: skip
    if scene.may_act:
        cells.append((_controls(worker) if is_worker else None, "act"))
    made = [row(key, *cells)]
    if jobs:
        listed = [
            tag("p", link(href("job", queue=source, id=str(job.get("id", ""))),
                          clipped(str(job.get("function", "?")), 80)), " ",
                tag("code", str(job.get("id", ""))[:80], class_="soft"), " for ",
                moment_ms(float(job.get("started_ms") or 0), now))
            for job in jobs[:50]
        ]  # fmt: skip
        made.append(tag("tr", tag("td", listed, colspan=str(width)), class_="more", hidden=True,
                        data_own=True, data_key=more))  # fmt: skip
    return made


def _jobs(worker: dict[str, Any]) -> list[dict[str, Any]]:
    info = WorkerInfo(
        id="", role="", host="", pid=0, source="", version="", since_ms=0, beat_ms=0,
        jobs=str(worker["jobs"] or "[]"),
    )  # fmt: skip
    return running_jobs(info)


def _controls(worker: dict[str, Any]) -> Html:
    data = {"queue": worker["source"], "worker": worker["id"]}
    name = f"{worker['host']}:{worker['pid']}"
    quiet = (
        button(
            "Wake", "wake", kind="quiet once", label=f"Wake {name}: let it take jobs again", **data
        )
        if worker["state"] == "quiet"
        else button(
            "Quiet", "quiet", kind="quiet once", label=f"Quiet {name}: take no further job", **data
        )
    )
    stop = button("Stop …", "ask", kind="plain", what="stop", label=f"Stop {name}", **data)
    return tag("span", quiet, stop, class_="row-actions")


PAGE = Page(above=_above, is_shared=True)

__all__ = ["PAGE"]
