"""The dead-letter processor on real Redis: decides, retries, tells, survives being killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arq.worker import func
from redis.asyncio import Redis

from app import actions, keys
from app.actions import Connections
from app.child import die_with_parent
from app.enqueue import JobRequest, enqueue
from app.letters import redrive
from app.letters.redrive import Shelf
from app.payloads.codec import Codec
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import RunningRedis, start_redis, wait_until
from tests.letters import ANN, BOB, QUEUE, both_servers, bury, bury_event, field, places
from tests.waiting import until
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.letters.rounds import DeadLetterProcessor
from workers.letters.settling import LeaseLost
from workers.policies import BUILT_IN_RULES, Action, Rule, decide
from workers.retry_policy import RetryPolicy


@pytest.fixture
def connections(queue_redis: Redis, streams_redis: Redis, cache_redis: Redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


def make_processor(connections: Connections, settings: Settings) -> DeadLetterProcessor:
    return DeadLetterProcessor(settings, connections.queue, connections.streams, connections.cache)


@both_servers
async def test_the_processor_decides_each_class(connections, settings):
    redis, stream = connections.queue, settings.stream_name
    await bury(redis, "net", error_type="ConnectionError")
    await bury(redis, "bad", error_type="ValueError")
    await bury(redis, "auth", error_type="PermissionError")
    await bury(redis, "odd", error_type="RuntimeError")
    await bury(redis, "odd-again", error_type="RuntimeError", redrives=1)
    await bury_event(connections.streams, stream, error_type="BadRecord", reason="malformed")

    began_ms = time.time() * 1000
    decided = await make_processor(connections, settings).round()
    ended_ms = time.time() * 1000

    assert decided == 6
    decisions = {
        i: (await field(redis, i, "decision"), *await places(redis, i))
        for i in ("net", "bad", "auth", "odd", "odd-again")
    }
    assert decisions == {
        "net": ("RETRY", "retrying"),
        "bad": ("DISCARD", "closed"),
        "auth": ("ALERT", "open"),
        "odd": ("RETRY", "retrying"),
        "odd-again": ("ALERT", "open"),
    }
    assert await places(connections.streams, "5-1", stream) == ["closed"]
    due_ms = await redis.zscore(QUEUE, "net~r1") - settings.retry_delay
    assert began_ms - 1 < due_ms <= ended_ms
    cache = connections.cache
    alerts = [json.loads(a) for a in await cache.lrange(keys.DLQ_ALERTS, 0, -1)]
    assert {a["id"] for a in alerts} == {"auth", "odd-again"}
    assert await cache.llen(keys.DLQ_DISCARDED) == 2
    assert 0 < await cache.ttl(keys.DLQ_ALERTS) <= 7 * 86_400


async def test_each_action_has_its_list_on_the_cache(connections, settings):
    rules = [
        Rule(name=str(action), action=action, function=(action.lower(),))
        for action in (Action.ALERT, Action.ESCALATE, Action.DISCARD, Action.ARCHIVE)
    ]
    for rule in rules:
        await bury(connections.queue, f"j-{rule.name}", name=rule.name.lower())
    processor = DeadLetterProcessor(
        settings, connections.queue, connections.streams, connections.cache, rules
    )

    await processor.round()

    lists = (keys.DLQ_ALERTS, keys.DLQ_ESCALATIONS, keys.DLQ_DISCARDED, keys.DLQ_ARCHIVE)
    for rule, name in zip(rules, lists, strict=True):
        (told,) = [json.loads(one) for one in await connections.cache.lrange(name, 0, -1)]
        assert (told["id"], told["action"]) == (f"j-{rule.name}", rule.name)
    assert await places(connections.queue, "j-ESCALATE") == ["open"]
    assert await places(connections.queue, "j-ARCHIVE") == ["closed"]


async def test_a_letter_that_cannot_be_retried_holds_up_none_behind_it(connections, settings):
    redis, stream = connections.streams, settings.stream_name
    net = {"error_type": "ConnectionError"}
    await bury_event(redis, stream, "1-1", {f"f{n}": "v" for n in range(10_000)}, died_ms=1, **net)
    await bury(redis, "2-1", b"no JSON", kind="event", source=stream, died_ms=2, **net)
    await bury_event(redis, stream, "3-1", died_ms=3, **net)
    processor = make_processor(connections, settings)

    await processor.round()

    assert await places(redis, "3-1", stream) == ["retrying"]
    for name, why in (("1-1", "10,003 fields"), ("2-1", "not readable")):
        assert await places(redis, name, stream) == ["open"]
        assert await field(redis, name, "decision", stream) == "ALERT"
        assert why in await field(redis, name, "decision_reason", stream)
    assert processor.trouble == ""


async def test_a_storm_of_one_cause_is_one_alert_and_every_letter_is_decided(connections, settings):
    redis = connections.queue
    died_ms = int(time.time() * 1000)
    facts = {"error_type": "PermissionError", "fingerprint": "same", "died_ms": died_ms}
    for n in range(650):  # of one millisecond, more than three pages
        await bury(redis, f"j{n}", **facts)
    processor = make_processor(connections, settings)

    assert await processor.round() == 650
    assert await processor.round() == 0
    await bury(redis, "later", **facts)
    assert await processor.round() == 1
    assert await connections.cache.llen(keys.DLQ_ALERTS) == 1


async def test_retries_are_not_held_up_by_a_cache_that_is_away(connections, settings):
    redis = connections.queue
    await bury(redis, "auth", error_type="PermissionError")
    await bury(redis, "net", error_type="ConnectionError")
    away = connect("redis://127.0.0.1:1/0", timeout_s=0.2, retries=0)
    processor = DeadLetterProcessor(settings, redis, connections.streams, away)

    await processor.round()

    assert await places(redis, "net") == ["retrying"]
    assert (await field(redis, "auth", "decision")) == ""
    assert "alerts" in processor.trouble
    processor._alerts.cache = connections.cache
    assert await processor.round() == 1
    assert await field(redis, "auth", "decision") == "ALERT"
    assert processor.trouble == ""
    await away.aclose()


async def test_a_retry_of_the_processor_is_brought_forward_by_a_press(connections, settings):
    redis = connections.queue
    await bury(redis, "net", error_type="ConnectionError")
    await make_processor(connections, settings).round()

    first = await actions.retry_letter(connections, settings, ANN, QUEUE, "net")
    second = await actions.retry_letter(connections, settings, BOB, QUEUE, "net")

    assert (first.changed, first.detail["id"]) == (True, "net~r1")
    assert not second.changed
    assert await redis.zscore(QUEUE, "net~r1") <= time.time() * 1000 + 50
    assert await redis.zcard(QUEUE) == 1


async def test_only_the_holder_of_the_lease_decides(connections, settings):
    redis = connections.queue
    first, second = (make_processor(connections, settings) for _ in range(2))
    await first.round()
    await bury(redis, "j1")

    assert await second.round() == 0
    await redis.set(
        keys.lease("dead-letters"), second._lease.token
    )  # it paused, and the lease ran out
    letter = await redrive.read_letter(Shelf(redis, QUEUE, "job"), "j1")
    with pytest.raises(LeaseLost):
        await first._settling.settle(
            Shelf(redis, QUEUE, "job"), letter, decide(letter, BUILT_IN_RULES, settings)
        )

    assert await places(redis, "j1") == ["open"]
    assert await second.round() == 1


async def test_a_retry_that_is_nowhere_opens_its_letter_again(connections, settings):
    redis = connections.queue
    shelf = Shelf(redis, QUEUE, "job")
    for n in range(3):
        await bury(redis, f"j{n}")
        await actions.retry_letter(connections, settings, ANN, QUEUE, f"j{n}")
    await redis.zrem(QUEUE, "j1~r1")

    _, reopened = await redrive.reopen_lost(shelf, "", 0)

    assert reopened == ["j1"]
    assert await places(redis, "j1") == ["open"]
    assert await places(redis, "j2") == ["retrying"]
    assert not await redis.exists(keys.arq_job("j1~r1"))
    assert await redis.exists(keys.arq_job("j2~r1"))


async def test_only_closed_letters_past_retention_are_forgotten(connections, settings):
    redis = connections.queue
    shelf = Shelf(redis, QUEUE, "job")
    for name in ("old", "fresh", "open"):
        await bury(redis, name, died_ms=1)
    await actions.discard_letter(connections, settings, ANN, QUEUE, "old")
    await actions.discard_letter(connections, settings, ANN, QUEUE, "fresh")
    await redis.zadd(keys.dead_closed(QUEUE), {"old": 1})

    assert await redrive.trim_closed(shelf, 3600) == 1

    left = [n for n in ("old", "fresh", "open") if await redis.exists(keys.dead_record(QUEUE, n))]
    assert left == ["fresh", "open"]
    assert await redis.exists(keys.dead_payload(QUEUE, "old")) == 0


@pytest.fixture
def start_processor() -> Iterator[Callable[[RunningRedis], subprocess.Popen[bytes]]]:
    """Start the real process; whatever a failed test leaves of it is killed, or dies with us."""
    started: list[subprocess.Popen[bytes]] = []
    parent = os.getpid()

    def start(server: RunningRedis) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "REDIS_URL": server.database(0),
            "REDIS_STREAMS_URL": server.database(1),
            "REDIS_QUEUE_URL": server.database(2),
            "RETRY_DELAY": "0",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.dead_letter_processor"],
            env=environment,
            cwd=server.directory,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL, parent),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


async def test_killing_the_processor_loses_and_doubles_no_letter(tmp_path: Path, start_processor):
    """
    2,000 letters, the process killed five times in between, Redis restarted twice: each letter is
    in exactly one place, each retry has exactly one job. The last one ends on SIGTERM with 0.
    """
    server = start_redis(tmp_path)
    redis = connect(server.database(2), timeout_s=5)
    classes = ("ConnectionError", "ValueError", "PermissionError", "RuntimeError")
    names = [f"j{n}" for n in range(2000)]
    for n, name in enumerate(names):
        await bury(redis, name, error_type=classes[n % 4])

    async def undecided() -> int:
        pipe = redis.pipeline(transaction=False)
        for name in names:
            pipe.hget(keys.dead_record(QUEUE, name), "decision")
        return (await pipe.execute()).count("")

    async def moved() -> int:
        """Letters that were taken from the open ones: cheap to ask, so that the kill comes soon."""
        pipe = redis.pipeline(transaction=False)
        pipe.zcard(keys.dead_retrying(QUEUE))
        pipe.zcard(keys.dead_closed(QUEUE))
        return sum(await pipe.execute())

    async def has_moved(count: int) -> bool:
        return await moved() >= count

    left = []
    for round_number in range(5):
        before = await moved()
        process = start_processor(server)
        await until(lambda n=before: has_moved(min(n + 1, 1_500)), timeout_s=60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left.append(await undecided())
        await redis.delete(keys.lease("dead-letters"))
        if round_number == 2:
            server.restart()
    process = start_processor(server)
    await until(lambda: has_moved(1_500), timeout_s=60)
    await until(lambda: _is_none(undecided), timeout_s=60)
    server.restart()
    await bury(redis, "last", error_type="ConnectionError")
    await until(lambda: _is_decided(redis, "last"), timeout_s=30)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.poll() is not None, 10)

    assert any(0 < n < 2000 for n in left), left
    assert process.returncode == 0
    assert await field(redis, "last", "decision") == "RETRY"
    assert [len(await places(redis, name)) for name in names] == [1] * 2000
    retrying = await redis.zrange(keys.dead_retrying(QUEUE), 0, -1)
    jobs = await redis.zrange(QUEUE, 0, -1)
    assert sorted(f"{letter}~r1" for letter in retrying) == sorted(jobs)
    assert len(jobs) == 1001
    assert await redis.exists(*[keys.dead_payload(QUEUE, name) for name in names]) == 2000
    await redis.aclose()
    server.stop()


async def _is_none(count: Callable[[], Awaitable[int]]) -> bool:
    return await count() == 0


async def _is_decided(redis: Redis, letter_id: str) -> bool:
    return await field(redis, letter_id, "decision") != ""


def make_worker(settings: Settings, function: Callable[..., Awaitable[Any]]) -> Worker:
    options = EngineOptions(
        url=settings.url("queue"), policy=RetryPolicy(attempts=1), codec=Codec(), drain_s=5.0
    )
    return Worker(
        functions=[func(function, name="sync")],
        queue_name=QUEUE,
        handle_signals=False,
        burst=True,
        ctx={"arqscope": options},
    )


async def test_a_job_that_fails_for_ever_is_retried_within_the_budget_and_stays_one_letter(
    connections, settings
):
    """
    Twenty rounds of worker and processor: three automatic retries, then an alert, and no more.
    """
    redis, runs = connections.queue, []
    settings = settings.model_copy(update={"retry_delay": 0, "retry_attempts": 3})

    async def sync(ctx: dict[str, Any]) -> None:
        runs.append(ctx["job_id"])
        raise ConnectionError("no route")

    await enqueue(redis, QUEUE, JobRequest(name="sync", id="j1"))
    processor = make_processor(connections, settings)
    for _ in range(20):
        worker = make_worker(settings, sync)
        await worker.main()
        await worker.close()
        await processor.round()

    assert runs == ["j1", "j1~r1", "j1~r2", "j1~r3"]
    assert await redis.zrange(keys.dead_open(QUEUE), 0, -1) == ["j1"]
    assert await field(redis, "j1", "decision") == "ALERT"
    assert await connections.cache.llen(keys.DLQ_ALERTS) == 1


async def test_a_retry_that_ends_well_resolves_its_letter(connections, settings):
    redis, runs = connections.queue, []

    async def sync(ctx: dict[str, Any]) -> str:
        runs.append(ctx["job_id"])
        if len(runs) == 1:
            raise PermissionError("not yet")
        return "done"

    await enqueue(redis, QUEUE, JobRequest(name="sync", id="j1"))
    for press in (False, True):
        if press:
            await actions.retry_letter(connections, settings, ANN, QUEUE, "j1")
        worker = make_worker(settings, sync)
        await worker.main()
        await worker.close()
        await make_processor(connections, settings).round()

    assert runs == ["j1", "j1~r1"]
    assert await places(redis, "j1") == ["closed"]
    assert await field(redis, "j1", "state") == "resolved"
    assert await redis.hget(keys.totals(QUEUE), "resolved") == "1"
