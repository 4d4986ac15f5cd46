"""The publisher against a real Redis: what lands on the stream and on the channels."""

import json

import pytest

from app.connections import connect
from app.errors import InvalidRequest, RedisUnavailable
from app.events import Event, NewEvent
from app.publisher import Publisher
from tests.conftest import unused_port

STREAM = "pyairtable-events"


@pytest.fixture
def publisher(streams_redis, cache_redis):
    return Publisher(streams_redis, cache_redis, stream=STREAM)


async def test_a_published_event_has_the_wire_format(publisher, streams_redis):
    entry_id = await publisher.publish("user.created", {"email": "a@b.c"}, user_id="user123")

    (found,) = await streams_redis.xrange(STREAM)
    assert found[0] == entry_id
    assert sorted(found[1]) == ["correlationId", "data", "source", "timestamp", "type", "userId"]
    assert Event.from_entry(*found).data == {"email": "a@b.c"}


async def test_the_named_kinds_publish_their_types(publisher, streams_redis):
    await publisher.user_event("created", "u1", {})
    await publisher.workspace_event("updated", "w1", {"name": "W"})
    await publisher.airtable_event("sync.requested", "app1", {"records": 5})
    await publisher.job_event("completed", "j1")
    await publisher.auth_event("login", "u1", correlation_id="c1")

    events = [Event.from_entry(*row) for row in await streams_redis.xrange(STREAM)]
    assert [(e.type, e.user_id or e.workspace_id or e.data) for e in events] == [
        ("user.created", "u1"),
        ("workspace.updated", "w1"),
        ("airtable.sync.requested", {"baseId": "app1", "records": 5}),
        ("job.completed", {"jobId": "j1"}),
        ("auth.login", "u1"),
    ]
    assert events[-1].correlation_id == "c1"


async def test_many_events_keep_their_order(publisher, streams_redis):
    ids = await publisher.publish_many(NewEvent(type="load.made", data=n) for n in range(1200))

    rows = await streams_redis.xrange(STREAM)
    assert [row[0] for row in rows] == ids
    assert [json.loads(row[1]["data"]) for row in rows] == list(range(1200))


async def test_nothing_of_a_refused_batch_is_sent(publisher, streams_redis):
    with pytest.raises(InvalidRequest):
        await publisher.publish_many([NewEvent(type="a.b"), NewEvent(type="a.b", data=object())])

    assert await streams_redis.xlen(STREAM) == 0


async def test_a_notification_arrives_as_json(publisher, cache_redis):
    async with cache_redis.pubsub() as listener:
        await listener.subscribe("user:u1", "workspace:w1", "system:broadcast")
        for _ in range(3):
            await listener.get_message(timeout=5)

        heard = [
            await publisher.notify_user("u1", "Welcome message"),
            await publisher.notify_workspace("w1", {"n": 1}, "workspace.updated"),
            await publisher.broadcast("maintenance"),
        ]
        messages = [json.loads((await listener.get_message(timeout=5))["data"]) for _ in range(3)]

    assert heard == [1, 1, 1]
    assert [(m["type"], m["message"], bool(m["timestamp"])) for m in messages] == [
        ("notification", "Welcome message", True),
        ("workspace.updated", {"n": 1}, True),
        ("broadcast", "maintenance", True),
    ]


async def test_a_notification_to_nobody_is_refused(publisher):
    with pytest.raises(InvalidRequest, match="userId is empty"):
        await publisher.notify_user("", "hello")


async def test_a_missing_redis_is_named_within_two_seconds():
    url = f"redis://127.0.0.1:{unused_port()}/0"
    client = connect(url)
    publisher = Publisher(client, client, stream=STREAM)

    with pytest.raises(RedisUnavailable):
        await publisher.publish("user.created")
    await client.aclose()
