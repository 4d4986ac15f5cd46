"""Operations on dead letters: what they match, their pace, their canaries, and being killed."""

import asyncio
import json
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from app import actions, audit, keys, operations
from app.actions import Connections
from app.enqueue import JobRequest, enqueue_many
from app.errors import ActionRefused, BadRecord, InvalidRequest, NotFound
from app.letters.filters import LetterFilter, sweep
from app.letters.redrive import Shelf
from app.operations import OperationState
from app.operations.drive import Bucket, advance, drive
from app.operations.kinds import kind_of
from app.operations.listing import page
from tests.letters import (
    ANN,
    BOB,
    EVE,
    QUEUE,
    both_servers,
    bury,
    bury_event,
    bury_many,
    field,
    places,
)
from tests.waiting import until
from workers import operations as runner_module
from workers.operations import OperationRunner


@pytest.fixture
def connections(queue_redis: Redis, streams_redis: Redis, cache_redis: Redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


async def bury_some(redis: Redis, count: int, prefix: str = "j", **facts: Any) -> None:
    await bury_many(redis, (f"{prefix}{n}" for n in range(count)), **facts)


async def start(
    connections: Connections, settings: Any, kind: str = "retry_letters", **more: Any
) -> str:
    report = await actions.start_operation(connections, settings, ANN, kind, QUEUE, **more)
    return str(report.detail["operation"])


async def sent(redis: Redis) -> list[str]:
    return sorted(await redis.zrange(QUEUE, 0, -1))


@both_servers
async def test_all_that_match_are_retried_once_with_their_lineage(connections, settings):
    redis = connections.queue
    await bury_some(redis, 700, "t", error_type="TimeoutError")
    await bury_some(redis, 60, "v", error_type="ValueError")

    operation_id = await start(connections, settings, filter={"error_type": "TimeoutError"})
    ended = await drive(connections, operation_id)

    assert ended.state is OperationState.DONE
    assert (ended.matched, ended.done, ended.failed) == (700, 700, 0)
    assert await sent(redis) == sorted(f"t{n}~r1" for n in range(700))
    assert await redis.zcard(keys.dead_open(QUEUE)) == 60
    assert await redis.zcard(keys.dead_retrying(QUEUE)) == 700
    assert await redis.hmget(keys.totals(QUEUE), "redriven", "accepted") == ["700", "700"]
    assert await field(redis, "t5", "state") == "retrying"
    lineage = json.loads(await field(redis, "t5", "redrive:1"))
    assert (lineage["actor"], lineage["operation"]) == ("ann", operation_id)


@both_servers
async def test_an_operation_on_a_stream_appends_each_event_again(connections, settings):
    redis, stream = connections.streams, settings.stream_name
    fields = {}
    for n in range(300):
        fields = await bury_event(redis, stream, f"{n + 1}-1")
    await bury(redis, "9-9", None, kind="event", source=stream)

    report = await actions.start_operation(connections, settings, ANN, "retry_letters", stream)
    ended = await drive(connections, report.detail["operation"])

    assert (ended.state, ended.done, ended.failed) == (OperationState.DONE, 300, 1)
    entries = await redis.xrange(stream)
    assert sorted(entry["redrivenFrom"] for _, entry in entries) == sorted(
        f"{n + 1}-1" for n in range(300)
    )
    assert all(
        entry | {"redrivenFrom": ""} == fields | {"redrivenFrom": ""} for _, entry in entries
    )
    assert await places(redis, "9-9", stream) == ["open"]


@both_servers
async def test_an_event_of_too_many_fields_stops_no_operation(connections, settings):
    """
    No script can append it again: alone it is refused with a reason, among others it counts as failed.
    """
    redis, stream = connections.streams, settings.stream_name
    await bury_event(redis, stream, "1-1", died_ms=1)
    await bury_event(redis, stream, "2-1", {f"f{n}": "v" for n in range(10_000)}, died_ms=2)
    await bury_event(redis, stream, "3-1", {f"f{n}": "v" for n in range(990)}, died_ms=3)

    with pytest.raises(BadRecord, match="10,003 fields"):
        await actions.retry_letter(connections, settings, ANN, stream, "2-1")
    report = await actions.start_operation(connections, settings, ANN, "retry_letters", stream)
    ended = await drive(connections, report.detail["operation"])

    assert (ended.state, ended.done, ended.failed) == (OperationState.DONE, 2, 1)
    assert await places(redis, "2-1", stream) == ["open"]
    assert {entry["redrivenFrom"] for _, entry in await redis.xrange(stream)} == {"1-1", "3-1"}


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, {"a", "b", "c", "d"}),
        ({"name": "sync"}, {"a", "b"}),
        ({"fingerprint": "x1"}, {"a", "c"}),
        ({"fingerprint": "x1", "name": "sync"}, {"a"}),
        ({"error_type": "KeyError"}, {"d"}),
        ({"text": "TENANT 42"}, {"b"}),
        ({"older_than": "1h"}, {"c", "d"}),
        ({"since": "2000", "until": "5000"}, {"d"}),
        ({"text": ".*"}, set()),
    ],
)
async def test_a_filter_matches_what_it_says(connections, settings, conditions, expected):
    redis = connections.queue
    await bury(redis, "a", fingerprint="x1")
    await bury(redis, "b", fingerprint="x2", error="no tenant 42 here")
    await bury(redis, "c", fingerprint="x1", name="mail", died_ms=1000)
    await bury(redis, "d", fingerprint="x3", name="mail", error_type="KeyError", died_ms=2000)

    dry = await actions.start_operation(
        connections, settings, EVE, "discard_letters", QUEUE, conditions, dry_run=True
    )
    operation_id = await start(connections, settings, "discard_letters", filter=conditions)
    ended = await drive(connections, operation_id)

    assert dry.detail["matched"] == ended.matched == ended.done == len(expected)
    assert {row["id"] for row in dry.detail["sample"]} == expected
    assert set(await redis.zrange(keys.dead_closed(QUEUE), 0, -1)) == expected


@both_servers
async def test_many_letters_of_one_millisecond_are_all_reached(connections, settings):
    redis = connections.queue
    ids = (f"j{n:04}" for n in range(1_500))
    await bury_many(redis, ids, died_ms=1000, name=lambda n: "odd" if n % 3 else "even")

    ended = await drive(connections, await start(connections, settings, filter={"name": "even"}))

    assert ended.done == 500
    assert ended.skipped == 1_000


async def test_a_killed_step_is_gone_on_with_and_counted_right(connections, settings):
    """
    A step acts, and whoever stepped dies before the record is written.
    """
    redis = connections.queue
    await bury_some(redis, 100)
    operation_id = await start(connections, settings)
    operation, _ = await advance(
        connections, await operations.read(redis, operation_id), Bucket(None)
    )
    lost = await kind_of("retry_letters").step(connections, operation, 40)
    assert lost.done == 40

    ended = await drive(connections, operation_id)

    assert (ended.done, ended.state) == (100, OperationState.DONE)
    assert len(await sent(redis)) == 100
    assert await redis.hget(keys.totals(QUEUE), "redriven") == "100"


async def test_a_letter_that_dies_again_is_not_taken_twice(connections, settings):
    redis = connections.queue
    await bury_some(redis, 10)
    operation_id = await start(connections, settings)
    operation = await operations.read(redis, operation_id)
    operation, _ = await advance(connections, operation, Bucket(None))
    await kind_of("retry_letters").step(connections, operation, 5)
    await redis.zrem(keys.dead_retrying(QUEUE), "j0")  # it dies again; the clock has gone back
    await redis.hset(keys.dead_record(QUEUE, "j0"), "state", "new")
    await redis.zadd(keys.dead_open(QUEUE), {"j0": 1})

    ended = await drive(connections, operation_id)

    assert ended.done == 10
    assert await field(redis, "j0", "redrives") == "1"


async def test_an_equal_operation_is_joined_and_another_is_not(connections, settings):
    await bury_some(connections.queue, 3)

    first = await actions.start_operation(connections, settings, ANN, "retry_letters", QUEUE)
    same = await actions.start_operation(
        connections, settings, BOB, "retry_letters", QUEUE, rate_per_s=1
    )
    other = await start(connections, settings, "archive_letters")

    assert (first.changed, same.changed) == (True, False)
    assert first.detail["operation"] == same.detail["operation"] != other
    await drive(connections, other)
    await drive(connections, first.detail["operation"])
    assert await start(connections, settings) != first.detail["operation"]


async def test_the_rate_bounds_how_fast_letters_come_back(connections, settings):
    redis = connections.queue
    await bury_some(redis, 60)
    operation_id = await start(connections, settings, rate_per_s=100)

    began = time.monotonic()
    ended = await drive(connections, operation_id)
    took_s = time.monotonic() - began

    assert ended.done == 60
    assert 0.3 < took_s < 5


def test_a_bucket_lets_no_more_through_than_its_rate():
    now = 0.0
    bucket = Bucket(100.0, clock=lambda: now)
    taken, steps = 0, 0
    while now < 10.0:
        allowed = bucket.allowed(2_000)
        if allowed:
            steps += 1
        bucket.take(allowed)
        taken += allowed
        now += 0.003

    assert 980 <= taken <= 1_000
    assert steps <= 210
    now += 3_600
    assert bucket.allowed(2_000) == 25


async def test_pause_resume_and_abort(connections, settings):
    redis = connections.queue
    await bury_some(redis, 300)
    operation_id = await start(connections, settings, rate_per_s=50)
    driving = asyncio.create_task(drive(connections, operation_id))

    async def some_done() -> bool:
        return (await operations.read(redis, operation_id)).done > 0

    await until(some_done)
    assert (await actions.pause_operation(connections, settings, ANN, operation_id)).changed
    assert not (await actions.pause_operation(connections, settings, ANN, operation_id)).changed
    paused = await asyncio.wait_for(driving, 5)
    assert paused.state is OperationState.PAUSED
    assert len(await sent(redis)) == paused.done < 300

    assert (await actions.resume_operation(connections, settings, ANN, operation_id)).changed
    driving = asyncio.create_task(drive(connections, operation_id))
    assert (await actions.abort_operation(connections, settings, ANN, operation_id)).changed
    ended = await asyncio.wait_for(driving, 5)

    assert (ended.state, ended.note) == (OperationState.ABORTED, "aborted by ann")
    assert ended.finished_at is not None
    assert len(await sent(redis)) == ended.done
    with pytest.raises(ActionRefused, match="aborted"):
        await actions.resume_operation(connections, settings, ANN, operation_id)
    assert not (await actions.abort_operation(connections, settings, ANN, operation_id)).changed
    assert await operations.still_open(redis) == []


async def settle(redis: Redis, letter_id: str, state: str) -> None:
    """End a retry as the finish script does."""
    await redis.hset(keys.dead_record(QUEUE, letter_id), "state", state)
    await redis.zrem(keys.dead_retrying(QUEUE), letter_id)
    index = keys.dead_closed if state == "resolved" else keys.dead_open
    await redis.zadd(index(QUEUE), {letter_id: time.time() * 1000})


@pytest.mark.parametrize(("failing", "state"), [(1, "done"), (2, "stopped")])
async def test_canaries_decide_whether_the_rest_follows(connections, settings, failing, state):
    redis = connections.queue
    await bury_some(redis, 50)
    operation_id = await start(connections, settings, canary=5, canary_max_failed=0.2)
    driving = asyncio.create_task(drive(connections, operation_id))

    async def canaries_sent() -> bool:
        return await redis.zcard(QUEUE) == 5

    await until(canaries_sent)
    for n, retry in enumerate(await sent(redis)):
        assert await redis.zcard(QUEUE) == 5
        await settle(redis, retry.partition("~")[0], "new" if n < failing else "resolved")
    ended = await asyncio.wait_for(driving, 10)

    assert ended.state == state
    assert ended.done == (50 if state == "done" else 5)
    if state == "stopped":
        assert ended.note == "2 of 5 canaries failed, more than the 20% allowed"
        await actions.resume_operation(connections, settings, ANN, operation_id)
        await actions.pause_operation(connections, settings, ANN, operation_id)
        await actions.resume_operation(connections, settings, ANN, operation_id)
        overruled = await drive(connections, operation_id)
        assert (overruled.state, overruled.done) == ("done", 50)


async def test_canaries_that_do_not_end_stop_the_operation(connections, settings):
    await bury_some(connections.queue, 20)

    operation_id = await start(connections, settings, canary=5, canary_wait_s=0.3)
    ended = await drive(connections, operation_id)

    assert (ended.state, ended.done) == (OperationState.STOPPED, 5)
    assert ended.note == "5 of 5 canaries did not end within 0.3 s"


async def test_what_makes_no_sense_is_refused(connections, settings):
    async def refused(error: type[Exception], match: str, *args: Any, **more: Any) -> None:
        with pytest.raises(error, match=match):
            await actions.start_operation(connections, settings, ANN, *args, **more)

    await refused(InvalidRequest, "kind='x'", "x", QUEUE)
    await refused(NotFound, "queue", "retry_letters", "nowhere")
    await refused(InvalidRequest, "'tenant'", "retry_letters", QUEUE, {"tenant": "42"})
    await refused(InvalidRequest, "state", "retry_letters", QUEUE, {"state": "closed"})
    await refused(InvalidRequest, "canary", "discard_letters", QUEUE, canary=3)
    await refused(InvalidRequest, "rate_per_s", "retry_letters", QUEUE, rate_per_s=0)
    await refused(InvalidRequest, "since", "retry_letters", QUEUE, {"since": "yesterday"})
    with pytest.raises(ActionRefused, match="operator"):
        await actions.start_operation(connections, settings, EVE, "retry_letters", QUEUE)
    assert await connections.queue.exists(keys.OPERATIONS) == 0


async def test_every_step_of_an_operator_is_audited(connections, settings):
    operation_id = await start(connections, settings, reason="the supplier is back")
    for act in (actions.pause_operation, actions.resume_operation, actions.abort_operation):
        await act(connections, settings, BOB, operation_id)

    lines = await audit.recent(connections.queue)

    assert [(line.actor, line.action) for line in reversed(lines)] == [
        ("ann", "start_operation"),
        ("bob", "pause_operation"),
        ("bob", "resume_operation"),
        ("bob", "abort_operation"),
    ]
    assert lines[-1].detail["reason"] == "the supplier is back"


async def test_records_are_bounded_and_open_ones_stay(connections, settings, monkeypatch):
    monkeypatch.setattr(operations, "KEPT", 5)
    redis = connections.queue
    stays = await start(connections, settings, "archive_letters")
    for _ in range(8):
        operation_id = await start(connections, settings)
        await operations.abort(redis, operation_id, "enough")

    found = await operations.recent(redis)

    assert len(found) == 5
    assert stays in {operation.id for operation in found}
    assert len([key async for key in redis.scan_iter("arqscope:operation:*")]) == 5


async def test_two_runners_share_the_operations_and_one_takes_over(connections, settings):
    redis = connections.queue
    await bury_some(redis, 200)
    operation_id = await start(connections, settings, rate_per_s=200)
    stop = asyncio.Event()
    first, second = (OperationRunner(connections, lease_ms=500) for _ in range(2))
    tasks = [asyncio.create_task(runner.run(stop)) for runner in (first, second)]

    async def under_way() -> bool:
        return (await operations.read(redis, operation_id)).done > 10

    await until(under_way)
    assert sorted([first.driven, second.driven]) == [[], [operation_id]]
    driver, task = (first, tasks[0]) if first.driven else (second, tasks[1])
    task.cancel()  # as a process that is killed: nothing is given back
    for driving in list(driver._tasks.values()):
        driving.cancel()

    async def ended() -> bool:
        return (await operations.read(redis, operation_id)).state is OperationState.DONE

    await until(ended)
    stop.set()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert len(await sent(redis)) == 200
    assert (await operations.read(redis, operation_id)).done == 200


async def test_an_operation_survives_its_round_trip(queue_redis: Redis):
    operation = operations.Operation(
        id="op-1", kind="retry_letters", source="q", filter={"name": "x"}, rate_per_s=2.5, canary=3
    )

    made, created = await operations.create(queue_redis, operation)

    assert created
    assert made.created_ms > 0
    assert operations.Operation.from_fields(made.to_fields()) == made
    assert [o.id for o in await operations.still_open(queue_redis)] == ["op-1"]


async def test_unread_jobs_are_left_alone(connections, settings):
    """
    A retry beside jobs that wait: only the letters' own ids are added.
    """
    redis = connections.queue
    await enqueue_many(redis, QUEUE, [JobRequest(name="sync", id="waits")])
    await bury(redis, "j1")

    await drive(connections, await start(connections, settings))

    assert await sent(redis) == ["j1~r1", "waits"]


@both_servers
async def test_large_payloads_are_put_back_a_few_at_a_time(connections, settings):
    """
    Ten letters of 250 KB: no call copies much more than a megabyte, and all come back.
    """
    redis = connections.queue
    await bury_many(redis, (f"j{n}" for n in range(10)), b"j1:" + b"x" * 250_000)
    operation_id = await start(connections, settings)
    operation, _ = await advance(
        connections, await operations.read(redis, operation_id), Bucket(None)
    )

    got = await sweep(
        Shelf(redis, QUEUE, "job"), LetterFilter(), "retry_job", now_ms=None, operation=operation.id
    )
    ended = await drive(connections, operation_id)

    assert got.done == 4
    assert not got.finished
    assert ended.done == 10
    assert await redis.strlen(keys.arq_job("j9~r1")) == 250_003


async def test_no_error_ends_the_runner_of_operations(connections, monkeypatch, caplog):
    """
    redis-py also raises AttributeError and RuntimeError when a connection breaks in its hands: a runner that
    ended by one would leave every operation where it was until the process is started again.
    """
    redis = connections.queue
    await operations.create(
        redis, operations.Operation(id="op-1", kind="retry_letters", source=QUEUE)
    )
    broken = [
        AttributeError("'NoneType' has no attribute 'write'"),
        RuntimeError("closed"),
        KeyError("x"),
    ]
    looked: list[str] = []
    still_open, drive_one = operations.still_open, runner_module.drive

    async def looks(client):
        looked.append("look")
        if len(looked) <= 3:
            raise broken[len(looked) - 1]
        return await still_open(client)

    driven: list[str] = []

    async def drives(*given, **more):
        driven.append(given[1])
        if len(driven) == 1:
            raise RuntimeError("in a drive")
        return await drive_one(*given, **more)

    monkeypatch.setattr(operations, "still_open", looks)
    monkeypatch.setattr(runner_module, "drive", drives)
    monkeypatch.setattr(runner_module, "ROUND_S", 0.01)
    runner, stop = OperationRunner(connections), asyncio.Event()
    running = asyncio.create_task(runner.run(stop))

    async def ended() -> bool:
        assert not running.done()
        return (await operations.read(redis, "op-1")).state is OperationState.DONE

    await until(ended)
    stop.set()
    await running

    assert len(driven) >= 2  # it was taken up again
    assert sum("operations in trouble" in r.message for r in caplog.records) >= 4
    assert runner.trouble == ""


async def _walk(redis: Redis, size: int, **more: Any) -> list[list[str]]:
    pages, cursor = [], None
    while True:
        found = await page(redis, cursor, size, **more)
        pages.append([one.id for one in found.items])
        cursor = found.cursor
        if cursor is None:
            return pages


@pytest.mark.parametrize("open_only", [False, True], ids=["all", "open"])
async def test_pages_of_operations_leave_nothing_out_while_others_come_and_end(
    connections, settings, open_only
):
    """
    Some lie in one millisecond: those are told apart by their names.
    """
    redis = connections.queue
    await bury_some(redis, 1)
    ids = [
        await start(connections, settings, filter={"text": f"no such {n}"}, reason="x")
        for n in range(7)
    ]
    newest = [one.id for one in (await page(redis, None, 7, open_only=open_only)).items]

    first = await page(redis, None, 3, open_only=open_only)
    later = await start(connections, settings, filter={"text": "later"})
    await operations.abort(redis, first.items[-1].id, "the one the cursor names")
    second = await page(redis, first.cursor, 3, open_only=open_only)
    third = await page(redis, second.cursor, 3, open_only=open_only)

    seen = [one.id for found in (first, second, third) for one in found.items]
    assert sorted(newest) == sorted(ids)
    assert seen == newest
    assert third.cursor is None
    assert later not in seen
    assert (await page(redis, None, 1, open_only=open_only)).items[0].id in (later, newest[0])
    assert [len(found) for found in await _walk(redis, 500, open_only=open_only)] == [8 - open_only]


async def test_operations_of_one_millisecond_have_an_order_of_their_own(connections, settings):
    """
    By their names, which are random: a page that ends among them goes on behind the right one.
    """
    redis = connections.queue
    await bury_some(redis, 1)
    ids = [await start(connections, settings, filter={"text": f"no such {n}"}) for n in range(5)]
    for one in ids:
        await redis.hset(keys.operation(one), "created_at", "1700000000000")
        await redis.zadd(keys.OPERATIONS, {one: 1700000000000})

    for open_only in (False, True):
        walked = await _walk(redis, 2, open_only=open_only)
        assert walked == [sorted(ids, reverse=True)[n : n + 2] for n in (0, 2, 4)]


@pytest.mark.parametrize("open_only", [False, True], ids=["all", "open"])
@pytest.mark.parametrize("cursor", ["x", "", "1:2:3", "nan x", "1 \n"])
async def test_a_cursor_that_is_none_of_ours_is_refused(connections, cursor, open_only):
    with pytest.raises(InvalidRequest, match="cursor"):
        await page(connections.queue, cursor, open_only=open_only)
