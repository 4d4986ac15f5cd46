"""One queue: its numbers, charts, jobs by state, and its controls."""

from typing import Any, Final

from app import palette
from app.pages import bygone, jobs, outlook, time_tools
from app.pages.address import Address, href
from app.pages.jobs import Found, chosen_state
from app.pages.markup import Html, button, figure, heading, icon, join, link, panel, records, tag
from app.pages.scene import Page, Reach, Scene
from app.pages.summary import is_idle, minute_of
from app.palette import PAUSED_LOOK

CHARTS: Final = ("throughput", "backlog", "wait", "run")
#: ranges offered beside the live one
RANGES_SHOWN: Final = ("60m", "24h", "7d", "90d")


def _name(address: Address, scene: Scene) -> str:
    return address.get("name") or scene.settings.queue_names[0]


async def load(reach: Reach, address: Address) -> Found:
    """The jobs of the tab shown."""
    queue = address.get("name") or reach.settings.queue_names[0]
    query = {"queue": queue, "state": chosen_state(address), "cursor": address.get("cursor")}
    return await jobs.load(reach, Address("jobs", {k: v for k, v in query.items() if v}))


def _above(scene: Scene) -> Html:
    name = _name(scene.address, scene)
    rows = [r for r in records(scene.snapshot.queues) if r["queue"] == name]
    crumb = tag("span", link("queues", "Queues"), " / ", class_="crumb")
    if not rows:
        said = "Not known yet." if not scene.snapshot.number else f"There is no queue {name}."
        return join(tag("div", crumb, tag("h1", name), class_="title"),
                    panel(tag("p", said, class_="empty"), label="Queue"))  # fmt: skip
    queue = rows[0]
    paused = tag("span", icon(PAUSED_LOOK.icon, 11), "paused", class_="badge c-paused") if (
        queue["paused"]) else None  # fmt: skip
    return join(
        tag("div", crumb, tag("h1", name), paused, tag("span", _controls(scene, queue), class_="end"),
            class_="title"),
        _warning(queue),
        _figures(scene, queue),
        outlook.outlook(scene, queue),
        time_tools.tools(
            time_tools.ranges(scene.address, RANGES_SHOWN, live=not scene.is_past),
            time_tools.by_itself(CHARTS, scene.address),
        ),
    )  # fmt: skip


def _controls(scene: Scene, queue: dict[str, Any]) -> list[Html]:
    if not scene.may_act:
        return []
    name = str(queue["queue"])
    pause = (
        button("Resume", "resume", mark=palette.ICONS["resume"], kind="primary once", queue=name)
        if queue["paused"]
        else button("Pause", "pause", mark=palette.ICONS["pause"], kind="quiet once", queue=name)
    )
    return [
        button("Submit a job", "ask", mark=palette.ICONS["add"], what="submit", queue=name),
        pause,
    ]


def _warning(queue: dict[str, Any]) -> Html | None:
    if not is_idle(queue["waiting"], queue["workers"]):
        return None
    name = str(queue["queue"])
    return tag(
        "div", icon(palette.ICONS["warn"], 15),
        tag("div", tag("p", tag("b", "Nothing is consuming this queue.")),
            tag("p", "Check that a worker runs and points at this Redis: ",
                tag("code", f"arqscope worker {name}"))),
        class_="banner c-failed", role="status", data_key="idle",
    )  # fmt: skip


def _figures(scene: Scene, queue: dict[str, Any]) -> Html:
    name = str(queue["queue"])
    minute = minute_of(scene.snapshot, name)
    about = "≈ " if minute.is_estimate and minute.complete == minute.complete else ""
    oldest = palette.duration(queue["oldest_wait_s"]) if queue["waiting"] else "none waits"

    def cell(word: str, value: object, small: str = "") -> Html:
        return tag("div", tag("dt", word), tag("dd", value, " ", tag("small", small) if small else None),
                   data_key=word)  # fmt: skip

    def counted(column: str) -> Html:
        return figure(palette.count(queue[column]), why="not known: Redis did not answer")

    return tag(
        "dl",
        cell("Oldest waiting", figure(oldest, why="not known")),
        cell("Done/min", figure(about + palette.rate(minute.complete), why="not sampled yet")),
        cell("Failed/min", figure(about + palette.rate(minute.failed), why="not sampled yet")),
        cell("Slots busy", counted("busy"), f"of {palette.count(queue['slots'])}"),
        cell("Workers", link(href("workers", queue=name), counted("workers"))),
        cell("Open dead letters", link(href("dead-letters", source=name), counted("dead_open"))),
        cell("Completed", counted("complete"), "since ever"),
        class_="figures",
    )  # fmt: skip


def _below(scene: Scene) -> Html:
    name = _name(scene.address, scene)
    if scene.is_past:
        return bygone.job_panel(scene, name)
    found: Found | None = scene.found
    tools = jobs.selection_bar(scene) if scene.chosen else tag(
        "div", link(href("jobs", queue=name, state=chosen_state(scene.address)), "Filter and search",
                    class_="button"), jobs.paging(scene, found), class_="toolbar", data_key="tools",
    )  # fmt: skip
    return join(
        panel(
            jobs.state_tabs(scene, name, "queue"), tools, jobs.listing(scene, found), label="Jobs"
        ),
        _settings(name) if scene.may_act else None,
    )


def _settings(name: str) -> Html:
    cleaning = [("completed", "Completed"), ("failed", "Failed"), ("waiting", "Waiting"),
                ("delayed", "Deferred")]  # fmt: skip
    return panel(
        heading("Controls", "take effect at run time"),
        tag(
            "form",
            tag("label", tag("span", "Slots per worker (empty: what each worker was started with)"),
                tag("input", name="value", inputmode="numeric", placeholder="as started",
                    style="max-width:160px")),
            tag("div", tag("button", "Set slots", type="submit", class_="button once"), class_="foot"),
            class_="form", data_intent="concurrency", data_queue=name,
        ),
        tag("div", tag("span", "Clean out jobs by state: ", class_="soft"),
            [button(f"{word} …", "ask", what="clean", queue=name, status=status)
             for status, word in cleaning], class_="toolbar"),
        label="Controls",
    )  # fmt: skip


PAGE = Page(
    above=_above,
    below=_below,
    load=load,
    charts=CHARTS,
    is_about_one=True,
    has_forecast=True,
    reload_s=2.0,
    title=lambda address: address.get("name") or "Queue",
    keys=jobs.keys_of,
)

__all__ = ["PAGE", "load"]
