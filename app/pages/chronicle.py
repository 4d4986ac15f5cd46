"""History: any metric over any stretch that is kept, what happened in it, and the way to any moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from app import palette
from app.analyses.deploys import told_once
from app.annals.past import ANNOTATION_COLUMNS
from app.charts import METRICS
from app.frames import empty_frame
from app.pages import stretch, time_tools, travel
from app.pages.address import Address
from app.pages.markup import (
    Html,
    clipped,
    heading,
    join,
    link,
    moment,
    panel,
    records,
    row,
    select,
    table,
    tag,
)
from app.pages.scene import Page, Reach, Scene
from app.pages.window import RANGES, Window, moment_text, window_of
from app.snapshot import Snapshot

USUAL: Final = "6h"
#: what is drawn where no single metric is asked for
TOGETHER: Final = ("throughput", "backlog", "wait", "run")
OF_STREAMS: Final = ("lag", "events")
#: marks listed, newest first
LISTED: Final = 50
#: what a stream's history has under another word; the rest it has not
_STREAM_WORDS: Final[Mapping[str, str]] = {
    "waiting": "Lag, events", "waiting_max": "Lag, greatest", "oldest_wait_s": "Lag, seconds",
    "complete": "Handled", "complete_per_s": "Handled per second", "dead": "Died",
    "dead_open": "Open dead letters", "held": "Length",
}  # fmt: skip
_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "deploy": ("Deploy", "deferred"),
    "pause_queue": ("Paused", "paused"),
    "resume_queue": ("Resumed", "complete"),
    "start_operation": ("Operation", "queued"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What happened in the window shown."""

    window: Window
    marks: pd.DataFrame


async def load(reach: Reach, address: Address) -> Found:
    """Read the annotations of the window."""
    now_ms = reach.snapshot.taken_at.timestamp() * 1000
    window = _window(address, now_ms)
    marks = await reach.recall.marks(window.start_ms, window.end_ms + window.step_s * 1000)
    return Found(window, marks)


def _window(address: Address, now_ms: float) -> Window:
    found = window_of(address, now_ms, then_ms=travel.then_ms(address), usual=USUAL)
    if found is None:  # pragma: no cover - USUAL is one of RANGES
        raise LookupError(USUAL)
    return found


def _charts(address: Address, snapshot: Snapshot) -> tuple[str, ...]:
    metric, name = address.get("metric"), address.get("name")
    if metric in METRICS:
        return (metric,)
    return OF_STREAMS if (snapshot.streams["stream"] == name).any() else TOGETHER


def _above(scene: Scene) -> Html:
    address = scene.address
    live_ms = scene.snapshot.taken_at.timestamp() * 1000
    title = tag("div", tag("h1", "History"), class_="title")
    bar = None if address.get("at") else travel.bar(address, live_ms)
    return join(title, bar, _choices(scene), _note(scene))


def _choices(scene: Scene) -> Html:
    address = scene.address
    streams = [str(s) for s in scene.snapshot.streams["stream"]]
    queues = [str(q) for q in scene.snapshot.queues["queue"]]
    name = address.get("name")
    of_stream = name in streams
    sources = [
        ("", "all queues"),
        *((q, q) for q in queues),
        *((s, f"{s} (stream)") for s in streams),
    ]
    if name and name not in dict(sources):
        sources.append((name, name))
    if of_stream:
        metrics = [
            ("", "lag and events"),
            *((m, _STREAM_WORDS[m]) for m in METRICS if m in _STREAM_WORDS),
        ]
    else:
        metrics = [("", "throughput, backlog, times"), *((m, METRICS[m].title) for m in METRICS)]
    form = tag(
        "form",
        select("name", sources, name, label="Queue or stream"),
        select("metric", metrics, address.get("metric"), label="Metric"),
        [tag("input", type="hidden", name=key, value=address.get(key))
         for key in ("range", "start", "end") if address.get(key)],
        data_go="history", class_="ranges",
    )  # fmt: skip
    names = _charts(address, scene.snapshot)
    return time_tools.tools(
        form,
        time_tools.ranges(address, tuple(RANGES), usual=USUAL, live=False),
        stretch.bundle(_stretch(scene), name if name in queues else ""),
        time_tools.by_itself(names, address),
    )


def _stretch(scene: Scene) -> stretch.Stretch:
    now_ms = scene.snapshot.taken_at.timestamp() * 1000
    window = _window(scene.address, now_ms)
    return stretch.Stretch(window.start_ms, window.end_ms)


def _note(scene: Scene) -> Html:
    """What one point is, and which stretch is shown."""
    window = _window(scene.address, scene.snapshot.taken_at.timestamp() * 1000)
    step = palette.span(window.step_s)
    start, end = (
        pd.Timestamp(int(ms), unit="ms", tz="UTC") for ms in (window.start_ms, window.end_ms)
    )
    same = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    custom = (
        link(scene.address.but(start="", end="").href, "back to a range", class_="note")
        if scene.address.get("start")
        else None
    )
    return tag(
        "p", f"{same} · one point is {step} · a step nobody saw is a gap · drag over a chart to zoom "
             "all of them, double-click to go back ", custom, class_="note", data_key="window",
    )  # fmt: skip


def _below(scene: Scene) -> Html:
    found: Found | None = scene.found
    if scene.trouble:
        return panel(
            heading("What happened"), tag("p", scene.trouble, class_="empty"), label="What happened"
        )
    marks = found.marks if found is not None else empty_frame(ANNOTATION_COLUMNS)
    name = scene.address.get("name")
    if name:
        marks = marks[marks["source"].isin(["", name])]
    marks = told_once(marks)
    made = [_row(scene, mark) for mark in records(marks.tail(LISTED).iloc[::-1])]
    nothing = "Reading …" if found is None else (
        "No deploy, pause or operation in this stretch. POST /deploys marks a deploy.")  # fmt: skip
    told = f"the newest {LISTED} of {len(marks)}" if len(marks) > LISTED else ""
    return panel(
        heading("What happened", "deploys, pauses and operations: the dashed lines in the charts", told),
        table([("What", ""), ("Where", "opt"), ("Detail", ""), ("Who", "opt"), ("When", ""), ("", "act")],
              made, caption="What happened, newest first", empty=nothing),
        label="What happened",
    )  # fmt: skip


def _row(scene: Scene, mark: dict[str, Any]) -> Html:
    kind = str(mark["kind"])
    word, tone = _KINDS.get(kind, (kind.replace("_", " "), "queued"))
    ms = mark["at"].timestamp() * 1000
    before = scene.address.but(at=moment_text(ms - 60_000)).href
    return row(
        f"{kind}-{ms:.0f}-{mark['source']}",
        (tag("span", tag("span", word), class_=f"state c-{tone}"), ""),
        (clipped(mark["source"] or "all queues", 128, kind="soft"), "opt"),
        (clipped(mark["text"], 300), "wide"),
        (clipped(mark["actor"] or palette.UNKNOWN, 80, kind="soft"), "opt"),
        (moment(mark["at"], scene.now), "soft"),
        (link(before, "Just before", data_now=True, class_="button",
              aria_label=f"Show everything as of just before: {word}"), "act"),
    )  # fmt: skip


PAGE = Page(
    above=_above,
    below=_below,
    load=load,
    charts=_charts,
    is_about_one=True,
    usual_range=USUAL,
    reload_s=10.0,
    reads_past=True,
)

__all__ = ["PAGE", "Found", "load"]
