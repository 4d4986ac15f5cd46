"""Hazards of a Redis itself, planted on a real one: found under their names, gone when mended."""

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis as redis_sync

from app.doctor import server_hazards, servers
from app.doctor.findings import Severity
from app.wire.connections import connect
from tests.conftest import redis_binary, start_redis
from tests.integration.doctor.conftest import QUEUE, Clinic
from tests.waiting import until


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


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[str]:
    """URL of a server that is busy for ten seconds with the file it replays."""
    written = start_redis(tmp_path)
    with redis_sync.Redis.from_url(written.database(2)) as client, client.pipeline() as pipe:
        for number in range(40_000):
            pipe.set(f"filler:{number}", number)
        pipe.execute()
    written.stop()
    command = [
        redis_binary(), "--port", written.port, "--bind", "127.0.0.1", "--dir", tmp_path,
        "--appendonly", "yes", "--requirepass", "test-password", "--key-load-delay", "200",
    ]  # fmt: skip
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    yield written.database(2)
    process.kill()
    process.wait(10)


async def test_a_server_that_is_loading_is_told_and_nothing_false_of_it(loading: str) -> None:
    """
    While Redis replays its file it says that it keeps none; the doctor repeated it.
    """
    client = connect(loading, retries=0)

    async def seen_loading() -> servers.Server | None:
        seen = await servers.look_at("queue", client, loading, only_info=True)
        return seen if seen.number("loading") else None

    seen = await until(seen_loading)
    await client.aclose(close_connection_pool=True)

    told = {f.hazard: f for f in server_hazards.hazards_of(seen)}
    assert told["loading"].severity is Severity.WARNING
    assert told["loading"].evidence.startswith("loading_loaded_perc=")
    assert seen.number("aof_enabled") == 0
    assert "aof-off" not in told
