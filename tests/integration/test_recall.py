"""Recall: one reading of the past for however many look, of what a historian really wrote."""

import asyncio
import time

import pytest
from redis.asyncio import Redis

from app.annals import past
from app.annals.historian import Historian
from app.annals.recall import Recall
from app.errors import NotFound
from app.sampling.sample import Sample

QUEUES = ("a", "b")
#: four minutes that are over
FIRST = int(time.time() // 60) - 6
MINUTES = range(FIRST, FIRST + 4)


async def lived_through(redis: Redis) -> None:
    """Two queues and a stream, looked at twice a minute."""
    historian = Historian()
    for minute in MINUTES:
        for second in (10, 40):
            now_ms = minute * 60_000 + second * 1000
            rows = [
                {"queue": name, "waiting": 10.0 * n + minute - FIRST, "deferred": 0, "running": 1}
                for n, name in enumerate(QUEUES, 1)
            ]
            historian.see(
                Sample(
                    at_us=now_ms * 1000, now_ms=now_ms, queues=rows,
                    streams=[{"stream": "s", "length": 5, "processed": minute * 10, "dead": 0}],
                    stream_history=[{"stream": "s", "lag": 7.0, "lag_s": 2.5}],
                )
            )  # fmt: skip
        await historian.write(redis, (minute + 1) * 60_000 + 4_000)


async def test_rows_of_several_sources_lie_on_one_grid(
    queue_redis: Redis, streams_redis: Redis
) -> None:
    await lived_through(queue_redis)
    recall = Recall(queue_redis, streams_redis)
    start_ms, end_ms = FIRST * 60_000.0, (FIRST + 4) * 60_000.0

    rows = await recall.rows(QUEUES, start_ms, end_ms, 60)
    of_stream = await recall.rows(("s",), start_ms, end_ms, 60)

    assert rows.attrs["step_s"] == 60
    assert rows["at"].is_monotonic_increasing
    assert rows[rows["source"] == "b"]["waiting"].to_list() == [20.0, 21.0, 22.0, 23.0]
    assert of_stream["lag"].to_list() == [7.0] * 4
    assert of_stream["lag_s"].to_list() == [2.5] * 4


async def test_what_many_ask_at_once_is_read_once(
    queue_redis: Redis, streams_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lived_through(queue_redis)
    asked: list[str] = []
    whole = past.history

    async def counted(redis: Redis, source: str, *span: float, **more: float) -> object:
        asked.append(source)
        return await whole(redis, source, *span, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(past, "history", counted)
    recall = Recall(queue_redis, streams_redis)
    span = (FIRST * 60_000.0, (FIRST + 4) * 60_000.0, 60)

    first, *others = await asyncio.gather(*(recall.rows(QUEUES, *span) for _ in range(20)))

    assert asked == list(QUEUES)
    assert all(other is first for other in others)


async def test_a_moment_is_the_newest_stored_before_it(
    queue_redis: Redis, streams_redis: Redis
) -> None:
    await lived_through(queue_redis)
    recall = Recall(queue_redis, streams_redis)

    then = await recall.moment((FIRST + 2) * 60_000.0 + 20_000)

    assert int(then.taken_at.timestamp()) == (FIRST + 1) * 60 + 40
    assert then.queues["waiting"].to_list() == [11.0, 21.0]
    assert await recall.moment((FIRST + 2) * 60_000.0 + 20_000) is then
    with pytest.raises(NotFound, match="moment"):
        await recall.moment((FIRST - 600) * 60_000.0)


async def test_a_failure_is_not_remembered(queue_redis: Redis, streams_redis: Redis) -> None:
    recall = Recall(queue_redis, streams_redis)
    with pytest.raises(NotFound):
        await recall.moment((FIRST + 2) * 60_000.0)
    await lived_through(queue_redis)

    assert (await recall.moment((FIRST + 2) * 60_000.0 + 20_000)).number == 1
