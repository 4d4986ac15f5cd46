"""Actions on queues and their workers: pause, resume, concurrency, quiet, stop, clean."""

import json
import time
from typing import Final, Literal

from app import keys
from app.actions.asking import ActionReport, Actor, Connections, asked, check_queue, permit
from app.actions.jobs import cancel
from app.errors import BadRecord, InvalidRequest
from app.letters import redrive
from app.letters.redrive import Shelf, Verdict
from app.records import JobRun, LetterState, Outcome
from app.settings import Settings

MAX_CLEANED: Final = 1_000  #: per call; asked again, the next ones go
MAX_CONCURRENCY: Final = 10_000

Status = Literal["completed", "failed", "waiting", "delayed"]
STATUSES: Final = ("completed", "failed", "waiting", "delayed")


async def pause_queue(
    connections: Connections, settings: Settings, actor: Actor, queue: str
) -> ActionReport:
    """Let workers take no further job of *queue*; running ones end."""
    await check_queue(connections, settings, queue)
    await permit(connections, settings, actor, "pause_queue", queue)
    changed = bool(await asked(connections.holding(queue).sadd(keys.PAUSED_QUEUES, queue)))
    return _report("pause_queue", queue, changed, "is paused")


async def resume_queue(
    connections: Connections, settings: Settings, actor: Actor, queue: str
) -> ActionReport:
    """Let workers take jobs of *queue* again."""
    await check_queue(connections, settings, queue)
    await permit(connections, settings, actor, "resume_queue", queue)
    changed = bool(await asked(connections.holding(queue).srem(keys.PAUSED_QUEUES, queue)))
    async with connections.holding(queue).pipeline(transaction=True) as pipe:
        pipe.lpush(keys.wake(queue), "1", "1", "1", "1")
        pipe.ltrim(keys.wake(queue), 0, 15)
        await asked(pipe.execute())
    return _report("resume_queue", queue, changed, "takes jobs")


async def set_concurrency(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    queue: str,
    slots: int | None,
) -> ActionReport:
    """Set how many jobs each worker of *queue* runs at a time, from now on."""
    await check_queue(connections, settings, queue)
    if slots is not None and not 1 <= slots <= MAX_CONCURRENCY:
        raise InvalidRequest(
            f"slots={slots!r} is out of range", field="slots", hint=f"1 to {MAX_CONCURRENCY:,}"
        )
    await permit(connections, settings, actor, "set_concurrency", queue, {"slots": slots})
    key = keys.concurrency(queue)
    before = await asked(connections.holding(queue).get(key))
    if slots is None:
        await asked(connections.holding(queue).delete(key))
        return _report("set_concurrency", queue, before is not None, "has its workers' own slots")
    await asked(connections.holding(queue).set(key, slots))
    return _report("set_concurrency", queue, before != str(slots), f"has {slots} slots per worker")


async def control_workers(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    queue: str,
    order: Literal["quiet", "stop", "resume"],
    worker: str | None = None,
) -> ActionReport:
    """Tell one worker of *queue*, or all, to take no more jobs, to stop, or to go on."""
    await check_queue(connections, settings, queue)
    if order not in ("quiet", "stop", "resume"):
        raise InvalidRequest(f"order={order!r}", field="order", hint="quiet, stop or resume")
    detail = {"order": order, "worker": worker}
    await permit(connections, settings, actor, "control_workers", queue, detail)
    text = json.dumps({"action": order, "worker": worker})
    redis = connections.holding(queue)
    database = int(redis.connection_pool.connection_kwargs.get("db", 0))
    channel = keys.control(queue, database)
    heard = int(await asked(redis.publish(channel, text)))
    return ActionReport(
        action="control_workers",
        changed=heard > 0,
        detail=detail | {"queue": queue, "heard": heard},
        message=f"{heard} worker(s) of {queue} heard {order!r}",
    )


async def clean_queue(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    queue: str,
    status: str,
    age_s: float = 0,
) -> ActionReport:
    """Remove what has been *status* for longer than *age_s*, at most 1,000 per call.

    ``completed``: results. ``failed``: open dead letters are discarded (undo for 24 h).
    ``waiting``: jobs that were due; ``delayed``: jobs due later, whatever their age. ``more`` in
    the detail says whether to ask again. The dead-letter queue stands for the letters of every
    declared queue; its ``completed`` are the closed ones, which are forgotten.
    """
    is_all = queue == settings.dlq_queue_name
    if not is_all:
        await check_queue(connections, settings, queue)
    if status not in STATUSES:
        raise InvalidRequest(f"status={status!r}", field="status", hint=", ".join(STATUSES))
    if not 0 <= age_s <= 10 * 365 * 86_400:
        raise InvalidRequest(f"age={age_s!r} is out of range", field="age")
    detail = {"status": status, "age": age_s}
    await permit(connections, settings, actor, "clean_queue", queue, detail)
    cutoff_ms = int(time.time() * 1000 - age_s * 1000)
    ids: list[str] = []
    match status:
        case "completed" if is_all:
            forgotten = [
                await redrive.trim_closed(Shelf(connections.holding(name), name, "job"), age_s)
                for name in settings.queue_names
            ]
            ids = [""] * sum(forgotten)
        case "failed" if is_all:
            for name in settings.queue_names:
                ids += await _discard_old(connections, actor, name, cutoff_ms)
        case _ if is_all:
            raise InvalidRequest(
                f"status={status!r}", field="status", hint=f"{queue} has failed and completed only"
            )
        case "completed":
            ids = await _clean_results(connections, queue, cutoff_ms)
        case "failed":
            ids = await _discard_old(connections, actor, queue, cutoff_ms)
        case _:
            ids = await _cancel_old(connections, queue, status, cutoff_ms)
    return ActionReport(
        action="clean_queue",
        changed=bool(ids),
        detail={**detail, "queue": queue, "cleaned": len(ids), "more": len(ids) >= MAX_CLEANED},
        message=f"{len(ids):,} {status} of {queue} cleaned",
    )


async def _clean_results(connections: Connections, queue: str, cutoff_ms: int) -> list[str]:
    redis = connections.holding(queue)
    rows = await asked(redis.xrange(keys.runs(queue), "-", f"({cutoff_ms}-0", count=10_000))
    found: list[str] = []
    for _, fields in rows:
        try:
            run = JobRun.from_json(fields["r"])
        except (BadRecord, KeyError):
            continue
        if run.outcome is Outcome.COMPLETE:
            found.append(run.job_id)
    if not found:
        return []
    pipe = redis.pipeline(transaction=False)
    for job_id in found:
        pipe.exists(keys.arq_result(job_id))
    there = await asked(pipe.execute())
    ids = [i for i, exists in zip(found, there, strict=True) if exists][:MAX_CLEANED]
    if ids:
        await asked(redis.delete(*[keys.arq_result(job_id) for job_id in ids]))
    return ids


async def _discard_old(
    connections: Connections, actor: Actor, queue: str, cutoff_ms: int
) -> list[str]:
    redis = connections.holding(queue)
    old = await asked(
        redis.zrangebyscore(keys.dead_open(queue), "-inf", cutoff_ms, start=0, num=MAX_CLEANED)
    )
    shelf = Shelf(redis, queue, "job")
    verdict = Verdict(actor=actor.name, decision="DISCARD", reason=f"cleaned by {actor.name}")
    return [
        letter
        for letter in old
        if await redrive.close(shelf, letter, LetterState.DISCARDED, verdict) == "done"
    ]


async def _cancel_old(
    connections: Connections, queue: str, status: str, cutoff_ms: int
) -> list[str]:
    redis = connections.holding(queue)
    now_ms = int(time.time() * 1000)
    low, high = ("-inf", cutoff_ms) if status == "waiting" else (f"({now_ms}", "+inf")
    running = set(await asked(redis.hkeys(keys.running(queue))))
    ids = await asked(
        redis.zrangebyscore(queue, low, high, start=0, num=MAX_CLEANED + min(len(running), 1_000))
    )
    limit = cutoff_ms if status == "waiting" else None
    return [
        job_id
        for job_id in ids[:MAX_CLEANED]
        if job_id not in running
        and await cancel(redis, queue, job_id, due_before_ms=limit) == "cancelled"
    ]


def _report(action: str, queue: str, changed: bool, sentence: str) -> ActionReport:
    return ActionReport(
        action=action,
        changed=changed,
        detail={"queue": queue},
        message=f"{queue} {sentence}" + ("" if changed else ", as before"),
    )
