"""The reader on a real Redis: pages of jobs in every state, and nothing unpickled."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app import keys, reader
from app.collector import Collector
from app.enqueue import JobRequest, enqueue, enqueue_many
from app.errors import InvalidRequest
from app.payloads.codec import Codec
from app.records import JobState, Outcome
from tests.integration.reports import QUEUE, add_letter, add_runs, add_worker, make_run, now_ms
from tests.integration.test_collector import (  # noqa: F401 - fixtures
    collector,
)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.canary),))


async def test_the_reader_never_unpickles(
    collector: Collector, queue_redis: Redis, tmp_path: Path
) -> None:
    canary = tmp_path / "exploded"
    bomb = pickle.dumps({"t": None, "f": "f", "a": (Bomb(canary),), "k": {}, "et": 1})
    await queue_redis.set(keys.arq_job("evil"), bomb)
    await queue_redis.set(keys.arq_result("evil"), bomb)
    await queue_redis.zadd(QUEUE, {"evil": now_ms() - 10})
    await queue_redis.sadd(keys.QUEUES, QUEUE)
    await add_letter(queue_redis, QUEUE, "evil")
    await queue_redis.set(keys.dead_payload(QUEUE, "evil"), bomb)

    await collector.sample()
    page = await reader.jobs_page(queue_redis, QUEUE, "waiting", codec=Codec(allow_pickle=True))
    detail = await reader.job(queue_redis, "evil", codec=Codec(allow_pickle=True))
    letter = await reader.letter(queue_redis, QUEUE, "evil", codec=Codec(allow_pickle=True))

    assert detail is not None
    assert letter is not None
    assert page.items[0].arguments.note == reader.PICKLED
    assert detail.arguments.note == detail.result_note == reader.PICKLED
    assert letter.arguments.note == reader.PICKLED
    assert not canary.exists()


@pytest.mark.parametrize("state", ["waiting", "deferred"])
async def test_pages_show_every_job_once(queue_redis: Redis, state: reader.JobsOf) -> None:
    delay_s = 600.0 if state == "deferred" else 0.0
    requests = [JobRequest(name="generic", id=f"j{i}", delay_s=delay_s) for i in range(25)]
    await enqueue_many(queue_redis, QUEUE, requests)  # one script call: all of one score
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="last", delay_s=delay_s))
    await add_worker(queue_redis, "w0", QUEUE, "claimed")
    seen: list[str] = []
    cursor = None

    while True:
        page = await reader.jobs_page(queue_redis, QUEUE, state, cursor, 10)
        seen += [row.id for row in page.items]
        cursor = page.cursor
        if cursor is None:
            break

    assert sorted(seen) == sorted([*(f"j{i}" for i in range(25)), "last"])


async def test_running_finished_and_dead_have_pages_too(queue_redis: Redis) -> None:
    await add_worker(queue_redis, "w0", QUEUE, "r1")
    runs = [make_run(f"ok{i}") for i in range(3)]
    await add_runs(queue_redis, *runs, make_run("bad", Outcome.DEAD, error="ValueError: x"))
    await add_letter(queue_redis, QUEUE, "older", died_ms=1_000)
    await add_letter(queue_redis, QUEUE, "newer", died_ms=2_000)
    await queue_redis.xadd(keys.AUDIT, {"actor": "kim", "action": "retry"})
    await queue_redis.xadd("events", {"type": "user.created"})

    running = await reader.jobs_page(queue_redis, QUEUE, "running")
    first = await reader.jobs_page(queue_redis, QUEUE, "complete", None, 2)
    second = await reader.jobs_page(queue_redis, QUEUE, "complete", first.cursor, 2)
    failed = await reader.jobs_page(queue_redis, QUEUE, "failed")
    letters = await reader.letters_page(queue_redis, QUEUE, "open", None, 1)
    more = await reader.letters_page(queue_redis, QUEUE, "open", letters.cursor, 1)
    audit = await reader.audit_page(queue_redis)
    events = await reader.events_page(queue_redis, "events")

    assert [(row.id, row.worker) for row in running.items] == [("r1", "w0")]
    assert [row.id for row in first.items + second.items] == ["ok2", "ok1", "ok0"]
    assert [(row.id, row.error) for row in failed.items] == [("bad", "ValueError: x")]
    assert [letter.id for letter in letters.items + more.items] == ["newer", "older"]
    assert audit.items[0]["actor"] == "kim"
    assert events.items[0]["type"] == "user.created"


async def test_a_wrong_cursor_or_limit_is_refused_by_name(queue_redis: Redis) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        await reader.jobs_page(queue_redis, QUEUE, "waiting", "x; DROP")
    with pytest.raises(InvalidRequest, match="limit"):
        await reader.jobs_page(queue_redis, QUEUE, "waiting", None, 10_000)


async def test_a_job_is_told_in_every_state(queue_redis: Redis) -> None:
    codec = Codec()
    await enqueue(
        queue_redis, QUEUE, JobRequest(name="generic", id="w", args=[1], correlation_id="c")
    )
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="d", delay_s=60))
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="again", delay_s=60))
    await add_runs(queue_redis, make_run("again", Outcome.RETRY), make_run("done"))
    await add_worker(queue_redis, "w0", QUEUE, "r")
    result = {
        "t": 1,
        "f": "generic",
        "a": [],
        "k": {},
        "et": 1,
        "s": True,
        "r": {"n": 3},
        "q": QUEUE,
    }
    await queue_redis.set(keys.arq_result("done"), codec.encode(result))
    await add_letter(queue_redis, QUEUE, "x", correlation_id="c9")

    found = {
        i: await reader.job(queue_redis, i) for i in ("w", "d", "again", "done", "r", "x", "no")
    }

    assert {i: detail and detail.state for i, detail in found.items()} == {
        "w": JobState.QUEUED, "d": JobState.DEFERRED, "again": JobState.RETRYING,
        "done": JobState.COMPLETE, "r": JobState.RUNNING, "x": JobState.DEAD, "no": None,
    }  # fmt: skip
    assert found["w"] is not None
    assert (found["w"].arguments.args, found["w"].correlation_id) == ((1,), "c")
    assert found["done"] is not None
    assert found["done"].result == {"n": 3}
    assert [run.outcome for run in found["done"].runs] == [Outcome.COMPLETE]
