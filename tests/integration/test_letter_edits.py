"""Retry with edited arguments, lineage, undo and its counters, lists by filter, exports."""

import csv
import hashlib
import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from app import actions, audit, keys, reader
from app.actions import Connections
from app.actions.letters import shelf_of
from app.errors import ActionRefused, InvalidRequest, PayloadTooLarge, UnknownFunction
from app.exports.letters import export_letters
from app.letters.edit import LetterEdit
from app.letters.filters import LetterFilter
from app.letters.redrive import Shelf
from app.payloads.codec import Codec
from app.wire.connections import connect
from tests.letters import ANN, BOB, QUEUE, both_servers, bury, bury_event, bury_many, places

ORIGINAL = Codec().encode_job(
    "sync", ({"tenant": 42, "password": "hunter2"},), {}, enqueued_ms=5, options={"cid": "c1"}
)
PICKLED = b"\x80\x04\x95\x00\x00cposix\nsystem\n"


@pytest.fixture
def connections(queue_redis: Redis, streams_redis: Redis, cache_redis: Redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


async def raw_value(settings: Any, key: str) -> bytes:
    client = connect(settings.url("queue"), decode_responses=False)
    try:
        return await client.get(key)
    finally:
        await client.aclose()


@both_servers
async def test_a_retry_carries_edited_arguments_and_the_letter_keeps_what_died(
    connections, settings
):
    redis = connections.queue
    await bury(redis, "j1", ORIGINAL)
    edit = LetterEdit(args=[{"tenant": 43}])

    done = await actions.retry_letter(connections, settings, ANN, QUEUE, "j1", edit=edit)
    again = await actions.retry_letter(connections, settings, BOB, QUEUE, "j1", edit=edit)

    assert (done.changed, again.changed) == (True, False)
    sent = Codec().decode_job(await raw_value(settings, keys.arq_job("j1~r1")))
    assert (sent.function, sent.args, sent.options) == ("sync", ({"tenant": 43},), {"cid": "c1"})
    assert await raw_value(settings, keys.dead_payload(QUEUE, "j1")) == ORIGINAL
    detail = await reader.letter(redis, QUEUE, "j1")
    entry = detail.lineage[0]
    assert (entry["n"], entry["actor"], entry["edited"]) == (1, "ann", True)
    assert entry["before"] == hashlib.sha256(ORIGINAL).hexdigest()
    line = (await audit.recent(redis))[-1]
    assert line.detail["before"] == entry["before"]
    assert line.detail["after"] == entry["after"] == done.detail["after"]


async def test_an_edit_never_passes_for_a_retry_that_carries_something_else(connections, settings):
    redis = connections.queue
    await bury(redis, "j1", ORIGINAL)
    await actions.retry_letter(connections, settings, ANN, QUEUE, "j1", delay_s=60)

    with pytest.raises(ActionRefused, match="without these arguments"):
        await actions.retry_letter(
            connections, settings, BOB, QUEUE, "j1", edit=LetterEdit(args=[1])
        )

    assert await redis.zcard(QUEUE) == 1


@pytest.mark.parametrize(
    ("edit", "error", "match"),
    [
        (LetterEdit(name="no such"), UnknownFunction, "no such"),
        (LetterEdit(args=["x" * 300_000]), PayloadTooLarge, "262,144"),
        (LetterEdit(args=[float("nan")]), InvalidRequest, "JSON"),
        (LetterEdit(args=[object()]), InvalidRequest, "JSON"),
        (LetterEdit(data={"a": 1}), InvalidRequest, "args"),
    ],
)
async def test_an_edit_that_cannot_run_is_refused(connections, settings, edit, error, match):
    redis = connections.queue
    await redis.zadd(keys.functions(QUEUE), {"sync": 1})
    await bury(redis, "j1", ORIGINAL)

    with pytest.raises(error, match=match):
        await actions.retry_letter(connections, settings, ANN, QUEUE, "j1", edit=edit)

    assert await places(redis, "j1") == ["open"]
    assert await redis.exists(keys.AUDIT) == 0


async def test_a_pickled_letter_is_edited_as_a_whole_and_never_unpickled(connections, settings):
    redis = connections.queue
    await bury(redis, "j1", PICKLED)

    with pytest.raises(InvalidRequest, match="as a whole"):
        await actions.retry_letter(
            connections, settings, ANN, QUEUE, "j1", edit=LetterEdit(args=[1])
        )
    edit = LetterEdit(args=[1], kwargs={})
    await actions.retry_letter(connections, settings, ANN, QUEUE, "j1", edit=edit)

    sent = Codec().decode_job(await raw_value(settings, keys.arq_job("j1~r1")))
    assert (sent.function, sent.args) == ("sync", (1,))
    assert await raw_value(settings, keys.dead_payload(QUEUE, "j1")) == PICKLED


@both_servers
async def test_an_event_is_appended_again_with_edited_data(connections, settings):
    redis, stream = connections.streams, settings.stream_name
    fields = await bury_event(redis, stream)
    edit = LetterEdit(name="user.updated", data={"a": 2}, fields={"workspaceId": "w1"})

    await actions.retry_letter(connections, settings, ANN, stream, "5-1", edit=edit)

    [(_, sent)] = await redis.xrange(stream)
    assert sent == fields | {
        "type": "user.updated",
        "data": '{"a":2}',
        "workspaceId": "w1",
        "redrivenFrom": "5-1",
    }
    detail = await reader.letter(redis, stream, "5-1")
    assert detail.lineage[0]["edited"]
    with pytest.raises(InvalidRequest, match="event type"):
        await actions.retry_letter(
            connections, settings, ANN, stream, "5-1", edit=LetterEdit(name="Bad Type")
        )


@both_servers
async def test_an_undo_is_taken_off_what_was_discarded(connections, settings):
    redis = connections.queue
    for n in range(3):
        await bury(redis, f"j{n}")
    await actions.discard_letter(connections, settings, ANN, QUEUE, "j0")
    await actions.discard_letter(connections, settings, ANN, QUEUE, "j1")
    await actions.archive_letter(connections, settings, ANN, QUEUE, "j2")

    await actions.undo_discard(connections, settings, ANN, QUEUE, "j0")
    await actions.undo_discard(connections, settings, ANN, QUEUE, "j0")
    await actions.undo_discard(connections, settings, ANN, QUEUE, "j2")

    totals = await redis.hmget(keys.totals(QUEUE), "discarded", "archived", "undone")
    assert totals == ["1", "0", "2"]
    assert await redis.zcard(keys.dead_closed(QUEUE)) == 1


async def test_letters_are_listed_by_filter_a_page_at_a_time(connections, settings):
    redis = connections.queue
    ids = (f"j{n:03}" for n in range(250))
    await bury_many(
        redis, ids, died_ms=lambda n: 1000 + n // 10, name=lambda n: "odd" if n % 2 else "even"
    )
    shelf = Shelf(redis, QUEUE, "job")
    wanted = LetterFilter.parse({"name": "odd"})

    found, cursor = [], None
    while True:
        page = await reader.letters_matching(shelf, wanted, cursor, limit=30)
        found += [letter.id for letter in page.items]
        cursor = page.cursor
        if cursor is None:
            break

    assert sorted(found) == [f"j{n:03}" for n in range(1, 250, 2)]
    assert found[0] == "j249"
    with pytest.raises(InvalidRequest, match="cursor"):
        await reader.letters_matching(shelf, wanted, "what?")


async def whole(pieces: Any) -> bytes:
    return b"".join([piece async for piece in pieces])


async def bury_hostile(redis: Redis) -> None:
    await bury(redis, "j1", ORIGINAL, error="token=abc123 of https://u:pw@host failed")
    await bury(redis, "j2", PICKLED, error='=HYPERLINK("http://x")', name="@sum")
    await bury(redis, "j3", b"\xff\x00", error="+1", error_type="-2", traceback="\udcff\ttab")


async def test_json_lines_tell_everything_but_secrets(connections, settings):
    await bury_hostile(connections.queue)
    shelf = await shelf_of(connections, settings, QUEUE)

    text = await whole(export_letters(shelf, LetterFilter(), "jsonl"))

    rows = {row["id"]: row for row in map(json.loads, text.splitlines())}
    assert set(rows) == {"j1", "j2", "j3"}
    assert rows["j1"]["arguments"] == {"args": [{"tenant": 42, "password": "***"}], "kwargs": {}}
    assert (
        rows["j2"]["arguments"]["note"] == "pickled by a stock producer; shown without executing it"
    )
    assert b"hunter2" not in text
    assert b"abc123" not in text
    assert b":pw@" not in text


async def test_csv_holds_no_formula(connections, settings):
    await bury_hostile(connections.queue)
    shelf = await shelf_of(connections, settings, QUEUE)

    text = (await whole(export_letters(shelf, LetterFilter(), "csv"))).decode()

    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert len(rows) == 3
    assert [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r") and cell] == []
    by_id = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert by_id["j2"]["error"] == '\'=HYPERLINK("http://x")'
    assert by_id["j3"]["error_type"] == "'-2"


async def test_parquet_is_streamed_in_row_groups(connections, settings, monkeypatch, tmp_path):
    monkeypatch.setattr("app.exports.letters._GROUP", 100)
    await bury_many(connections.queue, (f"j{n}" for n in range(450)), ORIGINAL)
    shelf = await shelf_of(connections, settings, QUEUE)

    pieces = [piece async for piece in export_letters(shelf, LetterFilter(), "parquet")]
    (tmp_path / "x.parquet").write_bytes(b"".join(pieces))

    table = pq.read_table(tmp_path / "x.parquet")
    assert len(pieces) > 2
    assert table.num_rows == 450
    assert "hunter2" not in str(table.to_pylist()[0])


async def test_an_export_is_bounded(connections, settings):
    await bury_many(connections.queue, (f"j{n}" for n in range(30)))
    shelf = await shelf_of(connections, settings, QUEUE)

    text = await whole(export_letters(shelf, LetterFilter(), "jsonl", limit=7))

    assert len(text.splitlines()) == 7
