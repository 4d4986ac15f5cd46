"""Events, streams, triggers and notifications over HTTP, on a running server with real Redis."""

import json
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import redis as redis_sync

from app import keys
from tests.conftest import RunningRedis, redis_binary, start_redis, wait_until
from tests.serving import KEY, RunningServer, start_server, stop

STREAM = "pyairtable-events"
GROUP = "event-processors"
RULES = """
[[triggers]]
name = "sync"
type = "table.*"
queue = "async-processing"
function = "data-sync"
data = { table = "{data.table}" }
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    server = start_redis(tmp_path_factory.mktemp("redis"), redis_binary("system"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(
    redis: RunningRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("server")
    (directory / "arqscope.toml").write_text(RULES)
    running = start_server(redis, directory)
    yield running
    stop(running)


@pytest.fixture
def streams(redis: RunningRedis) -> Iterator[redis_sync.Redis]:
    with redis_sync.Redis.from_url(redis.database(1), decode_responses=True) as client:
        client.flushdb()
        yield client


@pytest.fixture
def api(server: RunningServer, streams: redis_sync.Redis) -> Iterator[httpx.Client]:
    with server.client() as client:
        wait_until(lambda: client.get("/stats").status_code == 200, 10)
        yield client


def publish(api: httpx.Client, *types: str, **fields: object) -> list[str]:
    body = [{"type": kind, "data": {"n": n}, **fields} for n, kind in enumerate(types)]
    answer = api.post("/events", json=body)
    assert answer.status_code == 201, answer.text
    return [one["id"] for one in answer.json()]


# --- publishing -------------------------------------------------------------------------------


def test_one_event_and_a_list_are_published_in_order(api, streams):
    one = api.post("/events", json={"type": "user.created", "userId": "u1", "source": "shop"})
    ids = publish(api, "a.b", "a.c", "a.d")

    rows = streams.xrange(STREAM)
    assert [row[0] for row in rows] == [one.json()["id"], *ids]
    assert (rows[0][1]["source"], rows[0][1]["userId"], rows[0][1]["data"]) == ("shop", "u1", "{}")
    assert one.json() == {
        "id": rows[0][0], "type": "user.created", "stream": STREAM, "existed": False, "eventId": "",
    }  # fmt: skip


def test_asking_again_with_the_same_id_publishes_nothing_twice(api, streams):
    body = {"type": "user.created", "eventId": "e1"}
    first, again = [api.post("/events", json=body) for _ in range(2)]
    batch = [{"type": "a.b"}, {"type": "a.c"}]
    keyed = [api.post("/events", json=batch, headers={"Idempotency-Key": "k"}) for _ in range(2)]

    assert (first.status_code, again.status_code) == (201, 200)
    assert (first.json()["id"], again.json()["existed"]) == (again.json()["id"], True)
    assert [answer.status_code for answer in keyed] == [201, 201]
    assert keyed[0].json() == keyed[1].json()
    assert keyed[1].headers["idempotency-replayed"] == "true"
    assert streams.xlen(STREAM) == 3


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"type": "User Created"}, 422, "type"),
        ({"type": "user"}, 422, "type"),
        ({"data": {}}, 422, "type"),
        ({"type": "a.b", "userId": "u" * 300}, 422, "userId"),
        ({"type": "a.b", "data": {"x": "y" * 300_000}}, 413, "data"),
        ([{"type": "a.b"}, {"type": "nonsense"}], 422, "1.type"),
        ([], 422, None),
        ([{"type": "a.b"}] * 1001, 422, None),
        ({"type": "a.b", "colour": "red"}, 422, "colour"),
    ],
)
def test_what_cannot_be_published_is_refused_whole(api, streams, body, status, field):
    answer = api.post("/events", json=body)

    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)
    assert streams.xlen(STREAM) == 0


def test_an_unknown_stream_is_told_with_the_known_ones(api):
    answer = api.post("/events?stream=nowhere", json={"type": "a.b"})

    assert answer.status_code == 404
    assert STREAM in answer.json()["error"]["hint"]


# --- browsing ---------------------------------------------------------------------------------


def test_a_range_is_browsed_with_filters_and_a_cursor(api, streams):
    publish(api, *["a.b", "a.c", "x.y"] * 4, userId="u1", correlationId="c1")
    ids = publish(api, "a.b", workspaceId="w1")
    where = f"/streams/{STREAM}/entries"

    everything = api.get(where, params={"limit": 5}).json()
    second = api.get(where, params={"limit": 500, "cursor": everything["cursor"]}).json()
    typed = api.get(where, params={"type": "a.*", "user": "u1", "order": "oldest"}).json()
    found = api.get(where, params={"workspace": "w1", "correlation": "c1"}).json()
    late = api.get(where, params={"from": ids[0]}).json()
    early = api.get(where, params={"to": "1000"}).json()

    assert everything["items"][0]["id"] == ids[0]
    assert (everything["scanned"], everything["window"]) == (5, 5000)
    assert len(second["items"]) == 8
    assert second["cursor"] is None
    assert [one["type"] for one in typed["items"]] == ["a.b", "a.c"] * 4
    assert typed["scanned"] == 13
    assert found["items"] == early["items"] == []
    assert [one["data"] for one in late["items"]] == [{"n": 0}]
    iso = "2020-01-01T00:00:00Z"
    assert len(api.get(where, params={"from": iso}).json()["items"]) == 13


def test_a_rare_type_is_found_by_asking_on(api, streams):
    """
    One page never looks at more than its window, whatever is asked for.
    """
    rare = streams.xadd(STREAM, {"type": "rare.one", "data": "{}"})
    with streams.pipeline() as pipe:
        for _ in range(7_000):
            pipe.xadd(STREAM, {"type": "a.b", "data": "{}"})
        pipe.execute()
    where = f"/streams/{STREAM}/entries?type=rare.one"

    first = api.get(where).json()
    second = api.get(where, params={"type": "rare.one", "cursor": first["cursor"]}).json()

    assert (first["items"], first["scanned"]) == ([], 5_000)
    assert ([one["id"] for one in second["items"]], second["scanned"]) == ([rare], 2_001)


@pytest.mark.parametrize(
    "query",
    [
        "from=yesterday",
        "from=2026-11-23T14:00:00",
        "cursor=x",
        "type=(a%2B)%2B$",
        "limit=501",
        "order=x",
    ],
)
def test_a_malformed_question_is_refused(api, query):
    assert api.get(f"/streams/{STREAM}/entries?{query}").status_code == 422


def test_one_entry_tells_what_was_written_even_when_it_is_malformed(api, streams):
    odd = streams.xadd(STREAM, {"type": "a.b", "data": "{", "extra": "<b>"})

    found = api.get(f"/streams/{STREAM}/entries/{odd}").json()
    listed = api.get(f"/streams/{STREAM}/entries").json()["items"][0]

    assert found["fields"] == {"type": "a.b", "data": "{", "extra": "<b>"}
    assert "data is not JSON" in found["malformed"] == listed["malformed"]
    assert api.get(f"/streams/{STREAM}/entries/1-1").status_code == 404
    assert api.get(f"/streams/{STREAM}/entries/none").status_code == 404


def test_groups_show_what_is_pending_and_how_far_behind_they_are(api, streams):
    publish(api, "a.b", "a.b", "a.b")
    streams.xgroup_create(STREAM, GROUP, "0")
    streams.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=1)

    def row():
        found = api.get(f"/streams/{STREAM}/groups").json()
        return found and found[0]["pending"] == 1 and found[0]

    wait_until(row, 10)
    assert (row()["lag"], row()["lag_is_estimate"], row()["lag_s"] >= 0) == (2, False, True)
    assert api.get("/streams").json()[0]["stream"] == STREAM
    assert api.get(f"/streams/{STREAM}").json()["length"] == 3
    (consumer,) = api.get(f"/streams/{STREAM}/groups/{GROUP}/consumers").json()
    assert (consumer["name"], consumer["pending"]) == ("c1", 1)
    assert api.get("/streams/nowhere/groups").status_code == 404


# --- pending entries --------------------------------------------------------------------------


@pytest.fixture
def held(api, streams) -> list[str]:
    """Three entries a consumer was given and has not acknowledged."""
    ids = publish(api, "a.b", "a.c", "a.d")
    streams.xgroup_create(STREAM, GROUP, "0")
    streams.xreadgroup(GROUP, "gone", {STREAM: ">"})
    return ids


def pending(streams):
    rows = streams.xpending_range(STREAM, GROUP, "-", "+", 10)
    return {row["message_id"]: row for row in rows}


def test_pending_entries_are_listed_with_who_holds_them(api, held, streams):
    where = f"/streams/{STREAM}/groups/{GROUP}/pending"
    streams.xdel(STREAM, held[2])

    page = api.get(where, params={"limit": 2}).json()
    rest = api.get(where, params={"cursor": page["cursor"]}).json()

    assert [one["id"] for one in page["items"]] == held[:2]
    assert {one["consumer"] for one in page["items"]} == {"gone"}
    assert page["items"][0]["deliveries"] == 1
    assert page["items"][1]["entry"]["type"] == "a.c"
    assert [(one["id"], one["entry"]) for one in rest["items"]] == [(held[2], None)]
    assert api.get(where, params={"minIdle": 10**9}).json()["items"] == []
    assert api.get(where, params={"consumer": "other"}).json()["items"] == []
    unknown = api.get(f"/streams/{STREAM}/groups/none/pending")
    assert (unknown.status_code, GROUP in unknown.json()["error"]["hint"]) == (404, True)


def test_a_pending_entry_is_released_skipped_or_deleted_and_audited(api, held, streams):
    where = f"/streams/{STREAM}/groups/{GROUP}/pending"

    released = api.post(f"{where}/{held[0]}/claim", json={"consumer": "next"})
    skipped = api.post(f"{where}/{held[1]}/ack")
    deleted = api.post(f"{where}/{held[2]}/delete")

    assert [one.status_code for one in (released, skipped, deleted)] == [200, 200, 200]
    left = pending(streams)
    assert list(left) == [held[0]]
    assert (left[held[0]]["consumer"], left[held[0]]["times_delivered"]) == ("next", 1)
    assert left[held[0]]["time_since_delivered"] > 80_000_000
    assert [row[0] for row in streams.xrange(STREAM)] == held[:2]
    totals = streams.hgetall(keys.event_totals(STREAM))
    assert (totals["skipped"], totals["deleted"]) == ("1", "1")
    shown = [row[1]["outcome"] for row in streams.xrange(keys.recent_events(STREAM))]
    assert shown == ["skipped", "deleted"]
    lines = [json.loads(line["body"]) for line in api.get("/audit").json()["items"][:3]]
    told = [(line["action"], line["target"]) for line in lines]
    assert told == [
        ("delete_pending", f"{STREAM}/{GROUP}/{held[2]}"),
        ("skip_pending", f"{STREAM}/{GROUP}/{held[1]}"),
        ("claim_pending", f"{STREAM}/{GROUP}/{held[0]}"),
    ]
    assert api.post(f"{where}/{held[1]}/ack").status_code == 404
    assert api.post(f"{where}/{held[0]}/claim", json={"consumer": "a b"}).status_code == 422


def test_skipping_the_retry_of_a_dead_letter_opens_the_letter_again(api, streams):
    letter = "5-0"
    streams.hset(keys.dead_record(STREAM, letter), mapping={"id": letter, "state": "retrying"})
    streams.zadd(keys.dead_retrying(STREAM), {letter: 1})
    entry = streams.xadd(STREAM, {"type": "a.b", "data": "{}", "redrivenFrom": letter})
    streams.xgroup_create(STREAM, GROUP, "0")
    streams.xreadgroup(GROUP, "c", {STREAM: ">"})

    api.post(f"/streams/{STREAM}/groups/{GROUP}/pending/{entry}/ack")

    assert streams.zrange(keys.dead_open(STREAM), 0, -1) == [letter]
    assert streams.hget(keys.dead_record(STREAM, letter), "state") == "new"


# --- replays and dead events ------------------------------------------------------------------


def test_a_replay_is_an_operation_with_a_dry_run(api, streams):
    publish(api, "a.b", "a.c", "a.b")
    body = {"kind": "replay_events", "source": STREAM, "filter": {"type": "a.b"}, "reason": "again"}

    counted = api.post("/operations", json={**body, "dry_run": True})
    started = api.post("/operations", json={**body, "rate_per_s": 5})

    assert counted.json()["detail"]["matched"] == 2
    assert counted.json()["changed"] is False
    shown = api.get(f"/operations/{started.json()['detail']['operation']}").json()
    assert (shown["kind"], shown["source"], shown["matched"]) == ("replay_events", STREAM, 2)
    assert shown["filter"]["type"] == "a.b"
    wrong = api.post("/operations", json={**body, "source": "async-processing"})
    assert wrong.status_code == 422


def test_a_dead_event_is_listed_and_retried_like_a_job(api, streams):
    letter = "5-0"
    record = {
        "id": letter, "kind": "event", "source": STREAM, "name": "a.b", "state": "new",
        "reason": "attempts", "died_ms": "5",
    }  # fmt: skip
    streams.hset(keys.dead_record(STREAM, letter), mapping=record)
    streams.set(keys.dead_payload(STREAM, letter), '{"raw":{"type":"a.b","data":"{}"}}')
    streams.zadd(keys.dead_open(STREAM), {letter: 5})

    listed = api.get(f"/dead-letters/{STREAM}").json()["items"]
    first, again = [api.post(f"/dead-letters/{STREAM}/{letter}/retry").json() for _ in range(2)]

    assert [one["id"] for one in listed] == [letter]
    assert (first["changed"], again["changed"]) == (True, False)
    assert [row[1]["redrivenFrom"] for row in streams.xrange(STREAM)] == [letter]


# --- triggers and next jobs -------------------------------------------------------------------


def test_rules_are_listed_and_tried_without_making_a_job(api):
    (rule,) = api.get("/triggers").json()
    event = {"type": "table.changed", "data": {"table": "tasks"}}
    (would,) = api.post("/triggers/test", json=event).json()
    (not_it,) = api.post("/triggers/test", json={"type": "user.created"}).json()

    assert (rule["name"], rule["type"]) == ("sync", "table.*")
    assert would["job"]["data"] == {"table": "tasks"}
    assert (not_it["fires"], not_it["why"]) == (False, "the type is not table.*")
    assert api.post("/triggers/test", json={"type": "Bad"}).status_code == 422


def test_a_job_is_submitted_with_what_follows_it(api, redis):
    body = {
        "name": "data-sync",
        "data": {},
        "options": {"jobId": "with-then", "then": [{"name": "generic", "delay": 5, "then": [{"name": "generic"}]}]},
    }  # fmt: skip

    assert api.post("/jobs/async-processing", json=body).status_code == 201
    found = api.get("/jobs/async-processing/with-then").json()
    assert found["arguments"]["options"]["then"] == [
        {"n": "generic", "w": 0.005, "t": [{"n": "generic"}]}
    ]
    for wrong, status in (({"name": "a b"}, 422), ({"name": "x", "queue": "nowhere"}, 404)):
        body["options"] = {"then": [wrong]}
        assert api.post("/jobs/async-processing", json=body).status_code == status


# --- notifications ----------------------------------------------------------------------------


class Listening:
    """A client of server-sent events in a thread of its own."""

    def __init__(self, server: RunningServer, channel: str, **headers: str) -> None:
        self.events: queue.Queue[dict[str, str]] = queue.Queue()
        self.comments = 0
        self.status = 0
        self.ended = threading.Event()
        self._ready = threading.Event()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._client = httpx.Client(base_url=server.url, headers=named, timeout=30)
        self._thread = threading.Thread(target=self._read, args=(channel,), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _read(self, channel: str) -> None:
        try:
            with self._client.stream("GET", f"/notifications/{channel}") as answer:
                self.status = answer.status_code
                self.headers = answer.headers
                self._socket = answer.extensions["network_stream"].get_extra_info("socket")
                event: dict[str, str] = {}
                for line in answer.iter_lines():
                    self._ready.set()
                    name, _, value = line.partition(": ")
                    if line == "" and event:
                        self.events.put(event)
                        event = {}
                    elif name:
                        event[name] = value
        except httpx.HTTPError:
            pass
        finally:
            self._client.close()
            self._ready.set()
            self.ended.set()

    def next(self) -> dict[str, str]:
        return self.events.get(timeout=10)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # closing does not wake the thread that reads
        assert self.ended.wait(5)


def test_a_listener_hears_over_http_and_comes_back_for_what_it_missed(api, server):
    listener = Listening(server, "user:u1")
    assert listener.next() == {"retry": "3000"}
    assert listener.headers["content-type"].startswith("text/event-stream")
    assert listener.headers["cache-control"] == "no-store"

    answer = api.post("/notifications/user:u1", json={"message": "one\ntwo"})
    heard = listener.next()
    listener.close()
    api.post("/notifications/user:u1", json={"message": "missed"})
    again = Listening(server, "user:u1", Last_Event_ID=heard["id"])

    assert answer.json()["detail"]["heard"] == 1
    said = json.loads(heard["data"])
    assert (said["message"], said["userId"], said["id"]) == ("one\ntwo", "u1", heard["id"])
    assert again.next() == {"retry": "3000"}
    assert json.loads(again.next()["data"])["message"] == "missed"
    again.close()


def test_a_channel_that_is_none_is_refused(api):
    for channel in ("other", "user:", "user:a b", "system:other", "dlq:alerts"):
        assert api.get(f"/notifications/{channel}").status_code == 422
    assert api.get("/notifications/user:u1", headers={"Last-Event-ID": "x"}).status_code == 422
    assert api.head("/notifications/user:u1").status_code == 405


def test_a_client_that_does_not_read_is_cut_off_and_slows_nobody(api, server, redis):
    """
    Its socket fills, then its queue; the others hear everything meanwhile.
    """
    quick = Listening(server, "user:u1")
    quick.next()
    slow = socket.create_connection(("127.0.0.1", server.port))
    slow.sendall(
        f"GET /notifications/user:u1 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
    )
    assert slow.recv(64)
    with redis_sync.Redis.from_url(redis.database(0)) as cache:
        wait_until(lambda: cache.pubsub_numsub("user:u1")[0][1] == 1)
        began = time.monotonic()
        for number in range(1_000):
            cache.publish("user:u1", json.dumps({"n": number, "pad": "x" * 20_000}))
            if number % 40 == 39:  # the quick one reads along
                for expected in range(number - 39, number + 1):
                    assert json.loads(quick.next()["data"])["n"] == expected

    assert time.monotonic() - began < 20
    slow.settimeout(10)
    received = 0
    while part := slow.recv(1_000_000):
        received += len(part)
    slow.close()
    assert received < 20_000_000
    assert not quick.ended.is_set()
    quick.close()


def test_listening_needs_a_key_and_a_stopping_server_ends_its_listeners_at_once(redis, tmp_path):
    server = start_server(redis, tmp_path, API_KEY=KEY)
    try:
        assert Listening(server, "user:u1").status == 401
        listeners = [Listening(server, f"user:u{n}", X_API_Key=KEY) for n in range(5)]
        assert {listener.status for listener in listeners} == {200}
        began = time.monotonic()

        server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(20) == 0
        assert time.monotonic() - began < 6
        assert all(listener.ended.wait(5) for listener in listeners)
    finally:
        stop(server)


def test_every_new_route_has_an_example_in_the_documents(api):
    schema = api.get("/openapi.json").json()
    text = json.dumps(schema["paths"]["/events"]["post"])
    assert "signup-user123" in text
    assert "text/event-stream" in json.dumps(schema["paths"]["/notifications/{channel}"]["get"])
    for path in ("/streams/{stream}/entries", "/streams/{stream}/groups/{group}/pending"):
        assert STREAM in json.dumps(schema["paths"][path]["get"])
