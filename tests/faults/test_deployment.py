"""The deployment under abuse, rows S19 and S20 of FAULTS.md: the Redis of compose/, its logins, its TLS."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis as redis_sync
from redis.asyncio import Redis

from app import keys
from app.connections import connect
from app.enqueue import JobRequest, codec_of, enqueue_many
from app.publisher import SyncPublisher
from app.settings import Settings
from tests.conftest import unused_port, wait_until
from tests.deployment import ROLES, Deployed
from tests.faults.conftest import Row

QUEUE = "async-processing"
NOTHING: dict[str, list[Any]] = {role: [] for role in ROLES}
#: what row S20 tries, as commands
FORBIDDEN = {
    "SET": ("SET", "arq:job:planted", "x"),
    "DEL": ("DEL", "arqscope:audit"),
    "EVAL": ("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "arq:job:planted"),
    "CONFIG": ("CONFIG", "SET", "maxmemory", "1"),
    "KEYS": ("KEYS", "*"),
    "FLUSHALL": ("FLUSHALL",),
    "REPLICAOF": ("REPLICAOF", "evil.example", "6379"),
}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    made = Deployed(tmp_path_factory.mktemp("deployed"))
    try:
        yield made.start()
    finally:
        made.stop()


def refused(client: Any, *command: str) -> bool:
    """Whether Redis answers NOPERM."""
    try:
        client.execute_command(*command)
    except redis_sync.exceptions.NoPermissionError:
        return True
    return False


@pytest.mark.row("S20")
def test_s20_the_dashboards_login_reads_and_nothing_else(deployed: Deployed, row: Row) -> None:
    """
    Whatever a viewer's dashboard is made to send, Redis refuses what would change or stop anything.
    """
    deployed.reset_denials()
    outcomes: dict[str, int] = {}
    for role in ROLES:
        with deployed.client("dashboard", role) as client:
            outcomes[role] = sum(refused(client, *command) for command in FORBIDDEN.values())
            client.get("arq:job:any")
            client.info("memory")
            sha = client.script_load("return redis.call('SET', KEYS[1], 'x')")
            with pytest.raises(redis_sync.ResponseError, match="can't run this command"):
                client.evalsha(sha, 1, "arq:job:planted")
    noted = min(sum(int(line["count"]) for line in deployed.denials(role)) for role in ROLES)
    row.figure(refused=outcomes, noted=noted)

    assert outcomes == dict.fromkeys(ROLES, len(FORBIDDEN))
    assert noted >= len(FORBIDDEN)
    with deployed.client("admin", "queue") as admin:
        assert admin.exists("arq:job:planted") == 0


@pytest.mark.row("S20")
def test_s20_no_service_may_do_what_is_dangerous(deployed: Deployed, row: Row) -> None:
    """
    Those who write may not reconfigure, list, empty or move a server; who produces sees no secrets.
    """
    dangerous = ("EVAL", "CONFIG", "KEYS", "FLUSHALL", "REPLICAOF")
    tried = {}
    for login in ("worker", "processor", "producer", "operator", "metrics"):
        for role in ROLES:
            with deployed.client(login, role) as client:
                tried[f"{login}@{role}"] = sum(refused(client, *FORBIDDEN[c]) for c in dangerous)
    with deployed.client("producer", "queue") as producer:
        private = [
            refused(producer, "XRANGE", keys.AUDIT, "-", "+"),
            refused(producer, "HGETALL", keys.API_KEYS),
            refused(producer, "GET", keys.SESSION_SECRET),
            refused(producer, "ZRANGE", keys.dead_open(QUEUE), "0", "-1"),
        ]
    with deployed.client("metrics", "queue") as metrics:
        private.append(refused(metrics, "GET", "arq:job:any"))
    row.figure(logins=len(tried), refused=sum(tried.values()), private=sum(private))

    assert tried == dict.fromkeys(tried, len(dangerous))
    assert private == [True] * 5
    with pytest.raises(redis_sync.exceptions.AuthenticationError):
        redis_sync.Redis(port=deployed.ports["queue"]).ping()


def test_everything_works_under_its_own_login(deployed: Deployed) -> None:
    """
    Worker, processors, dashboard and a producer do all their work, and no login was refused anything.
    """
    deployed.reset_denials()
    port = str(unused_port())
    serve = {"API_KEY": "k" * 40, "QUEUE_UI_PORT": port, "MAX_JOB_ATTEMPTS": "1"}
    with contextlib.ExitStack() as stack:
        for login, *command in (
            ("worker", "worker", QUEUE),
            ("processor", "events"),
            ("processor", "dead-letters"),
        ):
            more = {"MAX_JOB_ATTEMPTS": "1", "ARQSCOPE_JOB_EVENTS": "true", "RETRY_DELAY": "100"}
            stack.enter_context(deployed.process(login, *command, **more))
        stack.enter_context(deployed.process("operator", "serve", **serve))
        http = stack.enter_context(
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "k" * 40}, timeout=10
            )
        )
        wait_until(lambda: ok(http, "/health"), 60, "the dashboard is healthy")
        walk(http)
        produce(deployed)
        wait_until(lambda: http.get("/stats").json()[QUEUE]["completed"] >= 3, 30, "jobs completed")
        wait_until(lambda: event_handled(deployed), 30, "the event was handled")
        wait_until(lambda: http.get("/dead-letters").json(), 30, "a dead letter")
        letter = http.get("/dead-letters").json()[0]
        discarded = http.post(f"/dead-letters/{QUEUE}/{letter['id']}/discard", json={"reason": "t"})
        assert discarded.status_code == 200, discarded.text
        assert len(http.get("/workers").json()) >= 3
        refusals = {role: deployed.denials(role) for role in ROLES}

    assert refusals == NOTHING
    for log in deployed.directory.glob("*.log"):
        assert "NOPERM" not in log.read_text(), log.name


def test_a_viewers_dashboard_shows_everything_and_needs_no_right_to_write(
    deployed: Deployed,
) -> None:
    """
    ARQSCOPE_READ_ONLY with the login `dashboard`: pages and lists answer, and nothing is even tried.
    """
    produce(deployed)
    deployed.reset_denials()
    port = str(unused_port())
    more = {
        "API_KEY": "k" * 40,
        "QUEUE_UI_PORT": port,
        "ARQSCOPE_READ_ONLY": "true",
        "ARQSCOPE_KEEP_HISTORY": "false",
    }
    with (
        deployed.process("dashboard", "serve", **more),
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "k" * 40}, timeout=10
        ) as http,
    ):
        wait_until(lambda: ok(http, "/health/ready"), 60, "the dashboard is healthy")
        answers = {
            path: http.get(path).status_code
            for path in ("/stats", "/jobs", f"/jobs/{QUEUE}", "/dead-letters", "/streams", "/workers",
                         "/metrics", "/audit", "/frames/queues.json", "/alerts", "/operations")
        }  # fmt: skip
        refusal = http.post(f"/jobs/{QUEUE}", json={"name": "data-sync", "data": {}})
        refusals = {role: deployed.denials(role) for role in ROLES}

    assert answers == dict.fromkeys(answers, 200)
    assert refusal.status_code == 403
    assert refusals == NOTHING


def ok(http: httpx.Client, path: str) -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx.HTTPError:
        return False


def walk(http: httpx.Client) -> None:
    """What people and programs ask of the dashboard."""
    job = {"name": "data-sync", "data": {"records": 1, "duration": 1}}
    assert http.post(f"/jobs/{QUEUE}", json=job).status_code == 201
    later = {"name": "data-sync", "data": {}, "options": {"delay": 600_000, "jobId": "later-1"}}
    assert http.post(f"/jobs/{QUEUE}", json=later).status_code == 201
    for path in ("/stats", "/jobs", f"/jobs/{QUEUE}", "/audit", "/metrics", "/streams", "/alerts",
                 "/frames/queues.json", f"/jobs/{QUEUE}/later-1/why", "/foreign", "/operations"):  # fmt: skip
        assert http.get(path).status_code == 200, path
    assert http.post(f"/jobs/{QUEUE}/later-1/cancel").status_code == 200
    for verb in ("pause", "resume"):
        assert http.post(f"/queues/{QUEUE}/{verb}").status_code == 200
    event = {"type": "user.created", "data": {"email": "a@example.com"}, "userId": "u1"}
    assert http.post("/events", json=event).status_code in (200, 201)
    said = http.post("/notifications/user:u1", json={"message": "hello"})
    assert said.status_code in (200, 201), said.text


def produce(deployed: Deployed) -> None:
    """A service of the user's own, with the login `producer`: three good jobs, one bad, an event."""
    settings = Settings.load(deployed.environment("producer"), env_file=None)

    async def run() -> None:
        queue: Redis = connect(settings.url("queue"))
        jobs = [{"records": n, "duration": 1} for n in range(3)]
        jobs.append({"shouldFail": True, "error": "PermissionError: no scope", "duration": 1})
        requests = [JobRequest(name="data-sync", args=(data,)) for data in jobs]
        try:
            await enqueue_many(queue, QUEUE, requests, codec=codec_of(settings))
        finally:
            await queue.aclose()

    asyncio.run(run())
    with SyncPublisher(settings) as publisher:
        publisher.user_event("created", "u2", {"email": "b@example.com"})
        publisher.notify_user("u2", "welcome")


def event_handled(deployed: Deployed) -> bool:
    with deployed.client("admin", "streams") as client:
        return int(client.hget(keys.event_totals("pyairtable-events"), "processed") or 0) >= 2
