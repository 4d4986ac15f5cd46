"""Dead letters over the cap: to a file and back, whoever is killed in between."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app import actions, keys
from app.actions import Connections
from app.errors import ActionRefused, BadRecord, NotFound
from app.letters import spill
from app.letters.redrive import Shelf
from tests.letters import ANN, QUEUE, both_servers, bury_event, bury_many, field, places
from workers.alerts.notices import Alerts
from workers.letters import overflow


@pytest.fixture
def connections(queue_redis: Redis, streams_redis: Redis, cache_redis: Redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


async def bury_oldest_first(redis: Redis, count: int) -> None:
    await bury_many(redis, (f"j{n:04}" for n in range(count)), died_ms=lambda n: 1000 + n)


async def open_ids(redis: Redis) -> list[str]:
    return list(await redis.zrange(keys.dead_open(QUEUE), 0, -1))


@both_servers
async def test_the_oldest_go_to_a_file_and_come_back_whole(connections, settings, tmp_path: Path):
    redis = connections.queue
    await bury_oldest_first(redis, 700)
    shelf = Shelf(redis, QUEUE, "job")
    before = await redis.hgetall(keys.dead_record(QUEUE, "j0003"))

    moved = await spill.spill(shelf, tmp_path, 100)

    assert moved.letters == 600
    assert await open_ids(redis) == [f"j{n:04}" for n in range(600, 700)]
    assert await redis.hget(keys.totals(QUEUE), "spilled") == "600"
    assert moved.file.stat().st_mode & 0o077 == 0
    assert len(moved.file.read_bytes().splitlines()) == 600
    assert await redis.exists(keys.dead_record(QUEUE, "j0003"), keys.dead_spilling(QUEUE)) == 0

    report = await actions.import_letters(connections, settings, ANN, moved.file)
    again = await actions.import_letters(connections, settings, ANN, moved.file)

    assert (report.detail["brought_back"], report.detail["here"]) == (600, 0)
    assert (again.detail["brought_back"], again.detail["here"]) == (0, 600)
    assert await open_ids(redis) == [f"j{n:04}" for n in range(700)]
    after = await redis.hgetall(keys.dead_record(QUEUE, "j0003"))
    assert after | {"changed_ms": ""} == before | {"changed_ms": ""}
    assert await redis.hget(keys.totals(QUEUE), "spilled") == "0"
    assert (await actions.retry_letter(connections, settings, ANN, QUEUE, "j0003")).changed


@pytest.mark.parametrize("dies_before", ["append", "gone"])
async def test_a_spill_that_is_killed_loses_and_doubles_nothing(
    connections, settings, tmp_path: Path, monkeypatch, dies_before
):
    redis = connections.queue
    await bury_oldest_first(redis, 300)
    shelf = Shelf(redis, QUEUE, "job")

    class Killed(BaseException):
        pass

    run = spill._run

    async def run_or_die(on: Shelf, verb: str, *rest: Any) -> Any:
        if verb == dies_before:
            raise Killed
        return await run(on, verb, *rest)

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(spill, "_run", run_or_die)
        if dies_before == "append":
            patch.setattr(spill, "append", die)
        with pytest.raises(Killed):
            await spill.spill(shelf, tmp_path, 100)
    with pytest.raises(ActionRefused, match="spilled"):
        await actions.retry_letter(connections, settings, ANN, QUEUE, "j0000")

    await spill.spill(shelf, tmp_path, 100)

    [file] = tmp_path.iterdir()  # noqa: ASYNC240 - a directory of one file
    in_file = {line.id for line in spill.read_lines(file)}
    assert len(in_file) == 200
    assert in_file.isdisjoint(await open_ids(redis))
    report = await actions.import_letters(connections, settings, ANN, file)
    assert report.detail["brought_back"] == 200
    assert len(await open_ids(redis)) == 300


async def test_a_disk_that_is_full_leaves_the_letters_open(connections, settings, tmp_path: Path):
    redis = connections.queue
    await bury_oldest_first(redis, 300)
    (tmp_path / "data").write_text("a file, not a folder")
    crowded = settings.model_copy(update={"data_dir": tmp_path / "data", "dead_letter_cap": 100})

    assert (
        await overflow.relieve(Shelf(redis, QUEUE, "job"), crowded, Alerts(connections.cache)) == 0
    )

    assert len(await open_ids(redis)) == 300
    assert await field(redis, "j0000", "state") == "new"
    [alert] = await connections.cache.lrange(keys.DLQ_ALERTS, 0, -1)
    assert json.loads(alert)["severity"] == "critical"


async def test_what_spills_is_told_once_a_window(connections, settings):
    redis = connections.queue
    crowded = settings.model_copy(update={"dead_letter_cap": 100})
    shelf = Shelf(redis, QUEUE, "job")
    for _ in range(2):
        await bury_oldest_first(redis, 150)
        assert await overflow.relieve(shelf, crowded, Alerts(connections.cache)) == 50
    assert await overflow.relieve(shelf, crowded, Alerts(connections.cache)) == 0

    [alert] = await connections.cache.lrange(keys.DLQ_ALERTS, 0, -1)

    assert "50 dead letters beyond the cap of 100" in json.loads(alert)["error"]


async def test_a_damaged_file_brings_nothing_back(connections, settings, tmp_path: Path):
    redis = connections.queue
    await bury_oldest_first(redis, 120)
    moved = await spill.spill(Shelf(redis, QUEUE, "job"), tmp_path, 100)
    lines = moved.file.read_bytes().splitlines(keepends=True)
    moved.file.write_bytes(b"".join([*lines[:5], lines[5].replace(b"boom", b"bang"), *lines[6:]]))

    with pytest.raises(BadRecord, match="line 6 is damaged"):
        await actions.import_letters(connections, settings, ANN, moved.file)

    assert len(await open_ids(redis)) == 100
    with pytest.raises(NotFound):
        await actions.import_letters(connections, settings, ANN, tmp_path / "nothing")


async def test_a_torn_last_line_is_left_out_and_cut_off(connections, settings, tmp_path: Path):
    redis = connections.queue
    await bury_oldest_first(redis, 120)
    shelf = Shelf(redis, QUEUE, "job")
    moved = await spill.spill(shelf, tmp_path, 110)
    with moved.file.open("ab") as file:
        file.write(b'{"sha256":"torn')

    await spill.spill(shelf, tmp_path, 100)

    assert len(list(spill.read_lines(moved.file))) == 20


@both_servers
async def test_letters_of_a_stream_spill_too(connections, settings, tmp_path: Path):
    redis, stream = connections.streams, settings.stream_name
    for n in range(110):
        await bury_event(redis, stream, f"{n + 1}-1", died_ms=n + 1)
    moved = await spill.spill(Shelf(redis, stream, "event"), tmp_path, 100)
    assert moved.letters == 10
    assert await places(redis, "3-1", stream) == []

    await actions.import_letters(connections, settings, ANN, moved.file)

    assert await places(redis, "3-1", stream) == ["open"]
    assert (await actions.retry_letter(connections, settings, ANN, stream, "3-1")).changed
