"""The summary strip on every page, and the banners above it."""

import pandas as pd

from app import palette
from app.pages.address import href
from app.pages.markup import Html, figure, icon, link, tag
from app.pages.summary import Summary, lost_queues, source_words, summarise
from app.palette import JOB_LOOK
from app.records import JobState
from app.settings import Settings
from app.snapshot import Snapshot


def strip(snapshot: Snapshot) -> Html:
    """Waiting · Running · Deferred · Done/min · Failed/min · Dead · Lag."""
    now = summarise(snapshot)
    is_old = snapshot.problems.get("queue") or lost_queues(snapshot)
    stale = "strip stale" if is_old else "strip"
    return tag("nav", _cells(now), class_=stale, aria_label="Summary")


def _cells(now: Summary) -> list[Html]:
    minute = now.minute
    about = "≈ " if minute.is_estimate else ""
    window = (
        f"of {palette.whole_duration(round(minute.spans_s))} so far"
        if minute.is_estimate and minute.spans_s
        else "last 60 s"
    )
    lag_about = "≈ " if now.lag_is_estimate else ""
    oldest = palette.duration(now.oldest_wait_s)
    waits = f"oldest {oldest}" if now.waiting > 0 else "none waits" if now.waiting == 0 else ""
    slots = f"{palette.count(now.busy)} of {palette.count(now.slots)} slots busy"
    retrying = f"{palette.count(now.dead_retrying)} retrying" if now.dead_retrying > 0 else ""
    behind = palette.duration(now.lag_s)
    queued, running = JobState.QUEUED, JobState.RUNNING
    return [
        _cell("Waiting", palette.count(now.waiting), waits, queued,
              href("jobs", state="waiting")),
        _cell("Running", palette.count(now.running), slots, running,
              href("jobs", state="running")),
        _cell("Deferred", palette.count(now.deferred), "due later", JobState.DEFERRED,
              href("jobs", state="deferred")),
        _cell("Done/min", _about(about, minute.complete), window, JobState.COMPLETE,
              href("jobs", state="complete")),
        _cell("Failed/min", _about(about, minute.failed), window, JobState.RETRYING,
              href("jobs", state="failed"),
              alarm=minute.failed > 0),
        _cell("Dead", palette.count(now.dead), retrying or "open letters", JobState.DEAD,
              "dead-letters",
              alarm=now.dead > 0),
        _cell("Lag", lag_about + palette.count(now.lag) if now.lag == now.lag else palette.UNKNOWN,
              f"{behind} behind" if now.lag > 0 else "events", None, "streams"),
    ]  # fmt: skip


def _about(sign: str, value: float) -> str:
    shown = palette.rate(value) if value < 10 else palette.count(value)
    return shown if shown == palette.UNKNOWN else sign + shown


def _cell(
    label: str, value: str, sub: str, state: JobState | None, target: str, *, alarm: bool = False
) -> Html:
    mark = icon(JOB_LOOK[state].icon, 12) if state else icon(palette.ICONS["stream"], 12)
    css = f"c-{state.value}" if state else "c-unknown"
    return link(
        target,
        tag("span", tag("span", mark, class_="dot"), label, class_=f"label {css}"),
        tag("div", figure(value, why="not known: no answer from Redis yet, or not anymore"),
            class_=f"value {css}" + (" alarm" if alarm else "")),
        tag("div", sub, class_="sub"),
        data_key=label,
    )  # fmt: skip


def banners(snapshot: Snapshot, settings: Settings, *, is_open: bool = False) -> list[Html]:
    """What the reader must know before any number: a lost Redis, an open door."""
    said: list[Html] = []
    for source, text in snapshot.problems.items():
        said.append(
            _banner(
                "failed",
                reconnecting(snapshot, source),
                tag("code", text),
                "Its numbers are the last known ones, greyed. The page goes on by itself when Redis "
                "answers.",
                key=f"problem-{source}",
            )
        )
    if settings.read_only:
        said.append(_banner("paused", "Read-only: everything is shown, every action is refused.",
                            key="read-only"))  # fmt: skip
    if is_open:
        said.append(
            _banner(
                "paused",
                "No API_KEY is set: everyone on this machine may look and act here; nobody else can "
                "reach it.",
                key="open",
            )
        )
    return said


def reconnecting(snapshot: Snapshot, source: str) -> str:
    """That *source* is lost, and since when."""
    since = snapshot.stale_since.get(source)
    known = since is not None and not pd.isna(since)
    last = f"last answer {palette.age(since, snapshot.taken_at)}" if known else "no answer yet"
    return f"Reconnecting to the {source_words(source)} · {last}"


def _banner(tone: str, title: str, *more: object, key: str) -> Html:
    mark = icon(palette.ICONS["warn"], 15)
    body = tag("div", tag("p", tag("b", title) if more else title), [tag("p", m) for m in more])
    return tag("div", mark, body, class_=f"banner c-{tone}", role="status", data_key=key)
