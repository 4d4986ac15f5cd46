"""Workers that tell the stream how jobs stand: complete, bounded, and never in a job's way."""

import time

import pytest

from app.enqueue import JobRequest, enqueue
from app.payloads.codec import Codec, JobPayload
from app.streams.events import Event
from tests.conftest import unused_port
from tests.integration.worker_rig import (
    QUEUE,
    fail,
    make_worker,  # noqa: F401 - a fixture
    raw_redis,  # noqa: F401 - a fixture
    succeed,
)
from workers.runs import job_events
from workers.runs.job_events import JobEnd, JobEvents

STREAM = "pyairtable-events"


async def published(redis):
    return [Event.from_entry(*row) for row in await redis.xrange(STREAM)]


async def report(ctx, data):
    for number in range(5):
        await ctx["job"].progress(number, 5, "rows")
    return data


async def test_every_outcome_is_an_event_with_the_jobs_user_and_correlation(
    settings, raw_redis, make_worker, streams_redis
):
    for name, job_id in (("succeed", "good"), ("fail", "bad")):
        request = JobRequest(
            name=name, args=({"userId": "u1"},), id=job_id, correlation_id=f"c-{job_id}"
        )
        await enqueue(raw_redis, QUEUE, request, codec=Codec())

    await make_worker(succeed, fail, options={"job_events": JobEvents(settings)}).async_run()

    found = await published(streams_redis)
    seen = sorted((e.type, e.data["jobId"], e.data["attempt"], e.data["final"]) for e in found)
    assert seen == [
        ("job.completed", "good", 1, True),
        ("job.failed", "bad", 1, False),
        ("job.failed", "bad", 2, False),
        ("job.failed", "bad", 3, True),
    ]
    assert {(e.user_id, e.correlation_id) for e in found} == {("u1", "c-good"), ("u1", "c-bad")}
    assert all("no route" in e.data["error"] for e in found if e.type == "job.failed")


async def test_progress_is_told_once_a_second_at_most(
    settings, raw_redis, make_worker, streams_redis
):
    await enqueue(raw_redis, QUEUE, JobRequest(name="report", args=({},), id="r"), codec=Codec())

    await make_worker(report, options={"job_events": JobEvents(settings)}).async_run()

    found = [e for e in await published(streams_redis) if e.type == "job.progress"]
    assert [(e.data["done"], e.data["total"], e.data["message"]) for e in found] == [(0, 5, "rows")]


async def test_without_the_setting_nothing_is_told(raw_redis, make_worker, streams_redis):
    await enqueue(raw_redis, QUEUE, JobRequest(name="succeed", id="a"), codec=Codec())

    await make_worker(succeed).async_run()

    assert await published(streams_redis) == []


async def test_jobs_do_not_wait_for_a_stream_that_is_away(
    settings, raw_redis, make_worker, monkeypatch
):
    """
    A thousand jobs end as fast as ever; what cannot be told is dropped and counted.
    """
    monkeypatch.setattr(job_events, "MAX_WAITING", 50)
    away = settings.model_copy(update={"redis_streams_url": f"redis://127.0.0.1:{unused_port()}/0"})
    told = JobEvents(away)
    for number in range(300):
        request = JobRequest(name="succeed", args=(1,), id=f"j{number}")
        await enqueue(raw_redis, QUEUE, request, codec=Codec())
    began = time.monotonic()

    worker = make_worker(succeed, options={"job_events": told})
    await worker.async_run()

    assert worker.jobs_complete == 300
    assert time.monotonic() - began < 6
    assert told.dropped == 300
    assert told.sent == 0


@pytest.mark.parametrize("name", ["n\udce9e", "x" * 500, "a|b", ""])
async def test_odd_names_do_no_harm(settings, streams_redis, name):
    told = JobEvents(settings)
    job = JobPayload(name, ({"userId": "\udcff"},), {}, 0, None, {"cid": "\udcff"})

    told.ended(JobEnd(name, QUEUE, job, "complete", 1, float("nan"), 0.0, name))
    told.progress_of(name, QUEUE, job)(float("inf"), 1, name)
    await told.close()

    found = await published(streams_redis)
    assert [e.type for e in found] == ["job.completed", "job.progress"]
    assert (told.sent, told.dropped) == (2, 0)


async def test_what_was_sent_but_not_answered_is_not_doubled(settings, streams_redis):
    told = JobEvents(settings)
    job = JobPayload("f", (), {}, 0, None, {})
    for _ in range(2):
        told.ended(JobEnd("j1", QUEUE, job, "complete", 1, 1.0, 0.0, ""))

    await told.close()

    assert len(await published(streams_redis)) == 1
