"""The obstacle: why a job does not run, in one line, and the next step. Pure."""

from dataclasses import dataclass

import pandas as pd

from app import palette
from app.pages.address import href
from app.pages.markup import records
from app.reader import JobDetail
from app.records import JobState
from app.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands between a job and its run."""

    why: str
    remedy: str = ""
    is_expected: bool = False  #: nothing is wrong: it waits for what it was told to wait for
    links: tuple[tuple[str, str], ...] = ()


def obstacle(job: JobDetail, snapshot: Snapshot) -> Obstacle | None:
    """Why *job* does not run; None when it runs, has ended, or nobody knows."""
    if (
        job.state not in (JobState.QUEUED, JobState.DEFERRED, JobState.RETRYING)
        or not snapshot.number
    ):
        return None
    now_ms = snapshot.taken_at.timestamp() * 1000
    queue = next((r for r in records(snapshot.queues) if r["queue"] == job.queue), {})
    to_queue = (("Open the queue", href("queue", name=job.queue)),)
    if job.arguments.note == "the payload is gone":
        return Obstacle(
            "its payload is gone, so that no worker can run it.",
            "Enqueue it again; this id is then free.",
        )
    if job.due_ms > now_ms + 500:
        due = pd.Timestamp(job.due_ms, unit="ms", tz="UTC")
        wait = palette.duration((job.due_ms - now_ms) / 1000)
        reason = "its last attempt failed; " if job.state is JobState.RETRYING else ""
        return Obstacle(
            f"{reason}it is due in {wait} ({due:%Y-%m-%d %H:%M:%S} UTC).",
            "“Run now” brings it forward.",
            is_expected=True,
        )
    if queue.get("paused"):
        return Obstacle(
            f"{job.queue} is paused.", "Resume the queue to let workers take its jobs.",
            links=to_queue,
        )  # fmt: skip
    if queue.get("workers") == 0:
        return Obstacle(
            f"no live worker serves {job.queue}.",
            f"Start one: arqscope worker {job.queue}",
            links=(("See the workers", href("workers")),),
        )
    slots, busy = queue.get("slots", 0.0), queue.get("busy", 0.0)
    if slots and busy >= slots:
        ahead = max(0.0, float(queue.get("waiting") or 0) - 1)
        return Obstacle(
            f"all {palette.count(slots)} slots of {job.queue} are busy, and up to "
            f"{palette.count(ahead)} other jobs wait with it.",
            "More slots or another worker shorten the wait.",
            is_expected=True,
            links=to_queue,
        )
    return Obstacle(
        "it is due and a slot is free: a worker takes it in a moment.", is_expected=True
    )


__all__ = ["Obstacle", "obstacle"]
