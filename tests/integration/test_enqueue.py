"""Enqueueing: one id, one job, whoever asks how often; on Redis 7 and on the embedded 6.2."""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue, enqueue_many
from app.errors import InvalidRequest, RedisRefused, RedisUnavailable
from app.payloads.codec import Codec
from app.wire.connections import connect
from tests.conftest import RunningRedis, start_redis
from tests.waiting import within

QUEUE = "async-processing"
both = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


@both
async def test_a_job_is_stored_with_its_payload_and_counted(
    redis_server: RunningRedis, queue_redis: Redis
):
    done = await enqueue(queue_redis, QUEUE, JobRequest(name="data-sync", args=({"n": 1},)))

    raw = await queue_redis.execute_command("GET", keys.arq_job(done.id), NEVER_DECODE=True)
    assert done.created
    assert Codec().decode_job(raw).args == ({"n": 1},)
    assert await queue_redis.zcard(QUEUE) == 1
    assert await queue_redis.hget(keys.totals(QUEUE), "accepted") == "1"
    assert await queue_redis.sismember(keys.QUEUES, QUEUE)


@both
async def test_asking_twice_with_one_id_makes_one_job(
    redis_server: RunningRedis, queue_redis: Redis
):
    request = JobRequest(name="data-sync", id="order-7")

    answers = await asyncio.gather(*(enqueue(queue_redis, QUEUE, request) for _ in range(20)))

    assert sum(answer.created for answer in answers) == 1
    assert await queue_redis.zcard(QUEUE) == 1
    assert await queue_redis.hget(keys.totals(QUEUE), "accepted") == "1"


async def test_a_job_whose_result_is_kept_is_not_made_again(queue_redis: Redis):
    await queue_redis.set(keys.arq_result("order-7"), "x")

    done = await enqueue(queue_redis, QUEUE, JobRequest(name="data-sync", id="order-7"))

    assert not done.created


@both
async def test_a_batch_larger_than_a_script_call_arrives_whole(
    redis_server: RunningRedis, queue_redis: Redis
):
    requests = [JobRequest(name="generic", id=f"j{i}") for i in range(1_234)]

    done = await enqueue_many(queue_redis, QUEUE, requests)

    assert [answer.id for answer in done] == [f"j{i}" for i in range(1_234)]
    assert await queue_redis.zcard(QUEUE) == 1_234


async def test_one_bad_job_in_a_batch_sends_none(queue_redis: Redis):
    requests = [JobRequest(name="generic"), JobRequest(name="generic", args=(object(),))]

    with pytest.raises(InvalidRequest):
        await enqueue_many(queue_redis, QUEUE, requests)
    assert await queue_redis.zcard(QUEUE) == 0


async def test_delays_count_from_redis_time_and_payloads_outlive_them(queue_redis: Redis):
    due = datetime.now(UTC) + timedelta(days=30)

    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="later", delay_s=60))
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="then", due=due))

    seconds, micros = await queue_redis.time()
    now_ms = seconds * 1000 + micros // 1000
    assert await queue_redis.zscore(QUEUE, "later") == pytest.approx(now_ms + 60_000, abs=2_000)
    assert await queue_redis.zscore(QUEUE, "then") == pytest.approx(due.timestamp() * 1000, abs=1)
    assert await queue_redis.pttl(keys.arq_job("then")) > 390 * 86_400_000


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x", "id": "../etc"},
        {"name": "x", "delay_s": -1},
        {"name": "x", "delay_s": float("nan")},
        {"name": "x", "attempts": 0},
        {"name": "x", "attempts": True},
        {"name": "x", "due": datetime(2026, 1, 1)},  # noqa: DTZ001 - the point of the test
    ],
)
def test_a_request_that_breaks_a_rule_names_the_field(fields: dict[str, object]):
    with pytest.raises(InvalidRequest) as caught:
        JobRequest(**fields)

    assert caught.value.field
    assert caught.value.hint


async def test_a_redis_that_is_away_is_told_in_two_seconds(tmp_path: Path):
    server = start_redis(tmp_path)
    client = connect(server.url)
    server.kill()

    async with within(2):
        with pytest.raises(RedisUnavailable):
            await enqueue(client, QUEUE, JobRequest(name="generic"))
    await client.aclose()


async def test_a_redis_that_is_silent_is_told_in_two_seconds_and_the_job_is_made_once(
    tmp_path: Path,
):
    """
    A frozen server takes the bytes and answers nothing, on connections old and new; the outcome is
    unknown, and asking again with the same id makes one job.
    """
    server = start_redis(tmp_path)
    warm, cold = connect(server.url), connect(server.url)
    await warm.ping()
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)

    for client in (warm, cold):
        async with within(2):
            with pytest.raises(RedisUnavailable, match=r"does not answer|no answer"):
                await enqueue(client, QUEUE, JobRequest(name="generic", id="j1"))
    server.process.send_signal(signal.SIGCONT)
    await enqueue(warm, QUEUE, JobRequest(name="generic", id="j1"))

    assert await warm.zrange(QUEUE, 0, -1) == ["j1"]
    assert await warm.hget(keys.totals(QUEUE), "accepted") == "1"
    for client in (warm, cold):
        await client.aclose()
    server.stop()


async def test_large_payloads_are_sent_in_calls_redis_is_not_held_by(queue_redis: Redis):
    requests = [JobRequest(name="generic", args=("x" * 200_000,), id=f"j{n}") for n in range(60)]
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic"))  # the script is loaded
    before = (await queue_redis.info("commandstats"))["cmdstat_evalsha"]["calls"]

    await enqueue_many(queue_redis, QUEUE, requests)

    calls = (await queue_redis.info("commandstats"))["cmdstat_evalsha"]["calls"] - before
    assert await queue_redis.zcard(QUEUE) == 61
    assert calls == 3  # 12 MB


async def test_a_redis_without_memory_says_so(tmp_path: Path):
    server = start_redis(tmp_path, extra=("--maxmemory", "1mb"))
    client = connect(server.url)

    requests = [JobRequest(name="generic", args=("x" * 200_000,)) for _ in range(10)]
    with pytest.raises(RedisRefused, match="maxmemory"):
        await asyncio.gather(*(enqueue(client, QUEUE, request) for request in requests))
    await client.aclose()
    server.stop()
