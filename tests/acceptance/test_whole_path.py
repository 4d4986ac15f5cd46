"""The whole path as a newcomer walks it: curl a job, an event by redis-cli, and Retry in a browser."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from app import keys
from tests.acceptance.test_stack import Up, environment
from tests.chromium import chromium
from tests.conftest import redis_binary, wait_until

QUEUE = "async-processing"
FLAKY = '''
"""A job that fails until somebody repairs the world."""
from pathlib import Path


async def needs_repair(ctx, data):
    if not Path(data["repaired"]).exists():
        raise PermissionError("the token lacks the scope data.records:write")
    return "repaired"
'''


class Walk:
    """A running stack with a user's own job module, and clients for it."""

    def __init__(self, directory: Path, **environ: str) -> None:
        (directory / "my_jobs.py").write_text(FLAKY)
        port = environment(directory)["QUEUE_UI_PORT"]
        self.repaired = directory / "repaired"
        self.up = Up(
            directory,
            ARQSCOPE_FUNCTIONS="my_jobs",
            PYTHONPATH=f"{environment(directory)['PYTHONPATH']}:{directory}",
            MAX_JOB_ATTEMPTS="1",
            QUEUE_UI_PORT=port,
            **environ,
        )
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=10)

    def ready(self) -> bool:
        try:
            return self.http.get("/health").status_code == 200 and self.worker_knows()
        except httpx.HTTPError:
            return False

    def worker_knows(self) -> bool:
        with self.up.queue_redis() as client:
            return client.zscore(keys.functions(QUEUE), "needs_repair") is not None

    def stats(self) -> dict[str, Any]:
        return dict(self.http.get("/stats").json())

    def redis_of(self, role: str) -> redis.Redis:
        data = self.up.directory / "data"
        conf = (data / f"redis-{role}" / "redis.conf").read_text()
        port = next(line.split()[1] for line in conf.splitlines() if line.startswith("port "))
        password = (data / "password").read_text().strip()
        return redis.Redis(port=int(port), password=password, decode_responses=True)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    redis_binary()
    walk = Walk(tmp_path_factory.mktemp("walk"))
    try:
        wait_until(walk.ready, 60, "the stack answers")
        yield walk
    finally:
        walk.http.close()
        walk.up.process.terminate()
        try:
            walk.up.process.wait(60)
        finally:
            walk.up.end()


def test_a_job_by_curl_is_run_and_counted(walk: Walk) -> None:
    """
    The specification's own curl, and what /stats says of it.
    """
    before = walk.stats()["long-running-jobs"]["completed"]
    body = {
        "name": "data-sync",
        "data": {"baseId": "appX", "records": 1000},
        "options": {"timeout": 3600000},
    }
    done = subprocess.run(
        [
            "curl", "-sS", "-X", "POST", f"{walk.url}/jobs/long-running-jobs",
            "-H", "Content-Type: application/json", "-d", json.dumps(body),
        ],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip

    job = json.loads(done.stdout)

    assert (job["name"], job["queue"], job["data"]) == (
        "data-sync", "long-running-jobs", {"baseId": "appX", "records": 1000},
    )  # fmt: skip
    wait_until(lambda: walk.stats()["long-running-jobs"]["completed"] == before + 1, 20)
    with walk.redis_of("queue") as client:
        assert '"synced":1000' in str(client.get(keys.arq_result(job["id"])))


def test_an_event_by_redis_cli_is_handled_and_its_notification_arrives(walk: Walk) -> None:
    """
    XADD in the specification's form; a user.created event notifies the user on user:<id>.
    """
    stream = "pyairtable-events"
    with (
        walk.redis_of("cache") as cache,
        walk.redis_of("streams") as streams,
        cache.pubsub() as ear,
    ):
        ear.subscribe("user:user123")
        assert ear.get_message(timeout=5) is not None
        entry = streams.xadd(
            stream,
            {
                "type": "user.created",
                "timestamp": "2026-11-23T10:00:00Z",
                "userId": "user123",
                "data": '{"email":"user@example.com"}',
            },
        )

        heard: list[Any] = []
        wait_until(lambda: heard.append(ear.get_message(timeout=0.1)) or heard[-1], 20)

        wait_until(
            lambda: any(
                row["id"] == entry for _, row in streams.xrevrange(keys.recent_events(stream))
            ),
            20,
        )
        assert json.loads(heard[-1]["data"])["type"]


def test_retry_in_the_browser_runs_the_job_again(walk: Walk) -> None:
    """
    A job fails, is listed as a dead letter, the cause is repaired, Retry is clicked, the job runs.
    """
    done = walk.http.post(
        f"/jobs/{QUEUE}", json={"name": "needs_repair", "data": {"repaired": str(walk.repaired)}}
    )
    assert done.status_code == 201, done.text
    letter_id = done.json()["id"]
    complaints: list[str] = []
    foreign: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: "127.0.0.1" not in r.url[:24] and foreign.append(r.url))
        page.goto(f"{walk.url}/admin/queues")
        page.locator("canvas").first.wait_for(timeout=30_000)
        page.get_by_role("link", name="Dead letters").first.click()
        letters = page.get_by_role("table", name="Dead letters, newest first")
        row = letters.locator("tbody tr", has_text="needs_repair").first
        row.wait_for(timeout=30_000)
        walk.repaired.touch()

        row.get_by_role("button", name="Retry").click()

        row.wait_for(state="detached", timeout=30_000)

    with walk.redis_of("queue") as client:
        assert '"repaired"' in str(client.get(keys.arq_result(f"{letter_id}~r1")))
        record = client.hgetall(keys.dead_record(QUEUE, letter_id))
    assert (record["state"], record["redrives"]) == ("resolved", "1")
    assert complaints == []
    assert [
        url for url in foreign if not url.startswith(("data:", "blob:", "ws://127.0.0.1"))
    ] == []


def test_both_addresses_and_the_documentation_answer(walk: Walk) -> None:
    for path in ("/admin/queues", "/docs", "/openapi.json", "/health", "/metrics"):
        assert walk.http.get(path).status_code == 200, path
