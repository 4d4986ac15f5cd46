"""Dead letters and operations over HTTP: the routes' own functions behind FastAPI, on a real Redis."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from redis.asyncio import Redis

from app import audit, keys
from app.actions import Connections
from app.api.application import create_api
from app.operations.drive import drive
from app.payloads.codec import Codec
from tests.letters import ANN, QUEUE, bury, bury_event, bury_many, places

PAYLOAD = Codec().encode_job("sync", ({"n": 1, "apiKey": "k-123"},), {}, enqueued_ms=1)


@pytest.fixture
def connections(queue_redis: Redis, streams_redis: Redis, cache_redis: Redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


@pytest.fixture
async def api(connections: Connections, settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The API as the guard hands requests to it, on behalf of ann."""
    runtime: Any = SimpleNamespace(settings=settings, connections=connections)
    app = create_api(runtime)

    async def as_ann(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["actor"] = ANN
        await app(scope, receive, send)

    transport = httpx.ASGITransport(app=as_ann)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        yield client


async def test_every_source_is_one_list_with_a_cursor(
    api: httpx.AsyncClient, connections: Connections, settings: Any
):
    """
    - in place of a name: queues and streams merged by time, the same filters; exports want a name.
    """
    redis, stream = connections.queue, settings.stream_name
    for number, queue in enumerate((QUEUE, "long-running-jobs", QUEUE), 1):
        await bury(redis, f"j{number}", PAYLOAD, source=queue, died_ms=number * 10)
    await bury_event(connections.streams, stream, died_ms=25)

    shown, cursor = [], ""
    while cursor is not None:
        more = f"&cursor={quote(cursor)}" if cursor else ""
        page = (await api.get(f"/dead-letters/-?limit=1{more}")).json()
        shown += [(letter["source"], letter["id"]) for letter in page["items"]]
        cursor = page["cursor"]
    jobs = (await api.get("/dead-letters/-?name=sync&limit=2")).json()["items"]

    assert shown == [(QUEUE, "j3"), (stream, "5-1"), ("long-running-jobs", "j2"), (QUEUE, "j1")]
    assert [letter["id"] for letter in jobs] == ["j3", "j2"]
    refused = await api.get("/dead-letters/-?format=csv")
    wrong = await api.get("/dead-letters/-?cursor=nonsense")
    assert (refused.status_code, wrong.status_code) == (422, 422)
    assert "one queue or stream is exported at a time" in refused.text
    assert (await api.post("/dead-letters/-/j1/retry")).status_code == 422


async def test_an_operators_day(api: httpx.AsyncClient, connections: Connections):
    """
    Look, try it dry, start with canaries and a rate, follow, pause, go on.
    """
    redis = connections.queue
    await bury_many(redis, (f"t{n}" for n in range(8)), PAYLOAD, error_type="TimeoutError")
    await bury(redis, "v1", PAYLOAD, error_type="ValueError")
    wanted = {
        "kind": "retry_letters",
        "source": QUEUE,
        "filter": {"error_type": "TimeoutError"},
        "reason": "the supplier is back",
    }

    listed = (await api.get(f"/dead-letters/{QUEUE}?error_type=TimeoutError&limit=5")).json()
    dry = (await api.post("/operations", json=wanted | {"dry_run": True})).json()
    assert len(listed["items"]) == 5
    assert listed["cursor"]
    assert (dry["changed"], dry["detail"]["matched"]) == (False, 8)
    assert len(dry["detail"]["sample"]) == 5

    started = (await api.post("/operations", json=wanted | {"rate_per_s": 500})).json()
    operation_id = started["detail"]["operation"]
    assert (await api.post(f"/operations/{operation_id}/pause")).json()["changed"]
    assert [o["state"] for o in (await api.get("/operations?state=open")).json()["items"]] == [
        "paused"
    ]
    assert (await api.post(f"/operations/{operation_id}/resume")).json()["changed"]
    await drive(connections, operation_id)

    told = (await api.get(f"/operations/{operation_id}")).json()
    assert (told["state"], told["done"], told["filter"]) == ("done", 8, wanted["filter"])
    assert (await api.post(f"/operations/{operation_id}/abort")).status_code == 409
    assert (await api.get("/operations/op-nowhere")).status_code == 404
    assert [o["id"] for o in (await api.get("/operations")).json()["items"]] == [operation_id]
    lines = [line.action for line in await audit.recent(redis)]
    assert lines.count("start_operation") == 1


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"kind": "burn_letters", "source": QUEUE}, 422, "kind"),
        ({"kind": "retry_letters", "source": "nowhere"}, 404, None),
        ({"kind": "retry_letters", "source": QUEUE, "filter": {"x": "1"}}, 422, "filter"),
        ({"kind": "retry_letters", "source": QUEUE, "rate_per_s": 0}, 422, "rate_per_s"),
        ({"kind": "retry_letters", "source": QUEUE, "canary": 9999}, 422, "canary"),
        ({"kind": "discard_letters", "source": QUEUE, "canary": 1}, 422, "canary"),
    ],
)
async def test_an_operation_that_makes_no_sense_is_refused(api, body, status, field):
    answer = await api.post("/operations", json=body)

    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


async def test_a_letter_is_retried_with_edited_data(api: httpx.AsyncClient, connections):
    redis = connections.queue
    await bury(redis, "j1", PAYLOAD)

    edit = {"edit": {"data": {"n": 2}}}
    done = await api.post(f"/dead-letters/{QUEUE}/j1/retry", json=edit)
    both = await api.post(
        f"/dead-letters/{QUEUE}/j1/retry", json={"edit": {"data": 1, "args": [1]}}
    )
    shown = (await api.get(f"/dead-letters/{QUEUE}/j1")).json()

    assert done.json()["detail"]["id"] == "j1~r1"
    assert (both.status_code, both.json()["error"]["field"]) == (422, "edit")
    assert shown["lineage"][0]["edited"]
    assert shown["arguments"]["args"] == [{"n": 1, "apiKey": "k-123"}]


async def test_an_event_is_retried_with_edited_data(api, connections, settings):
    await bury_event(connections.streams, settings.stream_name)

    path = f"/dead-letters/{settings.stream_name}/5-1/retry"
    done = await api.post(path, json={"edit": {"data": None, "fields": {"userId": "u2"}}})

    assert done.status_code == 200
    [(_, sent)] = await connections.streams.xrange(settings.stream_name)
    assert (sent["data"], sent["userId"]) == ("null", "u2")


async def test_exports_come_as_files(api: httpx.AsyncClient, connections):
    await bury_many(connections.queue, (f"j{n}" for n in range(450)), PAYLOAD)

    lines = await api.get(f"/dead-letters/{QUEUE}?format=jsonl")
    table = await api.get(f"/dead-letters/{QUEUE}?format=csv&text=j44")
    nothing = await api.get(f"/dead-letters/{QUEUE}?format=jsonl&name=nobody")

    rows = [json.loads(line) for line in lines.text.splitlines()]
    assert len(rows) == 450
    assert rows[0]["arguments"]["args"] == [{"n": 1, "apiKey": "***"}]
    assert 'filename="dead-letters-async-processing.csv"' in table.headers["content-disposition"]
    assert len(table.text.splitlines()) == 12
    assert (nothing.status_code, nothing.text) == (200, "")
    assert (await api.get(f"/dead-letters/{QUEUE}?since=yesterday")).status_code == 422


async def test_closed_letters_are_listed_by_how_they_were_closed(api, connections):
    for letter_id, verb in (("a", "discard"), ("b", "archive"), ("c", "discard")):
        await bury(connections.queue, letter_id)
        await api.post(f"/dead-letters/{QUEUE}/{letter_id}/{verb}", json={"reason": "old"})
    await api.post(f"/dead-letters/{QUEUE}/c/undo")

    discarded = (await api.get(f"/dead-letters/{QUEUE}?state=discarded")).json()["items"]
    closed = (await api.get(f"/dead-letters/{QUEUE}?state=closed")).json()["items"]

    assert [letter["id"] for letter in discarded] == ["a"]
    assert {letter["id"] for letter in closed} == {"a", "b"}
    assert await places(connections.queue, "c") == ["open"]
    assert await connections.queue.hget(keys.totals(QUEUE), "discarded") == "1"
