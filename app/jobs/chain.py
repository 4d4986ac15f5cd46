"""Chains: a job and the retries of its dead letter; which one is meant, and what state it is in. Pure.

The original is ``id``, its retries are ``id~r1``, ``id~r2`` …; they share one dead letter, which tells of the
last death and of the last retry. Each job of a chain has a state of its own: one that died stays dead,
whatever becomes of the retry after it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.records import DeadLetter, JobRun, JobState, LetterState, Outcome

#: as the scripts that make retries read it; nobody retries a billion times
_RETRY: Final = re.compile(r"(.*)~r([0-9]{1,9})", re.DOTALL)
_ENDED: Final[Mapping[Outcome, JobState]] = {
    Outcome.COMPLETE: JobState.COMPLETE,
    Outcome.DEAD: JobState.DEAD,
    Outcome.ABORTED: JobState.ABORTED,
}


@dataclass(frozen=True, slots=True)
class Link:
    """One job of a chain."""

    root: str  #: id of the original, and of the dead letter
    number: int  #: of the retry; 0: it is the original

    def is_in(self, redrives: int) -> bool:
        """Whether a letter retried *redrives* times has this job in its chain."""
        return self.number <= redrives

    def retried_as(self, redrives: int) -> str:
        """Id of the last retry after this job; empty: it is the last of its chain."""
        return f"{self.root}~r{redrives}" if self.number < redrives else ""


def link_of(job_id: str) -> Link:
    """Where *job_id* stands in its chain."""
    found = _RETRY.fullmatch(job_id)
    return Link(job_id, 0) if found is None else Link(found.group(1), int(found.group(2)))


def waiting_state(due_ms: float, now_ms: int, *, has_failed: bool) -> JobState:
    """State of a job in its queue that nobody runs."""
    if has_failed:
        return JobState.RETRYING
    return JobState.DEFERRED if due_ms > now_ms else JobState.QUEUED


def has_failed(attempts: str) -> bool:
    """Whether an attempt of a waiting job failed, by its record ``runs:errors:shutdowns:crashes|…``."""
    numbers = attempts.partition("|")[0].split(":")
    return len(numbers) == 4 and numbers[1].isdecimal() and int(numbers[1]) > 0


def ended_state(
    job_id: str, last: JobRun | None, result: Mapping[str, Any], letter: DeadLetter | None
) -> JobState:
    """State of a job that neither waits nor runs, by its last run, its result and its chain's letter."""
    own = _ENDED.get(last.outcome) if last is not None else None
    if own is JobState.COMPLETE or (result and result.get("s", True)):
        return JobState.COMPLETE
    if letter is None:
        return own or JobState.FAILED
    link = link_of(job_id)
    if link.retried_as(letter.redrives):  # what came of that retry is not what came of this job
        return own or JobState.DEAD
    if letter.state is LetterState.RESOLVED:
        return JobState.COMPLETE
    if link.number:
        is_cancelled = letter.decision_reason == f"its retry {job_id} was cancelled"
        return JobState.ABORTED if is_cancelled or own is JobState.ABORTED else JobState.DEAD
    return JobState.ABORTED if letter.decision == "ABORT" else JobState.DEAD  # it may be taken back


__all__ = ["Link", "ended_state", "has_failed", "link_of", "waiting_state"]
