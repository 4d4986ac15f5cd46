"""Attached to a Redis of stock arq, with nothing installed: what can be known is shown, the rest is not."""

import asyncio
import pickle
import time
from typing import Any

import arq
import pytest
from arq.connections import ArqRedis
from arq.worker import Worker as StockWorker
from redis.asyncio import ConnectionPool, Redis

from app import keys, reader
from app.collector import Collector
from app.contents import PICKLED
from app.foreign import foreign_frame, look_around
from app.settings import Settings
from app.snapshot import stats
from tests.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
async def stock(settings: Settings) -> Any:
    """A producer of stock arq, as its documentation has it."""
    pool = ArqRedis(ConnectionPool.from_url(settings.url("queue")), default_queue_name="arq:queue")
    yield pool
    await pool.aclose(close_connection_pool=True)


async def test_stock_queues_are_found_and_shown_with_what_can_be_known(
    settings: Settings, queue_redis: Redis, stock: ArqRedis
) -> None:
    for n in range(3):
        await stock.enqueue_job("resize", n, size="big", _job_id=f"s{n}")
    await stock.enqueue_job("later", _job_id="d", _defer_by=600)
    await stock.enqueue_job("mail", _queue_name="mails")
    await queue_redis.zadd("a-leaderboard", {"kim": 3.0})
    await queue_redis.set("arq:in-progress:s0", "1")
    record = "Nov-23 13:00:00 j_complete=7 j_failed=1 j_retried=2 j_ongoing=1 queued=4"
    await queue_redis.set("arq:queue:health-check", record, px=61_000)
    await queue_redis.set("idle:health-check", record, px=61_000)
    collector = Collector(settings)

    look = await collector.look_around()
    snapshot = await collector.sample()
    snapshot = await collector.sample(full=False)
    table = (await foreign_frame(queue_redis, collector.foreign)).set_index("queue")
    await collector.stop()

    assert collector.foreign == {"arq:queue", "mails", "idle"}
    assert (look.complete, look.jobs, look.running) == (True, 5, 1)
    row = table.loc["arq:queue"]
    numbers = row[["depth", "due", "deferred", "running_at_least", "ongoing", "complete"]]
    assert numbers.to_list() == [4, 3, 1, 1, 1, 7]
    assert 0 < row["health_expires_s"] <= 60
    assert 0 <= row["oldest_wait_s"] < 20
    assert table.loc["mails", ["health_expires_s", "complete"]].isna().all()
    assert table.loc["idle", "depth"] == 0
    seen = snapshot.queues.set_index("queue").loc["arq:queue"]
    assert seen[["waiting", "deferred"]].to_list() == [3, 1]
    assert seen[["running", "complete", "workers", "accepted", "dead_open"]].isna().all()
    assert stats(snapshot, settings)["arq:queue"]["completed"] is None
    job = await reader.job(queue_redis, "s1", queues=["arq:queue"])
    assert job is not None
    assert (job.function, job.arguments.args, job.arguments.kwargs) == (
        "resize",
        (1,),
        {"size": "big"},
    )
    assert job.arguments.note == PICKLED


async def test_a_stock_worker_is_seen_through_its_health_record_and_results(
    settings: Settings, queue_redis: Redis, stock: ArqRedis
) -> None:
    async def double(ctx: dict[str, Any], number: int) -> int:
        return 2 * number

    await stock.enqueue_job("double", 21, _job_id="x")
    pool = ArqRedis(ConnectionPool.from_url(settings.url("queue")), default_queue_name="arq:queue")
    worker = StockWorker(
        [arq.worker.func(double, name="double")], redis_pool=pool, burst=True, poll_delay=0.01,
        handle_signals=False, health_check_interval=1,
    )  # fmt: skip
    if type(worker).__module__ != "arq.worker":
        pytest.skip("another test installed our worker in arq's place")
    await worker.main()

    job = await reader.job(queue_redis, "x", queues=["arq:queue"])

    await pool.aclose(close_connection_pool=True)
    assert job is not None
    assert (job.result, job.result_note, job.function) == (42, PICKLED, "double")
    assert job.state == "complete"


async def test_a_look_keeps_to_its_window_and_says_so(queue_redis: Redis) -> None:
    pipe = queue_redis.pipeline(transaction=False)
    for n in range(5_000):
        pipe.set(f"noise:{n}", 1)
    pipe.set(keys.arq_job("j"), pickle.dumps({"f": "x"}))
    pipe.zadd("hidden", {"j": time.time() * 1000})
    await pipe.execute()

    part = await look_around(queue_redis, window=2_000)
    whole = await look_around(queue_redis)

    assert not part.complete
    assert 2_000 <= part.scanned < 4_000
    assert part.window.startswith("the first")
    assert whole.queues == {"hidden"}
    assert whole.window == f"all {whole.scanned:,} keys"


async def test_the_timer_never_scans(settings: Settings, queue_redis: Redis) -> None:
    collector = Collector(settings.model_copy(update={"sample_interval_s": 0.1}))
    await collector.start()
    await until(lambda: asyncio.sleep(0, collector.look.ended), timeout_s=10)
    await queue_redis.config_resetstat()
    before = collector.snapshot.number
    await until(lambda: asyncio.sleep(0, collector.snapshot.number >= before + 10), timeout_s=10)

    told = await queue_redis.info("commandstats")
    await collector.stop()

    used = {name.removeprefix("cmdstat_").partition("|")[0] for name in told}
    assert not used & {"keys", "scan", "hscan", "sscan", "zscan", "smembers_all", "eval", "evalsha"}
