"""Queues, events, frames, history and the rest: each noun answers."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pandas as pd
import redis as redis_sync
from prometheus_client.parser import text_string_to_metric_families

from app import frames
from tests.conftest import RunningRedis, wait_until
from tests.serving import RunningServer


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
    assert api.get("/frames/cause_periods.json").json() == []
    assert api.get("/frames/cause_periods.csv").text.startswith(
        "fingerprint,error_type,functions,period"
    )
    assert api.get("/frames/cause_periods.xlsx").status_code == 404
    assert api.get("/frames/jobs.json").status_code == 422
    assert api.get("/frames/jobs.json", params={"queue": "nothing"}).status_code == 404


def test_metrics_follow_the_conventions_of_prometheus(api: httpx.Client) -> None:
    text = api.get("/metrics").text
    families = {f.name: f for f in text_string_to_metric_families(text)}

    assert families["arqscope_queue_accepted"].type == "counter"
    assert 'arqscope_queue_accepted_total{queue="async-processing"}' in text
    assert families["arqscope_queue_oldest_wait_seconds"].type == "gauge"
    assert families["arqscope_queue_run_seconds"].type == "histogram"
    assert all(name.startswith(("arqscope_", "process_")) for name in families)
    assert families["process_resident_memory_bytes"].samples[0].value > 1e7
    assert all(f.documentation for f in families.values())


def test_history_forecasts_and_verdicts_have_routes(api: httpx.Client, redis: RunningRedis) -> None:
    past = api.get("/history/async-processing")
    with redis_sync.Redis.from_url(redis.database(2)) as client:  # the server may be up for minutes
        client.delete(*client.keys("arqscope:{async-processing}:history:*"), "none")
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


def test_a_crowd_that_asks_the_doctor_at_once_costs_one_look(
    unkeyed: RunningServer, api: httpx.Client
) -> None:
    """
    A look costs Redis thousands of commands: eight askers cost far less than eight looks.
    """
    with redis_sync.Redis.from_url(unkeyed.redis.url, decode_responses=True) as client:

        def looks() -> int:
            told: Any = client.info("commandstats")
            return int(told.get("cmdstat_acl|whoami", {"calls": 0})["calls"])

        before = looks()
        assert api.get("/doctor").status_code == 200
        one = looks() - before
        with ThreadPoolExecutor(8) as crowd:
            asked = [crowd.submit(httpx.get, f"{unkeyed.url}/doctor", timeout=30) for _ in range(8)]
            answers = [asking.result() for asking in asked]
        eight = looks() - before - one

    assert {answer.status_code for answer in answers} == {200}
    assert one > 0
    assert eight <= 8 * one / 2
