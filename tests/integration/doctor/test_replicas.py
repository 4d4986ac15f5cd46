"""Replicas, and one server in several roles."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.doctor import server_hazards, servers
from app.doctor.findings import Finding, Severity
from app.wire.connections import connect
from tests.conftest import RunningRedis, start_redis
from tests.integration.doctor.conftest import Clinic
from tests.waiting import until


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
