"""A process that stops says goodbye to a Redis that does not answer, and stops all the same."""

import asyncio
from typing import Any, Self, cast

import pytest
from redis.asyncio import Redis

from app.payloads.codec import JobPayload
from app.settings import Settings
from workers.heartbeat import Heartbeat
from workers.runs.job_events import JobEnd, JobEvents
from workers.runs.samples import Sampler

#: s; nothing here comes near it, and a goodbye without a bound waits for ever
PATIENCE_S = 20


class Silent:
    """A Redis that takes every command and answers none; its clients can be closed."""

    def pipeline(self, **_: Any) -> "Silent":
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def delete(self, *_: Any) -> None:
        """Buffered."""

    def zrem(self, *_: Any) -> None:
        """Buffered."""

    async def execute(self) -> None:
        await asyncio.Event().wait()

    async def evalsha(self, *_: Any) -> None:
        await asyncio.Event().wait()


def silent() -> Redis:
    return cast(Redis, Silent())


async def test_a_heartbeat_that_cannot_be_removed_holds_up_no_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Whoever waits for the process to end waits for the bound, not for Redis; the record expires.
    """
    monkeypatch.setattr("workers.heartbeat.GOODBYE_S", 0.05)
    heartbeat = Heartbeat(silent(), "worker", "q")

    async with asyncio.timeout(PATIENCE_S):
        await heartbeat.stop()

    assert [record.message for record in caplog.records] == ["heartbeat not removed"]


async def test_samples_on_their_way_hold_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runs.samples.GOODBYE_S", 0.05)
    sampler = Sampler(silent(), "q")
    sampler.take("f", (1,), {}, 0.0)
    (sending,) = sampler._tasks

    async with asyncio.timeout(PATIENCE_S):
        await sampler.stop()

    assert sending.cancelled()


async def test_job_events_that_cannot_be_sent_are_counted_and_hold_up_no_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.runs.job_events.GOODBYE_S", 0.05)
    told = JobEvents(Settings())
    job = JobPayload("f", (), {}, enqueued_ms=0, job_try=None, options={})
    told.ended(
        JobEnd(id="j", queue="q", job=job, outcome="complete", attempt=1, ran_ms=1.0, waited_ms=0.0, error="")
    )  # fmt: skip

    async def never(_: JobEvents) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(JobEvents, "_send", never)

    async with asyncio.timeout(PATIENCE_S):
        await told.close()

    assert told.dropped == 1
