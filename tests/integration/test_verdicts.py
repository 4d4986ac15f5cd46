"""Every cause for which a job does not run, made on a real Redis, is named."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from app import keys, reader
from app.analyses.verdicts import Hold, why_not_running
from app.enqueue import JobRequest, enqueue
from app.records import DeadLetter, LetterState, WorkerInfo

QUEUE = "async-processing"
Make = Callable[[Redis], Awaitable[Any]]


def now_ms() -> int:
    return int(time.time() * 1000)


async def worker(redis: Redis, **more: Any) -> None:
    now = now_ms()
    values: dict[str, Any] = {
        "id": f"w{more.get('state', '')}", "role": "worker", "host": "h", "pid": 1, "source": QUEUE,
        "version": "1", "since_ms": now, "beat_ms": now, "slots": 2, "functions": "generic,mail",
    }  # fmt: skip
    info = WorkerInfo(**{**values, **more})
    await redis.hset(keys.worker(info.id), mapping=info.to_fields())
    await redis.zadd(keys.WORKERS, {info.id: now})


async def queued(redis: Redis, **more: Any) -> None:
    await enqueue(redis, QUEUE, JobRequest(**{"name": "generic", "id": "j", **more}))


async def claimed(redis: Redis, job_id: str, *, lease: bool = True) -> None:
    await redis.hset(keys.running(QUEUE), job_id, f"{now_ms()}:{now_ms()}:1:h:1:ab#1")
    if lease:
        await redis.set(keys.arq_in_progress(job_id), "h:1:ab#1")


async def running(redis: Redis) -> None:
    await queued(redis)
    await claimed(redis, "j")


async def deferred(redis: Redis) -> None:
    await queued(redis, delay_s=600)


async def retrying(redis: Redis) -> None:
    await queued(redis, delay_s=60)
    await redis.hset(keys.attempts(QUEUE), "j", "2:2:0:0|[]")


async def orphaned(redis: Redis) -> None:
    await queued(redis, delay_s=20)
    await claimed(redis, "j", lease=False)


async def paused(redis: Redis) -> None:
    await queued(redis)
    await worker(redis)
    await redis.sadd(keys.PAUSED_QUEUES, QUEUE)


async def quiet(redis: Redis) -> None:
    await queued(redis)
    await worker(redis, state="quiet")
    await worker(redis, state="draining")


async def all_busy(redis: Redis) -> None:
    await queued(redis)
    await worker(redis)
    for other in ("a", "b"):
        await claimed(redis, other)


async def payload_gone(redis: Redis) -> None:
    await queued(redis)
    await redis.delete(keys.arq_job("j"))


async def old_result(redis: Redis) -> None:
    await redis.set(keys.arq_result("j"), b"j1:{}", ex=1_900)
    answer = await enqueue(redis, QUEUE, JobRequest(name="generic", id="j"))
    assert not answer.created


async def function_unknown(redis: Redis) -> None:
    await queued(redis, name="resize")
    await worker(redis)


async def abort_pending(redis: Redis) -> None:
    await queued(redis)
    await redis.zadd(keys.ARQ_ABORT, {"j": now_ms()})


async def alone(redis: Redis) -> None:
    await queued(redis)
    await worker(redis, slots=10)
    await redis.hset(keys.attempts(QUEUE), "j", "2:0:0:2|[]")
    await claimed(redis, "other")


async def locked(redis: Redis) -> None:
    await queued(redis)
    await worker(redis)
    await redis.set(keys.arq_in_progress("j"), "1")


async def its_turn(redis: Redis) -> None:
    await queued(redis, id="before")
    await queued(redis)
    await redis.zadd(QUEUE, {"before": now_ms() - 10_000})
    await worker(redis)


async def dead(redis: Redis) -> None:
    letter = DeadLetter(
        id="j", kind="job", source=QUEUE, name="generic", state=LetterState.NEW, reason="attempts"
    )
    await redis.hset(keys.dead_record(QUEUE, "j"), mapping=letter.to_fields())


async def elsewhere(redis: Redis) -> None:
    await enqueue(redis, "other-queue", JobRequest(name="generic", id="j"))


async def nothing(redis: Redis) -> None:
    return None


CASES: dict[Hold, tuple[Make, str]] = {
    Hold.RUNNING: (running, "h:1:ab"),
    Hold.DEFERRED: (deferred, "due in"),
    Hold.RETRY: (retrying, "attempt 2 failed"),
    Hold.ORPHANED: (orphaned, "vanished"),
    Hold.PAUSED: (paused, QUEUE),
    Hold.NO_WORKER: (queued, "arqscope worker"),
    Hold.QUIET: (quiet, "draining, quiet"),
    Hold.BUSY: (all_busy, "all 2 slots"),
    Hold.PAYLOAD_GONE: (payload_gone, "payload is gone"),
    Hold.OLD_RESULT: (old_result, "for 1"),
    Hold.UNKNOWN_FUNCTION: (function_unknown, "'resize'"),
    Hold.ABORT: (abort_pending, "abort"),
    Hold.ALONE: (alone, "2 workers vanished"),
    Hold.LOCKED: (locked, "stock worker"),
    Hold.TURN: (its_turn, "1 jobs are before"),
    Hold.DEAD: (dead, "dead letter (new)"),
    Hold.NOT_QUEUED: (elsewhere, "no queue known here"),
    Hold.UNKNOWN: (nothing, "nobody here knows"),
}


@pytest.mark.parametrize("hold", list(CASES), ids=lambda hold: hold.name)
async def test_the_cause_is_named(queue_redis: Redis, hold: Hold) -> None:
    make, words = CASES[hold]
    await make(queue_redis)

    verdict = why_not_running(await reader.job_facts(queue_redis, QUEUE, "j"))

    assert verdict.hold is hold
    assert words in f"{verdict.sentence} {verdict.next_step}"


def test_every_cause_has_its_case() -> None:
    assert set(Hold) - set(CASES) == {Hold.ENDED}  # told from a letter or the attempts, see below


async def test_a_job_that_ended_says_so(queue_redis: Redis) -> None:
    letter = DeadLetter(
        id="j", kind="job", source=QUEUE, name="g", state=LetterState.RESOLVED, reason="attempts"
    )
    await queue_redis.hset(keys.dead_record(QUEUE, "j"), mapping=letter.to_fields())

    verdict = why_not_running(await reader.job_facts(queue_redis, QUEUE, "j"))

    assert verdict.hold is Hold.ENDED
