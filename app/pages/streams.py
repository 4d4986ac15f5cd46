"""Streams: their groups with lag in events and in seconds, and the entries themselves."""

import math
from typing import Final

import numpy as np
import pandas as pd

from app import palette
from app.pages import entry_browser
from app.pages.markup import (
    Html,
    clipped,
    figure,
    heading,
    join,
    panel,
    records,
    row,
    table,
    tag,
)
from app.pages.overview import events, known, stale
from app.pages.scene import Page, Scene
from app.pages.summary import since

#: s the rate of a stream is the mean of: what ended since the last sample alone is 0 or 1
MINUTE_S: Final = 60.0


def _above(scene: Scene) -> Html:
    return join(
        tag("div", tag("h1", "Streams"), entry_browser.controls(scene), class_="title"),
        groups(scene),
    )


def groups(scene: Scene) -> Html:
    """A row per consumer group, and per stream nobody reads."""
    snapshot, made = scene.snapshot, []
    of_stream = {s["stream"]: s for s in records(snapshot.streams)}
    minute = since(snapshot.stream_history, snapshot.taken_at, MINUTE_S)
    unread = dict(of_stream)
    for group in records(snapshot.groups):
        stream = of_stream.get(group["stream"], {})
        unread.pop(group["stream"], None)
        about = "≈ " if group["lag_is_estimate"] else ""
        lag = palette.count(group["lag"])
        made.append(
            row(
                f"{group['stream']}/{group['group']}",
                (clipped(group["stream"], 128), ""),
                (clipped(group["group"], 128, kind="soft"), "wide fair opt"),
                (figure(palette.count(stream.get("length")), why="not known"), "num opt"),
                (figure(palette.rate(_handled_per_s(minute, str(group["stream"]))), why="not known",
                        title="handled per second, mean of the last 60 s"), "num opt"),
                (figure(lag if lag == palette.UNKNOWN else about + lag,
                        why="Redis cannot tell it after entries were deleted"), "num"),
                (figure(palette.duration(group["lag_s"]), why="not known"), "num"),
                (figure(palette.count(group["pending"]), why="not known"), "num"),
                (figure(palette.count(group["consumers"]), why="not known"), "num opt"),
                (figure(palette.count(stream.get("dead_open")), why="not known"), "num opt"),
            )
        )  # fmt: skip
    made += [
        row(str(name), (clipped(name, 128), ""),
            (tag("span", "no group reads it", class_="soft"), "wide fair opt"),
            (figure(palette.count(s["length"]), why="not known"), "num opt"), *[("", "num")] * 6)
        for name, s in unread.items()
    ]  # fmt: skip
    columns = [("Stream", ""), ("Group", "opt"), ("Length", "num opt"), ("Events/s", "num opt"),
               ("Lag", "num"), ("Behind", "num"), ("Pending", "num"), ("Consumers", "num opt"),
               ("Dead", "num opt")]  # fmt: skip
    nothing = "No event stream yet. The first event published makes it."
    return panel(
        heading("Groups", "lag: events not yet delivered; pending: delivered, not yet acknowledged"),
        table(columns, made, caption="Streams and consumer groups", empty=known(snapshot, nothing)),
        label="Groups", css=stale(snapshot, "streams"),
    )  # fmt: skip


def _handled_per_s(minute: pd.DataFrame, stream: str) -> float:
    """The mean over the samples of *minute*, each for as long as it is of; NaN when none is known."""
    rows = minute[minute["stream"] == stream]
    rates = rows["processed_per_s"].to_numpy("float64")
    known = ~np.isnan(rates)
    if not known.any():
        return math.nan
    gaps = rows["at"].diff().dt.total_seconds()
    gaps = gaps.fillna(gaps.median()).fillna(1.0).clip(lower=1e-3).to_numpy("float64")
    return float(np.average(rates[known], weights=gaps[known]))


def _below(scene: Scene) -> Html:
    return join(entry_browser.browser(scene), events(scene.snapshot))


PAGE = Page(
    above=_above,
    below=_below,
    load=entry_browser.load,
    charts=("lag", "events"),
    tail_s=1.0,
    reads_past=True,
)

__all__ = ["PAGE", "groups"]
