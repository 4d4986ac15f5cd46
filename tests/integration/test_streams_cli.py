"""The commands about streams, against a real Redis."""

import json

import pytest
import redis as redis_sync
from typer.testing import CliRunner

from app import keys
from app.cli import app
from app.errors import ArqscopeError

STREAM = "pyairtable-events"
GROUP = "event-processors"
RULES = (
    '[[triggers]]\nname = "sync"\ntype = "table.*"\nqueue = "async-processing"\n'
    'function = "data-sync"\ndata = { table = "{data.table}" }\n'
)


@pytest.fixture
def streams(settings):
    with redis_sync.Redis.from_url(settings.url("streams"), decode_responses=True) as client:
        yield client


@pytest.fixture
def run(settings, monkeypatch, tmp_path):
    (tmp_path / "arqscope.toml").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    for role in ("redis_url", "redis_streams_url", "redis_queue_url"):
        monkeypatch.setenv(role.upper(), getattr(settings, role))

    def command(*words, given=""):
        done = CliRunner().invoke(app, ["streams", *words], input=given)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return command


def test_what_is_published_is_listed_and_shown(run, streams):
    told = run("publish", "user.created", "--data", '{"n": 1}', "--user", "u1", "--id", "e1")
    again = run("publish", "user.created", "--id", "e1")
    ((entry_id, fields),) = streams.xrange(STREAM)

    assert (fields["source"], fields["userId"], fields["data"]) == ("cli", "u1", '{"n":1}')
    assert (f"published as {entry_id}" in told, "published before" in again) == (True, True)
    (row,) = json.loads(run("entries", "--type", "user.*", "--json"))["items"]
    assert (row["id"], row["data"]) == (entry_id, {"n": 1})
    assert entry_id in run("entries")
    assert json.loads(run("show", entry_id))["fields"] == fields
    assert "user.created" not in run("entries", "--type", "other.*")
    found = json.loads(run("list", "--json"))
    assert found["streams"][0]["stream"] == STREAM
    assert STREAM in run("list")


def test_pending_entries_are_shown_released_and_skipped(run, streams):
    ids = [streams.xadd(STREAM, {"type": "a.b", "data": "{}"}) for _ in range(2)]
    streams.xgroup_create(STREAM, GROUP, "0")
    streams.xreadgroup(GROUP, "gone", {STREAM: ">"})

    assert [one["id"] for one in json.loads(run("pending", "--json"))["items"]] == ids
    assert "gone" in run("pending")
    assert "is released" in run("claim", ids[0], "--consumer", "next")
    assert "without being handled" in run("skip", ids[1])
    left = streams.xpending_range(STREAM, GROUP, "-", "+", 10)
    assert [(row["message_id"], row["consumer"]) for row in left] == [(ids[0], "next")]


def test_a_replay_is_counted_and_started(run, streams, settings):
    ids = [streams.xadd(STREAM, {"type": "a.b", "data": "{}"}) for _ in range(3)]

    counted = json.loads(run("replay", "--from", ids[1], "--dry-run", "--json"))
    started = json.loads(run("replay", "--type", "a.*", "--rate", "5/s", "--reason", "x", "--json"))

    assert (counted["detail"]["matched"], counted["changed"]) == (2, False)
    with redis_sync.Redis.from_url(settings.url("queue"), decode_responses=True) as queue:
        stored = queue.hgetall(keys.operation(started["detail"]["operation"]))
    assert (stored["kind"], stored["matched"], stored["rate_per_s"]) == (
        "replay_events",
        "3",
        "5.0",
    )


def test_rules_are_tried_on_an_event_from_a_file_or_stdin(run, tmp_path):
    (tmp_path / "event.json").write_text('{"type": "table.changed", "data": {"table": "t"}}')

    assert "table.*" in run("triggers")
    (would,) = json.loads(run("triggers", "--test", "event.json", "--json"))
    assert would["job"]["data"] == {"table": "t"}
    said = run("triggers", "--test", "-", given='{"type": "user.created"}')
    assert "sync: the type is not table.*" in said
    for wrong in ("{", "[]", '{"type": "Bad"}'):
        with pytest.raises(ArqscopeError):
            run("triggers", "--test", "-", given=wrong)


def test_statuses_are_shown(run, streams):
    streams.hset(keys.status(STREAM, "sync", "app1"), mapping={"status": "completed"})
    streams.zadd(keys.statuses(STREAM, "sync"), {"app1": 1})

    assert "completed" in run("statuses", "sync")
    assert json.loads(run("statuses", "sync", "--json"))[0]["subject"] == "app1"
