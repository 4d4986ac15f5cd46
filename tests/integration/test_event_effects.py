"""What comes of an event: jobs by trigger rules, and what the built-in handlers do, seen in Redis."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from app import audit, keys
from app.enqueue import codec_of
from app.publisher import Publisher
from app.streams import entries
from app.streams.events import NewEvent
from app.streams.triggers import rules_of
from tests.conftest import ROOT, wait_until
from tests.processing import processing, quick, settled
from workers.event_router import Registry, load_handlers
from workers.events import triggers

STREAM = "pyairtable-events"
both_versions = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


@pytest.fixture
def publisher(streams_redis, cache_redis):
    return Publisher(streams_redis, cache_redis, stream=STREAM)


def rule(**more):
    return {
        "name": "sync-table",
        "type": "table.*",
        "queue": "long-running-jobs",
        "function": "data-sync",
        "data": {"table": "{data.table}", "rows": "{data.rows|100}", "note": "by {userId|nobody}"},
        "when": {"data.plan": "pro"},
        "attempts": 2,
        **more,
    }


def with_rules(settings, *entries_):
    registry = Registry()
    triggers.register(registry, rules_of(list(entries_), settings))
    return registry


async def jobs_of(redis, queue, settings):
    found = {}
    for job_id in await redis.zrange(queue, 0, -1):
        raw = await redis.get(keys.arq_job(job_id))
        found[job_id] = codec_of(settings).decode_job(raw.encode())
    return found


# --- trigger rules ----------------------------------------------------------------------------


@both_versions
async def test_an_event_makes_the_job_its_rule_says(
    settings, publisher, streams_redis, queue_redis
):
    plan = {"plan": "pro", "table": "tasks"}
    event_id = await publisher.publish(
        "table.changed", {**plan, "rows": 5}, user_id="u1", correlation_id="c1"
    )
    await publisher.publish("table.changed", {"plan": "free", "table": "x"})

    async with processing(quick(settings), with_rules(settings, rule())):
        await settled(streams_redis, 2)

    jobs = await jobs_of(queue_redis, "long-running-jobs", settings)
    ((job_id, job),) = jobs.items()
    assert job_id == f"evt-{event_id}-trigger_sync_table"
    assert (job.function, job.args) == (
        "data-sync",
        ({"table": "tasks", "rows": 5, "note": "by u1"},),
    )
    assert job.options == {"attempts": 2, "cid": "c1"}


async def test_an_event_a_rule_cannot_use_is_a_dead_letter_that_names_rule_and_part(
    settings, publisher, streams_redis, queue_redis
):
    event_id = await publisher.publish("table.changed", {"plan": "pro"})

    async with processing(quick(settings), with_rules(settings, rule())):
        await settled(streams_redis, 1)

    letter = await streams_redis.hgetall(keys.dead_record(STREAM, event_id))
    assert letter["error"] == "trigger 'sync-table': the event has no data.table"
    assert await queue_redis.zcard("long-running-jobs") == 0


async def test_an_event_that_fits_several_rules_makes_a_job_of_each(
    settings, publisher, streams_redis, queue_redis
):
    await publisher.publish("table.changed", {"plan": "pro", "table": "t"})
    registry = with_rules(settings, rule(), rule(name="second", queue="async-processing"))

    async with processing(quick(settings), registry):
        await settled(streams_redis, 1)

    assert await queue_redis.zcard("long-running-jobs") == 1
    assert await queue_redis.zcard("async-processing") == 1


async def test_a_processor_killed_between_the_two_redis_loses_and_doubles_no_job(
    settings, publisher, streams_redis, queue_redis, tmp_path
):
    """
    A few of the hundred kills of E14, on the built-in command with rules from a file.
    """
    (tmp_path / "arqscope.toml").write_text(
        '[[triggers]]\nname = "sync"\ntype = "table.changed"\nqueue = "async-processing"\n'
        'function = "data-sync"\ndata = { table = "{data.table}" }\n'
    )
    world = {
        **{name: value for name, value in os.environ.items() if "REDIS" not in name},
        "REDIS_URL": settings.redis_url,
        "REDIS_STREAMS_URL": settings.redis_streams_url,
        "REDIS_QUEUE_URL": settings.redis_queue_url,
        "BLOCK_TIME": "50",
        "ARQSCOPE_LEASE_S": "0.6",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "workers.event_processor"]
    events = [NewEvent(type="table.changed", data={"table": n}) for n in range(400)]
    ids = await publisher.publish_many(events)

    def start():
        return subprocess.Popen(command, cwd=tmp_path, env=world, stderr=subprocess.DEVNULL)

    for number in range(3):
        before = await queue_redis.zcard("async-processing")
        process = start()
        for _ in range(2_000):
            if await queue_redis.zcard("async-processing") > before + 20 * number:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start()
    await settled(streams_redis, 400)
    process.terminate()
    wait_until(lambda: process.poll() is not None)

    jobs = await jobs_of(queue_redis, "async-processing", settings)
    assert sorted(jobs) == sorted(f"evt-{one}-trigger_sync" for one in ids)
    assert await queue_redis.hget(keys.totals("async-processing"), "accepted") == "400"


# --- the built-in handlers --------------------------------------------------------------------


@contextlib.asynccontextmanager
async def hearing(cache_redis, *channels):
    async with cache_redis.pubsub() as listener:
        await listener.subscribe(*channels)
        for _ in channels:
            await listener.get_message(timeout=5)
        yield listener


async def heard(listener):
    found = []
    while message := await listener.get_message(timeout=0.3):
        found.append((message["channel"], json.loads(message["data"])))
    return found


async def handle_all(settings, streams_redis, count):
    async with processing(quick(settings), load_handlers(settings)):
        await settled(streams_redis, count)


@both_versions
async def test_user_created_tells_the_user_keeps_the_status_and_makes_a_welcome(
    settings, publisher, streams_redis, cache_redis, queue_redis
):
    async with hearing(cache_redis, "user:u1") as listener:
        event_id = await publisher.user_event("created", "u1", {"email": "a@b.c"})
        await handle_all(settings, streams_redis, 1)
        ((_, message),) = await heard(listener)

    assert message["message"] == {"text": "account created", "data": {"email": "a@b.c"}}
    ((job_id, job),) = (await jobs_of(queue_redis, "event-driven-jobs", settings)).items()
    assert job_id == f"evt-{event_id}-welcome_user"
    assert (job.function, job.args[0]["userId"]) == ("notification", "u1")
    (status,) = await entries.statuses(streams_redis, STREAM, "user")
    assert (status["subject"], status["status"], status["entry"]) == ("u1", "created", event_id)


async def test_what_somebody_will_ask_about_is_in_the_audit_once(
    settings, publisher, streams_redis, queue_redis
):
    event_id = await publisher.user_event("deleted", "u1", {"by": "admin"}, correlation_id="c1")
    await publisher.workspace_event("deleted", "w1")
    await publisher.user_event("updated", "u1")
    await handle_all(settings, streams_redis, 3)
    await streams_redis.xgroup_destroy(STREAM, "event-processors")
    await streams_redis.delete(f"arqscope:{{{STREAM}}}:checkpoints")
    await streams_redis.delete(
        *[keys.handled(STREAM, row[0]) for row in await streams_redis.xrange(STREAM)]
    )

    await handle_all(settings, streams_redis, 6)

    lines = sorted(await audit.recent(queue_redis), key=lambda line: line.action)
    assert [(line.action, line.target) for line in lines] == [
        ("user.deleted", "u1"),
        ("workspace.deleted", "w1"),
    ]
    assert lines[0].actor == "event:arqscope"
    assert (lines[0].detail["event"], lines[0].detail["cid"]) == (event_id, "c1")
    assert (await audit.verify(queue_redis)).ok


async def test_a_workspace_event_is_told_in_the_workspace(
    settings, publisher, streams_redis, cache_redis
):
    async with hearing(cache_redis, "workspace:w1", "system:broadcast") as listener:
        await publisher.workspace_event("updated", "w1", {"name": "W"})
        await handle_all(settings, streams_redis, 1)
        ((channel, message),) = await heard(listener)

    assert (channel, message["type"]) == ("workspace:w1", "workspace.updated")
    (status,) = await entries.statuses(streams_redis, STREAM, "workspace")
    assert (status["subject"], status["status"]) == ("w1", "updated")


async def test_a_sync_is_a_job_and_its_status_the_newest_word(
    settings, publisher, streams_redis, queue_redis
):
    for action in ("sync.requested", "sync.started", "sync.failed"):
        data = {"records": 5, "error": "quota" if "failed" in action else None}
        await publisher.airtable_event(action, "app1", data, workspace_id="w1")
    await handle_all(settings, streams_redis, 3)

    ((_, job),) = (await jobs_of(queue_redis, "event-driven-jobs", settings)).items()
    assert (job.function, job.args[0]["baseId"]) == ("data-sync", "app1")
    (status,) = await entries.statuses(streams_redis, STREAM, "sync")
    assert (status["subject"], status["status"], status["text"]) == ("app1", "failed", "quota")


async def test_how_a_job_stands_is_kept_and_told_only_to_whom_it_concerns(
    settings, publisher, streams_redis, cache_redis
):
    async with hearing(cache_redis, "user:u1", "system:broadcast") as listener:
        await publisher.job_event("completed", "j1")
        await publisher.job_event("failed", "j2", {"error": "no route"}, user_id="u1")
        await handle_all(settings, streams_redis, 2)
        ((channel, message),) = await heard(listener)

    assert (channel, message["message"]["jobId"]) == ("user:u1", "j2")
    found = await entries.statuses(streams_redis, STREAM, "job")
    assert {one["subject"]: (one["status"], one["text"]) for one in found} == {
        "j1": ("completed", ""),
        "j2": ("failed", "no route"),
    }


async def test_auth_events_keep_how_a_user_came_in(settings, publisher, streams_redis):
    await publisher.auth_event("login", "u1")
    await publisher.auth_event("failed", "u1")
    await handle_all(settings, streams_redis, 2)

    (status,) = await entries.statuses(streams_redis, STREAM, "auth")
    assert (status["subject"], status["status"]) == ("u1", "failed")


async def test_an_event_with_much_data_is_told_without_it(
    settings, publisher, streams_redis, cache_redis
):
    async with hearing(cache_redis, "user:u1") as listener:
        event_id = await publisher.user_event("updated", "u1", {"x": "y" * 200_000})
        await handle_all(settings, streams_redis, 1)
        ((_, message),) = await heard(listener)

    assert message["message"]["entry"] == event_id
    assert "data" not in message["message"]
    assert await streams_redis.zcard(keys.dead_open(STREAM)) == 0


async def test_an_unknown_type_is_counted_and_harms_nothing(settings, publisher, streams_redis):
    await publisher.publish("planet.aligned")
    await handle_all(settings, streams_redis, 1)

    assert (await streams_redis.hgetall(keys.event_totals(STREAM)))["unmatched"] == "1"


async def test_an_older_word_never_covers_a_newer_one(settings, publisher, streams_redis):
    """
    A dead event handled a day late says what was; the status stays what is.
    """
    for action in ("sync.started", "sync.completed"):
        await publisher.airtable_event(action, "app1")
    await handle_all(settings, streams_redis, 2)
    ((first, fields), _) = await streams_redis.xrange(STREAM)
    await streams_redis.xadd(STREAM, {**fields, "redrivenFrom": first})

    await handle_all(settings, streams_redis, 3)

    (status,) = await entries.statuses(streams_redis, STREAM, "sync")
    assert status["status"] == "completed"


async def test_statuses_are_bounded(settings, publisher, streams_redis, monkeypatch):
    monkeypatch.setattr("workers.events.context.STATUSES_KEPT", 5)
    await publisher.publish_many(NewEvent(type="user.updated", user_id=f"u{n}") for n in range(12))
    await handle_all(settings, streams_redis, 12)

    kept = [key async for key in streams_redis.scan_iter(f"arqscope:{{{STREAM}}}:status:*")]
    assert len(kept) == 5
    assert await streams_redis.zcard(keys.statuses(STREAM, "user")) == 5
