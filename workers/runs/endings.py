"""How runs end: what became of each, decided by the policy, on its way to the outbox."""

import asyncio
import json
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from arq.worker import JobExecutionFailed, Retry, RetryJob

from app.errors import PermanentError
from app.payloads.codec import safe_str
from app.records import bucket_of
from app.schedules import MAX_CHARS, Tick
from workers.claims.claimer import Attempts, Claim
from workers.retry_policy import GiveUp, RetryPolicy, after_failure
from workers.runs import results
from workers.runs.job_context import JobHandle
from workers.runs.job_events import JobEnd
from workers.runs.job_letters import NAME_CHARS, letter_of, traceback_of
from workers.runs.outcomes import (
    ABORTED,
    COMPLETE,
    DEAD,
    LAID_BACK,
    RETRY,
    SHUTDOWN,
    Ending,
    Outbox,
)
from workers.runs.run import Run
from workers.runs.samples import Sampler
from workers.runs.successors import encoded as encoded_successors

if TYPE_CHECKING:
    from workers.claims.leases import LeaseKeeper
    from workers.engine.worker import Worker

log = logging.getLogger("arqscope.worker")

_WORDS: Final = {
    COMPLETE: "complete",
    DEAD: "dead",
    ABORTED: "aborted",
    RETRY: "retry",
    SHUTDOWN: "shutdown",
}
#: s between two tries of a job whose function this worker does not know
UNKNOWN_DELAY_S: Final = 5.0
_quoted = json.encoder.encode_basestring_ascii


class Endings:
    """The endings of one worker's runs; a run ends once, whoever asks first."""

    def __init__(self, worker: "Worker", outbox: Outbox, leases: "LeaseKeeper") -> None:
        self._worker = worker
        self._outbox = outbox
        self._leases = leases
        self._queue = worker.queue_name
        self.sampler = Sampler(worker.pool, worker.queue_name)
        self.mean_run_ms = 0.0  #: of the latest runs, exponentially weighted

    def complete(self, run: Run, result: Any, attempt: int, handle: JobHandle) -> None:
        """End a run whose function returned *result*."""
        if run.stopped == "lost":
            return
        nexts = ""
        if handle.next_jobs or "then" in run.job.options:
            added = handle.next_jobs or ()
            try:
                nexts = encoded_successors(
                    run.claim.id,
                    self._queue,
                    run.job,
                    added,
                    result,
                    self._worker.codec,
                    self._worker.options.placement,
                )
            except PermanentError as error:
                self.bury(run, "permanent", error)
                return
        self._worker.jobs_complete += 1
        job = run.job
        if self.sampler.due(job.function, run.started_at):
            self.sampler.take(job.function, job.args, job.kwargs, run.started_at)
        self._put(run, COMPLETE, self._result(run, attempt, True, result), letter=nexts)

    def failed(self, run: Run, error: BaseException) -> None:
        """End a run that raised: the policy says whether the job runs again."""
        if run.stopped == "lost":
            return
        worker, claim = self._worker, run.claim
        if isinstance(error, RetryJob) and worker.retry_jobs:
            worker.jobs_retried += 1
            self._put(run, RETRY, attempts=claim.attempts.failed(run.started_ms, "RetryJob", ""))
            return
        policy = self.policy(run)
        defer_s: float | None = None
        shown: BaseException = error
        if isinstance(error, Retry):
            defer_s = (error.defer_score or 0) / 1000 if worker.retry_jobs else None
        elif isinstance(error, asyncio.CancelledError) and worker.retry_jobs:
            defer_s = None if policy.retry_errors else 0.0  # arq runs it again at once
        failures = max(claim.attempts.errors, claim.stock_tries) + 1
        trace = traceback_of(shown)
        decision = after_failure(failures, shown, policy, defer_s=defer_s)
        text = f"{type(shown).__name__}: {safe_str(shown, 500)}"
        attempts = claim.attempts.failed(run.started_ms, text, trace)
        if isinstance(decision, GiveUp):
            if isinstance(error, Retry) and worker.retry_jobs:
                shown = JobExecutionFailed(f"max {policy.attempts} retries exceeded")
            self.bury(run, decision.reason, shown, trace=trace, attempts=attempts)
            return
        worker.jobs_retried += 1
        log.info(
            "job will be retried",
            extra={"job": claim.id, "in_s": round(decision.delay_s, 3), "error": text[:200]},
        )
        self._put(run, RETRY, attempts=attempts, delay_s=decision.delay_s, error=text)

    def cancelled(self, run: Run, error: BaseException) -> None:
        """End a run that was cancelled: by whom and why says what becomes of the job."""
        match run.stopped:
            case "lost":
                return
            case "abort":
                self.aborted(run)
            case "timeout":
                limit = run.deadline - run.started_at
                self.failed(run, TimeoutError(f"ran longer than its timeout of {limit:g} s"))
            case _ if run.stopped == "stop" and not self._worker.retry_jobs:
                self.bury(run, "shutdown", error)
            case "" if not self._worker.draining:  # the job cancelled itself: that is its failure
                self.failed(run, error)
            case _:  # the worker stops: run again, for free
                self._worker.jobs_retried += 1
                self._put(run, SHUTDOWN, attempts=run.claim.attempts.shut_down())

    def aborted(self, run: Run) -> None:
        """End the job on somebody's wish: a closed letter, so that it can be taken back."""
        self._worker.jobs_failed += 1
        past = run.claim.attempts
        result = self._result(run, past.runs + 1, False, asyncio.CancelledError())
        text = "aborted before it ran" if run.task is None else "aborted while it ran"
        attempts = replace(past, runs=past.runs + (run.task is not None))
        letter = self._letter(run, "aborted", "CancelledError", text, text, attempts)
        self._put(run, ABORTED, result, letter=letter)

    def unknown(self, run: Run) -> None:
        """Lay the job back for a worker that knows its function: a rolling deploy destroys nothing."""
        worker, claim = self._worker, run.claim
        since = claim.attempts.unknown_since_ms or claim.claimed_ms
        if claim.claimed_ms - since >= worker.options.unknown_grace_s * 1000 or worker.stock:
            error = JobExecutionFailed(f"function {safe_str(run.job.function, 200)!r} not found")
            self.bury(run, "unknown-function", error)
            return
        self._put(run, LAID_BACK, attempts=claim.attempts.unknown(since), delay_s=UNKNOWN_DELAY_S)

    def bury(
        self,
        run: Run,
        reason: str,
        error: BaseException,
        *,
        trace: str = "",
        attempts: Attempts | None = None,
    ) -> None:
        """End the job as a dead letter with everything known about why."""
        self._worker.jobs_failed += 1
        claim = run.claim
        attempts = attempts or claim.attempts
        text = safe_str(error, 4096)
        kind = type(error).__name__
        letter = self._letter(run, reason, kind, text, trace or f"{kind}: {text}", attempts)
        log.error("job is dead", extra={"job": claim.id, "reason": reason, "error": text[:200]})
        result = self._result(run, max(attempts.runs, 1), False, error)
        self._put(run, DEAD, result, error=f"{kind}: {text}", letter=letter)

    def forsake(self, run: Run, error: Exception) -> None:
        """Let go of a run that we failed to end: at its lease end it counts as a crash of ours.

        So a job that breaks the worker's own code is tried again, then alone, then a dead letter.
        """
        if not run.ended:
            log.critical(
                "run not recorded, the worker is at fault",
                extra={"job": run.claim.id, "error": safe_str(error, 200)},
                exc_info=error,
            )
            run.ended = True
            self._release(run.claim)

    def policy(self, run: Run) -> RetryPolicy:
        """The policy of this job: the queue's, with its function's and its own wishes."""
        policy = self._worker.options.policy
        function: Any = self._worker.functions.get(run.job.function)
        if function is not None and function.max_tries is not None:
            policy = replace(policy, attempts=function.max_tries)
        options = run.job.options
        attempts, backoff = options.get("attempts"), options.get("backoff")
        if isinstance(attempts, int) or isinstance(backoff, int | float):
            policy = policy.with_options(attempts, backoff)
        return policy

    # -- what is written -----------------------------------------------------------------------

    def _result(self, run: Run, attempt: int, success: bool, value: Any) -> bytes:
        return results.encoded(self._worker, run, attempt, success, value)

    def _letter(
        self, run: Run, reason: str, kind: str, text: str, trace: str, attempts: Attempts
    ) -> str:
        return letter_of(
            run,
            queue=self._queue,
            worker_id=self._worker.id,
            reason=reason,
            kind=kind,
            text=text,
            trace=trace,
            attempts=attempts,
        )

    def _put(
        self,
        run: Run,
        kind: str,
        result: bytes = b"",
        *,
        attempts: Attempts | None = None,
        delay_s: float = 0.0,
        error: str = "",
        letter: str = "",
    ) -> None:
        if run.ended:
            return
        claim, job = run.claim, run.job
        ran_ms = (time.monotonic() - run.started_at) * 1000
        self.mean_run_ms += 0.05 * (ran_ms - self.mean_run_ms)
        function = safe_str(job.function, NAME_CHARS)
        report = ""
        if kind != LAID_BACK:
            report = (
                f'{{"job_id":{_quoted(claim.id)},"queue":{_quoted(self._queue)},'
                f'"function":{_quoted(function)},"outcome":"{_WORDS[kind]}",'
                f'"attempt":{claim.attempts.runs + 1},"worker":{_quoted(self._worker.id)},'
                f'"enqueued_ms":{job.enqueued_ms},"due_ms":{claim.due_ms},'
                f'"started_ms":{run.started_ms},"finished_ms":{int(run.started_ms + ran_ms)},'
                f'"error":{_quoted(error[:300])},'
                f'"correlation_id":{_quoted(str(job.options.get("cid", "")))}}}'
            )
        waited_ms = max(0, run.started_ms - claim.due_ms)  # as the report tells it
        ended = None
        if job.function in self._worker.schedules.names and kind != LAID_BACK:
            ended_ms = int(run.started_ms + ran_ms)
            tick = Tick(job_id=claim.id, outcome=_WORDS[kind], ended_ms=ended_ms, took_ms=int(ran_ms),
                        error=error[:MAX_CHARS])  # fmt: skip
            self._worker.schedules.ended(job.function, tick)
        if self._worker.options.job_events is not None and kind != LAID_BACK:
            attempt = claim.attempts.runs + 1
            ended = JobEnd(
                claim.id, self._queue, job, _WORDS[kind], attempt, ran_ms, waited_ms, error
            )
        was_called = run.function is not None
        self._outbox.put(
            Ending(
                claim.id,
                claim.token,
                kind,
                result,
                results.ttl_ms(self._worker, run) if result else 0,
                report,
                function.replace("|", "/"),
                bucket_of(waited_ms) if was_called else "",
                bucket_of(ran_ms) if was_called else "",
                int(delay_s * 1000),
                attempts.encode() if attempts is not None else "",
                letter,
                lambda recorded: self._recorded(claim, ended if recorded else None),
                e2e_bucket=bucket_of(run.started_ms + ran_ms - job.enqueued_ms)
                if was_called and kind in (COMPLETE, DEAD)
                else "",
            )
        )
        claim.payload = None
        run.ended = True

    def _recorded(self, claim: Claim, ended: JobEnd | None) -> None:
        self._release(claim)
        events = self._worker.options.job_events
        if ended is not None and events is not None:
            events.ended(ended)

    def _release(self, claim: Claim) -> None:
        if self._leases.held.get(claim.id) == claim.token:
            del self._leases.held[claim.id]
