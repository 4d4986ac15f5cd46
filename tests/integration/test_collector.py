"""The collector on real Redis servers: exact numbers, only what is new, few commands, who follows."""

import asyncio
import gc
import logging
import math
from collections.abc import AsyncIterator, Mapping

import pytest
from redis.asyncio import Redis

from app import alerts, frames, keys, operations
from app.collector import Collector, collector_for
from app.declarations import QueuePolicy
from app.enqueue import JobRequest, enqueue_many
from app.operations import Operation
from app.records import LetterState, Outcome, utc
from app.sampling.observation import SLOW_EVERY
from app.settings import Settings
from app.snapshot import Snapshot, stats
from tests import command_costs
from tests.integration.reports import (
    BOTH,
    QUEUE,
    add_letter,
    add_runs,
    add_worker,
    make_run,
    now_ms,
    of_queue,
)


@pytest.fixture
async def collector(settings: Settings) -> AsyncIterator[Collector]:
    collector = Collector(settings)
    yield collector
    await collector.stop()


@BOTH
async def test_a_known_load_gives_exactly_its_numbers(
    collector: Collector, settings: Settings, queue_redis: Redis, streams_redis: Redis
) -> None:
    waiting = [JobRequest(name="generic", id=f"w{i}") for i in range(7)]
    await enqueue_many(queue_redis, QUEUE, waiting)
    later = [JobRequest(name="generic", id=f"d{i}", delay_s=600) for i in range(4)]
    await enqueue_many(queue_redis, QUEUE, later)
    await add_worker(queue_redis, "w0", QUEUE, "r1", "r2")
    await queue_redis.hset(keys.totals(QUEUE), mapping={"complete": 150, "failed": 9, "dead": 3})
    await add_runs(queue_redis, make_run("a"), make_run("b", Outcome.DEAD, error="ValueError: x"))
    await add_letter(queue_redis, QUEUE, "dead1")
    await add_letter(queue_redis, QUEUE, "dead2", state=LetterState.RETRYING, redrives=1)
    await queue_redis.sadd(keys.PAUSED_QUEUES, QUEUE)
    stream = settings.stream_name
    await streams_redis.xgroup_create(stream, "event-processors", id="0", mkstream=True)
    for _ in range(5):
        await streams_redis.xadd(stream, {"type": "user.created"})
    await streams_redis.xreadgroup("event-processors", "c1", {stream: ">"}, count=2)
    await streams_redis.hset(keys.event_totals(stream), mapping={"processed": 2, "dead": 1})
    await add_letter(streams_redis, stream, "1-1", kind="event")
    recent = {"id": "1700000000000-0", "type": "user.created", "outcome": "ok", "ms": "1.5"}
    await streams_redis.xadd(keys.recent_events(stream), recent)

    snapshot = await collector.sample()

    assert dict(snapshot.problems) == {}
    row = of_queue(snapshot)
    counts = row[["waiting", "deferred", "running", "accepted", "complete", "failed", "dead_total"]]
    assert counts.to_list() == [7, 4, 2, 11, 150, 9, 3]
    assert row[["dead_open", "dead_retrying", "workers", "slots", "busy"]].to_list() == [
        1,
        1,
        1,
        5,
        2,
    ]
    assert 0 <= row["oldest_wait_s"] < 5
    assert row["paused"]
    assert not of_queue(snapshot, "long-running-jobs")["paused"]
    assert of_queue(snapshot, "long-running-jobs")["waiting"] == 0
    assert set(snapshot.running["job_id"]) == {"r1", "r2"}
    assert snapshot.running["running_s"].between(1.5, 10).all()
    assert snapshot.running["due"].notna().all()
    assert snapshot.runs["job_id"].to_list() == ["a", "b"]
    assert snapshot.runs["outcome"].to_list() == ["complete", "dead"]
    assert set(snapshot.dead_letters["id"]) == {"dead1", "dead2", "1-1"}
    assert snapshot.causes["count"].to_list() == [3]
    assert snapshot.streams.loc[0, ["length", "processed", "dead", "dead_open"]].to_list() == [
        5,
        2,
        1,
        1,
    ]
    group = snapshot.groups.iloc[0]
    assert (group["consumers"], group["pending"]) == (1, 2)
    assert group["lag"] == 3 or group["lag_is_estimate"]
    assert snapshot.events["type"].to_list() == ["user.created"]
    assert snapshot.redis["up"].all()
    assert snapshot.problems == {}
    newest = snapshot.history[snapshot.history["queue"] == QUEUE].iloc[-1]
    assert newest[["waiting", "running", "wait_p50_s", "run_p95_s"]].to_list() == [7, 2, 1.0, 2.0]
    answer = stats(snapshot, settings)
    assert answer[QUEUE]["completed"] == 150
    assert answer["dead-letter-queue"]["waiting"] == 2
    for name, columns in frames.FRAMES.items():
        assert list(snapshot.frame(name)) == list(columns)


@BOTH
async def test_functions_and_operations_are_listed_and_reach_whoever_follows(
    settings: Settings, queue_redis: Redis
) -> None:
    counted = {"mail|o|complete": 3, "mail|o|dead": 1, "mail|r|40": 4, "generic|o|retry": 9}
    await queue_redis.hset(keys.minute(QUEUE, now_ms() // 60_000), mapping=counted)
    for name in ("mail", "generic"):
        asked = Operation(
            id=f"op-{name}", kind="retry_letters", source=QUEUE, filter={"name": name},
            created_at=utc(now_ms()), matched=4,
        )  # fmt: skip
        await operations.create(queue_redis, asked)
    leader, follower = Collector(settings), Collector(settings)
    await leader.sample()
    await follower.sample()
    await follower.sample(full=False)

    led = await leader.sample()
    followed = await follower.sample(full=False)

    assert (led.role, followed.role) == ("leader", "follower")
    for snapshot in (led, followed):
        found = snapshot.functions[["queue", "function", "runs", "complete", "retried", "dead"]]
        assert found.to_numpy().tolist() == [
            [QUEUE, "generic", 9, 0, 9, 0],
            [QUEUE, "mail", 4, 3, 0, 1],
        ]
        assert set(snapshot.operations["id"]) == {"op-mail", "op-generic"}
        assert set(snapshot.operations["matched"]) == {4}
        assert set(snapshot.operations["state"]) == {"waiting"}
    await leader.stop()
    await follower.stop()


async def test_alerts_that_go_on_are_counted_and_reach_whoever_follows(
    settings: Settings, cache_redis: Redis
) -> None:
    leader, follower = Collector(settings), Collector(settings)
    await leader.sample()
    await follower.sample()
    await follower.sample(full=False)
    for name in ("over", "seen", "silent", "fires"):
        facts = {"id": name, "kind": "rule", "title": name, "source": QUEUE, "severity": "critical"}
        await alerts.raise_alert(cache_redis, facts, mark=name, window_s=60)
    await alerts.resolve_alert(cache_redis, "over", "it drained")
    await alerts.steer_alert(cache_redis, "seen", actor="ann", note="")
    await alerts.steer_alert(cache_redis, "silent", actor="ann", note="", silence_s=600)

    led = [await leader.sample(full=False) for _ in range(SLOW_EVERY)][-1]
    followed = await follower.sample(full=False)

    assert followed.role == "follower"
    for snapshot in (led, followed):
        found = snapshot.alerts.set_index("id")
        assert found["state"].to_dict() == {
            "seen": "acknowledged", "silent": "firing", "fires": "firing",
        }  # fmt: skip
        assert found.loc["fires", ["source", "severity"]].to_list() == [QUEUE, "critical"]
        assert found["silenced_until"].notna().to_dict() == {
            "seen": False, "silent": True, "fires": False,
        }  # fmt: skip
        assert found["since"].notna().all()
    assert max(led.cost_commands, followed.cost_commands) <= 70
    await leader.stop()
    await follower.stop()


async def test_a_login_that_may_not_read_alerts_still_samples_the_cache(
    settings: Settings, cache_redis: Redis
) -> None:
    await cache_redis.acl_setuser(
        "narrow", enabled=True, passwords=["+narrow"], keys=["*"],
        commands=["+@connection", "+info"],
    )  # fmt: skip
    where = cache_redis.connection_pool.connection_kwargs
    url = f"redis://narrow:narrow@{where['host']}:{where['port']}/{where.get('db', 0)}"
    collector = Collector(settings.model_copy(update={"redis_url": url}))

    snapshot = await collector.sample()

    assert dict(snapshot.problems) == {}
    assert snapshot.redis.set_index("role").loc["cache", "up"]
    assert snapshot.alerts.empty
    await collector.stop()
    await cache_redis.acl_deluser("narrow")


async def test_the_second_sample_reads_only_new_runs(
    collector: Collector, queue_redis: Redis
) -> None:
    await add_runs(queue_redis, make_run("j1"))
    await collector.sample()
    await add_runs(queue_redis, make_run("j2"))
    before = (await queue_redis.info("commandstats")).get("cmdstat_xrevrange", {}).get("calls", 0)

    snapshot = await collector.sample(full=False)

    after = (await queue_redis.info("commandstats"))["cmdstat_xrevrange"]["calls"]
    assert snapshot.runs["job_id"].to_list() == ["j1", "j2"]
    assert after - before == 1  # the stream of handled events; runs resume by XREAD
    assert (await collector.sample(full=False)).runs["job_id"].to_list() == ["j1", "j2"]


async def test_more_runs_than_one_read_takes_are_skipped_to_the_newest_without_doubles(
    collector: Collector, queue_redis: Redis
) -> None:
    await add_runs(queue_redis, make_run("first"))
    await collector.sample()
    pipe = queue_redis.pipeline(transaction=False)
    for i in range(1300):
        pipe.xadd(keys.runs(QUEUE), {"r": make_run(f"j{i}").to_json()})
    await pipe.execute()

    await collector.sample(full=False)
    await add_runs(queue_redis, make_run("last"))
    snapshot = await collector.sample(full=False)

    ids = snapshot.runs["job_id"].to_list()
    assert len(ids) == len(set(ids))
    assert "last" in ids
    assert "j1299" in ids


async def test_rates_come_from_counters_and_a_reset_is_unknown_not_negative(
    collector: Collector, queue_redis: Redis
) -> None:
    await queue_redis.hset(keys.totals(QUEUE), "complete", 100)
    first = of_queue(await collector.sample())
    await queue_redis.hset(keys.totals(QUEUE), "complete", 200)
    second = of_queue(await collector.sample())
    await queue_redis.hset(keys.totals(QUEUE), "complete", 1)
    reset = of_queue(await collector.sample())
    await queue_redis.hset(keys.totals(QUEUE), "complete", 2)
    after = of_queue(await collector.sample())

    assert math.isnan(first["complete_per_s"])
    assert second["complete_per_s"] > 0
    assert math.isnan(reset["complete_per_s"])
    assert after["complete_per_s"] > 0


async def test_a_timed_sample_shows_a_new_dead_letter_one_sample_after_its_counter_moved(
    collector: Collector, queue_redis: Redis
) -> None:
    await collector.sample()
    await add_letter(queue_redis, QUEUE, "dead1")
    await queue_redis.hincrby(keys.totals(QUEUE), "dead", 1)
    await collector.sample(full=False)

    snapshot = await collector.sample(full=False)

    assert snapshot.dead_letters["id"].to_list() == ["dead1"]
    assert of_queue(snapshot)["dead_open"] == 1


async def test_a_tick_costs_few_commands_however_much_is_stored(
    settings: Settings, queue_redis: Redis, streams_redis: Redis
) -> None:
    queues = tuple(QueuePolicy(name=f"q{i}") for i in range(10))
    settings = settings.model_copy(update={"queues": queues})
    await queue_redis.sadd(keys.QUEUES, *settings.queue_names)  # as their workers do
    for i in range(20):
        await add_worker(queue_redis, f"w{i}", f"q{i % 10}", f"run{i}")
    costs: dict[int, int] = {}
    medians: dict[int, Mapping[str, int]] = {}
    collector = Collector(settings)
    for depth in (1, 20_000):
        requests = [JobRequest(name="generic") for _ in range(depth)]
        await enqueue_many(queue_redis, "q1", requests)
        results = {keys.arq_result(f"r{n}"): "j1:{}" for n in range(depth)}
        await queue_redis.mset(results)
        await collector.sample()
        await command_costs.begin(queue_redis)
        ticks = [await collector.sample(full=False) for _ in range(10)]
        told = await queue_redis.info("commandstats")
        medians[depth] = await command_costs.medians_us(queue_redis)
        costs[depth] = max(tick.cost_commands for tick in ticks)
    await collector.stop()

    used = {name.removeprefix("cmdstat_"): row["calls"] for name, row in told.items()}
    assert not command_costs.WALKS & set(used)
    assert command_costs.grown(medians[1], medians[20_000]) == {}
    measuring = {"config", "info", "latency"}
    asked = sum(n for name, n in used.items() if name.partition("|")[0] not in measuring)
    assert asked / 10 <= 70
    assert max(costs.values()) <= 70
    assert abs(costs[20_000] - costs[1]) <= 2  # whose turn it was, not how much is stored
    assert ticks[-1].queues["workers"].sum() == 20


async def test_subscribers_hear_every_sample_until_they_fail_or_vanish(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    class Page:
        seen = 0

        def hear(self, snapshot: Snapshot) -> None:
            Page.seen += 1

    def fails(snapshot: Snapshot) -> None:
        raise RuntimeError("page broke")

    heard: list[int] = []
    page = Page()
    collector.subscribe(page.hear)
    collector.subscribe(fails)
    key = collector.subscribe(lambda snapshot: heard.append(snapshot.number))

    with caplog.at_level(logging.ERROR, "arqscope.collector"):
        await collector.sample()
        await collector.sample()
    del page
    gc.collect()
    collector.unsubscribe(key)
    await collector.sample()

    assert Page.seen == 2
    assert heard == [1, 2]
    assert sum("subscriber dropped" in record.message for record in caplog.records) == 1
    assert not collector._subscribers


async def test_the_collector_of_a_loop_is_one_and_starts_once(settings: Settings) -> None:
    settings = settings.model_copy(update={"sample_interval_s": 0.1})
    collector = collector_for(settings)
    heard = asyncio.Event()
    collector.subscribe(lambda snapshot: heard.set() if snapshot.number >= 3 else None)

    collector.ensure_started()
    task = collector._task
    collector.ensure_started()
    await asyncio.wait_for(heard.wait(), 10)
    same = collector_for(settings)
    await collector.stop()

    assert same is collector
    assert collector._task is None
    assert task is not None
    assert task.done()
