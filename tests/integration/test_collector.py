"""The collector and the reader against a private Redis whose content is known exactly."""

import asyncio
import gc
import json
import logging
import math
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from redis.asyncio import Redis

from app import alerts, frames, keys, operations, reader
from app.collector import Collector, collector_for
from app.declarations import QueuePolicy
from app.enqueue import JobRequest, enqueue, enqueue_many
from app.errors import InvalidRequest
from app.operations import Operation
from app.payloads.codec import Codec
from app.records import DeadLetter, JobRun, JobState, LetterState, Outcome, WorkerInfo, utc
from app.sampling.observation import SLOW_EVERY
from app.settings import Settings
from app.snapshot import Snapshot, stats
from tests import command_costs
from tests.conftest import RunningRedis, start_redis

QUEUE = "async-processing"
BOTH = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


def now_ms() -> int:
    return int(time.time() * 1000)


def make_run(job_id: str, outcome: Outcome = Outcome.COMPLETE, **more: Any) -> JobRun:
    now = now_ms()
    values: dict[str, Any] = {
        "job_id": job_id, "queue": QUEUE, "function": "generic", "outcome": outcome, "attempt": 1,
        "worker": "w0", "enqueued_ms": now - 4000, "due_ms": now - 4000, "started_ms": now - 3000,
        "finished_ms": now - 1000,
    }  # fmt: skip
    return JobRun(**{**values, **more})


async def add_runs(redis: Redis, *runs: JobRun) -> None:
    for run in runs:
        await redis.xadd(keys.runs(run.queue), {"r": run.to_json()})


async def add_letter(redis: Redis, source: str, letter_id: str, **more: Any) -> None:
    values: dict[str, Any] = {
        "id": letter_id, "kind": "job", "source": source, "name": "data-sync",
        "state": LetterState.NEW, "reason": "attempts", "error_type": "ValueError",
        "error": "no base", "fingerprint": "f" * 16, "attempts": 3, "died_ms": now_ms(),
    }  # fmt: skip
    letter = DeadLetter(**{**values, **more})
    index = keys.dead_retrying if letter.state is LetterState.RETRYING else keys.dead_open
    await redis.hset(keys.dead_record(source, letter_id), mapping=letter.to_fields())
    await redis.zadd(index(source), {letter_id: letter.died_ms})


async def add_worker(redis: Redis, worker_id: str, queue: str, *job_ids: str) -> None:
    now = now_ms()
    jobs = [
        {"id": i, "function": "generic", "started_ms": now - 2000, "attempt": 1} for i in job_ids
    ]
    info = WorkerInfo(
        id=worker_id, role="worker", host="h", pid=7, source=queue, version="1", since_ms=now - 60_000,
        beat_ms=now, slots=5, busy=len(jobs), jobs=json.dumps(jobs),
    )  # fmt: skip
    await redis.hset(keys.worker(worker_id), mapping=info.to_fields())
    await redis.zadd(keys.WORKERS, {worker_id: now})
    for job_id in job_ids:  # as the claim script does
        await redis.zadd(queue, {job_id: now + 30_000})
        claim = f"{now - 2000}:{now - 2500}:1:{worker_id}"
        await redis.hset(keys.running(queue), job_id, claim)


@pytest.fixture
async def collector(settings: Settings) -> AsyncIterator[Collector]:
    collector = Collector(settings)
    yield collector
    await collector.stop()


def of_queue(snapshot: Snapshot, queue: str = QUEUE) -> "pd.Series[Any]":
    return snapshot.queues.set_index("queue").loc[queue]


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


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.canary),))


async def test_the_reader_never_unpickles(
    collector: Collector, queue_redis: Redis, tmp_path: Path
) -> None:
    canary = tmp_path / "exploded"
    bomb = pickle.dumps({"t": None, "f": "f", "a": (Bomb(canary),), "k": {}, "et": 1})
    await queue_redis.set(keys.arq_job("evil"), bomb)
    await queue_redis.set(keys.arq_result("evil"), bomb)
    await queue_redis.zadd(QUEUE, {"evil": now_ms() - 10})
    await queue_redis.sadd(keys.QUEUES, QUEUE)
    await add_letter(queue_redis, QUEUE, "evil")
    await queue_redis.set(keys.dead_payload(QUEUE, "evil"), bomb)

    await collector.sample()
    page = await reader.jobs_page(queue_redis, QUEUE, "waiting", codec=Codec(allow_pickle=True))
    detail = await reader.job(queue_redis, "evil", codec=Codec(allow_pickle=True))
    letter = await reader.letter(queue_redis, QUEUE, "evil", codec=Codec(allow_pickle=True))

    assert detail is not None
    assert letter is not None
    assert page.items[0].arguments.note == reader.PICKLED
    assert detail.arguments.note == detail.result_note == reader.PICKLED
    assert letter.arguments.note == reader.PICKLED
    assert not canary.exists()


@pytest.mark.parametrize("state", ["waiting", "deferred"])
async def test_pages_show_every_job_once(queue_redis: Redis, state: reader.JobsOf) -> None:
    delay_s = 600.0 if state == "deferred" else 0.0
    requests = [JobRequest(name="generic", id=f"j{i}", delay_s=delay_s) for i in range(25)]
    await enqueue_many(queue_redis, QUEUE, requests)  # one script call: all of one score
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="last", delay_s=delay_s))
    await add_worker(queue_redis, "w0", QUEUE, "claimed")
    seen: list[str] = []
    cursor = None

    while True:
        page = await reader.jobs_page(queue_redis, QUEUE, state, cursor, 10)
        seen += [row.id for row in page.items]
        cursor = page.cursor
        if cursor is None:
            break

    assert sorted(seen) == sorted([*(f"j{i}" for i in range(25)), "last"])


async def test_running_finished_and_dead_have_pages_too(queue_redis: Redis) -> None:
    await add_worker(queue_redis, "w0", QUEUE, "r1")
    runs = [make_run(f"ok{i}") for i in range(3)]
    await add_runs(queue_redis, *runs, make_run("bad", Outcome.DEAD, error="ValueError: x"))
    await add_letter(queue_redis, QUEUE, "older", died_ms=1_000)
    await add_letter(queue_redis, QUEUE, "newer", died_ms=2_000)
    await queue_redis.xadd(keys.AUDIT, {"actor": "kim", "action": "retry"})
    await queue_redis.xadd("events", {"type": "user.created"})

    running = await reader.jobs_page(queue_redis, QUEUE, "running")
    first = await reader.jobs_page(queue_redis, QUEUE, "complete", None, 2)
    second = await reader.jobs_page(queue_redis, QUEUE, "complete", first.cursor, 2)
    failed = await reader.jobs_page(queue_redis, QUEUE, "failed")
    letters = await reader.letters_page(queue_redis, QUEUE, "open", None, 1)
    more = await reader.letters_page(queue_redis, QUEUE, "open", letters.cursor, 1)
    audit = await reader.audit_page(queue_redis)
    events = await reader.events_page(queue_redis, "events")

    assert [(row.id, row.worker) for row in running.items] == [("r1", "w0")]
    assert [row.id for row in first.items + second.items] == ["ok2", "ok1", "ok0"]
    assert [(row.id, row.error) for row in failed.items] == [("bad", "ValueError: x")]
    assert [letter.id for letter in letters.items + more.items] == ["newer", "older"]
    assert audit.items[0]["actor"] == "kim"
    assert events.items[0]["type"] == "user.created"


async def test_a_wrong_cursor_or_limit_is_refused_by_name(queue_redis: Redis) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        await reader.jobs_page(queue_redis, QUEUE, "waiting", "x; DROP")
    with pytest.raises(InvalidRequest, match="limit"):
        await reader.jobs_page(queue_redis, QUEUE, "waiting", None, 10_000)


async def test_a_job_is_told_in_every_state(queue_redis: Redis) -> None:
    codec = Codec()
    await enqueue(
        queue_redis, QUEUE, JobRequest(name="generic", id="w", args=[1], correlation_id="c")
    )
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="d", delay_s=60))
    await enqueue(queue_redis, QUEUE, JobRequest(name="generic", id="again", delay_s=60))
    await add_runs(queue_redis, make_run("again", Outcome.RETRY), make_run("done"))
    await add_worker(queue_redis, "w0", QUEUE, "r")
    result = {
        "t": 1,
        "f": "generic",
        "a": [],
        "k": {},
        "et": 1,
        "s": True,
        "r": {"n": 3},
        "q": QUEUE,
    }
    await queue_redis.set(keys.arq_result("done"), codec.encode(result))
    await add_letter(queue_redis, QUEUE, "x", correlation_id="c9")

    found = {
        i: await reader.job(queue_redis, i) for i in ("w", "d", "again", "done", "r", "x", "no")
    }

    assert {i: detail and detail.state for i, detail in found.items()} == {
        "w": JobState.QUEUED, "d": JobState.DEFERRED, "again": JobState.RETRYING,
        "done": JobState.COMPLETE, "r": JobState.RUNNING, "x": JobState.DEAD, "no": None,
    }  # fmt: skip
    assert found["w"] is not None
    assert (found["w"].arguments.args, found["w"].correlation_id) == ((1,), "c")
    assert found["done"] is not None
    assert found["done"].result == {"n": 3}
    assert [run.outcome for run in found["done"].runs] == [Outcome.COMPLETE]


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
