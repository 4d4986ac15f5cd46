"""A sample when a Redis dies or hangs, or when the sampler of all servers ends."""

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pandas as pd
import pytest
from redis.asyncio import Redis

from app import keys
from app.collector import Collector
from app.enqueue import JobRequest, enqueue
from app.settings import Settings
from app.snapshot import stats
from tests.conftest import RunningRedis, start_redis
from tests.integration.reports import QUEUE, add_letter, add_worker, of_queue


@pytest.fixture
async def two_servers(tmp_path: Path) -> AsyncIterator[tuple[RunningRedis, RunningRedis, Settings]]:
    """A server for the queue role and another for the two others."""
    first, second = start_redis(tmp_path / "a"), start_redis(tmp_path / "b")
    settings = Settings(
        redis_queue_url=first.url,
        redis_url=second.database(0),
        redis_streams_url=second.database(1),
        sample_interval_s=0.2,
    )
    yield first, second, settings
    first.stop()
    second.stop()


async def test_a_dead_redis_leaves_a_gap_and_the_others_go_on(
    two_servers: tuple[RunningRedis, RunningRedis, Settings],
) -> None:
    queue_server, _, settings = two_servers
    collector = Collector(settings)
    good = await collector.sample()
    queue_server.kill()

    lost = await collector.sample()
    still_lost = await collector.sample()
    queue_server.start()
    back = await collector.sample()
    await collector.stop()

    assert set(lost.problems) == {"queue"}
    assert "test-password" not in str(dict(lost.problems))
    assert lost.stale_since["queue"] == good.taken_at == still_lost.stale_since["queue"]
    assert lost.queues[["waiting", "running", "complete", "workers"]].isna().all().all()
    assert lost.streams["length"].to_list() == [0]
    assert lost.redis.set_index("role")["up"].to_dict() == {
        "queue": False, "streams": True, "cache": True,
    }  # fmt: skip
    assert stats(lost, settings)[QUEUE]["waiting"] is None
    assert back.problems == {}
    of_one = back.history[back.history["queue"] == QUEUE]
    assert of_one["waiting"].isna().to_list() == [False, True, True, False]


async def test_a_hanging_redis_does_not_hold_up_the_others_for_long(
    two_servers: tuple[RunningRedis, RunningRedis, Settings],
) -> None:
    queue_server, _, settings = two_servers
    collector = Collector(settings)
    await collector.sample()
    assert queue_server.process is not None
    os.kill(queue_server.process.pid, signal.SIGSTOP)

    hung = await collector.sample()
    began = time.monotonic()
    again = await collector.sample()
    took_s = time.monotonic() - began
    os.kill(queue_server.process.pid, signal.SIGCONT)
    back = await collector.sample()
    await collector.stop()

    assert set(hung.problems) == set(again.problems) == {"queue"}
    assert took_s < 1.0
    assert again.redis.set_index("role").loc["cache", "up"]
    assert back.problems == {}


async def test_many_servers_share_one_sampler_and_survive_its_end(
    settings: Settings, queue_redis: Redis, streams_redis: Redis
) -> None:
    first, second = Collector(settings), Collector(settings)
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="a"))
    await add_worker(queue_redis, "w0", QUEUE, "r1")
    await add_letter(queue_redis, QUEUE, "dead1")
    await first.sample()
    await second.sample()  # finds out that somebody leads
    await second.sample(full=False)  # asks for samples
    led = await first.sample(full=False)
    led = await first.sample(full=False)
    before = (await streams_redis.info("commandstats"))["cmdstat_xinfo|stream"]["calls"]
    followed = await second.sample(full=False)
    after = (await streams_redis.info("commandstats"))["cmdstat_xinfo|stream"]["calls"]

    assert (led.role, followed.role) == ("leader", "follower")
    assert after == before
    assert followed.cost_commands <= 8
    assert followed.taken_at == led.taken_at
    for name in ("queues", "workers", "running", "dead_letters", "streams", "groups", "redis"):
        pd.testing.assert_frame_equal(followed.frame(name), led.frame(name))

    await first.stop()
    assert await queue_redis.exists(keys.lease("collector"), keys.SAMPLE) == 0
    alone = await second.sample(full=False)
    again = await second.sample(full=False)
    await second.stop()

    assert of_queue(alone)["waiting"] == 1
    assert again.role == "leader"
