"""The head and the foot of every page: name, environment, verdict, controls; what the page costs."""

from typing import Final

import pandas as pd

from app import palette
from app.pages import markup
from app.pages.address import HOME
from app.pages.markup import Html, icon, link, tag
from app.pages.summary import DEMO, firing, verdict
from app.palette import Look
from app.settings import Settings
from app.snapshot import Snapshot

#: s between two refreshes a viewer may choose; 0 is off
REFRESHES: Final = (1, 2, 5, 15, 30, 60, 0)
DEFAULT_S: Final = 2


def head(snapshot: Snapshot, settings: Settings, refresh_s: int) -> Html:
    """Name, environment, the verdict that opens to its reasons; refresh, theme and help."""
    options = [
        tag("option", f"every {s} s" if s else "off", value=str(s), selected=s == refresh_s)
        for s in REFRESHES
    ]
    production = settings.environment.lower().startswith("prod")
    tone = "failed" if production else "unknown"
    return tag(
        "div",
        tag("button", icon(palette.ICONS["menu"], 16), type="button", class_="square menu",
            data_menu=True, aria_label="Show the pages"),
        link(HOME, icon(palette.ICONS["mark"], 18), "arqscope", class_="brand"),
        tag("span", settings.environment, class_=f"badge env c-{tone}"),
        health(snapshot, is_demo=settings.demo),
        tag(
            "div",
            tag("select", options, data_intent="refresh", aria_label="Refresh the page"),
            tag("button", icon(palette.ICONS["theme"], 16), type="button", class_="square",
                data_intent="turn-theme", aria_label="Light or dark", title="Light or dark"),
            tag("button", icon(palette.ICONS["help"], 16), type="button", class_="square",
                data_intent="help", aria_label="Help and keyboard", title="Help and keyboard  ?"),
            class_="end",
        ),
        class_="bar-top",
    )  # fmt: skip


def health(snapshot: Snapshot, *, is_demo: bool = False) -> Html:
    """The verdict in one word; opened, its reasons."""
    state, reasons = verdict(snapshot)
    look: Look = palette.VERDICT_LOOK[state]
    well = "Every Redis answers, every queue with waiting jobs has a worker, nothing is late."
    fires = len(firing(snapshot))
    to_alerts = link("alerts", "Show the alerts that fire") if fires else None
    if fires and not reasons:
        words = "alert fires, but it is" if fires == 1 else "alerts fire, but they are"
        well += f" {fires} {words} silenced or only a remark."
    listed = [tag("li", reason) for reason in reasons] or [tag("li", well)]
    badge = tag("summary", icon(look.icon, 13), look.word,
                class_=f"badge c-verdict-{state.name.lower()}",
                aria_label=f"Health: {look.word}. Show reasons")  # fmt: skip
    return tag(
        "details",
        badge,
        tag(
            "ul",
            tag("li", DEMO, class_="soft") if is_demo and reasons else None,
            listed,
            tag("li", to_alerts) if to_alerts else None,
            class_="reasons",
        ),
        class_="pop",
    )


def foot(
    snapshot: Snapshot,
    settings: Settings,
    *,
    is_past: bool = False,
    then: pd.Timestamp | None = None,
    viewers: int | None = None,
) -> Html:
    """What the dashboard itself costs, and how old the page is; *then*: the moment its records reach to.

    *viewers*: page sessions of this process; None: it is no server.
    """
    if is_past:
        stored = f"Stored at {snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC." if snapshot.number else (
            "No stored moment is shown.")  # fmt: skip
        if then is None and not snapshot.number:
            return tag("footer", stored, class_="foot-line")
        as_of = (
            "then"
            if then is None
            else f"{then:%Y-%m-%d %H:%M:%S} UTC, up to which records are read"
        )
        ms = (then if then is not None else snapshot.taken_at).timestamp() * 1000
        return tag(
            "footer",
            tag("span", f"{stored} Ages are as of {as_of}.", data_then=f"{ms:.0f}"),
            class_="foot-line",
        )  # fmt: skip
    if snapshot.number == 0:
        return tag("footer", "Waiting for the first sample …", class_="foot-line")
    interval = palette.plain_duration(settings.sample_interval_s)
    now = snapshot.taken_at
    return tag(
        "footer",
        tag("span", "Sampled ", markup.moment(now, now), f", every {interval}",
            data_now=f"{now.timestamp() * 1000:.0f}"),
        *_cost(snapshot, viewers),
        class_="foot-line",
    )  # fmt: skip


def _cost(snapshot: Snapshot, viewers: int | None) -> list[Html | None]:
    """What sampling costs Redis and this process, each with what it is of."""
    per_s = snapshot.cost_commands / snapshot.interval_s if snapshot.interval_s else 0.0
    kept = (snapshot.history, snapshot.stream_history)
    held = sum(int(frame.memory_usage(index=False).sum()) for frame in kept)
    here = None
    if viewers is not None:
        words = "viewer" if viewers == 1 else "viewers"
        here = tag("span", f"{viewers:,} {words}",
                   title="page sessions of this server process; more of them send Redis no more commands")  # fmt: skip
    return [
        tag("span", f"{palette.count(per_s)} Redis commands/s",
            title=f"{snapshot.cost_commands} in the last sample, however many look"),
        tag("span", f"p95 {snapshot.cost_p95_ms:.0f} ms",
            title="from asking every Redis to having its numbers, 95th percentile of the last minute's samples"),
        here,
        tag("span", f"history {palette.size(held)}",
            title=f"memory of the last hour: {sum(map(len, kept)):,} rows, in this process"),
    ]  # fmt: skip


__all__ = ["DEFAULT_S", "REFRESHES", "foot", "head", "health"]
