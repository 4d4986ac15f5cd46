"""`arqscope dlq` and `arqscope operations`: every command, against a real Redis."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from app import keys
from app.cli import app
from app.errors import InvalidRequest
from app.letters.redrive import Shelf
from app.letters.spill import spill
from app.operations.drive import drive
from app.payloads.codec import Codec
from app.wire.connections import Connections, connect
from tests.letters import QUEUE, bury_many

PAYLOAD = Codec().encode_job("sync", ({"n": 1},), {}, enqueued_ms=1)


@pytest.fixture
def cli(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command; returns its JSON, or its text, and fails on an exit code."""
    monkeypatch.setenv("REDIS_URL", settings.url("cache"))
    monkeypatch.setenv("REDIS_STREAMS_URL", settings.url("streams"))
    monkeypatch.setenv("REDIS_QUEUE_URL", settings.url("queue"))
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(settings.data_dir.parent)

    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if "--json" in words else done.stdout

    return run


def on_redis(settings: Any, work: Callable[[Redis], Any]) -> Any:
    """Run a coroutine function with a client of the queue Redis."""

    async def run() -> Any:
        redis = connect(settings.url("queue"))
        try:
            return await work(redis)
        finally:
            await redis.aclose()

    return asyncio.run(run())


def test_letters_are_listed_shown_retried_and_given_up(cli, settings):
    on_redis(settings, lambda redis: bury_many(redis, (f"j{n}" for n in range(5)), PAYLOAD))

    assert len(cli("dlq", "list", QUEUE, "--json")) == 5
    assert "j3" in cli("dlq", "list", QUEUE, "--text", "J3")
    assert [row["source"] for row in cli("dlq", "list", "--text", "j3", "--json")] == [QUEUE]
    assert len(cli("dlq", "list", "--limit", "3", "--json")) == 3
    assert "Causes" in cli("dlq", "groups")
    assert "RuntimeError" in cli("dlq", "show", QUEUE, "j1")
    assert cli("dlq", "retry", QUEUE, "j0") == "j0 runs again as j0~r1\n"
    edited = cli("dlq", "retry", QUEUE, "j1", "--edit", '{"args": [2]}', "--json")
    assert edited["detail"]["after"] != edited["detail"]["before"]
    assert cli("dlq", "discard", QUEUE, "j2", "--reason", "a test") == "j2 is discarded\n"
    assert cli("dlq", "undo", QUEUE, "j2") == "j2 is open again\n"
    assert cli("dlq", "archive", QUEUE, "j2") == "j2 is archived\n"
    assert {row["state"] for row in cli("dlq", "list", QUEUE, "--state", "closed", "--json")} == {
        "archived"
    }


def test_a_group_is_retried_as_an_operation(cli, settings):
    async def prepare(redis: Redis) -> None:
        await bury_many(redis, (f"j{n}" for n in range(9)), PAYLOAD, fingerprint="f1")

    on_redis(settings, prepare)

    dry = cli("dlq", "retry-group", QUEUE, "f1", "--dry-run")
    started = cli("dlq", "retry-group", QUEUE, "f1", "--rate", "5/s", "--canary", "5", "--json")
    operation_id = started["detail"]["operation"]
    assert "would be about 9; nothing was changed" in dry
    assert dry.count("id=j") == 5
    assert cli("operations", "show", operation_id, "--json")["rate_per_s"] == 5
    assert "is paused" in cli("dlq", "operations", "pause", operation_id)
    assert cli("operations", "list", "--open", "--json")[0]["state"] == "paused"
    assert "goes on" in cli("operations", "resume", operation_id)
    assert "is aborted" in cli("operations", "abort", operation_id)
    assert "aborted" in cli("operations", "list")

    again = cli("dlq", "retry", QUEUE, "--older-than", "0s", "--json")

    async def finish(redis: Redis) -> int:
        clients = Connections(queue=redis, streams=redis, cache=redis)
        return (await drive(clients, again["detail"]["operation"])).done

    assert on_redis(settings, finish) == 9


def test_letters_are_exported_and_imported(cli, settings, tmp_path: Path):
    async def prepare(redis: Redis) -> Path:
        await bury_many(redis, (f"j{n}" for n in range(120)), PAYLOAD)
        moved = await spill(Shelf(redis, QUEUE, "job"), tmp_path, 100)
        assert moved.file is not None
        return moved.file

    file = on_redis(settings, prepare)

    out = tmp_path / "letters.csv"
    cli("dlq", "export", QUEUE, "--format", "csv", "--out", str(out))
    assert len(out.read_text().splitlines()) == 101
    assert "is whole" in cli("dlq", "import", str(file), "--dry-run")
    assert cli("dlq", "import", str(file), "--json")["detail"]["brought_back"] == 20

    async def count(redis: Redis) -> int:
        return int(await redis.zcard(keys.dead_open(QUEUE)))

    assert on_redis(settings, count) == 120


def test_a_job_is_put_off_and_what_cannot_be_is_said(cli, settings):
    cli("jobs", "enqueue", QUEUE, "sync", "--id", "later", "--delay", "60")

    async def due(redis: Redis) -> float | None:
        return await redis.zscore(QUEUE, "later")

    before = on_redis(settings, due)
    told = cli("jobs", "reschedule", QUEUE, "later", "2h", "--json")

    assert told["changed"]
    assert 7_139_000 <= on_redis(settings, due) - before <= 7_200_000
    with pytest.raises(InvalidRequest, match="delay='soon'"):
        cli("jobs", "reschedule", QUEUE, "later", "soon")
