"""Replaying a range of a stream as an operation: exactly the range, each copy once."""

import pytest

from app import actions, keys
from app.actions import Actor, Connections
from app.errors import InvalidRequest
from app.operations import Operation, OperationState, Step, drive
from app.operations.replay import EventReplay
from tests.processing import STREAM, processing, quick, settled
from workers.event_router import Registry

BOSS = Actor(name="olga", role="operator")
both_versions = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


@pytest.fixture
def connections(queue_redis, streams_redis, cache_redis):
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


@pytest.fixture
async def ids(streams_redis):
    """Thirty entries: user.created and order.paid in turn."""
    return [
        await streams_redis.xadd(
            STREAM,
            {"type": ("user.created", "order.paid")[n % 2], "data": f'{{"n":{n}}}', "userId": "u"},
        )
        for n in range(30)
    ]


async def start(connections, settings, filter_=None, **more):
    report = await actions.start_operation(
        connections, settings, BOSS, "replay_events", STREAM, filter_ or {}, **more
    )
    return report.detail


async def copies(streams_redis):
    rows = await streams_redis.xrange(STREAM)
    return [fields for _, fields in rows if "replayedFrom" in fields]


@both_versions
async def test_a_range_is_copied_once_in_order_and_marked(
    settings, connections, streams_redis, ids
):
    wanted = {"type": "order.*", "from": ids[4], "to": ids[20]}
    detail = await start(connections, settings, wanted)

    done = await drive.drive(connections, detail["operation"])

    assert (done.state, done.matched, done.done, done.skipped) == (OperationState.DONE, 8, 8, 9)
    made = await copies(streams_redis)
    assert [fields["replayedFrom"] for fields in made] == ids[5:21:2]
    assert made[0] == {
        "type": "order.paid",
        "data": '{"n":5}',
        "userId": "u",
        "replayedFrom": ids[5],
    }


async def test_a_replay_does_not_follow_its_own_copies(settings, connections, streams_redis, ids):
    for _ in range(2):
        detail = await start(connections, settings)
        done = await drive.drive(connections, detail["operation"])
        assert done.done == 30

    assert await streams_redis.xlen(STREAM) == 90


async def test_a_step_whose_cursor_was_not_stored_copies_nothing_twice(
    settings, connections, streams_redis, ids
):
    """
    As when the runner is killed between the two.
    """
    kind = EventReplay()
    stored = kind.check("streams", {"type": "user.created"})
    operation = Operation(id="op-1", kind=kind.name, source=STREAM, role="streams", filter=stored)

    first = await kind.step(connections, operation, 4)
    again = await kind.step(connections, operation, 10)

    assert first == Step(done=4, skipped=3, cursor=ids[6], finished=False)
    assert (again.done, again.cursor) == (10, ids[18])
    assert [one["replayedFrom"] for one in await copies(streams_redis)] == ids[0:20:2]
    assert await streams_redis.ttl(keys.replay_mark(STREAM, "op-1")) > 0


async def test_a_dry_run_counts_and_shows_and_appends_nothing(
    settings, connections, streams_redis, ids
):
    detail = await start(connections, settings, {"type": "user.*", "user": "u"}, dry_run=True)

    assert detail["matched"] == 15
    assert [one["id"] for one in detail["sample"]] == ids[0:10:2]
    assert await streams_redis.xlen(STREAM) == 30


async def test_a_rate_bounds_the_replay(settings, connections, streams_redis, ids):
    detail = await start(connections, settings, rate_per_s=100.0)

    done = await drive.drive(connections, detail["operation"])

    assert done.done == 30
    took_s = (done.finished_at - done.started_at).total_seconds()
    assert 0.2 < took_s < 5


async def test_what_nobody_can_read_and_copies_are_passed_over(
    settings, connections, streams_redis, ids
):
    await streams_redis.xadd(STREAM, {"type": "user.created", "data": "{"})
    await streams_redis.xadd(STREAM, {"type": "user.created", "data": "{}", "redrivenFrom": ids[0]})
    detail = await start(connections, settings, {"type": "user.created"})

    done = await drive.drive(connections, detail["operation"])

    assert (done.done, done.skipped) == (15, 17)


@pytest.mark.parametrize(
    "filter_",
    [{"colour": "red"}, {"from": "yesterday"}, {"type": "(a+)+$"}, {"to": "2026-11-23"}],
)
async def test_a_filter_that_is_none_is_refused(settings, connections, ids, filter_):
    with pytest.raises(InvalidRequest):
        await start(connections, settings, filter_)


async def test_a_queue_cannot_be_replayed(settings, connections, ids):
    with pytest.raises(InvalidRequest, match="only a stream"):
        await actions.start_operation(
            connections, settings, BOSS, "replay_events", "async-processing", {}
        )


async def test_handlers_run_again_for_copies(settings, connections, streams_redis, ids):
    registry, seen = Registry(), []

    @registry.on("order.*")
    async def handle(event, context):
        seen.append((event.value("n"), event.replayed_from))

    detail = await start(connections, settings, {"type": "order.paid", "to": ids[3]})
    await drive.drive(connections, detail["operation"])

    async with processing(quick(settings), registry):
        await settled(streams_redis, 32)

    assert seen[-2:] == [(1, ids[1]), (3, ids[3])]
