"""What the collector remembers between samples, asked without a Redis."""

import logging
from typing import Any, cast

import pandas as pd
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.collector import Collector
from app.sampling import observation
from app.sampling.observation import Observation
from app.settings import Settings


class Asked(Exception):
    """Stands in place of a reading: the question is what the test is about."""


@pytest.mark.parametrize(
    ("told", "command"), [("6.2.14", "SORT"), ("7.2.4", "SORT_RO"), ("", "of the pool")]
)
async def test_lists_are_sorted_by_what_the_server_of_now_can(
    monkeypatch: pytest.MonkeyPatch, told: str, command: str
) -> None:
    """
    A failover may lead from a Redis 7 to a 6, which has no SORT_RO: the pool's first answer is of the old one.
    """
    asked: list[str] = []

    async def reading(*_: Any, sort: str, **__: Any) -> None:
        asked.append(sort)
        raise Asked

    async def of_the_pool(_: Redis) -> str:
        return "of the pool"

    monkeypatch.setattr(observation.readings, "queue_reading", reading)
    monkeypatch.setattr(observation.stream_readings, "stream_reading", reading)
    monkeypatch.setattr(observation, "sort_command", of_the_pool)
    seen = Observation(Settings())
    seen._infos = {name: {"redis_version": told} for name in ("queue", "streams")}
    seen.begin(pd.Timestamp.now("UTC"), full=True)

    for read in (seen.read_queue, seen.read_streams):
        with pytest.raises(Asked):
            await read(cast(Redis, None))

    assert asked == [command, command]


async def test_that_history_is_not_written_is_said_once_until_it_is_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    It is tried again with every sample: a line each would be 86,400 a day.
    """
    collector = Collector(Settings())
    answers = iter((False, False, False, True, False, False))

    async def write(*_: Any) -> None:
        if not next(answers):
            raise RedisConnectionError("away")

    monkeypatch.setattr(collector._historian, "write", write)
    with caplog.at_level(logging.WARNING, "arqscope.collector"):
        for _ in range(6):
            await collector._write(0.0)

    assert [r.message for r in caplog.records] == ["history not written"] * 2
