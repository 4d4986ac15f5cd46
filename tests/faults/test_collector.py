"""Rows C1-C4, R16, R17: the collector under long time, hanging Redis, jumping clocks, lost messages."""

import asyncio
import gc
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pytest
from redis.asyncio import Redis

from app import frames, keys
from app.annals.minutes import Minutes
from app.collector import Collector
from app.declarations import QueuePolicy
from app.enqueue import JobRequest, enqueue_many
from app.jobs.lists import jobs_page
from app.jobs.rows import JobFilter
from app.records import JobRun, Outcome
from app.sampling.album import Album
from app.sampling.clock import Clock, Passed
from app.sampling.observation import RUNS_SHOWN
from app.sampling.readings import MAX_QUEUES
from app.sampling.sample import Sample
from app.sampling.turns import Rates
from app.settings import Settings
from app.wire.connections import connect
from tests import command_costs
from tests.conftest import RunningRedis, start_redis
from tests.faults.conftest import Row
from tests.faults.rig import sized
from tests.waiting import until

QUEUE: Final = "async-processing"


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[tuple[dict[str, RunningRedis], Settings]]:
    """A server per role."""
    roles = ("queue", "streams", "cache")
    servers = {role: start_redis(tmp_path / role, extra=("--appendfsync", "no")) for role in roles}
    settings = Settings(
        redis_queue_url=servers["queue"].url,
        redis_streams_url=servers["streams"].url,
        redis_url=servers["cache"].url,
        sample_interval_s=sized(1.0, 0.25),
    )
    yield servers, settings
    for server in servers.values():
        server.stop()


def rss_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def seconds_of(second: int, queues: int) -> Sample:
    """One sample of a deployment with *queues* queues at *second*."""
    rows = [
        {"queue": f"q{n}", "waiting": second % 100, "deferred": 0, "running": 1, "paused": False,
         "complete_per_s": 1.0, "wait_p50_s": 0.5, "slots": 5.0, "workers": 1.0, "redriven": 0}
        for n in range(queues)
    ]  # fmt: skip
    return Sample(at_us=second * 1_000_000, now_ms=second * 1000.0, queues=rows)


@pytest.mark.row("C1")
async def test_c1_days_of_samples_and_hundreds_of_queues_take_bounded_memory(
    row: Row, tmp_path: Path
) -> None:
    """
    72 h of samples on a clock of our own, queues appearing all the time; then 500 queues in Redis.
    """
    album, minutes = Album(), Minutes()
    queues, hours, step_s = sized((50, 72, 1), (20, 3, 4))
    measured: list[float] = []
    run = JobRun(
        job_id="j", queue="q0", function="f", outcome=Outcome.COMPLETE, attempt=1, worker="w",
        enqueued_ms=0, due_ms=0, started_ms=0, finished_ms=0,
    )  # fmt: skip
    for number, second in enumerate(range(0, hours * 3600, step_s)):
        seen = min(queues, 1 + second * queues * 2 // (hours * 3600))
        sample = seconds_of(second, seen)
        made = album.add(sample, [run] if number % 10 == 0 else None)
        minutes.add(sample)
        if number % 400 == 0:
            made["history"]()
        if second % (hours * 3600 // 6) < step_s and second > hours * 1800:
            gc.collect()
            measured.append(rss_mb())
    history = made["history"]()
    cap = queues * (3600 // step_s + 1)
    server = start_redis(tmp_path / "redis", extra=("--appendfsync", "no"))
    settings = Settings(
        redis_queue_url=server.url, redis_streams_url=server.url, redis_url=server.url
    )
    redis = connect(server.url)
    await redis.sadd(keys.QUEUES, *(f"queue-{n}" for n in range(500)))  # type: ignore[misc]
    collector = Collector(settings)
    for _ in range(3):
        snapshot = await collector.sample()
    await collector.stop()
    await redis.aclose()
    server.stop()

    grown = measured[-1] - measured[0]
    row.figure(
        hours=hours, rss_grown_mb=grown, rows=len(history), cap=cap, queues=len(snapshot.queues)
    )
    assert len(history) <= cap
    assert grown <= 5
    assert len(snapshot.queues) <= MAX_QUEUES
    assert len(snapshot.runs) <= RUNS_SHOWN
    assert len(minutes._sums) <= 5


@pytest.mark.row("C2")
async def test_c2_a_hanging_redis_leaves_a_gap_and_the_others_keep_their_pace(
    row: Row, three: tuple[dict[str, RunningRedis], Settings]
) -> None:
    servers, settings = three
    redis, streams = connect(settings.url("queue")), connect(settings.url("streams"))
    await enqueue_many(redis, QUEUE, [JobRequest(name="generic") for _ in range(7)])
    collector = Collector(settings)
    taken: list[Any] = []
    collector.subscribe(lambda snapshot: taken.append((time.monotonic(), snapshot)))
    await collector.start()
    interval = settings.sample_interval_s
    await until(lambda: asyncio.sleep(0, len(taken) >= 5), timeout_s=20)
    process = servers["queue"].process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    hung_from = len(taken)
    hang_s = sized(60.0, 2.5)
    end = time.monotonic() + hang_s
    added = 0
    while time.monotonic() < end:
        await streams.xadd(settings.stream_name, {"type": "a"})
        added += 1
        await asyncio.sleep(interval / 2)
    hung_to = len(taken)
    os.kill(process.pid, signal.SIGCONT)
    await until(lambda: asyncio.sleep(0, not collector.snapshot.problems), timeout_s=20)
    back_s = time.monotonic() - end
    await until(lambda: asyncio.sleep(0, len(taken) >= hung_to + 8), timeout_s=20)
    await collector.stop()
    await asyncio.gather(redis.aclose(), streams.aclose())

    hung = [snapshot for _, snapshot in taken[hung_from + 2 : hung_to]]
    starts = [s.taken_at.timestamp() for _, s in taken[hung_from + 1 : hung_to]]
    # moments that a sample was late or early, by its place on the grid
    off = [
        abs((b - a) / interval - round((b - a) / interval)) for a, b in itertools.pairwise(starts)
    ]
    late = sorted(off)[int(0.9 * len(off))]
    skipped = sum(round((b - a) / interval) > 1 for a, b in itertools.pairwise(starts))
    log = collector.snapshot.history
    mine = log[log["queue"] == QUEUE]["waiting"]
    gap = int(mine.isna().sum())
    lengths = [s.streams["length"].iloc[0] for s in hung]
    row.figure(
        hang_s=hang_s, samples=len(hung), jitter_p90=late, skipped=skipped, gap_samples=gap,
        zeros=int((mine == 0).sum()), back_s=back_s,
    )  # fmt: skip
    assert all(set(s.problems) == {"queue"} for s in hung)
    assert late < 0.2
    assert skipped <= max(2, 0.1 * len(starts))
    assert (mine == 0).sum() == 0
    assert gap >= len(hung)
    assert lengths == sorted(lengths)
    assert lengths[-1] > 0
    assert all(s.queues["waiting"].isna().all() for s in hung)
    assert mine.iloc[-1] == 7
    assert back_s < 5 + interval


@pytest.mark.row("C3")
async def test_c3_rates_hold_through_pauses_and_steps_of_clocks(row: Row, tmp_path: Path) -> None:
    """
    A sampler process is stopped for seconds between and during samples, and its wall clock steps by an
    hour, while a counter grows exactly as Redis' clock does.
    """
    errors: list[float] = []
    negatives = 0
    for step_s in (0.0, 3600.0, -3600.0):
        wall, steady, redis_s = 1e9, 100.0, 5e8
        clock = Clock(lambda: wall, lambda: steady)  # noqa: B023 - read at once
        line, rates = Passed(), Rates()
        before = clock.now_s()
        for n in range(sized(2_000, 200)):
            pause = {40: 5.0, 80: 5.0}.get(n, 0.0)  # stopped between samples, or before the reply
            if n == 60:
                wall += step_s
            if n == 63:
                wall -= step_s
            wall, steady, redis_s = wall + 1, steady + 1, redis_s + 1
            if n == 40:
                wall, steady, redis_s = wall + pause, steady + pause, redis_s + pause
            sent, counted = steady, 1000 * (redis_s - 5e8)
            heard = steady + 0.002 + (pause if n == 80 else 0.0)
            at_redis = redis_s + 0.001
            if n == 80:
                wall, steady, redis_s = wall + pause, steady + pause, redis_s + pause
            rate = rates.per_s("jobs", counted, line.note(sent, heard, at_redis))
            if not math.isnan(rate):
                errors.append(abs(rate / 1000 - 1))
                negatives += rate < 0
            now = clock.now_s()
            assert now > before
            before = now

    server = start_redis(tmp_path / "redis", extra=("--appendfsync", "no"))
    process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-c", SAMPLER, server.url, str(int(time.time()))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path.cwd(),
    )
    try:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        for _ in range(sized(5, 1)):
            await asyncio.sleep(0.7)
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.sleep(sized(5.0, 1.0))
            os.kill(process.pid, signal.SIGCONT)
        text = await asyncio.to_thread(process.stdout.read)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        server.stop()
    seen = [rate / 1e6 for rate in json.loads(text) if rate is not None]
    negatives += sum(rate < 0 for rate in seen)
    row.figure(
        worst_error=max(errors), negatives=negatives, real_samples=len(seen),
        real_worst_error=max(abs(rate - 1) for rate in seen),
    )  # fmt: skip
    assert max(errors) < 0.01
    assert negatives == 0
    # Redis may lose its turn between the script's clock and TIME; a pause taken for a tick would be 5
    assert max(abs(rate - 1) for rate in seen) < 0.25
    assert len(seen) >= 5


#: prints "ready", then the rates it saw as JSON. Redis itself sets the counter to its clock, in microseconds, in
#: the round trip that reads it: no task of ours could be late at it, so that the truth is exact on a busy machine.
SAMPLER: Final = f"""
import asyncio, json, sys
from app.wire.batch import Batch
from app.collector import Collector
from app.wire.connections import connect
from app.settings import Settings

SET = (
    "local now = redis.call('TIME') redis.call('SADD', KEYS[2], ARGV[1]) "
    "redis.call('HSET', KEYS[1], 'complete', string.format('%d', (now[1] - ARGV[2]) * 1000000 + now[2]))"
)
START, ask_raw = int(sys.argv[2]), Batch.ask_raw

def ask_raw_after_setting(batch, take, *command):
    if command == ("TIME",):
        ask_raw(
            batch, lambda reply: None,
            "EVAL", SET, 2, {keys.totals(QUEUE)!r}, {keys.QUEUES!r}, {QUEUE!r}, START,
        )
    ask_raw(batch, take, *command)

Batch.ask_raw = ask_raw_after_setting

async def main():
    url = sys.argv[1]
    redis = connect(url)  # the first call of a script takes milliseconds between its clock and TIME
    await redis.eval(SET, 2, {keys.totals(QUEUE)!r}, {keys.QUEUES!r}, {QUEUE!r}, START)
    await redis.aclose()
    collector = Collector(Settings(
        redis_queue_url=url, redis_streams_url=url[:-1] + "1", redis_url=url, sample_interval_s=0.2
    ))
    rates = []
    def hear(snapshot):
        found = snapshot.queues.set_index("queue").loc[{QUEUE!r}, "complete_per_s"]
        rates.append(None if found != found else float(found))
    collector.subscribe(hear)
    await collector.start()
    print("ready", flush=True)
    await asyncio.sleep({sized(32.0, 3.0)})
    await collector.stop()
    print(json.dumps(rates), flush=True)

asyncio.run(main())
"""


@pytest.mark.row("C4")
async def test_c4_counters_that_start_again_never_make_a_rate_negative(
    row: Row, tmp_path: Path
) -> None:
    server = start_redis(tmp_path / "redis", extra=("--appendonly", "no"))
    settings = Settings(
        redis_queue_url=server.url, redis_streams_url=server.url, redis_url=server.url
    )
    collector = Collector(settings)
    resets = sized(10, 3)
    for _ in range(resets):
        for value in (100, 250):
            redis = connect(server.url)
            await redis.hset(keys.totals(QUEUE), mapping={"complete": value, "failed": value})  # type: ignore[misc]
            await redis.hset(keys.event_totals(settings.stream_name), mapping={"processed": value})  # type: ignore[misc]
            await redis.aclose()
            await collector.sample()
        server.kill()
        await collector.sample()
        server.start()
    snapshot = await collector.sample()
    await collector.stop()
    server.stop()

    log = snapshot.history[snapshot.history["queue"] == QUEUE]
    rates = pd.concat([log["complete_per_s"], log["failed_per_s"]])
    events = snapshot.stream_history["processed_per_s"]
    negatives = int((rates < 0).sum() + (events < 0).sum())
    row.figure(resets=resets, samples=len(log), rates=int(rates.notna().sum()), negatives=negatives)
    assert negatives == 0
    assert rates.notna().sum() >= resets
    assert rates.isna().sum() >= resets


@pytest.mark.row("R16")
async def test_r16_huge_values_and_a_deep_queue_never_hold_redis_up(
    row: Row, tmp_path: Path
) -> None:
    """
    A 64 MB payload, a deep queue and as many results: samples, pages and searches stay short commands; no
    command of a sample walks over what there is, none costs more than when there was nothing.
    """
    server = start_redis(
        tmp_path / "redis", extra=("--appendonly", "no", "--latency-monitor-threshold", "50", "--slowlog-log-slower-than", "50000")
    )  # fmt: skip
    settings = Settings(
        redis_queue_url=server.url, redis_streams_url=server.url, redis_url=server.url,
        queues=tuple(QueuePolicy(name=n) for n in (QUEUE, "q1", "q2")),
    )  # fmt: skip
    redis = connect(server.url, timeout_s=60)
    depth, results = sized((1_000_000, 1_000_000), (20_000, 20_000))
    collector = Collector(settings)
    empty = await _sampled(collector, redis, 40)
    for start in range(0, depth, 10_000):
        pipe = redis.pipeline(transaction=False)
        many = {f"j{n}": 1e12 + n for n in range(start, start + 10_000)}
        pipe.zadd(QUEUE, many)
        pipe.mset(
            {keys.arq_job(i): 'j1:{"f":"generic","a":[],"k":{},"et":1,"t":null}' for i in many}
        )
        await pipe.execute()
    for start in range(0, results, 5_000):
        await redis.mset({keys.arq_result(f"r{n}"): "j1:{}" for n in range(start, start + 5_000)})
    await redis.set(keys.arq_job("j5"), "j1:" + "x" * 64_000_000)
    await redis.slowlog_reset()
    await redis.latency_reset()
    full = await _sampled(collector, redis, 40)
    sampled = _kinds(await redis.info("commandstats"))
    cursor = None
    for _ in range(5):
        page = await jobs_page(redis, QUEUE, "waiting", cursor)
        cursor = page.cursor
    search = await jobs_page(redis, QUEUE, "waiting", wanted=JobFilter(function="nothing"))
    await collector.look_around()
    slow: Any = await redis.slowlog_get(20)
    told = await redis.info("commandstats")
    await collector.stop()
    await redis.aclose()
    server.stop()

    used, costlier = _kinds(told), command_costs.grown(empty, full)
    worst_ms = max((float(entry["duration"]) / 1000 for entry in slow), default=0.0)
    row.figure(
        depth=depth,
        results=results,
        slow_commands=len(slow),
        worst_ms=worst_ms,
        searched=search.scanned,
        kinds=len(full),
        costlier=len(costlier),
        walks=len(sampled & command_costs.WALKS),
    )
    assert costlier == {}
    assert sampled & command_costs.WALKS == set()
    assert worst_ms < 50
    assert "keys" not in used
    assert search.scanned == min(depth, 100_000)
    assert set(collector.snapshot.problems) == set()


async def _sampled(collector: Collector, redis: Redis, count: int) -> Mapping[str, int]:
    """Take *count* timed samples; the median µs of each command they sent."""
    await collector.sample()
    await command_costs.begin(redis)
    for _ in range(count):
        await collector.sample(full=False)
    return await command_costs.medians_us(redis)


def _kinds(told: Mapping[str, Any]) -> set[str]:
    return {name.removeprefix("cmdstat_").partition("|")[0] for name in told}


@pytest.mark.row("R17")
async def test_r17_what_messages_would_have_told_is_read_again_by_cursor(
    row: Row, tmp_path: Path
) -> None:
    """
    Tens of thousands of notifications pass while the dashboard is stopped; Redis restarts. The state it
    shows never came from messages: within two seconds it is the true one.
    """
    server = start_redis(tmp_path / "redis", extra=("--appendfsync", "everysec"))
    settings = Settings(
        redis_queue_url=server.url, redis_streams_url=server.url, redis_url=server.url,
        sample_interval_s=0.25,
    )  # fmt: skip
    redis = connect(server.url)
    collector = Collector(settings)
    await collector.start()
    pubsub = redis.pubsub()
    await pubsub.subscribe("user:1")
    await collector.stop()  # as a process that is not scheduled: nothing is read
    messages = sized(60_000, 10_000)
    stream = settings.stream_name
    for start in range(0, messages, 1_000):
        pipe = redis.pipeline(transaction=False)
        for n in range(start, start + 1_000):
            pipe.publish("user:1", "x" * 1000)
            if n % 100 == 0:
                pipe.xadd(
                    keys.recent_events(stream),
                    {"id": f"{n + 1}-0", "type": "t", "outcome": "ok"},
                    maxlen=1000,
                )
        pipe.hincrby(keys.event_totals(stream), "processed", 1_000)
        await pipe.execute()
    await redis.publish("user:1", "last")
    server.restart()
    began = time.monotonic()
    await collector.start()
    await until(
        lambda: asyncio.sleep(
            0,
            not collector.snapshot.problems
            and collector.snapshot.streams["processed"].iloc[0] == messages,
        ),
        timeout_s=20,
    )
    took_s = time.monotonic() - began
    shown = collector.snapshot.events["id"].to_list()
    await collector.stop()
    await pubsub.aclose()  # type: ignore[no-untyped-call]
    await redis.aclose()
    server.stop()

    newest = f"{messages - 100 + 1}-0"
    row.figure(messages=messages, converged_s=took_s, events_shown=len(shown))
    assert took_s <= 2
    assert shown[-1] == newest
    assert len(shown) == len(set(shown)) <= 200
    assert list(frames.FRAMES)
