"""What the records of now say of then: truthfully, and nothing where it is not stored."""

from typing import Any

import pytest

from app.alerts import Alert, AlertState
from app.annals.hindsight import alert_then, job_then, letter_then, operation_then
from app.audit import AuditLine
from app.jobs.detail import JobDetail
from app.operations import Operation, OperationState
from app.payloads.contents import Arguments
from app.reader import LetterDetail
from app.records import DeadLetter, JobRun, JobState, LetterState, Outcome, utc

QUEUE = "async-processing"


def run(attempt: int, start: int, end: int, outcome: Outcome = Outcome.RETRY) -> JobRun:
    return JobRun(
        job_id="j", queue=QUEUE, function="f", outcome=outcome, attempt=attempt, worker=f"w{attempt}",
        enqueued_ms=1_000, due_ms=start - 10, started_ms=start, finished_ms=end,
    )  # fmt: skip


def letter(**more: Any) -> DeadLetter:
    told: dict[str, Any] = {
        "id": "j", "kind": "job", "source": QUEUE, "name": "f", "state": LetterState.NEW,
        "reason": "attempts", "died_ms": 5_000, "changed_ms": 5_000,
    }  # fmt: skip
    return DeadLetter(**told | more)


def job(*runs: JobRun, state: JobState = JobState.DEAD, **more: Any) -> JobDetail:
    told: dict[str, Any] = {"enqueued_ms": 1_000, "arguments": Arguments(function="f")}
    newest = tuple(sorted(runs, key=lambda one: -one.finished_ms))
    return JobDetail(id="j", queue=QUEUE, state=state, function="f", runs=newest, **told | more)


def line(action: str, at_ms: int, target: str = f"{QUEUE}/j", **detail: Any) -> AuditLine:
    return AuditLine(
        id=f"{at_ms}-0", n=1, at_ms=at_ms, actor="ann", action=action, target=target, detail=detail, hash=""
    )  # fmt: skip


TWO = job(run(1, 2_000, 3_000), run(2, 4_000, 5_000, Outcome.DEAD), letter=letter())


@pytest.mark.parametrize(
    ("then_ms", "exists", "state"),
    [
        (999, False, None),
        (1_500, True, JobState.DEFERRED),
        (1_995, True, JobState.QUEUED),
        (2_500, True, JobState.RUNNING),
        (3_500, True, JobState.RETRYING),
        (4_500, True, JobState.RUNNING),
        (9_999, True, JobState.DEAD),
    ],
)
def test_a_jobs_runs_tell_its_state_of_then(
    then_ms: int, exists: bool, state: JobState | None
) -> None:
    found = job_then(TWO, then_ms)

    assert (found.exists, found.state) == (exists, state)


def test_a_job_shows_the_attempt_of_then_and_none_that_came_later() -> None:
    found = job_then(TWO, 3_500)

    assert [one.attempt for one in found.ended] == [1]
    assert (found.attempt, found.due_ms, found.has_letter) == (1, 3_990, False)
    running = job_then(TWO, 4_500)
    assert (running.attempt, running.worker, running.running_ms) == (2, "w2", 4_000)
    assert job_then(TWO, 6_000).has_letter


def test_what_left_no_report_is_unknown() -> None:
    crashed = job(run(1, 2_000, 3_000), run(3, 8_000, 9_000, Outcome.COMPLETE))

    assert job_then(crashed, 5_000).state is None
    assert "no report" in job_then(crashed, 5_000).why
    gone = job(state=JobState.COMPLETE)
    assert (job_then(gone, 5_000).exists, job_then(gone, 5_000).state) == (True, None)
    stock = job(state=JobState.COMPLETE, enqueued_ms=0)
    assert job_then(stock, 5_000).exists is None


def test_a_job_that_waits_or_runs_now_did_so_since() -> None:
    waits = job(state=JobState.DEFERRED, due_ms=9_000)
    runs = job(state=JobState.RUNNING, started_ms=4_000, attempt=1, worker="w")

    assert job_then(waits, 5_000).state is JobState.DEFERRED
    assert job_then(waits, 9_500).state is JobState.QUEUED
    assert job_then(runs, 3_000).state is JobState.QUEUED
    assert job_then(runs, 5_000).state is JobState.RUNNING


def test_a_letter_that_did_not_change_since_is_as_it_is() -> None:
    found = letter_then(LetterDetail(letter=letter(), arguments=Arguments()), [], 6_000)

    assert (found.exists, found.state, found.is_as_now) == (True, LetterState.NEW, True)
    assert (
        letter_then(LetterDetail(letter=letter(), arguments=Arguments()), [], 4_000).exists is False
    )


def test_a_letter_changed_later_is_told_by_its_lineage_and_the_audit() -> None:
    closed = letter(state=LetterState.RESOLVED, changed_ms=9_000, redrives=1)
    retried = LetterDetail(
        letter=closed, arguments=Arguments(), lineage=({"n": 1, "at_ms": 7_000, "actor": "ann"},)
    )

    assert letter_then(retried, [], 6_000).state is LetterState.NEW
    found = letter_then(retried, [], 8_000)
    assert (found.state, found.retries) == (LetterState.RETRYING, 1)
    assert letter_then(retried, [], 9_500).state is LetterState.RESOLVED
    put_away = LetterDetail(letter=letter(changed_ms=9_000), arguments=Arguments())
    lines = [line("discard_letter", 7_000), line("undo_discard", 9_000)]
    assert letter_then(put_away, lines[:1], 8_000).state is LetterState.DISCARDED
    assert (
        letter_then(put_away, [line("discard_letter", 7_000, refused="no")], 8_000).state
        is LetterState.NEW
    )


def test_a_letter_between_two_retries_is_unknown() -> None:
    again = LetterDetail(
        letter=letter(died_ms=20_000, changed_ms=20_000, redrives=2), arguments=Arguments(),
        lineage=({"n": 1, "at_ms": 7_000}, {"n": 2, "at_ms": 15_000}),
    )  # fmt: skip

    assert letter_then(again, [], 10_000).state is None
    assert letter_then(again, [], 6_000).exists is None  # its first death is overwritten
    assert letter_then(again, [], 16_000).state is LetterState.RETRYING
    assert letter_then(again, [], 21_000).state is LetterState.NEW


def test_an_operation_has_its_progress_of_then_or_says_that_it_is_unknown() -> None:
    ended = Operation(
        id="op", kind="retry_letters", source=QUEUE, state=OperationState.DONE, done=10, matched=10,
        created_at=utc(1_000), started_at=utc(2_000), finished_at=utc(9_000),
    )  # fmt: skip

    assert operation_then(ended, None, 500) is None
    waiting = operation_then(ended, None, 1_500)
    assert waiting is not None
    assert (waiting.operation.state, waiting.knows_progress) == (OperationState.WAITING, True)
    under_way = operation_then(ended, None, 5_000)
    assert under_way is not None
    assert (under_way.operation.done, under_way.knows_progress) == (0, False)
    row = {"state": "paused", "done": 4, "skipped": 0, "failed": 1, "note": "paused"}
    seen = operation_then(ended, row, 5_000)
    assert seen is not None
    assert (seen.operation.state, seen.operation.done, seen.knows_progress) == (
        OperationState.PAUSED,
        4,
        True,
    )
    over = operation_then(ended, row, 9_000)
    assert over is not None
    assert over.operation == ended


def test_an_alert_is_as_it_stood() -> None:
    told = Alert(
        id="rule-1", kind="rule", state=AlertState.RESOLVED, detail="it is over", since_ms=2_000,
        last_ms=8_000, resolved_ms=9_000, changed_ms=9_000,
    )  # fmt: skip
    seen = line("acknowledge_alert", 4_000, target="rule-1")

    assert alert_then(told, [], 1_000) is None
    firing = alert_then(told, [], 3_000)
    assert firing is not None
    assert (firing.state, firing.detail, firing.last_ms) == (AlertState.FIRING, "", 0)
    acknowledged = alert_then(told, [seen], 5_000)
    assert acknowledged is not None
    assert (acknowledged.state, acknowledged.actor) == (AlertState.ACKNOWLEDGED, "ann")
    assert alert_then(told, [seen], 9_500) == told
