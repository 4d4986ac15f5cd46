"""A card per queue: where its jobs are, how it moves, who serves it, and pause."""

from typing import Any

import numpy as np

from app import palette
from app.pages.address import href
from app.pages.made import once
from app.pages.markup import Html, button, figure, icon, link, records, sparkline, tag
from app.pages.summary import is_idle, lost_queues, minute_of, since
from app.palette import JOB_LOOK
from app.records import JobState
from app.snapshot import Snapshot

#: states of a card's bar, and the column of ``queues`` that counts them
BAR = (
    (JobState.RUNNING, "running"),
    (JobState.QUEUED, "waiting"),
    (JobState.DEFERRED, "deferred"),
    (JobState.DEAD, "dead_open"),
)
#: s a card's line shows, in so many points
SPARK_S, SPARK_POINTS = 600, 60


def cards(snapshot: Snapshot, *, may_act: bool) -> Html:
    """All queues, in the snapshot's order."""
    if snapshot.queues.empty:
        return tag("p", "No queue is known: there is no sample to show.", class_="empty")
    rows = records(snapshot.queues)
    made = [card(snapshot, row, number, may_act=may_act) for number, row in enumerate(rows)]
    css = "cards stale" if "queue" in snapshot.problems else "cards"
    return tag("section", made, class_=css, aria_label="Queues")


def card(snapshot: Snapshot, row: dict[str, Any], number: int, *, may_act: bool) -> Html:
    """One queue; its swatch has the colour of its line in the charts."""
    name = str(row["queue"])
    return tag(
        "article",
        tag(
            "div",
            tag("i", class_="swatch", style=f"--tone:var(--s-{number % len(palette.SERIES)})"),
            tag("h2", link(href("queue", name=name), name), title=name),
            _badges(row),
            tag("span", _control(name, bool(row["paused"])) if may_act else None, class_="end"),
            class_="top",
        ),
        _bar(row),
        tag("dl", [_count(name, state, row[column]) for state, column in BAR], class_="counts"),
        _facts(snapshot, row),
        activity_line(snapshot, name, number),
        class_="card stale" if name in lost_queues(snapshot) else "card",
        data_key=name,
    )


def _badges(row: dict[str, Any]) -> list[Html]:
    said = []
    if row["paused"]:
        look = palette.PAUSED_LOOK
        said.append(tag("span", icon(look.icon, 11), look.word, class_="badge c-paused",
                        title="Workers take no further job of this queue; stock arq workers "
                              "ignore this"))  # fmt: skip
    if row["workers"] == 0:
        tone = "failed" if is_idle(row["waiting"], row["workers"]) else "unknown"
        said.append(tag("span", icon(palette.ICONS["warn"], 11), "no worker", class_=f"badge c-{tone}",
                        title="Nothing consumes this queue. Check that a worker runs and points at "
                              f"this Redis: arqscope worker {row['queue']}"))  # fmt: skip
    return said


def _control(name: str, paused: bool) -> Html:
    if paused:
        return button("Resume", "resume", mark=palette.ICONS["resume"], kind="quiet once",
                      queue=name, label=f"Resume {name}")  # fmt: skip
    return button("Pause", "pause", mark=palette.ICONS["pause"], kind="plain once", queue=name,
                  label=f"Pause {name}")  # fmt: skip


def _bar(row: dict[str, Any]) -> Html:
    known = [(state, float(row[column])) for state, column in BAR]
    parts = [(state, value) for state, value in known if value > 0]
    said = ", ".join(f"{palette.count(v)} {JOB_LOOK[s].word}" for s, v in known)
    return tag(
        "div",
        [tag("i", class_=f"c-{state.value}", style=f"flex:{value:.0f} 1 0",
             title=f"{palette.count(value)} {JOB_LOOK[state].word}", data_key=state.value)
         for state, value in parts],
        class_="bar", role="img", aria_label=said,
    )  # fmt: skip


def _count(queue: str, state: JobState, value: float) -> Html:
    look = JOB_LOOK[state]
    number = figure(palette.count(value), why=f"{look.word} is not known: Redis did not answer")
    words = {JobState.QUEUED: "waiting", JobState.RUNNING: "running", JobState.DEFERRED: "deferred"}
    where = (
        href("jobs", queue=queue, state=words[state])
        if state in words else href("dead-letters", source=queue)
    )  # fmt: skip
    return tag(
        "div",
        tag("dt", icon(look.icon, 11), look.word, class_=f"c-{state.value}"),
        tag("dd", link(where, number, aria_label=f"{palette.count(value)} {look.word} in {queue}")),
        data_key=state.value,
    )


def activity_line(snapshot: Snapshot, queue: str, row_number: int) -> Html | None:
    """Done per second of the last ten minutes, as a line; none where nothing was sampled.

    A server that has just begun keeps its room, or the page would jump with the second sample.
    """
    means = once(snapshot, ("activity",), lambda: _activity(snapshot)).get(queue)
    known = np.zeros(1, "bool") if means is None else ~np.isnan(means)
    if means is None or not (known[1:] & known[:-1]).any():
        # points apart, as stored minutes are, draw nothing
        return tag("div", class_="spark-box") if snapshot.number else None
    tone = f"--tone:var(--s-{row_number % len(palette.SERIES)})"
    line = sparkline(means, f"Done per second in {queue}, last 10 minutes")
    return tag("div", line, style=tone, title="done per second, last 10 min", class_="spark-box")


def _activity(snapshot: Snapshot) -> dict[str, list[float]]:
    """Queue → means of its samples, a step of the line each; a step without one is NaN."""
    rows = since(snapshot.history, snapshot.taken_at, SPARK_S)
    values = rows["complete_per_s"].to_numpy("float64")
    known = ~np.isnan(values)
    ages = (snapshot.taken_at - rows["at"]).dt.total_seconds().to_numpy()[known]
    places = SPARK_POINTS - 1 - (ages // (SPARK_S / SPARK_POINTS)).astype(int)
    places = np.clip(places, 0, SPARK_POINTS - 1)
    names, codes = np.unique(rows["queue"].to_numpy(object)[known], return_inverse=True)
    cells, size = codes * SPARK_POINTS + places, len(names) * SPARK_POINTS
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(cells, values[known], size) / np.bincount(cells, minlength=size)
    shaped = means.reshape(len(names), SPARK_POINTS)
    return {str(name): shaped[n].tolist() for n, name in enumerate(names)}


def _facts(snapshot: Snapshot, row: dict[str, Any]) -> Html:
    minute = minute_of(snapshot, str(row["queue"]))
    about = "≈ " if minute.is_estimate and minute.complete == minute.complete else ""
    shown = (
        palette.rate(minute.complete) if minute.complete < 10 else palette.count(minute.complete)
    )
    empty = row["waiting"] == 0
    oldest = "none waits" if empty else palette.duration(row["oldest_wait_s"])
    slots = f"{palette.count(row['busy'])} / {palette.count(row['slots'])}"
    if palette.is_unknown(row["workers"]):
        slots = palette.UNKNOWN
    elif row["workers"] == 0:
        slots = "no worker"
    return tag(
        "dl",
        _fact("oldest waiting", figure(oldest, why="not known")),
        _fact("done/min", figure(about + shown, title="mean of the samples of the last 60 s")),
        _fact(
            "slots busy",
            figure(
                slots,
                why="no worker has told how many slots it has",
                title=f"{palette.count(row['workers'])} worker processes",
            ),
        ),
        class_="facts",
    )


def _fact(word: str, value: Html) -> Html:
    return tag("div", tag("dt", word), tag("dd", value), data_key=word)


__all__ = ["BAR", "card", "cards"]
