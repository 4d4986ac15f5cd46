"""Run claimed jobs: the only module that calls a user's function."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from arq.jobs import SerializationError, deserialize_job_raw
from arq.worker import JobExecutionFailed

from app import logs
from app.errors import BadPayload
from app.payloads.codec import JobPayload, checked_time, safe_str
from app.records import utc
from workers.cancellation import JOB_AGAIN_S, STOP_AGAIN_S
from workers.claims.claimer import QUARANTINE_CRASHES, Claim
from workers.runs.endings import Endings
from workers.runs.job_context import JobHandle
from workers.runs.job_letters import NAME_CHARS
from workers.runs.outcomes import Outbox
from workers.runs.run import Run

if TYPE_CHECKING:
    from workers.claims.leases import LeaseKeeper
    from workers.engine.worker import Worker

log = logging.getLogger("arqscope.worker")


class Runner:
    """Runs the jobs of one worker; ``endings`` says how each ended."""

    def __init__(self, worker: "Worker", outbox: Outbox, leases: "LeaseKeeper") -> None:
        self._worker = worker
        self._outbox = outbox
        self._leases = leases
        self._runs: dict[str, Run] = {}
        self._queue = worker.queue_name
        self.endings = Endings(worker, outbox, leases)

    # -- from claim to ending ------------------------------------------------------------------

    def start(self, claim: Claim) -> None:
        """Begin to run *claim*; everything that can be wrong with it becomes an ending."""
        self._leases.held[claim.id] = claim.token
        run = Run(claim, claim.claimed_ms, time.monotonic())
        try:
            self._begin(run)
        except Exception as error:  # nothing a payload holds may end the loop that claims
            self.endings.forsake(run, error)

    def _begin(self, run: Run) -> None:
        worker, claim, endings = self._worker, run.claim, self.endings
        try:
            if claim.payload is None:
                return endings.bury(run, "expired", JobExecutionFailed("job expired"))
            run.job = job = self._decode(claim.payload)
        except (BadPayload, SerializationError) as error:
            return endings.bury(run, "malformed", error)
        if claim.aborted and worker.allow_abort_jobs:
            return endings.aborted(run)
        policy = endings.policy(run)
        if claim.attempts.crashes >= policy.crashes:
            alone = max(0, claim.attempts.crashes - QUARANTINE_CRASHES)
            crash = JobExecutionFailed(
                f"the worker vanished {claim.attempts.crashes} times while it ran this job, "
                f"{alone} of them with nothing beside it"
            )
            return endings.bury(run, "crash", crash)
        if claim.stock_tries >= policy.attempts and claim.stock_tries > claim.attempts.runs:
            spent = JobExecutionFailed(f"max {policy.attempts} retries exceeded")
            return endings.bury(run, "attempts", spent)
        function = worker.functions.get(job.function)
        if function is None and worker.options.generic_jobs:
            function = worker.functions.get("generic")
        if function is None:
            return endings.unknown(run)
        run.function = function
        timeout_s = job.options.get("timeout") or function.timeout_s or worker.job_timeout_s
        if timeout_s is not None:
            run.deadline = run.started_at + float(timeout_s)
        self._runs[claim.id] = run
        run.task = worker.loop.create_task(self._run(run))
        worker.tasks[claim.id] = run.task

    async def _run(self, run: Run) -> None:
        worker, claim, job, endings = self._worker, run.claim, run.job, self.endings
        attempt = max(claim.attempts.runs + 1, claim.stock_tries + 1, job.job_try or 0)
        job_id = claim.id
        events, then = worker.options.job_events, job.options.get("then")
        cid = str(job.options.get("cid", ""))
        if (
            cid
        ):  # this task's lines, the job's own included, carry the id of the request that made it
            logs.request_id.set(cid)
        try:
            handle = JobHandle(
                worker.pool,
                self._queue,
                job_id,
                attempt,
                job.enqueued_ms,
                cid,
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
                endings.cancelled(run, error)
            except BaseException as error:  # noqa: BLE001, RUF100 - SystemExit in a job ends the job
                if isinstance(error, GeneratorExit) and not _is_current(run.task):
                    raise  # the task itself is being closed
                endings.failed(run, error)
            else:
                endings.complete(run, result, attempt, handle)
            if worker.on_job_end:
                await _hook(worker.on_job_end, ctx)
            if worker.after_job_end:
                await self._outbox.drained()
                await _hook(worker.after_job_end, ctx)
        except asyncio.CancelledError:
            if job_id in self._leases.held and not run.ended:
                endings.cancelled(run, asyncio.CancelledError())
        except Exception as error:  # ours: without an ending its lease would be renewed for ever
            endings.forsake(run, error)
        finally:
            if self._runs.get(job_id) is run:
                del self._runs[job_id]
                worker.tasks.pop(job_id, None)
            worker.slot_freed()

    def _decode(self, raw: bytes) -> JobPayload:
        codec = self._worker.codec
        if codec is not None:
            return codec.decode_job(raw)
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
        return JobPayload(
            function, tuple(args), kwargs, checked_time(enqueued), tried, {}, pickled=True
        )

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
                self.endings.cancelled(run, asyncio.CancelledError())
                run.stopped = "lost"

    def running(self) -> list[dict[str, Any]]:
        """Return what runs now: id, function, started_ms, attempt."""
        return [
            {
                "id": run.claim.id,
                "function": safe_str(run.job.function, NAME_CHARS),
                "started_ms": run.started_ms,
                "attempt": run.claim.attempts.runs + 1,
            }
            for run in list(self._runs.values())
        ]

    def _cancel(self, run: Run, why: str) -> None:
        run.stopped = why
        run.cancelled_at = time.monotonic()
        if run.task is not None:
            run.task.cancel()


async def _hook(hook: Any, ctx: dict[str, Any]) -> None:
    """Call one of arq's hooks; one that raises is logged, and neither job nor worker suffers."""
    try:
        await hook(ctx)
    except (Exception, SystemExit, KeyboardInterrupt):
        log.exception("hook raised", extra={"hook": getattr(hook, "__name__", "?")})


def _is_current(task: "asyncio.Task[None] | None") -> bool:
    """Whether *task* runs now; False while the interpreter closes it."""
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs
        return False
