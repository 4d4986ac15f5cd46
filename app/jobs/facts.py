"""Gather what is known about one job and its queue, in one round trip, for a verdict."""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis

from app import keys
from app.analyses.verdicts import JobFacts
from app.jobs.chain import link_of
from app.payloads.codec import raw_bytes
from app.payloads.contents import function_of
from app.records import LetterState, WorkerInfo
from app.sampling.listings import BEAT_MS, MAX_WORKERS, WORKER_FIELDS, decoded_workers
from app.wire.batch import Batch, into, sort_command, sorted_records

#: bytes of the payload read for the function's name
HEAD_BYTES: Final = 4096


async def job_facts(redis: Redis, queue: str, job_id: str) -> JobFacts:
    """Return what Redis knows about *job_id* in *queue*. One round trip; cost as for a small queue."""
    got: dict[str, Any] = {}
    batch = Batch(redis)
    link = link_of(job_id)
    for name, *command in (
        ("time", "TIME"),
        ("score", "ZSCORE", queue, job_id),
        ("rank", "ZRANK", queue, job_id),
        ("claim", "HGET", keys.running(queue), job_id),
        ("lock", "GET", keys.arq_in_progress(job_id)),
        ("head", "GETRANGE", keys.arq_job(job_id), 0, HEAD_BYTES - 1),
        ("result", "PTTL", keys.arq_result(job_id)),
        ("abort", "ZSCORE", keys.ARQ_ABORT, job_id),
        ("attempts", "HGET", keys.attempts(queue), job_id),
        ("paused", "SISMEMBER", keys.PAUSED_QUEUES, queue),
        ("running", "HLEN", keys.running(queue)),
        ("letter", "HMGET", keys.dead_record(queue, link.root), "state", "redrives"),
    ):
        batch.ask_raw(into(got, name), *command)
    sort = sorted_records(
        keys.WORKERS,
        keys.worker("*->"),
        WORKER_FIELDS,
        MAX_WORKERS,
        sort=await sort_command(redis),
    )
    batch.ask_raw(into(got, "workers"), *sort)
    await batch.run()
    now_ms = int(got["time"][0]) * 1000 + int(got["time"][1]) // 1000
    runs, errors, _, crashes = _attempts(got.get("attempts"))
    head = raw_bytes(got.get("head"))
    letter, redrives = _letter(got.get("letter") or ())
    if not link.is_in(redrives):
        letter, redrives = None, 0
    return JobFacts(
        id=job_id,
        queue=queue,
        now_ms=now_ms,
        due_ms=None if got.get("score") is None else int(float(got["score"])),
        ahead=int(got.get("rank") or 0),
        claim=str(got.get("claim") or ""),
        lock=str(got.get("lock") or ""),
        function=function_of(head),
        has_payload=bool(head),
        is_pickled=head[:1] == b"\x80",
        has_result=int(got["result"]) != -2,
        result_left_ms=int(got["result"]),
        abort_asked=got.get("abort") is not None,
        runs=runs,
        errors=errors,
        crashes=crashes,
        is_paused=bool(got.get("paused")),
        running=int(got.get("running") or 0),
        letter_state=letter,
        retried_as=link.retried_as(redrives),
        workers=tuple(_serving(got.get("workers") or [], queue, now_ms)),
    )


def _attempts(text: str | None) -> tuple[int, int, int, int]:
    numbers = (text or "").partition("|")[0].split(":")
    if len(numbers) != 4 or not all(n.isdecimal() for n in numbers):
        return 0, 0, 0, 0
    runs, errors, shutdowns, crashes = map(int, numbers)
    return runs, errors, shutdowns, crashes


def _letter(told: Sequence[Any]) -> tuple[LetterState | None, int]:
    """State of the chain's letter, and how often it was retried."""
    try:
        state, redrives = told
        return LetterState(state), int(redrives or 0)
    except ValueError:
        return None, 0


def _serving(reply: Any, queue: str, now_ms: int) -> list[WorkerInfo]:
    workers, _ = decoded_workers(reply)
    return [
        w
        for w in workers
        if w.role == "worker" and w.source == queue and w.beat_ms >= now_ms - BEAT_MS
    ]
