"""What the specification shows: health, jobs, stats, the page."""

import time

import httpx
import redis as redis_sync

from app import keys
from tests.conftest import RunningRedis, wait_until
from tests.serving import DATA_SYNC


def test_health_names_the_queues_and_every_redis(api: httpx.Client) -> None:
    answer = api.get("/health")

    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "healthy"
    assert set(body) == {"status", "timestamp", "queues", "environment", "checks", "queue_servers"}
    assert body["queues"] == ["long-running-jobs", "async-processing", "event-driven-jobs"]
    assert set(body["checks"].values()) == {"ok"}
    assert body["queue_servers"] == {"redis-queue": body["queues"]}


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
    of_request = {"cid": answer.headers["X-Request-Id"]}
    assert seen["arguments"]["options"] == {"timeout": 3600.0} | of_request


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
