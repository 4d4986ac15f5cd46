"""Run claimed jobs and say how each ended: the only module that calls a user's function."""

import asyncio
import contextlib
import json
import logging
import pickle  # results of pickled jobs go back to the stock producer that asked
import time
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from arq.jobs import SerializationError, deserialize_job_raw
from arq.worker import Function, JobExecutionFailed, Retry, RetryJob

from app.arguments import encoded, flat
from app.errors import ArqscopeError, BadPayload, PermanentError
from app.fingerprint import fingerprint
from app.payload import MAX_PAYLOAD_BYTES, JobPayload, safe_str
from app.records import MAX_ERROR_BYTES, bucket_of, utc
from app.schedules import MAX_CHARS, Tick
from workers.cancellation import JOB_AGAIN_S, STOP_AGAIN_S
from workers.claims import QUARANTINE_CRASHES, Attempts, Claim
from workers.job_context import JobHandle
from workers.job_events import JobEnd
from workers.outcomes import ABORTED, COMPLETE, DEAD, LAID_BACK, RETRY, SHUTDOWN, Ending, Outbox
from workers.retry_policy import GiveUp, RetryPolicy, after_failure
from workers.samples import Sampler
from workers.successors import encoded as encoded_successors

if TYPE_CHECKING:
    from workers.engine import Worker
    from workers.leases import LeaseKeeper

log = logging.getLogger("arqscope.worker")

_WORDS: Final = {
    COMPLETE: "complete",
    DEAD: "dead",
    ABORTED: "aborted",
    RETRY: "retry",
    SHUTDOWN: "shutdown",
}
#: s between two tries of a job whose function this worker does not know
UNKNOWN_DELAY_MS: Final = 5_000
#: s the result of a cron tick is kept at least: it stops a late worker from running the tick again
TICK_KEPT_S: Final = 3600
_quoted = json.encoder.encode_basestring_ascii
_NO_JOB: Final = JobPayload("<unknown>", (), {}, 0, None, {})


@dataclass(slots=True)
class _Run:
    """A job between its claim and its ending."""

    claim: Claim
    job: JobPayload
    function: Any
    started_ms: int
    started_at: float  #: monotonic
    deadline: float  #: monotonic
    task: asyncio.Task[None] | None = None
    stopped: str = ""  #: why we cancelled it: timeout · abort · stop · lost
    cancelled_at: float = 0.0  #: monotonic, the last time
    ended: bool = False  #: its ending is in the outbox


class Runner:
    """Runs the jobs of one worker."""

    def __init__(self, worker: "Worker", outbox: Outbox, leases: "LeaseKeeper") -> None:
        self._worker = worker
        self._outbox = outbox
        self._leases = leases
        self._runs: dict[str, _Run] = {}
        self._queue = worker.queue_name
        self.sampler = Sampler(worker.pool, worker.queue_name)
        self.mean_run_ms = 0.0  #: of the latest runs, exponentially weighted
        self._codec = worker.options.codec if worker.job_deserializer is None else None

    # -- from claim to ending ------------------------------------------------------------------

    def start(self, claim: Claim) -> None:
        """Begin to run *claim*; everything that can be wrong with it becomes an ending."""
        worker = self._worker
        self._leases.held[claim.id] = claim.token
        now_at = time.monotonic()
        run = _Run(claim, _NO_JOB, None, claim.claimed_ms, now_at, float("inf"))
        try:
            if claim.payload is None:
                return self._bury(run, "expired", JobExecutionFailed("job expired"))
            run.job = job = self._decode(claim.payload)
        except (BadPayload, SerializationError) as error:
            return self._bury(run, "malformed", error)
        if claim.aborted:
            return self._end_aborted(run)
        policy = self._policy(run)
        if claim.attempts.crashes >= policy.crashes:
            alone = max(0, claim.attempts.crashes - QUARANTINE_CRASHES)
            crash = JobExecutionFailed(
                f"the worker vanished {claim.attempts.crashes} times while it ran this job, "
                f"{alone} of them with nothing beside it"
            )
            return self._bury(run, "crash", crash)
        if claim.stock_tries >= policy.attempts and claim.stock_tries > claim.attempts.runs:
            spent = JobExecutionFailed(f"max {policy.attempts} retries exceeded")
            return self._bury(run, "attempts", spent)
        function = worker.functions.get(job.function)
        if function is None and worker.options.generic_jobs:
            function = worker.functions.get("generic")
        if function is None:
            return self._lay_back_unknown(run)
        run.function = function
        timeout_s = job.options.get("timeout") or function.timeout_s or worker.job_timeout_s
        if timeout_s is not None:
            run.deadline = now_at + float(timeout_s)
        self._runs[claim.id] = run
        run.task = worker.loop.create_task(self._run(run))
        worker.tasks[claim.id] = run.task

    async def _run(self, run: _Run) -> None:
        worker, claim, job = self._worker, run.claim, run.job
        attempt = max(claim.attempts.runs + 1, claim.stock_tries + 1, job.job_try or 0)
        job_id = claim.id
        events, then = worker.options.job_events, job.options.get("then")
        try:
            handle = JobHandle(
                worker.pool,
                self._queue,
                job_id,
                attempt,
                job.enqueued_ms,
                str(job.options.get("cid", "")),
                lambda: worker.draining or bool(run.stopped),
                len(then) if isinstance(then, list) else 0,
                None if events is None else events.progress_of(job_id, self._queue, job),
            )
            ctx = {
                **worker.ctx,
                "job_id": job_id,
                "job_try": attempt,
                "enqueue_time": utc(job.enqueued_ms),
                "score": claim.due_ms,
                "job": handle,
            }
            if worker.on_job_start:
                await _hook(worker.on_job_start, ctx)
            try:
                result = await run.function.coroutine(ctx, *job.args, **job.kwargs)
            except asyncio.CancelledError as error:
                self._end_cancelled(run, error)
            except BaseException as error:  # noqa: BLE001, RUF100 - SystemExit in a job ends the job
                if isinstance(error, GeneratorExit) and not _is_current(run.task):
                    raise  # the task itself is being closed
                self._end_failed(run, error)
            else:
                self._end_complete(run, result, attempt, handle)
            if worker.on_job_end:
                await _hook(worker.on_job_end, ctx)
            if worker.after_job_end:
                await self._outbox.drained()
                await _hook(worker.after_job_end, ctx)
        except asyncio.CancelledError:
            if job_id in self._leases.held and not run.ended:
                self._end_cancelled(run, asyncio.CancelledError())
        finally:
            if self._runs.get(job_id) is run:
                del self._runs[job_id]
                worker.tasks.pop(job_id, None)
            worker.slot_freed()

    # -- endings -------------------------------------------------------------------------------

    def _end_complete(self, run: _Run, result: Any, attempt: int, handle: JobHandle) -> None:
        if run.stopped == "lost":
            return
        nexts = ""
        if handle.next_jobs or "then" in run.job.options:
            added = handle.next_jobs or ()
            try:
                nexts = encoded_successors(
                    run.claim.id, self._queue, run.job, added, result, self._codec
                )
            except PermanentError as error:
                self._bury(run, "permanent", error)
                return
        self._worker.jobs_complete += 1
        job = run.job
        if self.sampler.due(job.function, run.started_at):
            self.sampler.take(job.function, job.args, job.kwargs, run.started_at)
        self._put(run, COMPLETE, self._result(run, attempt, True, result), letter=nexts)

    def _end_failed(self, run: _Run, error: BaseException) -> None:
        if run.stopped == "lost":
            return
        worker, claim = self._worker, run.claim
        if isinstance(error, RetryJob) and worker.retry_jobs:
            worker.jobs_retried += 1
            self._put(run, RETRY, attempts=claim.attempts.failed(run.started_ms, "RetryJob", ""))
            return
        defer_s: float | None = None
        shown: BaseException = error
        if isinstance(error, Retry):
            defer_s = (error.defer_score or 0) / 1000 if worker.retry_jobs else None
        elif isinstance(error, asyncio.CancelledError) and worker.retry_jobs:
            defer_s = None if self._policy(run).retry_errors else 0.0  # arq runs it again at once
        failures = max(claim.attempts.errors, claim.stock_tries) + 1
        trace = _traceback(shown)
        decision = after_failure(failures, shown, self._policy(run), defer_s=defer_s)
        text = f"{type(shown).__name__}: {safe_str(shown, 500)}"
        attempts = claim.attempts.failed(run.started_ms, text, trace)
        if isinstance(decision, GiveUp):
            if isinstance(error, Retry) and worker.retry_jobs:
                shown = JobExecutionFailed(f"max {self._policy(run).attempts} retries exceeded")
            self._bury(run, decision.reason, shown, trace=trace, attempts=attempts)
            return
        worker.jobs_retried += 1
        log.info(
            "job will be retried",
            extra={"job": claim.id, "in_s": round(decision.delay_s, 3), "error": text[:200]},
        )
        self._put(run, RETRY, attempts=attempts, delay_s=decision.delay_s, error=text)

    def _end_cancelled(self, run: _Run, error: BaseException) -> None:
        match run.stopped:
            case "lost":
                return
            case "abort":
                self._end_aborted(run)
            case "timeout":
                limit = run.deadline - run.started_at
                self._end_failed(run, TimeoutError(f"ran longer than its timeout of {limit:g} s"))
            case _ if run.stopped == "stop" and not self._worker.retry_jobs:
                self._bury(run, "shutdown", error)
            case "" if not self._worker.draining:  # the job cancelled itself: that is its failure
                self._end_failed(run, error)
            case _:  # the worker stops: run again, for free
                self._worker.jobs_retried += 1
                self._put(run, SHUTDOWN, attempts=run.claim.attempts.shut_down())

    def _end_aborted(self, run: _Run) -> None:
        """End the job on somebody's wish: a closed letter, so that it can be taken back."""
        self._worker.jobs_failed += 1
        past = run.claim.attempts
        result = self._result(run, past.runs + 1, False, asyncio.CancelledError())
        text = "aborted before it ran" if run.task is None else "aborted while it ran"
        attempts = replace(past, runs=past.runs + (run.task is not None))
        letter = self._letter(run, "aborted", "CancelledError", text, text, attempts)
        self._put(run, ABORTED, result, letter=letter)

    def _lay_back_unknown(self, run: _Run) -> None:
        """A rolling deploy must not destroy jobs: wait for a worker that knows the function."""
        worker, claim = self._worker, run.claim
        since = claim.attempts.unknown_since_ms or claim.claimed_ms
        if claim.claimed_ms - since >= worker.options.unknown_grace_s * 1000 or worker.stock:
            error = JobExecutionFailed(f"function {run.job.function!r} not found")
            self._bury(run, "unknown-function", error)
            return
        attempts = claim.attempts.unknown(since)
        self._put(run, LAID_BACK, attempts=attempts, delay_s=UNKNOWN_DELAY_MS / 1000)

    def _bury(
        self,
        run: _Run,
        reason: str,
        error: BaseException,
        *,
        trace: str = "",
        attempts: Attempts | None = None,
    ) -> None:
        """End the job as a dead letter with everything known about why."""
        worker, claim = self._worker, run.claim
        worker.jobs_failed += 1
        attempts = attempts or claim.attempts
        text = safe_str(error, 4096)
        kind = type(error).__name__
        letter = self._letter(run, reason, kind, text, trace or f"{kind}: {text}", attempts)
        log.error("job is dead", extra={"job": claim.id, "reason": reason, "error": text[:200]})
        result = self._result(run, max(attempts.runs, 1), False, error)
        self._put(run, DEAD, result, error=f"{kind}: {text}", letter=letter)

    def _letter(
        self, run: _Run, reason: str, kind: str, text: str, trace: str, attempts: Attempts
    ) -> str:
        """Encode the fields of the job's dead letter, as the script takes them."""
        job = run.job
        letter = {
            "kind": "job",
            "source": self._queue,
            "name": job.function,
            "reason": reason,
            "error_type": kind,
            "error": text,
            "traceback": trace,
            "fingerprint": fingerprint(kind, text, trace),
            "attempts": str(max(attempts.runs, 1)),
            "worker": self._worker.id,
            "enqueued_ms": str(job.enqueued_ms),
            "correlation_id": str(job.options.get("cid", "")),
            "history": json.dumps(attempts.failures),
            "arguments": _arguments(job),
        }
        # Lua's JSON decoder refuses escaped lone surrogates, which errors about file names may hold
        return json.dumps(letter, ensure_ascii=False).encode("utf-8", "replace").decode()

    def _put(
        self,
        run: _Run,
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
        function = safe_str(job.function, 128).replace("|", "/")
        report = ""
        if kind != LAID_BACK:
            report = (
                f'{{"job_id":{_quoted(claim.id)},"queue":{_quoted(self._queue)},'
                f'"function":{_quoted(job.function)},"outcome":"{_WORDS[kind]}",'
                f'"attempt":{claim.attempts.runs + 1},"worker":{_quoted(self._worker.id)},'
                f'"enqueued_ms":{job.enqueued_ms},"due_ms":{claim.due_ms},'
                f'"started_ms":{run.started_ms},"finished_ms":{int(run.started_ms + ran_ms)},'
                f'"error":{_quoted(error[:300])},'
                f'"correlation_id":{_quoted(str(job.options.get("cid", "")))}}}'
            )
            self._worker.schedules.ended(
                job.function,
                Tick(
                    job_id=claim.id,
                    outcome=_WORDS[kind],
                    ended_ms=int(run.started_ms + ran_ms),
                    took_ms=int(ran_ms),
                    error=error[:MAX_CHARS],
                ),
            )
        waited_ms = claim.claimed_ms - claim.due_ms
        ended = None
        if self._worker.options.job_events is not None and kind != LAID_BACK:
            ended = JobEnd(
                claim.id,
                self._queue,
                job,
                _WORDS[kind],
                claim.attempts.runs + 1,
                ran_ms,
                waited_ms,
                error,
            )
        self._outbox.put(
            Ending(
                claim.id,
                claim.token,
                kind,
                result,
                self._result_ttl_ms(run) if result else 0,
                report,
                function,
                bucket_of(waited_ms) if run.function is not None else "",
                bucket_of(ran_ms) if run.function is not None else "",
                int(delay_s * 1000),
                attempts.encode() if attempts is not None else "",
                letter,
                lambda recorded: self._recorded(claim, ended if recorded else None),
                e2e_bucket=bucket_of(run.started_ms + ran_ms - job.enqueued_ms)
                if run.function is not None and kind in (COMPLETE, DEAD)
                else "",
            )
        )
        run.claim.payload = None
        run.ended = True

    def _recorded(self, claim: Claim, ended: JobEnd | None) -> None:
        self._release(claim)
        events = self._worker.options.job_events
        if ended is not None and events is not None:
            events.ended(ended)

    def _release(self, claim: Claim) -> None:
        if self._leases.held.get(claim.id) == claim.token:
            del self._leases.held[claim.id]

    # -- steering ------------------------------------------------------------------------------

    def enforce_timeouts(self, now: float) -> None:
        """Cancel runs past their deadline, and again those that did not hear of it.

        Before Python 3.12 ``asyncio.wait_for``, which redis-py sends with, swallows a cancellation
        that arrives as it completes.
        """
        for run in list(self._runs.values()):
            if run.ended:
                continue
            if not run.stopped and now >= run.deadline:
                self._cancel(run, "timeout")
            elif run.stopped:
                again_s = STOP_AGAIN_S if run.stopped == "stop" else JOB_AGAIN_S
                if now - run.cancelled_at >= again_s:
                    self._cancel(run, run.stopped)

    def abort(self, job_id: str) -> None:
        """Cancel a running job for good."""
        run = self._runs.get(job_id)
        if run is not None and not run.stopped and not run.ended:
            self._cancel(run, "abort")

    def lost(self, ids: list[str]) -> None:
        """Cancel jobs another worker took over; nothing of them is written."""
        for job_id in ids:
            self._leases.held.pop(job_id, None)
            run = self._runs.get(job_id)
            if run is not None and not run.ended:
                log.warning("lease lost, job cancelled", extra={"job": job_id})
                run.stopped = ""
                self._cancel(run, "lost")

    def stop_all(self, why: str) -> None:
        """Cancel everything that runs; each is laid back without costing an attempt."""
        for run in list(self._runs.values()):
            if not run.stopped and not run.ended:
                log.info("job interrupted", extra={"job": run.claim.id, "why": why})
                self._cancel(run, "stop")

    def lay_back_stubborn(self) -> None:
        """Lay back jobs that ignore their cancellation, so that the worker can leave."""
        for job_id, run in list(self._runs.items()):
            if not run.ended and run.stopped != "lost":
                log.error("job ignores its cancellation", extra={"job": job_id})
                self._end_cancelled(run, asyncio.CancelledError())
                run.stopped = "lost"

    def running(self) -> list[dict[str, Any]]:
        """Return what runs now: id, function, started_ms, attempt."""
        return [
            {
                "id": run.claim.id,
                "function": run.job.function,
                "started_ms": run.started_ms,
                "attempt": run.claim.attempts.runs + 1,
            }
            for run in list(self._runs.values())
        ]

    def _cancel(self, run: _Run, why: str) -> None:
        run.stopped = why
        run.cancelled_at = time.monotonic()
        if run.task is not None:
            run.task.cancel()

    # -- decoding and encoding -----------------------------------------------------------------

    def _decode(self, raw: bytes) -> JobPayload:
        if self._codec is not None:
            return self._codec.decode_job(raw)
        function, args, kwargs, tried, enqueued = deserialize_job_raw(
            raw, deserializer=self._worker.job_deserializer
        )
        shapes = (
            isinstance(function, str)
            and isinstance(args, list | tuple)
            and isinstance(kwargs, dict)
            and isinstance(enqueued, int)
            and isinstance(tried, int | None)
        )
        if not shapes:
            raise BadPayload("the payload has fields of the wrong type")
        return JobPayload(function, tuple(args), kwargs, enqueued, tried, {}, pickled=True)

    def _policy(self, run: _Run) -> RetryPolicy:
        policy = self._worker.options.policy
        function: Any = self._worker.functions.get(run.job.function)
        if function is not None and function.max_tries is not None:
            policy = policy.with_options(None, None)
            policy = RetryPolicy(
                attempts=function.max_tries,
                base_s=policy.base_s,
                cap_s=policy.cap_s,
                crashes=policy.crashes,
                retry_errors=policy.retry_errors,
            )
        options = run.job.options
        attempts, backoff = options.get("attempts"), options.get("backoff")
        if isinstance(attempts, int) or isinstance(backoff, int | float):
            policy = policy.with_options(attempts, backoff)
        return policy

    def _result_ttl_ms(self, run: _Run) -> int:
        worker, function = self._worker, run.function
        forever, seconds = worker.keep_result_forever, worker.keep_result_s
        if isinstance(function, Function):
            forever = (
                forever if function.keep_result_forever is None else function.keep_result_forever
            )
            seconds = seconds if function.keep_result_s is None else function.keep_result_s
        elif function is not None:
            seconds = seconds if function.keep_result_s is None else function.keep_result_s
            if run.claim.id.rpartition(":")[2].isdigit():  # one tick of a unique cron
                seconds = max(seconds or 0, TICK_KEPT_S)
        if forever:
            return -1
        return int((seconds or 0) * 1000)

    def _result(self, run: _Run, attempt: int, success: bool, value: Any) -> bytes:
        if self._result_ttl_ms(run) == 0:
            return b""
        job, claim = run.job, run.claim
        finished = int(run.started_ms + (time.monotonic() - run.started_at) * 1000)
        data = {
            "t": attempt,
            "f": job.function,
            "a": job.args,
            "k": job.kwargs,
            "et": job.enqueued_ms,
            "s": success,
            "r": value,
            "st": run.started_ms,
            "ft": finished,
            "q": self._queue,
            "id": claim.id,
        }
        encode: Any = self._worker.job_serializer
        if encode is None:
            plain = self._codec is None or (job.pickled and self._codec.allow_pickle)
            encode = pickle.dumps if plain or self._codec is None else self._codec.encode
        for replacement in (value, f"unable to serialize result: {safe_str(value, 500)}"):
            data["r"] = replacement
            with contextlib.suppress(Exception):
                raw: bytes = encode(data)
                if len(raw) <= 2 * MAX_PAYLOAD_BYTES:
                    return raw
        data.update(a=(), k={}, r="unable to serialize result")
        with contextlib.suppress(ArqscopeError, TypeError, ValueError):
            last: bytes = encode(data)
            return last
        return b""


async def _hook(hook: Any, ctx: dict[str, Any]) -> None:
    """Call one of arq's hooks; one that raises is logged, and neither job nor worker suffers."""
    try:
        await hook(ctx)
    except Exception:
        log.exception("hook raised", extra={"hook": getattr(hook, "__name__", "?")})


def _arguments(job: JobPayload) -> str:
    """Return a dead job's arguments as flat texts: they are read where nothing may unpickle."""
    try:
        return encoded(flat(job.args, job.kwargs))
    except Exception:  # __str__ of a user's argument may raise anything
        return "{}"


def _is_current(task: "asyncio.Task[None] | None") -> bool:
    """Whether *task* runs now; False while the interpreter closes it."""
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs
        return False


def _traceback(error: BaseException) -> str:
    """Format at most 16 KB of traceback; survives exceptions that cannot be printed."""
    try:
        text = "".join(
            traceback.TracebackException.from_exception(error, limit=-30, compact=True).format()
        )
    except BaseException:  # noqa: BLE001, RUF100 - __str__ of anything in the chain may raise
        frames = "".join(traceback.format_tb(error.__traceback__, limit=-30))
        text = f"{frames}{type(error).__name__}: {safe_str(error, 500)}"
    if len(text) > MAX_ERROR_BYTES:
        half = MAX_ERROR_BYTES // 2 - 20
        text = f"{text[:half]}\n… cut …\n{text[-half:]}"
    return text
