"""The publisher against a real Redis: what lands on the stream and on the channels."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis as redis_sync

from app import keys
from app.errors import InvalidRequest, PayloadTooLarge, RedisUnavailable
from app.notebook import connect as connect_notebook
from app.publisher import Publisher, SyncPublisher
from app.streams.events import Event, NewEvent
from app.wire.connections import connect
from app.wire.scripts import LuaScript
from tests.conftest import ROOT, lacking, unused_port

STREAM = "pyairtable-events"
both_versions = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


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


@both_versions
async def test_an_event_id_is_published_once(publisher, streams_redis):
    first = await publisher.publish("order.paid", {"n": 1}, event_id="order-7")
    again = await publisher.publish("order.paid", {"n": 2}, event_id="order-7")
    mixed = await publisher.append(
        [NewEvent(type="order.paid", event_id=f"order-{n}") for n in (6, 7, 8, 8)]
    )

    assert again == first
    assert [done.created for done in mixed] == [True, False, True, False]
    assert mixed[3].id == mixed[2].id
    rows = await streams_redis.xrange(STREAM)
    assert [row[1]["eventId"] for row in rows] == ["order-7", "order-6", "order-8"]
    assert 0 < await streams_redis.ttl(keys.published(STREAM, "order-7")) <= 86_400


@both_versions
async def test_a_call_repeated_by_the_client_appends_nothing_twice(
    publisher, streams_redis, monkeypatch
):
    """
    redis-py sends a call again when the reply was lost; the script knows the call.
    """
    run = LuaScript.run

    async def twice(self, redis, names, args):
        first = await run(self, redis, names, args)
        assert await run(self, redis, names, args) == first
        return first

    monkeypatch.setattr(LuaScript, "run", twice)
    ids = await publisher.publish_many(NewEvent(type="a.b", data=n) for n in range(3))

    assert [row[0] for row in await streams_redis.xrange(STREAM)] == ids


async def test_an_event_goes_to_the_stream_named(publisher, streams_redis):
    entry_id = await publisher.publish("order.paid", stream="orders", event_id="o1")
    await publisher.user_event("created", "u1", stream="orders")
    await publisher.publish("order.paid", event_id="o1")  # ids are of one stream

    assert await streams_redis.xlen("orders") == 2
    assert (await streams_redis.xrange("orders"))[0][0] == entry_id
    assert await streams_redis.xlen(STREAM) == 1


@pytest.mark.parametrize("stream", ["no way", "", "x" * 200, 7])
def test_a_name_that_is_no_stream_is_refused(stream):
    with pytest.raises(InvalidRequest, match="stream="):
        Publisher(None, None, stream=stream)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (float("nan"), "data cannot be stored"),
        ({"x": float("inf")}, "data cannot be stored"),
        ({1: "a", "1": "b"}, "names a field twice"),
        ({"x": {None: 1, "null": 2}}, "names a field twice"),
        ("\ud800", "data cannot be stored"),
        (eval("[" * 70 + "]" * 70), "nested deeper"),
        (b"bytes", "bytes is not JSON"),
        (10**5000, "data cannot be stored"),
        ("x" * 262_145, "the limit is 262,144"),
    ],
    ids=["nan", "inf", "twice", "null", "surrogate", "deep", "bytes", "digits", "large"],
)  # fmt: skip
async def test_data_no_handler_could_read_is_refused_before_it_is_sent(
    publisher, streams_redis, data, said
):
    with pytest.raises(InvalidRequest, match=said) as refused:
        await publisher.publish("a.b", data)

    assert refused.value.field == "data"
    assert await streams_redis.xlen(STREAM) == 0


async def test_a_notification_is_small(publisher):
    with pytest.raises(PayloadTooLarge, match="the limit is 32,768"):
        await publisher.notify_user("u1", "x" * 40_000)


# --- plain calls ------------------------------------------------------------------------------


def test_a_script_publishes_with_plain_calls(settings):
    with SyncPublisher(settings, source="my-script") as publisher:
        ids = [
            publisher.publish("a.b", {"n": 1}, event_id="e1"),
            publisher.publish("a.b", {"n": 1}, event_id="e1"),
            publisher.user_event("created", "u1"),
            publisher.workspace_event("updated", "w1"),
            publisher.airtable_event("sync.requested", "app1"),
            publisher.job_event("completed", "j1"),
            publisher.auth_event("login", "u1"),
            *publisher.publish_many([NewEvent(type="a.b"), NewEvent(type="a.c")]),
        ]
        told = [publisher.notify_user("u", "x"), publisher.notify_workspace("w", "x")]
        told.append(publisher.broadcast("x"))
        with pytest.raises(InvalidRequest):
            publisher.publish("Nonsense")

    assert ids[0] == ids[1]
    assert ids[1:] == sorted(ids[1:])
    assert told == [0, 0, 0]
    with pytest.raises(RuntimeError, match="closed"):
        publisher.publish("a.b")
    publisher.close()
    with redis_sync.Redis.from_url(settings.url("streams"), decode_responses=True) as client:
        rows = client.xrange(STREAM)
    assert {fields["source"] for _, fields in rows} == {"my-script"}


async def test_plain_calls_work_inside_a_running_loop(settings, streams_redis):
    """
    As in a notebook, whose cells run inside Jupyter's loop.
    """
    with SyncPublisher(settings) as publisher:
        entry_id = publisher.user_event("created", "u1")

    assert [row[0] for row in await streams_redis.xrange(STREAM)] == [entry_id]


def test_a_notebook_publishes_through_its_scope(settings):
    with connect_notebook(settings) as scope:
        first = scope.publish("user.created", {"n": 1}, user_id="u1", event_id="e1")
        again = scope.publish("user.created", {"n": 1}, event_id="e1")

    assert (first.changed, again.changed) == (True, False)
    assert first.detail["id"] == again.detail["id"]


def test_plain_calls_may_come_from_several_threads(settings):
    with SyncPublisher(settings) as publisher, ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: publisher.publish("a.b", n), range(100)))

    assert len(set(ids)) == 100


def test_a_plain_call_tells_that_redis_is_away(settings):
    away = settings.model_copy(update={"redis_streams_url": f"redis://127.0.0.1:{unused_port()}/0"})

    with SyncPublisher(away) as publisher, pytest.raises(RedisUnavailable):
        publisher.publish("a.b")


# --- other languages --------------------------------------------------------------------------


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=30, **more)


def readme_block(language, containing):
    """The code block of README that holds *containing*."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return next(block for block in blocks if containing in block)


async def test_the_redis_cli_line_of_the_readme_publishes_an_event(
    redis_server, streams_redis, settings
):
    if shutil.which("redis-cli") is None:
        lacking("redis-cli")
    line = readme_block("console", "XADD pyairtable-events").lstrip("$ ")
    line = line.replace("-p 6380", f"-p {redis_server.port} -n 1")
    line = line.replace('"$(cat .arqscope/password)"', redis_server.password)

    done = await asyncio.to_thread(run, ["bash", "-c", line])

    ((entry_id, fields),) = await streams_redis.xrange(STREAM)
    assert entry_id in done.stdout
    event = Event.from_entry(entry_id, fields)
    assert (event.type, event.source, event.user_id) == ("user.created", "shell", "user123")
    assert event.data == {"email": "user@example.com"}


async def test_the_node_program_of_the_readme_publishes_an_event(
    redis_server, streams_redis, tmp_path
):
    if shutil.which("node") is None:
        lacking("node")
    program = tmp_path / "publish.mjs"
    program.write_text(readme_block("js", "XADD"))
    world = {"PATH": os.environ["PATH"], "REDIS_STREAMS_URL": redis_server.database(1)}

    done = await asyncio.to_thread(run, ["node", str(program)], env=world)

    assert done.returncode == 0, done.stderr
    ((entry_id, fields),) = await streams_redis.xrange(STREAM)
    assert entry_id in done.stdout
    event = Event.from_entry(entry_id, fields)
    assert (event.type, event.source, event.data) == (
        "user.created", "my-node-service", {"email": "üser@example.com"},
    )  # fmt: skip
    assert event.correlation_id
