"""Who may reach a Redis, and what a login may not ask: hazards, and no errors."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.doctor import server_hazards, servers
from app.doctor.findings import Severity
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import redis_binary, start_redis, unused_port
from tests.integration.doctor.conftest import STREAM, Clinic
from tests.waiting import until


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
