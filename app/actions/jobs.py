"""Actions on jobs: submit, cancel, abort, run now or at another time."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Final

from redis.asyncio import Redis

from app import keys
from app.actions.asking import ActionReport, Actor, Connections, asked, check_queue, permit
from app.enqueue import MAX_DELAY_S, Enqueued, JobRequest, codec_of, enqueue_many
from app.errors import ActionRefused, InvalidRequest, NotFound, UnknownFunction
from app.next_jobs import places_of
from app.payloads.codec import safe_str
from app.settings import Settings
from app.wire.scripts import script

MAX_JOBS: Final = 1_000  #: per call
_RETRY_ID: Final = re.compile(r"(.*)~r[0-9]+", re.DOTALL)
_FUNCTION: Final = re.compile(r'"f":"([^"\\]{1,128})"')


async def submit_jobs(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    queue: str,
    requests: Sequence[JobRequest],
    functions_known: Collection[str] | None = None,
) -> list[Enqueued]:
    """Put jobs on *queue*, each once per id.

    *functions_known* None: the names workers of the queue told. A name nobody registered raises
    UnknownFunction, unless GENERIC_JOBS is set or no worker has told any name yet.
    """
    await check_queue(connections, settings, queue)
    if not 0 < len(requests) <= MAX_JOBS:
        raise InvalidRequest(f"{len(requests)} jobs at once", hint=f"1 to {MAX_JOBS:,}")
    if not settings.generic_jobs:
        known = functions_known
        if known is None:
            known = await asked(connections.holding(queue).zrange(keys.functions(queue), 0, 999))
        for request in requests:
            if known and request.name not in known:
                raise UnknownFunction(request.name, sorted(known))
    await _check_next(connections, settings, queue, requests)
    detail = {
        "jobs": len(requests),
        "functions": sorted({request.name for request in requests}),
        "ids": [request.id for request in requests if request.id][:20],
    }
    await permit(connections, settings, actor, "submit_jobs", queue, detail)
    redis = connections.holding(queue)
    return await enqueue_many(redis, queue, requests, codec=codec_of(settings))


async def _check_next(
    connections: Connections, settings: Settings, queue: str, requests: Sequence[JobRequest]
) -> None:
    """Refuse next jobs (``then``) on queues nobody knows, or of names their workers do not."""
    places = {place for r in requests if r.then for place in places_of(r.then, queue)}
    for name in sorted({name for name, _ in places}):
        await check_queue(connections, settings, name)
        known = await asked(connections.holding(name).zrange(keys.functions(name), 0, 999))
        for function in sorted(function for place, function in places if place == name):
            if known and function not in known and not settings.generic_jobs:
                raise UnknownFunction(function, sorted(known))


async def cancel_job(
    connections: Connections, settings: Settings, actor: Actor, queue: str, job_id: str
) -> ActionReport:
    """Take a queued job off its queue; ActionRefused when it runs (abort it instead).

    It becomes a closed letter with its payload: ``undo_discard`` opens it, a retry runs it.
    """
    await check_queue(connections, settings, queue)
    await permit(connections, settings, actor, "cancel_job", f"{queue}/{job_id}")
    word = await cancel(connections.holding(queue), queue, job_id, asked_by=actor.name)
    if word == "running":
        raise ActionRefused(f"{job_id} is running; abort it instead")
    return _report("cancel_job", queue, job_id, word)


async def abort_job(
    connections: Connections, settings: Settings, actor: Actor, queue: str, job_id: str
) -> ActionReport:
    """Ask the worker to stop a running job, or take a queued one off its queue."""
    await check_queue(connections, settings, queue)
    await permit(connections, settings, actor, "abort_job", f"{queue}/{job_id}")
    word = await cancel(connections.holding(queue), queue, job_id, abort=True, asked_by=actor.name)
    return _report("abort_job", queue, job_id, word)


async def promote_job(
    connections: Connections, settings: Settings, actor: Actor, queue: str, job_id: str
) -> ActionReport:
    """Make a deferred job due now."""
    await check_queue(connections, settings, queue)
    await permit(connections, settings, actor, "promote_job", f"{queue}/{job_id}")
    word = await _reschedule(connections.holding(queue), queue, job_id, 0.0)
    return _report("promote_job", queue, job_id, "promoted" if word == "rescheduled" else word)


async def reschedule_job(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    queue: str,
    job_id: str,
    delay_s: float,
) -> ActionReport:
    """Make a waiting or deferred job due *delay_s* from now; one that runs is left alone."""
    if not 0 <= delay_s <= MAX_DELAY_S:
        raise InvalidRequest(
            f"delay={delay_s!r} is out of range", field="delay", hint=f"0 to {MAX_DELAY_S:g} s"
        )
    await check_queue(connections, settings, queue)
    detail = {"delay_s": delay_s}
    await permit(connections, settings, actor, "reschedule_job", f"{queue}/{job_id}", detail)
    word = await _reschedule(connections.holding(queue), queue, job_id, delay_s)
    return _report("reschedule_job", queue, job_id, word)


async def _reschedule(redis: Redis, queue: str, job_id: str, delay_s: float) -> str:
    names = [queue, keys.arq_in_progress(job_id), keys.wake(queue), keys.arq_job(job_id)]
    return str(
        await asked(
            script(__file__, "reschedule_job").run(
                redis,
                [*names, keys.running(queue), keys.vault(queue, job_id)],
                [job_id, f"{delay_s * 1000:.0f}"],
            )
        )
    )


async def cancel(
    redis: Redis,
    queue: str,
    job_id: str,
    *,
    abort: bool = False,
    due_before_ms: int | None = None,
    asked_by: str = "",
) -> str:
    """Run the script that cancels or aborts one job; not audited, for actions that were.

    *asked_by* is who wants it and signs the letter that keeps the payload; empty: nothing is kept.
    """
    retry = _RETRY_ID.fullmatch(job_id)
    root = retry.group(1) if retry else ""
    word = await asked(
        script(__file__, "cancel_job").run(
            redis,
            [
                queue,
                keys.running(queue),
                keys.attempts(queue),
                keys.totals(queue),
                keys.ARQ_ABORT,
                keys.arq_job(job_id),
                keys.arq_in_progress(job_id),
                keys.arq_retry(job_id),
                keys.dead_open(queue),
                keys.dead_retrying(queue),
                keys.dead_record(queue, root),
                keys.progress(queue, job_id),
                keys.dead_closed(queue),
                keys.dead_record(queue, job_id),
                keys.dead_payload(queue, job_id),
                keys.vault(queue, job_id),
            ],
            [
                job_id,
                "1" if abort else "0",
                root,
                "" if due_before_ms is None else due_before_ms,
                await _letter(redis, queue, job_id, asked_by) if asked_by else "",
            ],
        )
    )
    return str(word)


async def _letter(redis: Redis, queue: str, job_id: str, asked_by: str) -> str:
    """Encode the fields of the closed letter of a job that never ran."""
    payload = str(await asked(redis.getrange(keys.arq_job(job_id), 0, 400)))
    function = _FUNCTION.search(payload)
    fields = {
        "kind": "job",
        "source": queue,
        "name": safe_str(function.group(1) if function else "?", 128),
        "reason": "aborted",
        "error": "aborted before it ran",
        "attempts": "0",
        "actor": safe_str(asked_by, 200),
        "decision_reason": safe_str(f"asked for by {asked_by}", 400),
    }
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace").decode()


_SENTENCES: Final = {
    "cancelled": (True, "{} was taken off the queue"),
    "aborting": (True, "{} is asked to stop"),
    "promoted": (True, "{} is due now"),
    "rescheduled": (True, "{} has another due time"),
    "due": (False, "{} is due already"),
    "running": (False, "{} is running already"),
}


def _report(action: str, queue: str, job_id: str, word: str) -> ActionReport:
    if word == "missing":
        raise NotFound("job", job_id)
    changed, sentence = _SENTENCES[word]
    return ActionReport(
        action=action,
        changed=changed,
        detail={"queue": queue, "id": job_id, "outcome": word},
        message=sentence.format(job_id),
    )
