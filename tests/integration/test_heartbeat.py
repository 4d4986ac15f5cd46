"""The heartbeat of a process against a real Redis."""

import os

import pytest
from redis.exceptions import RedisError

from app import keys
from app.records import WorkerInfo
from app.wire.connections import connect
from tests.conftest import start_redis
from tests.waiting import until
from workers.heartbeat import TTL_MS, Heartbeat


async def test_a_beat_tells_who_the_process_is_and_how_it_fares(queue_redis):
    heartbeat = Heartbeat(
        queue_redis,
        "worker",
        "async-processing",
        describe=lambda: {"slots": 5, "busy": 2, "functions": "a,b", "held": 7},
    )

    await heartbeat.beat()

    info = WorkerInfo.from_fields(await queue_redis.hgetall(keys.worker(heartbeat.id)))
    assert (info.role, info.source, info.slots, info.busy) == ("worker", "async-processing", 5, 2)
    assert info.rss_bytes > 1_000_000
    assert info.extra == {"held": "7"}
    assert 0 < await queue_redis.pttl(keys.worker(heartbeat.id)) <= TTL_MS
    assert await queue_redis.zrange(keys.WORKERS, 0, -1) == [heartbeat.id]
    assert await queue_redis.zrange(keys.functions("async-processing"), 0, -1) == ["a", "b"]


async def test_a_beat_that_redis_took_touches_a_file(queue_redis, tmp_path, free_port):
    """
    What containers' health checks look at; a beat Redis did not take leaves it as it was.
    """
    file = tmp_path / "beat"
    beats = Heartbeat(queue_redis, "events", "pyairtable-events", beat_file=str(file))
    await beats.beat()
    os.utime(file, (0, 0))
    away = connect(f"redis://127.0.0.1:{free_port}/0", retries=0)
    with pytest.raises(RedisError):
        await Heartbeat(away, "events", "pyairtable-events", beat_file=str(file)).beat()
    await away.aclose()
    assert file.stat().st_mtime == 0
    await beats.beat()
    assert file.stat().st_mtime > 0
    await beats.stop()
    assert not file.exists()


async def test_a_process_that_ends_cleanly_removes_itself(queue_redis):
    heartbeat = Heartbeat(queue_redis, "events", "pyairtable-events")
    await heartbeat.start()
    await until(lambda: queue_redis.zcard(keys.WORKERS))

    await heartbeat.stop()

    assert await queue_redis.keys("arqscope:worker*") == []


async def test_beats_go_on_after_redis_was_away(tmp_path):
    server = start_redis(tmp_path)
    client = connect(server.url)
    heartbeat = Heartbeat(client, "events", "s", interval_s=0.05)
    await heartbeat.start()
    await until(lambda: client.exists(keys.worker(heartbeat.id)))

    server.restart()
    await client.delete(keys.worker(heartbeat.id))

    await until(lambda: client.exists(keys.worker(heartbeat.id)))
    await heartbeat.stop()
    await client.aclose()
    server.stop()


async def test_the_index_forgets_processes_of_days_ago(queue_redis):
    await queue_redis.zadd(keys.WORKERS, {"long-gone": 1})
    heartbeat = Heartbeat(queue_redis, "events", "s")

    await heartbeat.beat()

    assert await queue_redis.zrange(keys.WORKERS, 0, -1) == [heartbeat.id]
