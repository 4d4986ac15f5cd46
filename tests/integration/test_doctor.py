"""The doctor on a real Redis: every hazard is planted, found under its name, and gone when mended."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app import keys
from app.actions import Connections
from app.doctor import server_hazards, servers
from app.doctor.examination import examine
from app.doctor.findings import Diagnosis, Finding, Severity
from app.pages.address import Address
from app.pages.configuration import PAGE
from app.pages.scene import Scene
from app.records import WorkerInfo
from app.settings import Settings
from app.snapshot import Snapshot
from app.wire.connections import connect
from tests.conftest import ROOT, RunningRedis, redis_binary, start_redis, unused_port
from tests.waiting import until

QUEUE = "async-processing"
STREAM = "pyairtable-events"
GROUP = "event-processors"
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """A server of this module: its tests reconfigure it."""
    running = start_redis(
        tmp_path_factory.mktemp("doctor"), extra=("--maxmemory", "200mb", "--maxclients", "500")
    )
    yield running
    running.stop()


@pytest.fixture
async def clinic(server: RunningRedis, tmp_path: Path) -> AsyncIterator["Clinic"]:
    settings = Settings(
        redis_url=server.database(0),
        redis_streams_url=server.database(1),
        redis_queue_url=server.database(2),
        data_dir=tmp_path,
        dead_letter_cap=100,
    )
    made = Clinic(settings)
    await made.queue.flushall()
    await made.queue.config_resetstat()
    yield made
    await made.close()


class Clinic:
    """A deployment to examine: clients, settings, and the clock of its Redis."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.queue, self.streams, self.cache = (
            connect(settings.url(role)) for role in ("queue", "streams", "cache")
        )
        self.now_ms = int(time.time() * 1000)

    async def examine(self, **more: Any) -> Diagnosis:
        settings = self.settings.model_copy(update=more)
        return await examine(
            Connections(queue=self.queue, streams=self.streams, cache=self.cache), settings
        )

    async def finding(self, hazard: str, where: str = "", **more: Any) -> Finding:
        diagnosis = await self.examine(**more)
        found = [f for f in diagnosis.findings if f.hazard == hazard and where in f.where]
        assert found, [f"{f.hazard} at {f.where}" for f in diagnosis.findings]
        assert found[0].evidence
        assert found[0].remedy
        return found[0]

    async def close(self) -> None:
        for client in (self.queue, self.streams, self.cache):
            await client.aclose(close_connection_pool=True)

    async def job(self, job_id: str, *, due_ms: int = 0, left_ms: int = 300 * DAY_MS) -> None:
        await self.queue.zadd(QUEUE, {job_id: due_ms or self.now_ms - 1000})
        if left_ms:
            await self.queue.set(keys.arq_job(job_id), b"{}", px=left_ms)

    async def worker(self, **more: Any) -> None:
        fields = {
            "id": "w1", "role": "worker", "host": "h", "pid": 1, "source": QUEUE, "version": "1",
            "since_ms": self.now_ms, "beat_ms": self.now_ms, "slots": 5, "state": "running",
        }  # fmt: skip
        info = WorkerInfo(**{**fields, **more})
        await self.queue.hset(keys.worker(info.id), mapping=info.to_fields())
        await self.queue.zadd(keys.WORKERS, {info.id: self.now_ms})


async def test_a_sound_deployment_has_nothing_to_worry_about(clinic: Clinic) -> None:
    """Debian's 7.0 is told as old; nothing else is more than a notice."""
    await clinic.job("j1")
    await clinic.worker()

    diagnosis = await clinic.examine()

    worries = {f.hazard for f in diagnosis.findings if f.severity is not Severity.NOTICE}
    assert worries <= {"version"}
    assert diagnosis.unknown == ()
    assert f"queue {QUEUE}" in diagnosis.examined


CONFIGURED = [
    ("maxmemory-policy", "allkeys-lru", "eviction", Severity.CRITICAL),
    ("maxmemory-policy", "volatile-ttl", "eviction", Severity.CRITICAL),
    ("maxmemory", "0", "no-memory-limit", Severity.NOTICE),
    ("appendonly", "no", "aof-off", Severity.CRITICAL),
    ("appendfsync", "no", "aof-fsync-off", Severity.WARNING),
    ("notify-keyspace-events", "", "slow-pickup", Severity.NOTICE),
]


@pytest.mark.parametrize(("name", "value", "hazard", "severity"), CONFIGURED)
async def test_hazards_of_the_configuration(
    clinic: Clinic, name: str, value: str, hazard: str, severity: Severity
) -> None:
    before = (await clinic.queue.config_get(name))[name]
    await clinic.queue.config_set(name, value)
    try:
        found = await clinic.finding(hazard, "redis queue")
    finally:
        await clinic.queue.config_set(name, before)

    assert found.severity is severity
    assert value in found.evidence
    assert hazard not in {f.hazard for f in (await clinic.examine()).findings}


async def test_memory_without_headroom(clinic: Clinic) -> None:
    used = int((await clinic.queue.info("memory"))["used_memory"])
    await clinic.queue.config_set("maxmemory", int(used * 1.1))
    try:
        found = await clinic.finding("memory-headroom")
    finally:
        await clinic.queue.config_set("maxmemory", "200mb")

    assert found.severity in (Severity.WARNING, Severity.CRITICAL)
    assert "% of maxmemory" in found.evidence


async def test_keys_were_evicted(clinic: Clinic) -> None:
    await clinic.queue.set("victim", "x" * 2_000_000)
    used = int((await clinic.queue.info("memory"))["used_memory"])
    await clinic.queue.config_set("maxmemory-policy", "allkeys-lru")
    await clinic.queue.config_set("maxmemory", used - 1_000_000)
    try:
        await clinic.queue.set("another", "y")
    finally:
        await clinic.queue.config_set("maxmemory", "200mb")
        await clinic.queue.config_set("maxmemory-policy", "noeviction")

    found = await clinic.finding("evicted")

    assert found.evidence.startswith("evicted_keys=")
    assert found.severity is Severity.CRITICAL


async def test_connections_without_headroom_and_refused_ones(clinic: Clinic) -> None:
    held = [connect(clinic.settings.url("queue"), max_connections=1) for _ in range(8)]
    for client in held:
        await client.ping()
    clients = int((await clinic.queue.info("clients"))["connected_clients"])
    await clinic.queue.config_set("maxclients", clients + 2)
    try:
        extra = [connect(clinic.settings.url("queue"), retries=0) for _ in range(4)]
        answers = await asyncio.gather(*(c.ping() for c in extra), return_exceptions=True)
        for client in extra:
            await client.aclose(close_connection_pool=True)
        assert any("max number of clients" in str(answer) for answer in answers)
        found = await clinic.finding("clients", "redis queue")
    finally:
        await clinic.queue.config_set("maxclients", "500")
        for client in held:
            await client.aclose(close_connection_pool=True)

    assert "of maxclients" in found.evidence
    assert (await clinic.finding("rejected")).severity is Severity.WARNING


@pytest.mark.parametrize("kind", ["system", "bundled"])
async def test_versions_with_published_holes(clinic: Clinic, kind: str) -> None:
    seen = await servers.look_at("queue", clinic.queue, clinic.settings.url("queue"))
    number = "7.0.15" if kind == "system" else "6.2.14"
    older = replace(seen, info={**seen.info, "redis_version": number})
    mended = [
        replace(seen, info={**seen.info, "redis_version": v})
        for v in ("6.2.23", "7.2.15", "7.4.10", "8.2.8", "8.8.1", "9.0.0")
    ]

    assert "version" in {f.hazard for f in server_hazards.hazards_of(older)}
    assert not any("version" in {f.hazard for f in server_hazards.hazards_of(s)} for s in mended)


async def test_clocks_that_differ(clinic: Clinic) -> None:
    """The clock is the doctor's own argument here; W17 and E16 turn real clocks."""
    seen = await servers.look_at("queue", clinic.queue, clinic.settings.url("queue"))
    assert abs(seen.skew_s) < 1

    for skew_s, severity in ((2.0, Severity.WARNING), (-7200.0, Severity.CRITICAL)):
        (found,) = [
            f
            for f in server_hazards.hazards_of(replace(seen, skew_s=skew_s))
            if f.hazard == "clock-skew"
        ]
        assert found.severity is severity
        assert f"{skew_s:+.1f} s" in found.evidence


async def test_clear_text_to_another_machine(clinic: Clinic) -> None:
    seen = await servers.look_at("queue", clinic.queue, clinic.settings.url("queue"))
    plain = replace(seen, url="redis://:secret@redis.internal:6379/0")
    tls = replace(seen, url="rediss://:secret@redis.internal:6379/0")

    found = [f for f in server_hazards.hazards_of(plain) if f.hazard == "no-tls"]

    assert found
    assert "secret" not in str(found)
    assert not [f for f in server_hazards.hazards_of(tls) if f.hazard == "no-tls"]


@pytest.fixture
def open_server(tmp_path: Path) -> Iterator[str]:
    port = unused_port()
    command = [str(redis_binary()), "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(10)


async def test_a_server_that_lets_anybody_in(open_server: str) -> None:
    client = connect(open_server)
    try:
        await until(client.ping)
        seen = await servers.look_at("queue", client, open_server)
    finally:
        await client.aclose(close_connection_pool=True)

    hazards = {f.hazard: f for f in server_hazards.hazards_of(seen)}
    assert hazards["no-password"].severity is Severity.WARNING  # loopback
    others = replace(seen, url="redis://redis.internal:6379/0")
    (found,) = [f for f in server_hazards.hazards_of(others) if f.hazard == "no-password"]
    assert found.severity is Severity.CRITICAL


async def test_a_user_default_without_rights_as_which_a_file_is_replayed(tmp_path: Path) -> None:
    """
    Redis 7.0 dropped every MULTI at its start; the user may be off, but must have every right.
    """
    server = start_redis(tmp_path / "limited")
    boss = Redis.from_url(server.database(2))
    await boss.execute_command("ACL", "SETUSER", "boss", "on", ">secret", "~*", "&*", "+@all")
    url = server.database(2).replace(f":{server.password}@", "boss:secret@")
    clinic = Clinic(Settings(redis_queue_url=url, redis_streams_url=url, redis_url=url))
    told = []
    for rules in (("off", "+@all"), ("off", "-@all"), ("+@all", "resetkeys")):
        await clinic.queue.execute_command("ACL", "SETUSER", "default", *rules)
        diagnosis = await clinic.examine()
        told.append([f.evidence for f in diagnosis.findings if f.hazard == "replay-rights"][:1])
    await boss.aclose()
    await clinic.close()
    server.stop()

    assert told == [
        [],
        ["default lacks rights: -@all"],
        ["default lacks rights: not every key"],
    ]


async def test_a_wrong_password_is_a_finding_and_no_error(clinic: Clinic) -> None:
    wrong = clinic.settings.url("queue").replace("test-password", "planted-wrong-password")
    client = connect(wrong)
    try:
        seen = await servers.look_at("queue", client, wrong)
    finally:
        await client.aclose(close_connection_pool=True)

    (found,) = server_hazards.hazards_of(seen)
    assert (found.hazard, found.severity) == ("unreachable", Severity.CRITICAL)
    assert "planted-wrong-password" not in str(found)


async def test_a_dead_redis_leaves_the_others_examined(tmp_path: Path) -> None:
    queue = start_redis(tmp_path / "queue")
    rest = start_redis(tmp_path / "rest")
    settings = Settings(
        redis_url=rest.database(0), redis_streams_url=rest.database(1), redis_queue_url=queue.url
    )
    clinic = Clinic(settings)
    queue.kill()
    try:
        diagnosis = await clinic.examine()
    finally:
        await clinic.close()
        rest.stop()

    assert diagnosis.exit_code == 1
    assert [f.where for f in diagnosis.findings if f.hazard == "unreachable"] == ["redis queue"]
    assert f"stream {STREAM}" in diagnosis.examined


async def test_a_login_that_may_not_ask_for_the_configuration(clinic: Clinic) -> None:
    await clinic.queue.execute_command(
        "ACL", "SETUSER", "looker", "on", ">looker-password", "~*", "&*", "+@all", "-config"
    )
    url = clinic.settings.url("queue").replace(":test-password@", "looker:looker-password@")
    client = connect(url)
    try:
        seen = await servers.look_at("queue", client, url)
    finally:
        await client.aclose(close_connection_pool=True)
        await clinic.queue.execute_command("ACL", "DELUSER", "looker")

    assert (seen.config, seen.user) == (None, "looker")
    assert "default-user" not in {f.hazard for f in server_hazards.hazards_of(seen)}


# -- replicas ---------------------------------------------------------------------------------------


@pytest.fixture
def master_and_replica(tmp_path: Path) -> Iterator[tuple[RunningRedis, RunningRedis]]:
    master = start_redis(tmp_path / "master", extra=("--repl-diskless-sync-delay", "0"))
    replica = start_redis(
        tmp_path / "replica",
        extra=("--replicaof", f"127.0.0.1 {master.port}", "--masterauth", "test-password"),
    )
    yield master, replica
    replica.kill()
    master.kill()


async def test_replicas_and_what_they_do_not_save(
    master_and_replica: tuple[RunningRedis, RunningRedis],
) -> None:
    """R10: a master that keeps nothing on disk, with replicas, is told as critical."""
    master, replica = master_and_replica
    client, behind = connect(master.url), connect(replica.url)
    try:

        async def linked() -> bool:
            return (await behind.info("replication")).get("master_link_status") == "up"

        await until(linked)
        guarded = await hazards(client, master.url)
        await client.config_set("appendonly", "no")
        empty = await hazards(client, master.url)
        await client.config_set("min-replicas-to-write", 1)
        kept = await hazards(client, master.url)
        of_replica = await hazards(behind, replica.url)
    finally:
        await client.aclose(close_connection_pool=True)
        await behind.aclose(close_connection_pool=True)

    assert "failover-loses" in guarded
    assert "replicas-of-nothing" not in guarded
    assert empty["replicas-of-nothing"].severity is Severity.CRITICAL
    assert "failover-loses" not in kept
    assert of_replica["replica"].severity is Severity.CRITICAL


@pytest.mark.parametrize(("lag_s", "is_told"), [(10, False), (11, True)])
def test_a_replica_that_is_not_heard_of(lag_s: int, is_told: bool) -> None:
    info = {"connected_slaves": 2, "slave0": {"lag": 1}, "slave1": {"lag": lag_s}}
    seen = servers.Server(role="queue", url="redis://10.0.0.1:6379/0", info=info, config={})
    found = {f.hazard: f for f in server_hazards.hazards_of(seen)}.get("replica-lag")

    assert (found is not None) == is_told
    if found is not None:
        assert (found.severity, found.evidence) == (Severity.WARNING, f"lag {lag_s} s")
        assert found.remedy


async def test_one_server_in_three_roles_is_told(clinic: Clinic) -> None:
    found = await clinic.finding("one-server")

    assert (found.severity, found.where) == (Severity.NOTICE, "redis cache+queue+streams")


async def hazards(client: Redis, url: str) -> dict[str, Finding]:
    seen = await servers.look_at("queue", client, url)
    return {f.hazard: f for f in server_hazards.hazards_of(seen)}


# -- queues -----------------------------------------------------------------------------------------

Plant = Callable[[Clinic], Awaitable[None]]


async def stale_abort(c: Clinic) -> None:
    await c.queue.zadd(keys.ARQ_ABORT, {"gone": c.now_ms - 2 * 3_600_000})


async def stale_abort_of_a_waiting_job(c: Clinic) -> None:
    await c.job("again")
    await c.queue.zadd(keys.ARQ_ABORT, {"again": c.now_ms - 2 * 3_600_000})


async def result_forever(c: Clinic) -> None:
    await c.queue.set(keys.arq_result("for-ever"), b"{}")


async def result_of_a_waiting_job(c: Clinic) -> None:
    await c.job("again")
    await c.queue.set(keys.arq_result("again"), b"{}", px=60_000)


async def payload_gone(c: Clinic) -> None:
    await c.job("empty", left_ms=0)


async def payload_ends(c: Clinic) -> None:
    await c.job("soon", left_ms=60_000)


async def stock_beside_ours(c: Clinic) -> None:
    await c.worker()
    await c.job("taken")
    await c.queue.set(keys.arq_in_progress("taken"), b"1", px=300_000)


async def no_timeout(c: Clinic) -> None:
    await c.job("endless")
    await c.queue.set(keys.arq_in_progress("endless"), b"1", px=9_000)


async def starved(c: Clinic) -> None:
    for number in range(110):
        await c.job(f"long-{number:03}", due_ms=c.now_ms - 10_000 + number)
        await c.queue.set(keys.arq_in_progress(f"long-{number:03}"), b"1", px=600_000)
    await c.job("behind", due_ms=c.now_ms - 100)


async def stock_health(c: Clinic) -> None:
    await c.queue.set(f"{QUEUE}:health-check", "Nov-26 j_complete=0", px=3_601_000)


async def nobody(c: Clinic) -> None:
    await c.job("waits", due_ms=c.now_ms - 60_000)


async def paused(c: Clinic) -> None:
    await c.job("waits", due_ms=c.now_ms - 60_000)
    await c.queue.sadd(keys.PAUSED_QUEUES, QUEUE)


async def backlog(c: Clinic) -> None:
    await c.worker(busy=5)
    await c.job("waits", due_ms=c.now_ms - 120_000)


async def stuck(c: Clinic) -> None:
    await c.worker(busy=0)
    await c.job("waits", due_ms=c.now_ms - 120_000)


async def two_versions(c: Clinic) -> None:
    await c.worker()
    await c.worker(id="w2", version="2")


async def trouble(c: Clinic) -> None:
    await c.worker(trouble="its lease thread is dead")


async def many_letters(c: Clinic) -> None:
    await c.queue.zadd(keys.dead_open(QUEUE), {f"d{n}": c.now_ms for n in range(90)})


async def foreign(c: Clinic) -> None:
    await c.job("ours")
    await c.queue.sadd(keys.FOREIGN, "arq:queue")


QUEUES: list[tuple[str, Severity, Plant]] = [
    ("stale-aborts", Severity.WARNING, stale_abort),
    ("stale-aborts", Severity.CRITICAL, stale_abort_of_a_waiting_job),
    ("results-forever", Severity.WARNING, result_forever),
    ("result-blocks-id", Severity.WARNING, result_of_a_waiting_job),
    ("payload-gone", Severity.CRITICAL, payload_gone),
    ("payload-expires", Severity.WARNING, payload_ends),
    ("stock-beside-ours", Severity.CRITICAL, stock_beside_ours),
    ("no-timeout", Severity.WARNING, no_timeout),
    ("starvation", Severity.CRITICAL, starved),
    ("stock-health", Severity.WARNING, stock_health),
    ("no-worker", Severity.CRITICAL, nobody),
    ("paused", Severity.NOTICE, paused),
    ("backlog", Severity.WARNING, backlog),
    ("stuck", Severity.CRITICAL, stuck),
    ("mixed-versions", Severity.NOTICE, two_versions),
    ("worker-trouble", Severity.WARNING, trouble),
    ("dead-letters-cap", Severity.WARNING, many_letters),
    ("shared-redis", Severity.NOTICE, foreign),
]


@pytest.mark.parametrize(
    ("hazard", "severity", "plant"), QUEUES, ids=[plant.__name__ for _, _, plant in QUEUES]
)
async def test_hazards_of_queues(
    clinic: Clinic, hazard: str, severity: Severity, plant: Plant
) -> None:
    assert hazard not in {f.hazard for f in (await clinic.examine()).findings}

    await plant(clinic)

    assert (await clinic.finding(hazard)).severity is severity


# -- streams ----------------------------------------------------------------------------------------


async def add(c: Clinic, count: int) -> list[str]:
    return [str(await c.streams.xadd(STREAM, {"type": "a.b", "data": "{}"})) for _ in range(count)]


async def no_group(c: Clinic) -> None:
    await add(c, 1)


async def trimmed_unread(c: Clinic) -> None:
    await add(c, 10)
    await c.streams.xgroup_create(STREAM, GROUP, id="0")
    await c.streams.xtrim(STREAM, maxlen=2, approximate=False)
    if (
        not (await c.streams.xinfo_stream(STREAM))
        .get("max-deleted-entry-id", "0-0")
        .startswith("1")
    ):
        ids = await add(c, 2)  # Redis 7 tells deletions by XDEL only
        await c.streams.xdel(STREAM, ids[0])


async def trimmed_pending(c: Clinic) -> None:
    ids = await add(c, 3)
    await c.streams.xgroup_create(STREAM, GROUP, id="0")
    await c.streams.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=2)
    await c.streams.xdel(STREAM, ids[0])


async def dead_consumer(c: Clinic) -> None:
    ids = await add(c, 2)
    await c.streams.xgroup_create(STREAM, GROUP, id="0")
    await c.streams.xreadgroup(GROUP, "died", {STREAM: ">"})
    await c.streams.xclaim(STREAM, GROUP, "died", 0, ids, idle=3_600_000)


async def no_processor(c: Clinic) -> None:
    await add(c, 3)
    await c.streams.xgroup_create(STREAM, GROUP, id="0")


async def many_consumers(c: Clinic) -> None:
    await add(c, 1)
    await c.streams.xgroup_create(STREAM, GROUP, id="$")
    for number in range(60):
        await c.streams.xgroup_createconsumer(STREAM, GROUP, f"c{number}")


STREAMS: list[tuple[str, Severity, Plant]] = [
    ("no-group", Severity.CRITICAL, no_group),
    ("trimmed-unread", Severity.CRITICAL, trimmed_unread),
    ("trimmed-pending", Severity.CRITICAL, trimmed_pending),
    ("no-processor", Severity.CRITICAL, no_processor),
    ("many-consumers", Severity.NOTICE, many_consumers),
]


@pytest.mark.parametrize(
    ("hazard", "severity", "plant"), STREAMS, ids=[plant.__name__ for _, _, plant in STREAMS]
)
async def test_hazards_of_streams(
    clinic: Clinic, hazard: str, severity: Severity, plant: Plant
) -> None:
    assert hazard not in {f.hazard for f in (await clinic.examine()).findings}

    await plant(clinic)

    assert (await clinic.finding(hazard, "stream")).severity is severity


async def test_a_consumer_that_died_with_entries(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent for the time given: Redis counts a consumer's idle time itself."""
    await dead_consumer(clinic)
    monkeypatch.setattr("app.doctor.streams.DEAD_MS", -1)

    found = await clinic.finding("dead-consumers")

    assert "2 entries" in found.evidence
    monkeypatch.undo()
    assert (await clinic.finding("old-pending")).severity is Severity.WARNING


# -- settings, and the doors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hazard", "more"),
    [
        ("pickle", {"allow_pickle": True}),
        ("no-api-key", {"queue_ui_host": "0.0.0.0"}),
        ("short-lease", {"lease_s": 1.0}),
    ],
)
async def test_hazards_of_settings(clinic: Clinic, hazard: str, more: dict[str, Any]) -> None:
    assert (await clinic.finding(hazard, "settings", **more)).severity is Severity.WARNING


def test_the_command_tells_them_and_ends_with_its_code(
    server: RunningRedis, tmp_path: Path
) -> None:
    environment = {
        **{k: v for k, v in os.environ.items() if "REDIS" not in k},
        "REDIS_URL": server.database(0),
        "REDIS_STREAMS_URL": server.database(1),
        "REDIS_QUEUE_URL": server.database(2),
        "PYTHONPATH": str(ROOT),
    }

    def run(*more: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "app.cli", "doctor", *more],
            env=environment | changed,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    told = run("--json")
    dead = run(REDIS_QUEUE_URL="redis://127.0.0.1:1/0")

    assert json.loads(told.stdout)["exitCode"] == told.returncode
    assert told.returncode in (0, 2)
    assert dead.returncode == 1
    assert "critical redis queue: It does not answer. (unreachable)" in dead.stdout


async def test_it_works_on_6_2_too(tmp_path: Path) -> None:
    old = start_redis(tmp_path / "old", redis_binary("bundled"))
    clinic = Clinic(
        Settings(
            redis_url=old.database(0),
            redis_streams_url=old.database(1),
            redis_queue_url=old.database(2),
        )
    )
    try:
        await trimmed_pending(clinic)
        await payload_gone(clinic)
        found = {f.hazard for f in (await clinic.examine()).findings}
    finally:
        await clinic.close()
        old.stop()

    assert {"version", "trimmed-pending", "payload-gone"} <= found


async def test_what_the_page_shows_is_text(clinic: Clinic) -> None:
    """Names in Redis are anybody's: on the page they are text."""
    attack = "<img src=x onerror=alert(1)>"
    await clinic.queue.set(keys.arq_result(attack), b"{}")
    found = await clinic.examine()
    scene = Scene(
        snapshot=Snapshot.empty(),
        address=Address("settings"),
        settings=clinic.settings,
        found=found,
    )

    html = str(PAGE.above(scene))

    assert "&lt;img src=x" in html
    assert "<img src=x" not in html
    assert "Results that never expire" in html
