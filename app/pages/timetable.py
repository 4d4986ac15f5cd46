"""Schedules: what workers run by themselves, when next, and how the last tick ended."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import RedisError

from app import keys, palette
from app.errors import BadRecord
from app.pages.address import Address, href
from app.pages.markup import (
    Html,
    button,
    clipped,
    figure,
    heading,
    icon,
    join,
    link,
    moment_ms,
    panel,
    records,
    row,
    table,
    tag,
)
from app.pages.overview import known, stale
from app.pages.scene import Page, Reach, Scene
from app.palette import OUTCOME_LOOK
from app.records import Outcome
from app.schedules import Schedule, Tick, heard
from app.snapshot import Snapshot
from app.wire.batch import Batch, into
from app.wire.connections import explained

_TONE = {Outcome.COMPLETE: "complete", Outcome.RETRY: "retrying", Outcome.DEAD: "dead",
         Outcome.ABORTED: "aborted"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """One schedule of one queue, as all workers that keep it tell it."""

    queue: str
    schedule: Schedule
    workers: int
    differ: bool = False  #: whether they tell different times: a deploy under way, or a mistake


async def load(reach: Reach, address: Address) -> Mapping[tuple[str, str], Tick]:  # noqa: ARG001
    """How the last tick of every schedule ended."""
    queues = sorted({one.queue for one in kept(reach.snapshot)})
    got: dict[str, Any] = {}
    where = reach.connections
    batches = {name: Batch(redis) for name, redis in where.queue_servers.items()}
    for queue in queues:
        batch = batches[where.placement.server_of(queue)]
        batch.ask(into(got, queue), "HGETALL", keys.ticks(queue))
    if queues:
        try:
            await asyncio.gather(*(batch.run() for batch in batches.values()))
        except (RedisError, OSError) as error:
            raise explained(error, "redis://queue") from error
    ticks: dict[tuple[str, str], Tick] = {}
    for queue, fields in got.items():
        for name, text in fields.items():
            try:
                ticks[queue, str(name)] = Tick.from_json(text)
            except BadRecord:
                continue
    return ticks


def kept(snapshot: Snapshot) -> list[Kept]:
    """The schedules of all live workers, each once per queue, the next one first."""
    found: dict[tuple[str, str], Kept] = {}
    for worker in records(snapshot.workers):
        queue = str(worker["source"])
        for one in heard(str(worker["schedules"])):
            before = found.get((queue, one.name))
            if before is None:
                found[queue, one.name] = Kept(queue, one, 1)
                continue
            next_ms = min((ms for ms in (before.schedule.next_ms, one.next_ms) if ms), default=0)
            differ = before.differ or before.schedule.times != one.times
            whole = replace(before.schedule, next_ms=next_ms)
            found[queue, one.name] = Kept(queue, whole, before.workers + 1, differ)
    return sorted(
        found.values(), key=lambda k: (k.schedule.next_ms or 2**53, k.queue, k.schedule.name)
    )


def _above(scene: Scene) -> Html:
    queue = scene.address.get("queue")
    listed = [one for one in kept(scene.snapshot) if not queue or one.queue == queue]
    only = (
        tag("span", "of ", tag("b", queue), " ", link("schedules", "show all"), class_="note")
        if queue
        else None
    )
    ticks = scene.found if isinstance(scene.found, dict) else {}
    columns = [("Schedule", ""), ("When", ""), ("Next", ""), ("Last", "opt"), ("Took", "num opt"),
               ("Queue", "opt"), ("Workers", "num opt"), *([("", "act")] if scene.may_act else [])]  # fmt: skip
    made = [_row(scene, one, ticks.get((one.queue, one.schedule.name))) for one in listed]
    if made:
        body = table(columns, made, caption="Schedules, the next one first", empty="")
    elif scene.snapshot.number == 0:
        body = tag("p", known(scene.snapshot, ""), class_="empty")
    else:
        body = tag("p", "No live worker keeps a schedule. Give one in its settings: ",
                   tag("code", "cron_jobs = [cron(nightly, hour=3, minute=30)]"), class_="empty")  # fmt: skip
    told = (
        tag("p", f"The last ticks cannot be read: {scene.trouble}", class_="empty")
        if scene.trouble
        else None
    )
    return join(
        tag("div", tag("h1", "Schedules"), only, class_="title"),
        panel(heading("Cron jobs", "as the live workers tell them; each tick runs once"), told, body,
              label="Schedules", css=stale(scene.snapshot, "queue")),
    )  # fmt: skip


def _row(scene: Scene, one: Kept, tick: Tick | None) -> Html:
    schedule = one.schedule
    zone = "" if schedule.zone == "UTC" else f", {schedule.zone}"
    differ = tag("span", icon(palette.ICONS["warn"], 11), "workers differ", class_="badge c-queued",
                 title="Its workers tell different times: a deploy under way, or two versions at once")  # fmt: skip
    cells: list[tuple[object, str]] = [
        (clipped(schedule.name, 128, kind="strong"), ""),
        (tag("span", clipped(f"{schedule.words}{zone}", 200), " ", differ if one.differ else None,
             class_="cause-line"), "wide whole fair"),
        (moment_ms(schedule.next_ms, scene.now), "soft"),
        (_last(scene, one, tick), "opt"),
        (figure(_took(tick), why="no run is remembered"), "num opt"),
        (link(href("queue", name=one.queue), clipped(one.queue, 128, kind="soft")), "opt"),
        (palette.count(one.workers), "num opt"),
    ]  # fmt: skip
    if scene.may_act:
        run = button("Run now", "run-schedule", kind="quiet once", queue=one.queue,
                     schedule=schedule.name, label=f"Run now: {schedule.name[:80]}")  # fmt: skip
        cells.append((run, "act"))
    return row(f"{one.queue}/{schedule.name}", *cells)


def _took(tick: Tick | None) -> str:
    if tick is None:
        return palette.UNKNOWN
    return palette.duration(tick.took_ms / 1000) if tick.took_ms > 0 else "<1 ms"


def _last(scene: Scene, one: Kept, tick: Tick | None) -> Html:
    if tick is None and scene.is_past:
        return figure(palette.UNKNOWN, why="the ends of ticks are not stored by moment")
    if tick is None:
        return tag("span", "no run yet", class_="soft", title="none has been remembered")
    outcome = Outcome(tick.outcome) if tick.outcome in set(Outcome) else Outcome.SHUTDOWN
    look = OUTCOME_LOOK[outcome]
    said = tag("span", icon(look.icon, 12), look.word, class_=f"state c-{_TONE.get(outcome, 'unknown')}",
               title=tick.error or None)  # fmt: skip
    where = href("job", queue=one.queue, id=tick.job_id)
    return tag(
        "span", link(where, said), " ", moment_ms(tick.ended_ms, scene.now), class_="cause-line"
    )


PAGE = Page(above=_above, load=load)

__all__ = ["PAGE", "Kept", "kept", "load"]
