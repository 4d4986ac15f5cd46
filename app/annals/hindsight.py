"""Hindsight: what the records of now say of one job, letter, operation or alert as of a moment. Pure.

A record is overwritten as its life goes on, so some of it cannot be known: then the state is None and
``why`` says what is not stored. Nothing is made up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from app.alerts import Alert, AlertState
from app.audit import AuditLine
from app.jobs.detail import JobDetail
from app.operations import Operation, OperationState
from app.reader import LetterDetail
from app.records import JobRun, JobState, LetterState, Outcome

_ENDED: Final[Mapping[Outcome, JobState]] = {
    Outcome.COMPLETE: JobState.COMPLETE,
    Outcome.RETRY: JobState.RETRYING,
    Outcome.DEAD: JobState.DEAD,
    Outcome.ABORTED: JobState.ABORTED,
    Outcome.SHUTDOWN: JobState.QUEUED,
}
_WAITS: Final = frozenset({JobState.QUEUED, JobState.DEFERRED, JobState.RETRYING, JobState.RUNNING})
#: what a person does to one letter → the state it then has
_ACTS: Final[Mapping[str, LetterState]] = {
    "retry_letter": LetterState.RETRYING,
    "discard_letter": LetterState.DISCARDED,
    "archive_letter": LetterState.ARCHIVED,
    "undo_discard": LetterState.NEW,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Then:
    """Whether it existed as of the moment, and its state; None: not stored. ``why``: how that is known."""

    exists: bool | None
    state: JobState | LetterState | None
    why: str = ""


# -- one job -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class JobThen(Then):
    """One job as of a moment."""

    ended: tuple[JobRun, ...] = ()  #: attempts that had ended, newest first
    running_ms: int = 0  #: when the attempt that was under way began
    attempt: int = 0  #: its number, or that of the last one
    worker: str = ""
    due_ms: int = 0  #: of the next attempt, where it is stored
    has_letter: bool = False


def job_then(job: JobDetail, then_ms: float) -> JobThen:
    """What runs and records say of *job* as of *then_ms*."""
    ended = tuple(run for run in job.runs if run.finished_ms <= then_ms)
    under_way = next((r for r in job.runs if r.started_ms <= then_ms < r.finished_ms), None)
    has_letter = job.letter is not None and job.letter.died_ms <= then_ms
    if under_way is None and not ended and job.enqueued_ms > then_ms:
        return JobThen(exists=False, state=None, why="it was enqueued later")
    more: dict[str, Any] = {"exists": True, "ended": ended, "has_letter": has_letter}
    if under_way is not None:
        return JobThen(
            state=JobState.RUNNING, running_ms=under_way.started_ms, attempt=under_way.attempt,
            worker=under_way.worker, why="an attempt that ended later had begun", **more,
        )  # fmt: skip
    if job.state is JobState.RUNNING and 0 < job.started_ms <= then_ms:
        return JobThen(
            state=JobState.RUNNING, running_ms=job.started_ms, attempt=job.attempt,
            worker=job.worker, why="the attempt under way now had begun", **more,
        )  # fmt: skip
    later = next((run for run in reversed(job.runs) if run.started_ms > then_ms), None)
    before = ended[0].attempt if ended else 0
    if later is not None and later.attempt > before + 1:
        return JobThen(
            state=None, attempt=before, due_ms=0,
            why=f"attempt {later.attempt} came later, and the one before it left no report", **more,
        )  # fmt: skip
    due_ms = later.due_ms if later is not None else job.due_ms if job.state in _WAITS else 0
    if ended:
        state = _ENDED[ended[0].outcome]
        why = "what the last attempt before it ended with"
        return JobThen(
            state=state, attempt=before, worker=ended[0].worker, due_ms=due_ms, why=why, **more
        )
    return _not_begun(job, then_ms, later, due_ms, more)


def _not_begun(
    job: JobDetail, then_ms: float, later: JobRun | None, due_ms: int, more: dict[str, Any]
) -> JobThen:
    """A job of which no attempt is known to have begun by then."""
    letter = job.letter
    if letter is not None and letter.died_ms <= then_ms and not letter.redrives:
        state = JobState.ABORTED if letter.decision == "ABORT" else JobState.DEAD
        return JobThen(state=state, why="it died before an attempt of it was reported", **more)
    if not job.enqueued_ms and later is None:
        more["exists"] = None
    if later is None and job.state not in _WAITS:
        why = "no report of its attempts is kept, so neither begin nor end is known"
        return JobThen(state=None, why=why, **more)
    state = JobState.DEFERRED if due_ms > then_ms else JobState.QUEUED
    told = "of its first attempt, which came later" if later else "it has now"
    return JobThen(
        state=state, due_ms=due_ms, why=f"no attempt had begun; by the due time {told}", **more
    )


# -- one letter --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterThen(Then):
    """One dead letter as of a moment."""

    retries: int = 0  #: sent by then
    is_as_now: bool = False  #: nothing about it changed since


def letter_then(detail: LetterDetail, lines: Sequence[AuditLine], then_ms: float) -> LetterThen:
    """What its record, its lineage and the audit's *lines* about it say of a letter as of *then_ms*."""
    letter = detail.letter
    sent = [entry for entry in detail.lineage if _at(entry) <= then_ms]
    acts = [
        line
        for line in lines
        if line.action in _ACTS and line.at_ms <= then_ms and "refused" not in line.detail
    ]
    if letter.died_ms > then_ms and not sent and not acts:
        if letter.redrives:  # it tells of its last death, and the first was before the first retry
            why = "its record tells of its last death only, which came later"
            return LetterThen(exists=None, state=None, why=why)
        return LetterThen(exists=False, state=None, why="it died later")
    retries = max((int(entry["n"]) for entry in sent), default=0)
    if letter.changed_ms <= then_ms:
        why = "nothing about it changed since"
        return LetterThen(exists=True, state=letter.state, retries=retries, is_as_now=True, why=why)
    act = max(acts, key=lambda line: line.at_ms, default=None)
    last = max(sent, key=_at, default=None)
    closes = act is not None and act.action != "retry_letter"
    if act is not None and closes and (last is None or act.at_ms >= _at(last)):
        why = f"{act.actor} did {act.action} before it"
        return LetterThen(exists=True, state=_ACTS[act.action], retries=retries, why=why)
    if last is None:
        why = "no retry or decision before it is stored"
        return LetterThen(exists=True, state=LetterState.NEW, why=why)
    if retries == letter.redrives:
        died_again = _at(last) < letter.died_ms <= then_ms
        state = LetterState.NEW if died_again else LetterState.RETRYING
        why = f"retry {retries} had {'died again' if died_again else 'been sent and not ended'}"
        return LetterThen(exists=True, state=state, retries=retries, why=why)
    why = f"retry {retries} had been sent; when it ended is not stored, another came later"
    return LetterThen(exists=True, state=None, retries=retries, why=why)


def _at(entry: Mapping[str, Any]) -> float:
    return float(entry.get("at_ms") or 0)


# -- operations and alerts ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationThen:
    """An operation as of a moment; its progress is known where it had ended, or a moment holds it."""

    operation: Operation
    knows_progress: bool


def operation_then(
    operation: Operation, seen: Mapping[str, Any] | None, then_ms: float
) -> OperationThen | None:
    """*operation* as of *then_ms*; *seen* is its row in the moment stored before. None: it came later."""
    if operation.created_ms > then_ms:
        return None
    end = operation.finished_at
    if end is not None and end.timestamp() * 1000 <= then_ms:
        return OperationThen(operation=operation, knows_progress=True)
    begun = operation.started_at is not None and operation.started_at.timestamp() * 1000 <= then_ms
    bare = replace(
        operation, done=0, skipped=0, failed=0, note="", finished_at=None,
        started_at=operation.started_at if begun else None,
        state=OperationState.RUNNING if begun else OperationState.WAITING,
    )  # fmt: skip
    if seen is None:
        return OperationThen(operation=bare, knows_progress=not begun)
    return OperationThen(
        operation=replace(
            bare, state=OperationState(str(seen["state"])), done=int(seen["done"]),
            skipped=int(seen["skipped"]), failed=int(seen["failed"]), note=str(seen["note"]),
        ),
        knows_progress=True,
    )  # fmt: skip


def alert_then(alert: Alert, lines: Sequence[AuditLine], then_ms: float) -> Alert | None:
    """*alert* as of *then_ms*; None: it fired (or fired again) later, what was before is overwritten."""
    if alert.since_ms > then_ms:
        return None
    if 0 < alert.resolved_ms <= then_ms:
        return alert
    seen_by = next(
        (
            line.actor
            for line in sorted(lines, key=lambda line: -line.at_ms)
            if line.target == alert.id and line.action == "acknowledge_alert"
            and alert.since_ms <= line.at_ms <= then_ms and "refused" not in line.detail
        ),
        "",
    )  # fmt: skip
    state = AlertState.ACKNOWLEDGED if seen_by else AlertState.FIRING
    detail = "" if alert.resolved_ms else alert.detail  # its end has overwritten what was told
    return replace(
        alert, state=state, actor=seen_by, detail=detail, resolved_ms=0, delivery="",
        last_ms=alert.last_ms if alert.last_ms <= then_ms else 0, silenced_until_ms=0,
    )  # fmt: skip


__all__ = [
    "JobThen", "LetterThen", "OperationThen", "Then", "alert_then", "job_then", "letter_then", "operation_then",
]  # fmt: skip
