"""Attached to a Redis of stock arq, with nothing installed: what can be known is shown, the rest is not."""

import asyncio
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool, Redis

from app import keys, reader
from app.analyses.verdicts import Hold, why_not_running
from app.collector import Collector
from app.payloads.contents import PICKLED
from app.sampling.foreign import foreign_frame, look_around
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


#: a deployment of stock arq: one module, started by its own command
STOCK: Final = """
from arq.connections import RedisSettings

async def double(ctx, number):
    return 2 * number

async def fail(ctx):
    raise ValueError("no base")

async def wait(ctx):
    await ctx["redis"].blpop("go", 30)

class WorkerSettings:
    functions = [double, fail, wait]
    redis_settings = RedisSettings.from_dsn({url!r})
    health_check_interval = 3
    poll_delay = 0.02
    max_tries = 1
"""


@pytest.fixture
def stock_worker(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of stock arq in a process of its own, where nothing of ours is installed in its place."""
    (tmp_path / "stock_deployment.py").write_text(
        STOCK.replace("{url!r}", repr(settings.url("queue")))
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "arq", "stock_deployment.WorkerSettings"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.kill()
    process.wait()


async def test_a_real_stock_worker_and_producer_are_seen_with_nothing_installed(
    settings: Settings,
    queue_redis: Redis,
    stock: ArqRedis,
    stock_worker: "subprocess.Popen[bytes]",
) -> None:
    """
    Depth, running, results, failures and the health record are shown; what nobody can know is NaN, null or
    said in words.
    """
    await stock.enqueue_job("double", 21, _job_id="good")
    await stock.enqueue_job("fail", _job_id="bad")
    await stock.enqueue_job("wait", _job_id="long")
    await stock.enqueue_job("double", 1, _job_id="later", _defer_by=600)
    collector = Collector(settings)

    async def is_under_way() -> bool:
        keys_of = [keys.arq_result("good"), keys.arq_result("bad"), keys.arq_in_progress("long")]
        record = await queue_redis.get("arq:queue:health-check") or ""
        return bool(
            await queue_redis.exists(*keys_of) == 3
            and "j_complete=1 j_failed=1 j_retried=0 j_ongoing=1" in record
        )

    await until(is_under_way, timeout_s=30)
    await collector.look_around()
    await collector.sample()  # learns of the queue: the next one reads it
    snapshot = await collector.sample()
    row = (await foreign_frame(queue_redis, collector.foreign)).set_index("queue").loc["arq:queue"]
    lists = {
        state: (await reader.jobs_page(queue_redis, "arq:queue", state)).items
        for state in ("waiting", "deferred", "complete", "failed", "aborted")
    }
    told = (await reader.jobs_page(queue_redis, "arq:queue", "complete")).window
    good = await reader.job(queue_redis, "good", queues=["arq:queue"])
    why = why_not_running(await reader.job_facts(queue_redis, "arq:queue", "long"))
    every = {str(key) async for key in queue_redis.scan_iter("*")}
    theirs = {key for key in every if not key.startswith("arqscope:")}
    await queue_redis.lpush("go", "now")
    await collector.stop()

    assert stock_worker.poll() is None
    numbers = row[["depth", "due", "deferred", "running_at_least", "complete", "failed"]]
    assert numbers.to_list() == [2, 1, 1, 1, 1, 1]
    assert 0 < row["health_expires_s"] <= 3
    assert row["ongoing"] == 1
    seen = snapshot.queues.set_index("queue").loc["arq:queue"]
    assert seen[["waiting", "deferred"]].to_list() == [1, 1]
    assert seen[["running", "complete", "accepted", "workers", "slots", "dead_open"]].isna().all()
    assert stats(snapshot, settings)["arq:queue"]["active"] is None
    assert [(job.id, job.state) for job in lists["waiting"]] == [("long", "running")]
    assert [job.id for job in lists["deferred"]] == ["later"]
    assert [(j.id, j.function, j.attempt, j.arguments.args) for j in lists["complete"]] == [
        ("good", "double", 1, (21,))
    ]
    assert [job.id for job in lists["failed"]] == ["bad"]
    assert "no base" in lists["failed"][0].error
    assert lists["failed"][0].finished_ms >= lists["failed"][0].started_ms > 0
    assert lists["aborted"] == []
    assert "stock arq keeps no list of results" in told
    assert good is not None
    assert (good.result, good.result_note, good.state) == (42, PICKLED, "complete")
    assert why.hold is Hold.LOCKED
    assert theirs == {
        "arq:queue", "arq:queue:health-check", "arq:job:long", "arq:job:later", "arq:retry:long",
        "arq:in-progress:long", "arq:result:good", "arq:result:bad",
    }  # fmt: skip


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
