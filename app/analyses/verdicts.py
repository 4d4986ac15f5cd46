"""Why a job is not running: the one cause that holds it now, and the next step. Pure.

``reader.job_facts`` gathers the facts in one round trip; ``why_not_running`` reads them in the order in
which the worker would stop at them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from app.records import LetterState, WorkerInfo


class Hold(StrEnum):
    """What keeps a job from running."""

    RUNNING = "running"  #: nothing: it runs
    ENDED = "ended"
    DEAD = "dead letter"
    OLD_RESULT = "old result"  #: its id is blocked by the result of an earlier job
    UNKNOWN = "unknown job"
    NOT_QUEUED = "not queued"  #: a payload without a place in a queue
    ABORT = "abort pending"
    PAYLOAD_GONE = "payload gone"
    DEFERRED = "deferred"
    RETRY = "waits for its retry"
    ORPHANED = "worker vanished"
    LOCKED = "locked elsewhere"  #: a stock worker's lock
    PAUSED = "queue paused"
    NO_WORKER = "no worker"
    QUIET = "workers quiet"
    UNKNOWN_FUNCTION = "unknown function"
    ALONE = "must run alone"
    BUSY = "all slots busy"
    TURN = "waits its turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What Redis knows about a job and its queue. Times are epoch ms, 0 unknown; ms left: -1 none."""

    id: str
    queue: str
    now_ms: int
    due_ms: int | None = None  #: score in the queue; None: not in it
    ahead: int = 0  #: jobs before it in the queue
    claim: str = ""  #: ``started_ms:due_ms:attempt:worker#claim`` of the running hash
    lock: str = ""  #: holder of the in-progress key
    function: str = ""
    has_payload: bool = False
    is_pickled: bool = False
    has_result: bool = False
    result_left_ms: int = -1
    abort_asked: bool = False
    runs: int = 0
    errors: int = 0
    crashes: int = 0
    is_paused: bool = False
    running: int = 0  #: jobs of the queue that run now
    letter_state: LetterState | None = None  #: of the chain's dead letter
    retried_as: str = ""  #: id of that letter's last retry, when it came after this job
    workers: Sequence[WorkerInfo] = field(default_factory=tuple)  #: live workers of the queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One cause, in a sentence, and what to do."""

    hold: Hold
    sentence: str
    next_step: str = ""
    until_ms: int = 0  #: when it ends by itself; 0: not known, or never


def why_not_running(facts: JobFacts, *, alone_after: int = 2) -> Verdict:
    """The cause that holds the job now; *alone_after*: crashes after which a job runs alone."""
    if facts.claim and facts.lock:
        worker = facts.claim.split(":", 3)[-1].partition("#")[0]
        return Verdict(hold=Hold.RUNNING, sentence=f"it runs, on {worker}")
    if facts.due_ms is None:
        return _not_in_the_queue(facts)
    if facts.abort_asked:
        return Verdict(
            hold=Hold.ABORT,
            sentence="its abort is asked for: the next worker that takes it drops it",
            next_step="none; it is removed when a worker of the queue has a free slot",
        )
    if not facts.has_payload:
        return Verdict(
            hold=Hold.PAYLOAD_GONE,
            sentence="its payload is gone: it expired or was removed",
            next_step="submit the job again; a worker makes a dead letter of this one",
        )
    if facts.due_ms > facts.now_ms:
        return _not_due(facts)
    if facts.lock:
        return Verdict(
            hold=Hold.LOCKED,
            sentence=f"{facts.lock[:80]!r} holds its lock without a claim of ours: a stock worker runs it, "
            "or died with it",
            next_step="wait for the lock to expire, or stop the stock worker",
        )
    if facts.is_paused:
        return Verdict(
            hold=Hold.PAUSED,
            sentence=f"the queue {facts.queue} is paused",
            next_step="resume the queue; workers of stock arq ignore the pause",
        )
    return _no_hand_free(facts, alone_after)


def _not_in_the_queue(facts: JobFacts) -> Verdict:
    if facts.retried_as:
        return _retried(facts)
    if facts.letter_state is LetterState.RETRYING:
        return Verdict(
            hold=Hold.DEAD,
            sentence="it was to retry a dead letter, and left the queue without a report",
            next_step="none; the dead-letter processor opens the letter again",
        )
    if facts.letter_state is not None and facts.letter_state is not LetterState.RESOLVED:
        return Verdict(
            hold=Hold.DEAD,
            sentence=f"it is a dead letter ({facts.letter_state})",
            next_step="look at its error, then retry or discard it",
        )
    if facts.has_result:
        left = facts.result_left_ms
        until = f" for {left / 1000:.0f} s more" if left > 0 else " until somebody deletes it"
        return Verdict(
            hold=Hold.OLD_RESULT,
            sentence=f"a job of this id has ended and its result is kept{until}: a new job of the same "
            "id is refused as long",
            next_step="use another id, or wait for the result to expire",
            until_ms=facts.now_ms + left if left > 0 else 0,
        )
    if facts.letter_state is LetterState.RESOLVED:
        return Verdict(hold=Hold.ENDED, sentence="it ended well, as the retry of a dead letter")
    if facts.has_payload:
        return Verdict(
            hold=Hold.NOT_QUEUED,
            sentence="its payload exists, but no queue known here holds it",
            next_step="name the queue it was submitted to, or submit it again under another id",
        )
    if facts.runs:
        return Verdict(hold=Hold.ENDED, sentence="it ended, and its result is no longer kept")
    return Verdict(
        hold=Hold.UNKNOWN,
        sentence="nobody here knows a job of this id: it was never accepted, or all traces have expired",
        next_step="check the id, and that producer and workers use the same Redis",
    )


def _retried(facts: JobFacts) -> Verdict:
    """It has ended, and a later retry of the same dead letter goes on in its place."""
    retry = facts.retried_as
    match facts.letter_state:
        case LetterState.RETRYING:
            became, step = f"its retry {retry} is under way", f"look at {retry}"
        case LetterState.RESOLVED:
            became, step = f"its retry {retry} ended well", ""
        case LetterState.NEW:
            became = f"its last retry {retry} did not end well: the dead letter is open"
            step = "look at its error, then retry or discard it"
        case _:
            became, step = f"its dead letter, retried as {retry}, is {facts.letter_state}", ""
    return Verdict(hold=Hold.DEAD, sentence=f"it has ended, and {became}", next_step=step)


def _not_due(facts: JobFacts) -> Verdict:
    due_ms = facts.due_ms or 0
    left_s = (due_ms - facts.now_ms) / 1000
    if facts.claim:
        return Verdict(
            hold=Hold.ORPHANED,
            sentence=f"the worker that ran it vanished; it falls due in {left_s:.0f} s, when the lease ends",
            next_step="none; another worker takes it then",
            until_ms=due_ms,
        )
    if facts.errors:
        return Verdict(
            hold=Hold.RETRY,
            sentence=f"attempt {facts.errors} failed; the next is due in {left_s:.0f} s",
            next_step="run it now, or wait",
            until_ms=due_ms,
        )
    return Verdict(
        hold=Hold.DEFERRED,
        sentence=f"it is deferred: due in {left_s:.0f} s",
        next_step="run it now, or wait",
        until_ms=due_ms,
    )


def _no_hand_free(facts: JobFacts, alone_after: int) -> Verdict:
    if not facts.workers:
        return Verdict(
            hold=Hold.NO_WORKER,
            sentence=f"no live worker serves {facts.queue}",
            next_step=f"start one: arqscope worker {facts.queue}",
        )
    taking = [w for w in facts.workers if w.state not in ("quiet", "draining")]
    if not taking:
        states = ", ".join(sorted({w.state for w in facts.workers}))
        return Verdict(
            hold=Hold.QUIET,
            sentence=f"every worker of {facts.queue} takes no new job ({states})",
            next_step="resume the workers, or start another",
        )
    known = {name for w in taking for name in w.functions.split(",") if name}
    if facts.function and known and facts.function not in known:
        return Verdict(
            hold=Hold.UNKNOWN_FUNCTION,
            sentence=f"no live worker of {facts.queue} knows the function {facts.function!r}",
            next_step="start a worker that has it; after 5 minutes the job becomes a dead letter",
        )
    if facts.crashes >= alone_after and facts.running:
        return Verdict(
            hold=Hold.ALONE,
            sentence=f"{facts.crashes} workers vanished while they ran it: it waits for an idle worker, "
            "to run alone",
            next_step="none; a worker makes room for it within its lease",
        )
    slots = sum(w.slots for w in taking)
    if facts.running >= slots:
        return Verdict(
            hold=Hold.BUSY,
            sentence=f"all {slots} slots are busy, {facts.ahead:,} jobs are before it",
            next_step="add workers or slots, or wait",
        )
    return Verdict(
        hold=Hold.TURN,
        sentence=f"it is due and {facts.ahead:,} jobs are before it",
        next_step="none; workers are taking jobs",
    )
