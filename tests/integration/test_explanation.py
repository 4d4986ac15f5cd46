"""Explaining a cause end to end: a worker fails and succeeds, the explanation names why."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from arq.worker import func

from app import actions, keys
from app.actions import Connections
from app.enqueue import JobRequest, enqueue_many
from app.errors import NotFound
from app.explanation import explanation
from app.letters import causes
from app.payloads.arguments import decoded
from app.payloads.codec import Codec
from app.settings import Settings
from tests.letters import ANN, QUEUE, bury
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.letters.rounds import DeadLetterProcessor
from workers.policies import Action, Rule
from workers.retry_policy import RetryPolicy
from workers.runs.samples import FIRST_SAMPLES, SAMPLES_KEPT, Sampler


@pytest.fixture
def connections(queue_redis, streams_redis, cache_redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


def make_worker(settings: Settings, function: Callable[..., Awaitable[Any]]) -> Worker:
    options = EngineOptions(
        url=settings.url("queue"), policy=RetryPolicy(attempts=1), codec=Codec(), drain_s=5.0
    )
    return Worker(
        functions=[func(function, name="sync")],
        queue_name=QUEUE,
        handle_signals=False,
        burst=True,
        ctx={"arqscope": options},
    )


async def explain(connections: Connections, settings: Settings, fingerprint: str) -> Any:
    return await explanation(
        connections,
        settings.stream_name,
        settings.queue_names,
        fingerprint,
    )


async def test_a_tenant_whose_jobs_fail_is_named_first(connections, settings, monkeypatch):
    """
    The worker itself samples successes and keeps the arguments of what dies.
    """
    monkeypatch.setattr("workers.runs.samples.FIRST_INTERVAL_S", 0.0)
    chance = random.Random(7)

    async def sync(ctx: dict[str, Any], data: dict[str, Any]) -> None:
        if data["tenant_id"] == 42 or chance.random() < 0.01:
            raise ValueError(f"no plan for base {data['base']}")

    requests = [
        JobRequest(
            name="sync",
            id=f"j{n}",
            args=(
                {
                    "tenant_id": 42 if n % 5 == 0 else n % 40 + 100,
                    "base": n + 1000,
                    "dry": n % 2 == 0,
                },
            ),
        )
        for n in range(250)
    ]
    await enqueue_many(connections.queue, QUEUE, requests)
    worker = make_worker(settings, sync)
    await worker.main()
    await worker.close()
    processor = DeadLetterProcessor(
        settings,
        connections.queue,
        connections.streams,
        connections.cache,
        (Rule(name="all", action=Action.ALERT),),
    )
    await processor.round()
    fingerprint = (await connections.queue.zrange(keys.CAUSES, 0, -1))[0]

    found = await explain(connections, settings, fingerprint)

    assert found.failures >= 50
    assert found.successes >= 20
    assert found.shared.loc[0, ["argument", "value"]].to_list() == ["tenant_id", "42"]
    assert found.shared_note == ""
    assert found.function == "sync"
    assert found.cause.count == found.failures
    assert found.odds["retries"].to_list() == [0]


async def test_what_changed_before_the_first_occurrence_is_listed(connections, settings):
    now_ms = int(time.time() * 1000)
    await causes.note_starts(
        connections.queue,
        [("w0", QUEUE, "1.0", now_ms - 86_400_000), ("w1", QUEUE, "2.0", now_ms - 60_000)],
    )
    await actions.pause_queue(connections, settings, ANN, QUEUE)
    letter = await bury(connections.queue, "j1", fingerprint="f1", died_ms=now_ms + 2_000)
    await causes.note_deaths(connections.queue, [letter], now_ms)

    found = await explain(connections, settings, "f1")

    assert found.changes["kind"].to_list() == ["action", "deploy"]
    assert found.changes["who"].to_list() == ["ann", ""]
    assert "too few" in found.shared_note
    with pytest.raises(NotFound):
        await explain(connections, settings, "nobody")


async def test_samples_are_bounded_rare_and_cost_nothing_when_redis_is_away(connections):
    sampler = Sampler(connections.queue, QUEUE)
    at = 1000.0
    taken = 0
    for n in range(20_000):  # 2,000 jobs a second, ten seconds
        at += 0.0005
        if sampler.due("sync", at):
            taken += 1
            sampler.take("sync", ({"n": n},), {}, at)
    assert 5 <= taken <= 25
    for n in range(SAMPLES_KEPT + FIRST_SAMPLES):
        at += 100
        assert sampler.due("sync", at)
        sampler.take("sync", ({"n": n},), {}, at)
        if len(sampler._tasks) > 50:
            await asyncio.gather(*sampler._tasks)
    for _ in range(3):
        await asyncio.gather(*sampler._tasks)
    kept = await connections.queue.lrange(keys.samples(QUEUE, "sync"), 0, -1)
    assert len(kept) == SAMPLES_KEPT
    assert all(decoded(text) for text in kept)
    assert 0 < await connections.queue.ttl(keys.samples(QUEUE, "sync")) <= 7 * 86_400
    await sampler.stop()
