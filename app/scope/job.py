"""One job in a notebook: what is known of it, followed to its end, replayed here without its queue."""

import asyncio
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from app.actions import ActionReport
from app.enqueue import Enqueued
from app.errors import ActionRefused, InvalidRequest, NotFound
from app.jobs.chain import link_of
from app.next_jobs import root_of
from app.operations import Operation
from app.reader import JobDetail
from app.records import JobState, LetterState
from app.scope.deployment import Deployment
from app.scope.query import agreed, cells

#: s between two looks at what is watched
EVERY_S: Final = 0.25
_OVER: Final = frozenset({JobState.COMPLETE, JobState.FAILED, JobState.DEAD, JobState.ABORTED})


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What a job's function did here."""

    result: Any
    error: BaseException | None
    run_s: float
    progress: tuple[tuple[float, float, str], ...]

    def __repr__(self) -> str:
        end = f"raised {self.error!r}" if self.error is not None else f"returned {self.result!r}"
        return f"<local run: {end} after {self.run_s:.3f} s; no queue was touched>"


class JobView:
    """One job as it was when it was read; ``refresh()`` reads it again."""

    def __init__(self, deployment: Deployment, detail: JobDetail) -> None:
        self._deployment = deployment
        self.detail = detail
        self.id, self.queue = detail.id, detail.queue

    @property
    def state(self) -> str:
        """Where it stands."""
        return self.detail.state.value

    def refresh(self) -> "JobView":
        """Read it again."""
        return JobView(self._deployment, self._deployment.job(self.queue, self.id))

    def retry(self) -> ActionReport:
        """Retry it, when it is a dead letter; asked twice it still makes one job."""
        return self._deployment.act("retry_letter", self.queue, link_of(self.id).root)

    def run_locally(
        self, function: Callable[..., Any], *, confirm: bool | None = None, **context: Any
    ) -> LocalRun:
        """Call *function* here with what this job carried, to see it fail (or work).

        Nothing is read from or written to a queue: no attempt is counted, no letter closed; what
        *function* itself does is done, so somebody who can answer is asked first. *context* adds to
        its ``ctx``. Raises ActionRefused when the payload is gone or must not be decoded.
        """
        arguments = self.detail.arguments
        if arguments.note:
            raise ActionRefused(f"{self.id} cannot run here: {arguments.note}")
        question = f"run {function.__name__}() here with the arguments of {self.id}?"
        if not agreed(question, confirm):
            raise ActionRefused(f"{self.id} was not run: not confirmed")
        told: list[tuple[float, float, str]] = []
        ctx = {"job_id": self.id, "job_try": 1, "job": _local_context(self.id, told), **context}
        began = time.perf_counter()
        result, error = None, None
        try:
            result = function(ctx, *arguments.args, **dict(arguments.kwargs))
            if inspect.isawaitable(result):
                result = _awaited(result)
        except Exception as raised:  # what it does is what is looked for
            error = raised
        return LocalRun(result, error, time.perf_counter() - began, tuple(told))

    def _repr_html_(self) -> str:
        """A card; every text in it is escaped."""
        d = self.detail
        rows: list[tuple[str, Any]] = [
            ("job", d.id), ("queue", d.queue), ("state", d.state.value), ("function", d.function),
            ("attempt", d.attempt), ("runs", len(d.runs)),
        ]  # fmt: skip
        if d.letter is not None:
            rows.append(("error", f"{d.letter.error_type}: {d.letter.error}"[:300]))
        if d.retried_as:
            rows.append(
                (
                    "retried as",
                    f"{d.retried_as} (dead letter: {d.letter.state if d.letter else '?'})",
                )
            )
        return cells(rows)

    def __repr__(self) -> str:
        return f"<job {self.id} of {self.queue}: {self.state}>"


def _local_context(job_id: str, told: list[tuple[float, float, str]]) -> Any:
    """What a function finds under ``ctx["job"]``, all of it in memory."""

    async def progress(done: float, total: float, message: str = "") -> None:
        told.append((done, total, message))

    async def nothing(*_: Any, **__: Any) -> None:
        return None

    async def restore(default: Any = None) -> Any:
        return default

    async def once(_: str) -> bool:
        return True

    return SimpleNamespace(
        id=job_id, attempt=1, idempotency_key=root_of(job_id), progress=progress,
        log=nothing, checkpoint=nothing, restore=restore, once=once, should_stop=lambda: False,
        then=lambda *_, **__: "", correlation_id="",
    )  # fmt: skip


def _awaited(work: Any) -> Any:
    """The result of a coroutine, inside or outside of a running loop."""
    import threading

    found: dict[str, Any] = {}

    async def run() -> None:
        found["result"] = await work

    def in_thread() -> None:
        try:
            asyncio.run(run())
        except Exception as error:  # handed to the caller's thread
            found["error"] = error

    thread = threading.Thread(target=in_thread, name="arqscope-local-run")
    thread.start()
    thread.join()
    if "error" in found:
        raise found["error"]
    return found.get("result")


def watch(deployment: Deployment, what: Any, *, queue: str = "", limit_s: float = 3600.0) -> Any:
    """Follow *what* with a bar until it ends; ActionRefused when that takes longer than *limit_s*."""
    match what:
        case ActionReport():
            ids = what.detail.get("operations") or [what.detail.get("operation")]
            found = [_watch_operation(deployment, str(one), limit_s) for one in ids if one]
            return found[0] if len(found) == 1 else found
        case Operation():
            return _watch_operation(deployment, what.id, limit_s)
        case JobView() | Enqueued():
            where = what.queue if isinstance(what, JobView) else queue
            return _watch_job(deployment, where, what.id, limit_s)
        case str() if what.startswith("op-"):
            return _watch_operation(deployment, what, limit_s)
        case str():
            return _watch_job(deployment, queue, what, limit_s)
        case _:
            raise InvalidRequest(
                f"{type(what).__name__} cannot be watched", field="what",
                hint="a job, what enqueue() returned, a report of retry(), or an id",
            )  # fmt: skip


def _bar(total: float | None, name: str) -> Any:
    from tqdm.auto import tqdm

    bar: Any = tqdm  # its types know no keyword
    return bar(total=total, desc=name, leave=True, mininterval=0.1)


def _watch_job(deployment: Deployment, queue: str, job_id: str, limit_s: float) -> JobView:
    end = time.monotonic() + limit_s
    with _bar(None, job_id[:40]) as bar:
        while True:
            try:
                detail = deployment.job(queue, job_id)
            except NotFound:
                if not queue:
                    raise InvalidRequest(
                        f"no job {job_id!r} is known", field="queue", hint="say its queue"
                    ) from None
                raise
            _show(bar, detail)
            letter = detail.letter
            if detail.retried_as and letter and letter.state is LetterState.RETRYING:
                job_id = detail.retried_as  # it has ended, its retry goes on
            elif detail.state in _OVER:
                return JobView(deployment, detail)
            if time.monotonic() > end:
                raise ActionRefused(f"{job_id} is still {detail.state.value} after {limit_s:g} s")
            time.sleep(EVERY_S)


def _show(bar: Any, detail: JobDetail) -> None:
    said = detail.progress
    try:
        done, total = float(said.get("done", 0)), float(said.get("total", 0))
    except ValueError:
        done, total = 0.0, 0.0
    if detail.state is JobState.COMPLETE and total:
        done = total
    if total:
        bar.total = total
    bar.n = done
    bar.set_postfix_str(f"{detail.state.value} {str(said.get('message', ''))[:60]}".strip())
    bar.refresh()


def _watch_operation(deployment: Deployment, operation_id: str, limit_s: float) -> Operation:
    end = time.monotonic() + limit_s
    with _bar(None, operation_id) as bar:
        while True:
            now = deployment.operation(operation_id)
            bar.total = now.matched or None
            bar.n = now.done + now.failed
            bar.set_postfix_str(f"{now.state.value} {now.note[:80]}".strip())
            bar.refresh()
            if not now.state.is_open:
                return now
            if time.monotonic() > end:
                raise ActionRefused(
                    f"{operation_id} is still {now.state.value} after {limit_s:g} s"
                )
            time.sleep(EVERY_S)
