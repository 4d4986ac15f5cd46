"""Next jobs and jobs of events on their way to another queue server: each made once."""

import asyncio

import pytest

from app import actions, keys, parcels, reader
from app.doctor.examination import examine
from app.enqueue import JobRequest, codec_of, rows_of
from app.errors import BadRecord
from app.next_jobs import NextJob, next_id
from app.records import JobState
from tests.integration.shards import (  # noqa: F401 - fixtures
    AWAY_QUEUE,
    HOME_QUEUE,
    _second,
    connections,
    ended,
    second,
    sharded,
    working,
)
from tests.letters import ANN
from tests.waiting import until
from workers.dead_letter_processor import serve
from workers.events.context import Effects


async def test_a_next_job_on_another_servers_queue_is_made_once(connections, sharded, second):
    """
    Written down by the script that ends the job before it; carried when the other server is there;
    carried again after a kill in between, it makes no second job.
    """
    away = connections.holding(AWAY_QUEUE)
    then = [NextJob(name="generic", queue=AWAY_QUEUE)]
    request = JobRequest(name="generic", args=({"step": 7},), id="first", then=then)
    await actions.submit_jobs(connections, sharded, ANN, HOME_QUEUE, [request])
    async with working(sharded, HOME_QUEUE):
        await until(ended(connections, sharded, "first", JobState.COMPLETE))
    assert not await connections.queue.exists(AWAY_QUEUE)
    (kept,) = (await connections.queue.hgetall(keys.PARCELS)).items()
    assert kept[0] == f"{AWAY_QUEUE}/{next_id('first', 1)}"

    second.kill()
    assert await parcels.carry(connections, "queue") == 0
    assert await connections.queue.hlen(keys.PARCELS) == 1
    second.start()
    await until(lambda: away.ping())
    assert await parcels.carry(connections, "queue") == 1
    assert not await connections.queue.exists(keys.PARCELS)
    assert await away.zrange(AWAY_QUEUE, 0, -1) == [next_id("first", 1)]

    await connections.queue.hset(keys.PARCELS, *kept)  # killed before it was forgotten
    await parcels.carry(connections, "queue")
    assert await away.hget(keys.totals(AWAY_QUEUE), "accepted") == "1"
    async with working(sharded, AWAY_QUEUE):
        await until(ended(connections, sharded, next_id("first", 1), JobState.COMPLETE))
    await connections.queue.hset(keys.PARCELS, *kept)  # or carried by another, after it was done
    await parcels.carry(connections, "queue")
    assert not await away.zcard(AWAY_QUEUE)
    detail = await reader.find_job(connections, next_id("first", 1), queues=[AWAY_QUEUE])
    assert len(detail.runs) == 1


async def test_the_dead_letter_process_carries_both_ways(connections, sharded):
    """
    As a deployment runs it: a chain home, away and home again, ended within seconds.
    """
    back = NextJob(name="generic", queue=HOME_QUEUE)
    then = [NextJob(name="generic", queue=AWAY_QUEUE, then=[back])]
    request = JobRequest(name="generic", args=({},), id="chain", then=then)
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve(sharded, stopping))
    try:
        async with working(sharded, HOME_QUEUE), working(sharded, AWAY_QUEUE):
            await actions.submit_jobs(connections, sharded, ANN, HOME_QUEUE, [request])
            last = next_id(next_id("chain", 1), 1)
            await until(ended(connections, sharded, last, JobState.COMPLETE), timeout_s=20)
    finally:
        stopping.set()
        await serving
    for redis in connections.queue_servers.values():
        assert not await redis.exists(keys.PARCELS)
    assert await connections.queue.hget(keys.totals(HOME_QUEUE), "complete") == "2"


async def test_an_events_job_for_a_server_that_is_away_holds_up_no_other(
    connections, sharded, second
):
    """
    It is written down at home under its id, and the event is through; doctor tells that it waits.
    """
    effects = Effects(connections, stream=sharded.stream_name, codec=codec_of(sharded))
    request = JobRequest(name="generic", args=({},), id="evt-1")
    second.kill()
    assert (await effects.enqueue(AWAY_QUEUE, request)).created
    assert (await effects.enqueue(AWAY_QUEUE, request)).created  # delivered again: one parcel
    assert await connections.queue.hlen(keys.PARCELS) == 1
    told = [f for f in (await examine(connections, sharded)).findings if f.hazard == "parcels"]
    assert [finding.evidence for finding in told] == ["1 on queue"]
    assert (await effects.enqueue(HOME_QUEUE, request)).created
    second.start()
    await until(lambda: connections.holding(AWAY_QUEUE).ping())
    assert await parcels.carry(connections, "queue") == 1
    assert await connections.holding(AWAY_QUEUE).zrange(AWAY_QUEUE, 0, -1) == ["evt-1"]


async def test_a_parcel_nobody_can_read_holds_up_no_other(connections, sharded):
    """
    The others arrive; what cannot be read stays, and is told with what to do.
    """
    home, away = connections.queue, connections.holding(AWAY_QUEUE)
    rows = rows_of(AWAY_QUEUE, [JobRequest(name="generic", id="good")])
    assert await parcels.post(home, AWAY_QUEUE, rows)
    bad = {"a": "{", "b": "[]", "c": '{"queue":"x","id":"y","due":"soon","ttl":1,"payload":""}'}
    await home.hset(keys.PARCELS, mapping=bad)
    with pytest.raises(BadRecord, match=r"3 parcels on queue are not readable, e\.g\. 'a'.*HDEL"):
        await parcels.carry(connections, "queue")
    assert await away.zrange(AWAY_QUEUE, 0, -1) == ["good"]
    assert sorted(await home.hkeys(keys.PARCELS)) == list(bad)
