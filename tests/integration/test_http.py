"""The server as its users meet it: a real process, a real Redis, every door tried."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pandas as pd
import pytest
import redis as redis_sync
from prometheus_client.parser import text_string_to_metric_families

from app import frames, keys
from tests.conftest import ROOT, RunningRedis, start_redis, unused_port, wait_until

KEY = "integration-key-0123456789abcdef0123"
DATA_SYNC = {
    "name": "data-sync",
    "data": {"baseId": "appXXXXXX", "records": 1000},
    "options": {"timeout": 3600000},
}
#: a page small enough that these tests are about the server
SMALL_PAGE = """
import panel as pn
from app.server import page_actor
pn.extension()
pn.pane.Str("for " + page_actor(pn.state.curdoc.session_context).name).servable()
"""
SERVE = "from app.server import serve; from app.settings import Settings; serve(Settings.load(env_file=None))"


@dataclass
class RunningServer:
    process: subprocess.Popen[bytes]
    port: int
    redis: RunningRedis
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **headers: str) -> httpx.Client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Client(base_url=self.url, headers=named, timeout=10)


def start_server(
    redis: RunningRedis,
    directory: Path,
    *,
    command: list[str] | None = None,
    prefix: str = "",
    **environ: str,
) -> RunningServer:
    port = unused_port()
    page = directory / "dashboard"
    if not page.exists():
        page.mkdir(parents=True)
        shutil.copy(ROOT / "app/dashboard/app_hooks.py", page)
        (page / "main.py").write_text(SMALL_PAGE)
    command = command or [sys.executable, "-m", "panel", "serve", str(page), "--port", "{port}"]
    world = {
        k: v for k, v in os.environ.items() if "REDIS" not in k and not k.startswith("ARQSCOPE_")
    }
    world |= {
        "REDIS_URL": redis.database(0),
        "REDIS_STREAMS_URL": redis.database(1),
        "REDIS_QUEUE_URL": redis.database(2),
        "QUEUE_UI_PORT": str(port),
        "ARQSCOPE_SAMPLE_INTERVAL_S": "0.2",
        "PYTHONPATH": str(ROOT),
        **environ,
    }
    log = directory / f"server-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            cwd=directory,
            env=world,
            stdout=out,
            stderr=out,
        )
    server = RunningServer(process, port, redis, log)

    def answers() -> bool:
        if process.poll() is not None:
            raise AssertionError(log.read_text()[-3000:])
        try:
            path = prefix.replace("{port}", str(port)) + "/health/live"
            return httpx.get(server.url + path, timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, 90, "the server answers")
    except BaseException:
        stop(server)
        raise
    return server


def stop(server: RunningServer) -> None:
    if server.process.poll() is None:
        server.process.kill()
    server.process.wait(20)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def unkeyed(
    redis: RunningRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    server = start_server(redis, tmp_path_factory.mktemp("open"))
    yield server
    stop(server)


@pytest.fixture(scope="module")
def keyed(redis: RunningRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    server = start_server(redis, tmp_path_factory.mktemp("keyed"), API_KEY=KEY)
    yield server
    stop(server)


@pytest.fixture
def api(unkeyed: RunningServer) -> Iterator[httpx.Client]:
    with unkeyed.client() as client:
        wait_until(lambda: client.get("/stats").status_code == 200, 10)
        yield client


def handshake(server: RunningServer, path: str, **headers: str) -> int:
    """Ask for a websocket; return the status of the answer, 101 when it was opened."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        return int(connection.recv(4096).split(b" ", 2)[1])


# --- the specification ----------------------------------------------------------------------------


def test_health_names_the_queues_and_every_redis(api: httpx.Client) -> None:
    answer = api.get("/health")

    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "healthy"
    assert set(body) == {"status", "timestamp", "queues", "environment", "checks"}
    assert body["queues"] == ["long-running-jobs", "async-processing", "event-driven-jobs"]
    assert set(body["checks"].values()) == {"ok"}


def test_health_is_red_while_work_waits_for_workers_that_fell_silent(
    api: httpx.Client, redis: RunningRedis
) -> None:
    """
    Not while the queue is paused; and traffic is welcome all the while.
    """
    queue, long_ago = "event-driven-jobs", (time.time() - 60) * 1000
    with redis_sync.Redis.from_url(redis.database(2)) as client:
        client.zadd(queue, {"waits": long_ago})
        client.zadd(keys.functions(queue), {"f": long_ago})
        try:
            wait_until(lambda: api.get("/health").status_code == 503, 5)
            said = api.get("/health").json()["checks"]["workers"]
            ready = api.get("/health/ready")
            client.sadd(keys.PAUSED_QUEUES, queue)
            wait_until(lambda: api.get("/health").status_code == 200, 5)
        finally:
            client.delete(keys.functions(queue), keys.PAUSED_QUEUES, queue)
    assert said.startswith("work waits and no worker is heard of: event-driven-jobs for 6")
    assert ready.status_code == 200
    assert "workers" not in ready.json()["checks"]


def test_a_job_posted_as_the_specification_shows_is_accepted_and_counted(api: httpx.Client) -> None:
    before = api.get("/stats").json()["long-running-jobs"]["accepted"]

    answer = api.post("/jobs/long-running-jobs", json=DATA_SYNC)

    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert {"id", "name", "queue", "data", "created"} <= set(job)
    assert (job["name"], job["queue"]) == ("data-sync", "long-running-jobs")
    assert job["data"] == DATA_SYNC["data"]
    wait_until(lambda: api.get("/stats").json()["long-running-jobs"]["accepted"] == before + 1, 10)
    seen = api.get(f"/jobs/long-running-jobs/{job['id']}").json()
    assert seen["state"] == "queued"
    assert seen["arguments"]["args"] == [DATA_SYNC["data"]]
    assert seen["arguments"]["options"] == {"timeout": 3600.0}


def test_the_second_job_of_the_specification_is_accepted_without_options(api: httpx.Client) -> None:
    answer = api.post(
        "/jobs/async-processing",
        json={"name": "ai-processing", "data": {"text": "Process this content"}},
    )

    assert answer.status_code == 201


def test_stats_have_the_specifications_form_and_the_dead_letter_queue(api: httpx.Client) -> None:
    body = api.get("/stats").json()

    assert set(body) >= {
        "long-running-jobs", "async-processing", "event-driven-jobs", "dead-letter-queue",
    }  # fmt: skip
    for numbers in body.values():
        assert {"waiting", "active", "completed", "failed", "delayed"} <= set(numbers)
        assert all(isinstance(numbers[name], int) for name in ("waiting", "active", "completed"))


def test_the_root_leads_to_the_page_and_the_page_is_served(api: httpx.Client) -> None:
    answer = api.get("/", follow_redirects=True)

    assert answer.url.path == "/admin/queues"
    assert answer.status_code == 200
    assert "text/html" in answer.headers["content-type"]


# --- jobs ---------------------------------------------------------------------------------------


def test_the_same_job_id_or_idempotency_key_makes_one_job(api: httpx.Client) -> None:
    job = {"name": "generic", "options": {"jobId": "once-only"}}
    first = api.post("/jobs/async-processing", json=job)
    second = api.post("/jobs/async-processing", json=job)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["existed"] is True

    keyed = {"Idempotency-Key": "a key of the caller"}
    ids = {
        api.post("/jobs/async-processing", json={"name": "generic"}, headers=keyed).json()["id"]
        for _ in range(3)
    }
    assert len(ids) == 1


def test_an_idempotency_key_gives_the_same_answer_and_refuses_another_request(
    api: httpx.Client,
) -> None:
    keyed = {"Idempotency-Key": "event-7"}
    event = {"type": "user.created", "data": {"n": 1}}
    first = api.post("/events", json=event, headers=keyed)
    again = api.post("/events", json=event, headers=keyed)
    other = api.post("/events", json={**event, "data": {"n": 2}}, headers=keyed)

    assert first.status_code == 201
    assert (again.status_code, again.text) == (201, first.text)
    assert again.headers["idempotency-replayed"] == "true"
    assert other.status_code == 409
    assert "Idempotency-Key" in other.json()["error"]["message"]


def test_a_list_of_jobs_answers_with_a_list(api: httpx.Client) -> None:
    answer = api.post(
        "/jobs/async-processing", json=[{"name": "generic", "data": n} for n in range(3)]
    )

    assert answer.status_code == 201
    assert [job["data"] for job in answer.json()] == [0, 1, 2]


def test_an_unknown_function_or_queue_is_refused_with_the_known_names(api: httpx.Client) -> None:
    function = api.post("/jobs/async-processing", json={"name": "nope"})
    queue = api.post("/jobs/nope", json={"name": "generic"})

    assert function.status_code == 422
    assert "data-sync" in function.json()["error"]["hint"]
    assert function.json()["error"]["field"] == "name"
    assert queue.status_code == 404
    assert "async-processing" in queue.json()["error"]["hint"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"\xff\xfe", 400),
        (b'{"name":"generic","data":NaN}', 422),
        (b'{"name":"generic","data":1e400}', 422),
        (b'{"name":"generic","name":"generic"}', 422),
        (b'{"name":"generic","data":"\\ud800"}', 422),
        (b'{"name":"generic","data":' + b"9" * 5000 + b"}", 422),
        (b'{"name":"generic","data":' + b"[" * 100 + b"]" * 100 + b"}", 422),
        (b"[" * 100_000, 422),
        (b"[]", 422),
        (b'{"name":5}', 422),
        (b'{"name":"generic","surprise":1}', 422),
        (b'{"name":"generic","options":{"timeout":-1}}', 422),
        (b'{"name":"generic","options":{"attempts":1.5}}', 422),
        (b'{"name":"generic","options":{"jobId":"a b"}}', 422),
        (b'{"name":"generic","options":{"jobId":"x\\ny"}}', 422),
        (b'{"name":"generic","data":1,"args":[1]}', 422),
        (b'{"name":"generic","data":"' + b"x" * 300_000 + b'"}', 413),
        (b'{"name":"generic","data":"' + b"x" * 1_500_000 + b'"}', 413),
    ],
)
def test_a_body_that_cannot_be_a_job_is_refused_in_one_shape(
    api: httpx.Client, body: bytes, status: int
) -> None:
    answer = api.post(
        "/jobs/async-processing", content=body, headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == status, answer.text[:300]
    assert set(answer.json()) == {"error", "requestId"}
    assert set(answer.json()["error"]) == {"code", "message", "field", "hint"}
    assert answer.headers["x-request-id"] == answer.json()["requestId"]


def test_a_form_is_not_json(api: httpx.Client) -> None:
    answer = api.post("/jobs/async-processing", data={"name": "generic"})

    assert answer.status_code == 400
    assert "Content-Type" in answer.json()["error"]["hint"]


def test_a_chunked_body_over_the_limit_is_refused(api: httpx.Client) -> None:
    answer = api.post(
        "/jobs/async-processing",
        content=(b"x" * 100_000 for _ in range(15)),
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code == 413


# --- the other nouns ------------------------------------------------------------------------------


def test_a_queue_is_paused_and_resumed_and_the_audit_tells(api: httpx.Client) -> None:
    assert api.post("/queues/event-driven-jobs/pause").json()["changed"] is True
    assert api.post("/queues/event-driven-jobs/pause").json()["changed"] is False
    wait_until(lambda: api.get("/stats").json()["event-driven-jobs"]["paused"], 10)
    assert api.post("/queues/event-driven-jobs/resume").json()["changed"] is True
    told = api.get("/audit", params={"limit": 3}).text
    assert "resume_queue" in told
    assert "local" in told


def test_clean_takes_the_specifications_body(api: httpx.Client) -> None:
    answer = api.post("/queues/async-processing/clean", json={"status": "completed", "age": 0})

    assert answer.status_code == 200
    assert answer.json()["action"] == "clean_queue"


def test_events_and_notifications_are_sent(api: httpx.Client) -> None:
    event = api.post("/events", json={"type": "user.created", "userId": "u1", "data": {"a": 1}})
    note = api.post("/notifications/user:123", json={"message": "Welcome"})

    assert event.status_code == 201
    assert event.json()["type"] == "user.created"
    assert note.status_code == 200
    assert api.post("/notifications/other", json={"message": "x"}).status_code == 422


def test_dead_letters_answer_when_there_are_none(api: httpx.Client) -> None:
    assert api.get("/dead-letters").json() == []
    assert api.get("/dead-letters/causes").json() == []
    assert api.get("/dead-letters/async-processing").json()["items"] == []
    assert api.get("/dead-letters/pyairtable-events").json()["items"] == []
    assert api.post("/dead-letters/async-processing/nothing/retry").status_code == 404


def test_frames_metrics_and_documents_are_readable(api: httpx.Client) -> None:
    assert api.get("/frames/queues.json").json()[0]["queue"] == "long-running-jobs"
    assert api.get("/frames/queues.csv").text.startswith("queue,waiting")
    assert api.get("/frames/nothing.csv").status_code == 404
    assert 'arqscope_queue_waiting{queue="async-processing"}' in api.get("/metrics").text
    schema = api.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    assert "post" in schema["paths"]["/jobs/{queue}"]
    page = api.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    assert len(api.get("/docs/assets/swagger-ui-bundle.js").content) > 1_000_000


def test_frames_come_as_parquet_with_their_dtypes_and_as_of_a_moment(api: httpx.Client) -> None:
    body = api.get("/frames/queues.parquet").content
    frame = pd.read_parquet(io.BytesIO(body))

    assert {n: str(k) for n, k in frame.dtypes.items()} == {
        n: str(k) for n, k in frames.empty_frame(frames.QUEUE_COLUMNS).dtypes.items()
    }
    assert api.get("/frames/queues.xlsx").status_code == 404
    assert api.get("/frames/queues.json", params={"at": "2020-01-01T00:00:00Z"}).status_code == 404


def test_frames_say_what_their_columns_mean_and_jobs_come_a_page_at_a_time(
    api: httpx.Client,
) -> None:
    listed = api.get("/frames").json()
    body = [{"name": "generic", "data": {"n": n}, "options": {"delay": 60_000}} for n in range(3)]
    api.post("/jobs/long-running-jobs", json=body)
    wanted = {"queue": "long-running-jobs", "state": "deferred", "limit": 2}

    first = api.get("/frames/jobs.json", params=wanted)
    rest = api.get(
        "/frames/jobs.csv", params={**wanted, "limit": 500, "cursor": first.headers["X-Cursor"]}
    )

    assert listed["queues"]["columns"]["waiting"]["unit"] == "jobs"
    assert {"jobs", "functions", "operations"} <= set(listed)
    assert list(first.json()[0]) == list(listed["jobs"]["columns"])
    assert [row["state"] for row in first.json()] == ["deferred", "deferred"]
    assert rest.text.startswith("job_id,queue,state")
    assert "X-Cursor" not in rest.headers
    assert api.get("/frames/jobs.json").status_code == 422
    assert api.get("/frames/jobs.json", params={"queue": "nothing"}).status_code == 404


def test_metrics_follow_the_conventions_of_prometheus(api: httpx.Client) -> None:
    text = api.get("/metrics").text
    families = {f.name: f for f in text_string_to_metric_families(text)}

    assert families["arqscope_queue_accepted"].type == "counter"
    assert 'arqscope_queue_accepted_total{queue="async-processing"}' in text
    assert families["arqscope_queue_oldest_wait_seconds"].type == "gauge"
    assert families["arqscope_queue_run_seconds"].type == "histogram"
    assert all(name.startswith("arqscope_") for name in families)
    assert all(f.documentation for f in families.values())


def test_history_forecasts_and_verdicts_have_routes(api: httpx.Client) -> None:
    past = api.get("/history/async-processing")
    forecast = api.get("/queues/async-processing/forecast", params={"workers": 3}).json()
    made = api.post(
        "/jobs/async-processing",
        json={"name": "generic", "options": {"jobId": "why-1", "delay": 9e5}},
    )
    why = api.get("/jobs/async-processing/why-1/why").json()
    listed = api.get(
        "/jobs/async-processing",
        params={"state": "deferred", "text": "why-1", "function": "generic"},
    ).json()
    marked = api.post("/deploys", json={"version": "2.0", "note": "trial"}).json()
    again = api.post("/deploys", json={"version": "2.0", "note": "trial"}).json()

    assert past.headers["X-Step-Seconds"] == "60"
    assert len(past.json()) >= 60
    assert "not known yet" in forecast["sentence"]
    assert made.status_code == 201
    assert why["hold"] == "deferred"
    assert [item["id"] for item in listed["items"]] == ["why-1"]
    assert listed["window"].startswith("looked at")
    assert (marked["changed"], again["changed"]) == (True, False)
    assert api.get("/annotations").json()[-1]["text"] == "2.0: trial"
    assert api.get("/history/nothing").status_code == 404
    assert api.get("/history/async-processing", params={"points": 0}).status_code == 422
    for name in ("conservation", "utilisation", "ages"):
        assert {row["queue"] for row in api.get(f"/analyses/{name}").json()} >= {"async-processing"}
    assert api.get("/queues/async-processing/changes", params={"at": "2026-01-01T00:00Z"}).json()
    assert "keys" in api.get("/foreign").json()["window"]


def test_head_and_request_ids_work(api: httpx.Client) -> None:
    head = api.head("/stats", headers={"X-Request-Id": "my-request-1"})

    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["x-request-id"] == "my-request-1"
    assert (
        api.get("/stats", headers={"X-Request-Id": "bad id; x"}).headers["x-request-id"]
        != "bad id; x"
    )


# --- who gets in ---------------------------------------------------------------------------------

CLOSED = [
    ("GET", "/"), ("GET", "/stats"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/docs"),
    ("GET", "/docs/assets/swagger-ui.css"), ("GET", "/audit"), ("GET", "/workers"),
    ("GET", "/admin/queues"), ("GET", "/admin/jobs"), ("GET", "/admin/assets/inter.woff2"),
    ("GET", "/dashboard"), ("GET", "/dashboard/autoload.js"),
    ("GET", "/dashboard/metadata"), ("GET", "/static/js/bokeh.min.js"), ("GET", "/components/json/a/b/c"),
    ("GET", "/liveness"), ("GET", "/frames/queues.csv"), ("GET", "/dead-letters"), ("GET", "/nothing"),
    ("GET", "//health"), ("GET", "/%68ealth"), ("GET", "/STATS"), ("GET", "/health/../stats"),
    ("POST", "/jobs/async-processing"), ("POST", "/queues/async-processing/pause"),
    ("POST", "/events"), ("POST", "/logout"), ("DELETE", "/stats"), ("PUT", "/stats"),
    ("PATCH", "/health"), ("OPTIONS", "/stats"), ("TRACE", "/stats"), ("HEAD", "/stats"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_without_the_key_a_door_is_closed(keyed: RunningServer, method: str, path: str) -> None:
    request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{keyed.port}\r\nX-Original-URL: /health\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = connection.recv(65536)

    assert int(answer.split(b" ", 2)[1]) == 401, answer[:300]
    assert b"Server:" not in answer
    assert b"nosniff" in answer


def test_with_the_key_in_either_header_it_opens(keyed: RunningServer) -> None:
    wait_until(
        lambda: httpx.get(f"{keyed.url}/stats", headers={"X-API-Key": KEY}).status_code == 200
    )
    for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        assert httpx.get(f"{keyed.url}/stats", headers=headers).status_code == 200
        answer = httpx.post(
            f"{keyed.url}/jobs/async-processing", headers=headers, json={"name": "generic"}
        )
        assert answer.status_code == 201
    assert httpx.get(f"{keyed.url}/stats?api_key={KEY}").status_code == 401
    assert httpx.get(f"{keyed.url}/health").status_code == 200


def test_the_login_gives_a_session_that_opens_the_pages_and_the_websocket(
    keyed: RunningServer,
) -> None:
    with keyed.client(Accept="text/html") as client:
        asked = client.get("/admin/queues")
        assert asked.status_code == 302
        assert asked.headers["location"].startswith("/login?next=")
        assert "<form" in client.get("/login").text

        wrong = client.post("/login", data={"key": "wrong"}, headers={"Origin": keyed.url})
        assert wrong.status_code == 401
        foreign = client.post(
            "/login", data={"key": KEY}, headers={"Origin": "http://evil.example"}
        )
        assert foreign.status_code == 403

        right = client.post(
            "/login",
            data={"key": KEY, "name": "Ada", "next": "//evil.example"},
            headers={"Origin": keyed.url},
        )
        assert right.status_code == 303
        assert right.headers["location"] == "/admin/queues"
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        page = client.get("/admin/queues")
        assert page.status_code == 200
        value = cookie.partition(";")[0]
        assert value.partition("=")[2] not in page.text
        assert (
            client.post(
                "/queues/async-processing/resume", headers={"Origin": keyed.url}
            ).status_code
            == 200
        )
        assert client.post("/queues/async-processing/resume").status_code == 403

        assert (
            handshake(keyed, "/admin/queues/ws", Cookie=value, Origin="http://evil.example") == 403
        )
        assert client.post("/logout", headers={"Origin": keyed.url}).status_code == 303
    replayed = httpx.get(f"{keyed.url}/stats", headers={"Cookie": value})
    assert replayed.status_code == 401


@pytest.mark.parametrize("path", ["/admin/queues/ws", "/dashboard/ws"])
def test_a_websocket_is_refused_without_key_or_from_a_foreign_page(
    keyed: RunningServer, unkeyed: RunningServer, path: str
) -> None:
    assert handshake(keyed, path, Origin=keyed.url) == 401
    assert handshake(keyed, path, Origin=keyed.url, X_API_Key="wrong") == 401
    assert handshake(keyed, path, Origin="http://evil.example", X_API_Key=KEY) == 403
    assert handshake(unkeyed, path, Origin="http://evil.example") == 403
    assert handshake(unkeyed, path, Origin=f"http://127.0.0.1:{unkeyed.port}.evil.example") == 403


def test_a_forged_session_token_builds_no_document(unkeyed: RunningServer) -> None:
    forged = "eyJzZXNzaW9uX2lkIjoiYWJjIiwic2Vzc2lvbl9leHBpcnkiOjk5OTk5OTk5OTl9"
    before = unkeyed.log.read_text().count("ServerConnection created")

    handshake(
        unkeyed,
        "/admin/queues/ws",
        Origin=unkeyed.url,
        Sec_WebSocket_Protocol=f"bokeh, {forged}",
    )

    assert httpx.get(f"{unkeyed.url}/health/live").status_code == 200
    assert unkeyed.log.read_text().count("ServerConnection created") == before


def test_a_rebound_name_and_a_foreign_page_are_refused(unkeyed: RunningServer) -> None:
    rebound = httpx.get(f"{unkeyed.url}/stats", headers={"Host": "rebound.example"})
    foreign = httpx.post(
        f"{unkeyed.url}/queues/async-processing/pause", headers={"Origin": "http://evil.example"}
    )

    assert rebound.status_code == 403
    assert foreign.status_code == 403
    assert foreign.json()["error"]["code"] == "foreign_origin"


def test_panels_own_open_routes_are_closed_for_everyone(unkeyed: RunningServer) -> None:
    for path in ("/components/json/JSONDecoder/css/x", "/liveness", "/rest/session_info", "/admin"):
        assert httpx.get(f"{unkeyed.url}{path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/stats",
        "/nothing",
        "/admin/queues",
        "/static/js/bokeh.min.js",
        "/login",
        "/docs",
    ],
)
def test_every_answer_has_the_security_headers_and_no_server_version(
    api: httpx.Client, path: str
) -> None:
    headers = api.get(path).headers

    assert "server" not in headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "frame-ancestors" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers


# --- life ------------------------------------------------------------------------------------------


def test_a_dead_redis_is_told_with_503_within_two_seconds(tmp_path: Path) -> None:
    redis = start_redis(tmp_path / "redis")
    server = start_server(redis, tmp_path)
    try:
        with server.client() as client:
            wait_until(lambda: client.get("/stats").status_code == 200, 10)
            redis.kill()
            for call in (
                lambda: client.get("/health"),
                lambda: client.post("/jobs/async-processing", json={"name": "generic"}),
                lambda: client.get("/jobs/async-processing/some-id"),
                lambda: client.post("/queues/async-processing/pause"),
            ):
                answer, took_s = _timed(call)
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) > 0
                assert took_s < 2.0
            wait_until(lambda: client.get("/stats").status_code == 503, 5)
            assert client.get("/health/live").status_code == 200
            assert "test-password" not in client.get("/health").text + client.get("/stats").text
            redis.start()
            wait_until(lambda: client.get("/health").status_code == 200, 10)
            wait_until(lambda: client.get("/stats").status_code == 200, 10)
    finally:
        stop(server)
        redis.stop()


def test_a_frozen_redis_is_told_with_503_within_two_seconds_again_and_again(
    tmp_path: Path,
) -> None:
    """
    Silence is worse than a refused connection: every try runs into its timeout.
    """
    redis = start_redis(tmp_path / "redis")
    server = start_server(redis, tmp_path)
    try:
        with server.client() as client:
            wait_until(lambda: client.get("/stats").status_code == 200, 10)
            assert redis.process is not None
            redis.process.send_signal(signal.SIGSTOP)
            for _ in range(2):
                for call in (
                    lambda: client.get("/health"),
                    lambda: client.post("/jobs/async-processing", json={"name": "generic"}),
                    lambda: client.get("/jobs/async-processing?state=deferred"),
                    lambda: client.get("/audit"),
                ):
                    answer, took_s = _timed(call)
                    assert answer.status_code == 503, answer.text
                    assert took_s < 2.0
            redis.process.send_signal(signal.SIGCONT)
    finally:
        stop(server)
        redis.stop()


def _timed(call: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = call()
    return answer, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_exits_cleanly(redis: RunningRedis, tmp_path: Path, number: int) -> None:
    server = start_server(redis, tmp_path)

    server.process.send_signal(number)

    assert server.process.wait(15) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.skipif(not (ROOT / "app/dashboard/main.py").exists(), reason="no pages yet")
@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "panel", "serve", str(ROOT / "app/dashboard"), "--port", "{port}"],
        [sys.executable, "-c", SERVE],
    ],
    ids=["panel-serve", "arqscope-serve"],
)
def test_both_ways_to_start_give_the_same_server(
    redis: RunningRedis, tmp_path: Path, command: list[str]
) -> None:
    server = start_server(redis, tmp_path, command=command)
    try:
        with server.client() as client:
            assert client.get("/health").status_code == 200
            assert client.get("/admin/queues").status_code == 200
            assert client.post("/jobs/long-running-jobs", json=DATA_SYNC).status_code == 201
            assert handshake(server, "/admin/queues/ws", Origin="http://evil.example") == 403
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
    finally:
        stop(server)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"QUEUE_UI_HOST": "0.0.0.0"}, "API_KEY"),
        ({"REQUIRE_API_KEY": "true"}, "REQUIRE_API_KEY"),
    ],
)
@pytest.mark.parametrize("way", ["serve", "panel"])
def test_an_open_server_does_not_start(
    redis: RunningRedis, tmp_path: Path, environ: dict[str, str], words: str, way: str
) -> None:
    page = tmp_path / "dashboard"
    page.mkdir()
    shutil.copy(ROOT / "app/dashboard/app_hooks.py", page)
    (page / "main.py").write_text(SMALL_PAGE)
    panel = [sys.executable, "-m", "panel", "serve", str(page), "--port", str(unused_port())]
    command = panel if way == "panel" else [sys.executable, "-c", SERVE]
    world = {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_QUEUE_URL": redis.url, **environ}

    ended = subprocess.run(
        command, cwd=tmp_path, env=world, capture_output=True, text=True, timeout=60
    )

    assert ended.returncode != 0
    assert words in ended.stderr


def test_a_taken_port_is_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        world = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "QUEUE_UI_PORT": str(taken.getsockname()[1]),
        }
        ended = subprocess.run(
            [sys.executable, "-c", SERVE],
            cwd=tmp_path,
            env=world,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert ended.returncode != 0
    assert "PortInUse" in ended.stderr
    assert "is taken" in ended.stderr
