"""A job that completes makes the next: once, atomically, whatever happens to its worker."""

import asyncio
import os
import subprocess
import sys
from signal import Signals

import pytest
from redis.asyncio import Redis

from app import keys
from app.enqueue import JobRequest, enqueue, enqueue_many
from app.errors import InvalidRequest
from app.letters import redrive
from app.letters.redrive import Shelf, Verdict
from app.next_jobs import NextJob
from app.payloads.codec import Codec
from tests.conftest import ROOT
from tests.integration.worker_rig import (
    QUEUE,
    fail,
    leftovers,
    letter,
    make_worker,  # noqa: F401 - a fixture
    raw_redis,  # noqa: F401 - a fixture
    succeed,
    totals,
)
from tests.waiting import until

both_versions = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)
OTHER = "event-driven-jobs"
ran: list[tuple[str, object]] = []


@pytest.fixture(autouse=True)
def _nothing_ran():
    ran.clear()


async def double(ctx, value):
    ran.append((ctx["job_id"], value))
    return value * 2


async def payload(redis: Redis, job_id: str):
    return Codec().decode_job(await redis.get(keys.arq_job(job_id)))


@both_versions
async def test_a_chain_runs_to_its_end_each_with_the_result_before_it(raw_redis, make_worker):
    last = NextJob(name="double", then=[NextJob(name="double", data=100)])
    await enqueue(
        raw_redis, QUEUE, JobRequest(name="double", args=(1,), id="a", then=[last]), codec=Codec()
    )

    await make_worker(double).async_run()

    assert ran == [("a", 1), ("a.then-1", 2), ("a.then-1.then-1", 100)]
    assert (await totals(raw_redis))["accepted"] == (await totals(raw_redis))["complete"] == 3
    assert await leftovers(raw_redis) == set()


@both_versions
async def test_the_next_job_waits_on_its_own_queue_with_its_delay_and_correlation(
    raw_redis, make_worker
):
    then = [
        NextJob(name="notification", queue=OTHER, data={"n": 1}, delay_s=60),
        NextJob(name="generic", queue=OTHER),
    ]
    request = JobRequest(name="succeed", args=("r",), id="a", correlation_id="c1", then=then)
    await enqueue(raw_redis, QUEUE, request, codec=Codec())

    await make_worker().async_run()

    (now_s, _) = await raw_redis.time()
    found = dict(await raw_redis.zrange(OTHER, 0, -1, withscores=True))
    assert sorted(found) == [b"a.then-1", b"a.then-2"]
    assert 50_000 < found[b"a.then-1"] - now_s * 1000 <= 61_000
    first, second = [await payload(raw_redis, f"a.then-{n}") for n in (1, 2)]
    assert (first.function, first.args, first.options) == (
        "notification",
        ({"n": 1},),
        {"cid": "c1", "after": "a"},
    )
    assert second.args == ("r",)
    assert await raw_redis.sismember(keys.QUEUES, OTHER)
    assert await raw_redis.llen(keys.wake(OTHER)) == 2
    assert await raw_redis.hget(keys.totals(OTHER), "accepted") == b"2"


async def test_a_job_decides_itself_what_follows(raw_redis, make_worker):
    async def plan(ctx, tables):
        return [ctx["job"].then("double", number) for number in range(tables)]

    request = JobRequest(name="plan", args=(3,), id="p", then=[NextJob(name="double", data=7)])
    await enqueue(raw_redis, QUEUE, request, codec=Codec())

    await make_worker(plan, double).async_run()

    assert sorted(ran) == [("p.then-1", 7), ("p.then-2", 0), ("p.then-3", 1), ("p.then-4", 2)]
    result = Codec().decode(await raw_redis.get(keys.arq_result("p")))
    assert result["r"] == ["p.then-2", "p.then-3", "p.then-4"]


async def test_a_job_that_fails_is_followed_by_nothing(raw_redis, make_worker):
    async def plan(ctx, value):
        ctx["job"].then("double", 1)
        raise ValueError(value)

    for name in ("plan", "fail"):
        request = JobRequest(name=name, args=(1,), id=name, then=[NextJob(name="double", data=7)])
        await enqueue(raw_redis, QUEUE, request, codec=Codec())

    await make_worker(plan, fail, double).async_run()

    assert ran == []
    assert await raw_redis.zcard(QUEUE) == 0


async def test_a_retry_of_a_dead_letter_that_completes_makes_the_next_job_once(
    raw_redis, make_worker
):
    broken = [True]

    async def mend(ctx, value):
        if broken[0]:
            raise ConnectionError("away")
        return value

    request = JobRequest(name="mend", args=(4,), id="m", then=[NextJob(name="double")])
    await enqueue(raw_redis, QUEUE, request, codec=Codec())
    await make_worker(mend, double).async_run()
    broken[0] = False
    decoding = Redis.from_url(
        f"redis://:test-password@127.0.0.1:{raw_redis.connection_pool.connection_kwargs['port']}/0",
        decode_responses=True,
    )
    await redrive.redrive(Shelf(decoding, QUEUE, "job"), "m", Verdict(actor="t"))

    await make_worker(mend, double).async_run()

    assert ran == [("m.then-1", 4)]
    await decoding.aclose()


async def test_a_next_job_made_before_is_not_made_again(raw_redis, make_worker):
    """
    As after a finish that was carried out although its reply was lost, and a second run.
    """
    for _ in range(2):
        request = JobRequest(name="succeed", args=(1,), id="a", then=[NextJob(name="double")])
        await enqueue(raw_redis, QUEUE, request, codec=Codec())
        await make_worker(succeed, double).async_run()
        await raw_redis.delete(keys.arq_result("a"))

    assert ran == [("a.then-1", 1)]


async def test_a_killed_finish_leaves_both_or_neither(raw_redis, make_worker):
    """
    Outcomes go out in one script: at no moment is the job done and its next one missing.
    """
    for number in range(200):
        request = JobRequest(
            name="succeed",
            args=(number,),
            id=f"j{number}",
            then=[NextJob(name="double", queue=OTHER)],
        )
        await enqueue(raw_redis, QUEUE, request, codec=Codec())
    worker = make_worker(succeed, burst=False)
    running = asyncio.create_task(worker.async_run())

    async def some_done():
        return await raw_redis.zcard(OTHER) >= 20

    await until(some_done)
    async with raw_redis.pipeline(transaction=True) as pipe:
        pipe.zrange(OTHER, 0, -1)
        for number in range(200):
            pipe.exists(keys.arq_result(f"j{number}"))
        placed, *done = await pipe.execute()
    worker.handle_sig(Signals.SIGTERM)
    await running

    finished = {f"j{number}.then-1".encode() for number, one in enumerate(done) if one}
    assert set(placed) == finished


async def test_a_result_too_large_to_hand_on_is_a_dead_letter_not_silence(raw_redis, make_worker):
    async def much(ctx):
        return "x" * 300_000

    request = JobRequest(name="much", id="a", then=[NextJob(name="double")])
    await enqueue(raw_redis, QUEUE, request, codec=Codec())

    await make_worker(much, double).async_run()

    found = await letter(raw_redis, "a")
    assert (found.reason, found.error_type) == ("permanent", "PermanentError")
    assert "its next job cannot be made" in found.error
    assert ran == []


async def test_a_queue_whose_key_is_something_else_loses_no_outcome(raw_redis, make_worker):
    await raw_redis.set("taken", "a string")
    request = JobRequest(name="succeed", args=(1,), id="a", then=[NextJob(name="x", queue="taken")])
    await enqueue(raw_redis, QUEUE, request, codec=Codec())

    await make_worker().async_run()

    assert await raw_redis.exists(keys.arq_result("a"))
    assert (await totals(raw_redis))["complete"] == 1
    assert not await raw_redis.exists(keys.arq_job("a.then-1"))


async def test_a_job_cannot_be_followed_by_too_many(raw_redis, make_worker):
    refused = []

    async def plan(ctx):
        for number in range(25):
            try:
                ctx["job"].then("double", number)
            except InvalidRequest as error:
                refused.append(str(error))

    await enqueue(raw_redis, QUEUE, JobRequest(name="plan", id="p"), codec=Codec())
    await make_worker(plan, double).async_run()

    assert len(refused) == 5


async def test_workers_that_are_killed_neither_lose_nor_double_a_next_job(
    raw_redis, redis_server, tmp_path
):
    """
    Two SIGKILLs in the middle of 200 jobs: each job is followed once, however often it ran.
    """
    nexts = [NextJob(name="generic", queue="long-running-jobs")]
    requests = [
        JobRequest(name="generic", args=({"duration": 5},), id=f"j{n}", then=nexts)
        for n in range(200)
    ]
    await enqueue_many(raw_redis, QUEUE, requests, codec=Codec())
    world = {
        **{name: value for name, value in os.environ.items() if "REDIS" not in name},
        **{f"REDIS_{role}": redis_server.url for role in ("URL", "STREAMS_URL", "QUEUE_URL")},
        "ARQSCOPE_LEASE_S": "0.6",
        "PYTHONPATH": str(ROOT),
    }

    def start():
        command = [sys.executable, "-m", "workers.settings", QUEUE]
        return subprocess.Popen(command, cwd=tmp_path, env=world, stderr=subprocess.DEVNULL)

    async def followed(count):
        return await raw_redis.zcard("long-running-jobs") >= count

    for number in range(2):
        process = start()
        await until(lambda at=20 + 60 * number: followed(at), timeout_s=40)
        process.send_signal(Signals.SIGKILL)
        process.wait()
    process = start()
    await until(lambda: followed(200), timeout_s=40)
    process.terminate()
    await asyncio.to_thread(process.wait, 20)

    placed = await raw_redis.zrange("long-running-jobs", 0, -1)
    assert sorted(placed) == sorted(f"j{n}.then-1".encode() for n in range(200))
    assert await raw_redis.hget(keys.totals("long-running-jobs"), "accepted") == b"200"
    assert (await totals(raw_redis))["complete"] == 200
