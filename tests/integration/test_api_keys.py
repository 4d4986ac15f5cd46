"""Created API keys: stored as digests, known to every server, ended everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app import actions, audit, keys
from app.access.sessions import SESSION_COOKIE
from app.actions import Actor, Connections
from app.api_keys import Keyring, new_key
from app.auth import Guard, Refusal, Request, Visit
from app.errors import ActionRefused, InvalidRequest, NotFound, SettingsError
from app.server import check_access
from app.settings import Settings
from tests.conftest import ROOT, RunningRedis, start_redis

ADMIN = Actor(name="root", role="admin")


@pytest.fixture
def connections(queue_redis: Redis, streams_redis: Redis, cache_redis: Redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


@pytest.fixture
async def guard(settings: Settings, queue_redis: Redis) -> Guard:
    ring = Keyring(queue_redis)
    await ring.refresh()
    return Guard(settings, keyring=ring)


def ask(path: str = "/stats", method: str = "GET", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, {"host": "localhost:8009", **named}, "127.0.0.1")


def status(answer: object) -> int:
    return answer.status if isinstance(answer, Refusal) else 200


async def test_the_first_key_closes_an_open_server_and_losing_all_keys_does_not_open_it(
    guard: Guard, connections: Connections, settings: Settings, queue_redis: Redis
) -> None:
    assert guard.is_open
    made = await actions.create_key(connections, settings, ADMIN, "grafana", "viewer")
    await guard.keyring.refresh()

    assert not guard.is_open
    assert status(guard.admit(ask())) == 401
    assert status(guard.admit(ask(x_api_key=made.text))) == 200
    await queue_redis.delete(keys.API_KEYS)
    await guard.keyring.refresh()
    assert not guard.is_open
    assert status(guard.admit(ask(x_api_key=made.text))) == 401


async def test_each_role_may_what_it_says(
    guard: Guard, connections: Connections, settings: Settings
) -> None:
    made = {
        role: (await actions.create_key(connections, settings, ADMIN, role, role)).text
        for role in ("viewer", "operator", "admin")
    }
    await guard.keyring.refresh()
    change = {"path": "/queues/async-processing/pause", "method": "POST"}

    assert status(guard.admit(ask(x_api_key=made["viewer"]))) == 200
    assert status(guard.admit(ask(**change, x_api_key=made["viewer"]))) == 403
    assert status(guard.admit(ask(**change, x_api_key=made["operator"]))) == 200
    assert status(guard.admit(ask(**change, x_api_key=made["admin"]))) == 200


async def test_redis_holds_no_key_and_the_audit_tells_who_made_it(
    connections: Connections, settings: Settings, queue_redis: Redis
) -> None:
    made = await actions.create_key(connections, settings, ADMIN, "deploy bot", "operator")
    secret = made.text.split("_", 2)[2]

    assert len(secret) >= 43
    stored = json.dumps(await queue_redis.hgetall(keys.API_KEYS))
    told = json.dumps([line.__repr__() for line in await audit.recent(queue_redis)])
    assert made.key.id in stored
    assert secret not in stored + told + repr(made.key)
    assert "create_key" in told
    assert "root" in told


async def test_a_key_is_rotated_without_a_gap(
    guard: Guard, connections: Connections, settings: Settings
) -> None:
    old = await actions.create_key(connections, settings, ADMIN, "ci", "operator")
    new = await actions.create_key(connections, settings, ADMIN, "ci", "operator")
    await guard.keyring.refresh()
    both = [status(guard.admit(ask(x_api_key=made.text))) for made in (old, new)]

    assert (await actions.revoke_key(connections, settings, ADMIN, old.key.id)).changed
    assert not (await actions.revoke_key(connections, settings, ADMIN, old.key.id)).changed
    await guard.keyring.refresh()

    assert both == [200, 200]
    assert status(guard.admit(ask(x_api_key=old.text))) == 401
    assert status(guard.admit(ask(x_api_key=new.text))) == 200


async def test_revoking_a_key_ends_its_logins_and_takes_its_pages_their_rights(
    guard: Guard, connections: Connections, settings: Settings
) -> None:
    made = await actions.create_key(connections, settings, ADMIN, "ada", "operator")
    await guard.keyring.refresh()
    cookie = guard.login(made.text, "Ada", "127.0.0.1")
    assert isinstance(cookie, str)
    visit = guard.session_of(f"{SESSION_COOKIE}={cookie}")
    assert isinstance(visit, Visit)
    assert visit.actor == Actor(name="Ada (key ada)", role="operator")

    await actions.revoke_key(connections, settings, ADMIN, made.key.id)
    await guard.keyring.refresh()

    assert not guard.is_live(visit)
    assert guard.session_of(f"{SESSION_COOKIE}={cookie}") is None


async def test_a_logout_holds_on_every_server_and_after_a_restart(
    guard: Guard, settings: Settings, queue_redis: Redis
) -> None:
    keyed = settings.model_copy(update={"api_key": Settings(api_key="k" * 40).api_key})
    first, second = Keyring(queue_redis), Keyring(queue_redis)
    await first.refresh()
    await second.refresh()
    here, there = Guard(keyed, keyring=first), Guard(keyed, keyring=second)
    cookie = f"{SESSION_COOKIE}={here.session(Actor(name='ada', role='admin'))}"
    assert there.session_of(cookie) is not None

    await here.logout(cookie)
    await second.refresh()

    assert here.session_of(cookie) is None
    assert there.session_of(cookie) is None


async def test_an_expired_key_opens_nothing(
    guard: Guard, connections: Connections, settings: Settings
) -> None:
    made = await actions.create_key(
        connections, settings, ADMIN, "short", "viewer", expires_s=0.001
    )
    await guard.keyring.refresh()

    assert status(guard.admit(ask(x_api_key=made.text))) == 401


async def test_only_administrators_make_keys(connections: Connections, settings: Settings) -> None:
    for role in ("viewer", "operator"):
        with pytest.raises(ActionRefused):
            await actions.create_key(
                connections, settings, Actor(name="x", role=role), "mine", "admin"
            )


@pytest.mark.parametrize(
    ("name", "role", "expires_s"),
    [("", "viewer", None), ("a\nb", "viewer", None), ("x", "root", None), ("x", "viewer", -1.0)],
)
def test_a_key_that_cannot_be_is_refused(name: str, role: str, expires_s: float | None) -> None:
    with pytest.raises(InvalidRequest):
        new_key(name, role, created_by="x", now_ms=0, expires_s=expires_s)


async def test_an_unknown_key_id_is_told_with_the_known_ones(
    connections: Connections, settings: Settings
) -> None:
    made = await actions.create_key(connections, settings, ADMIN, "one", "viewer")

    with pytest.raises(NotFound) as caught:
        await actions.revoke_key(connections, settings, ADMIN, "nothing")

    assert caught.value.known == (made.key.id,)


async def test_keys_stay_known_while_redis_is_away_and_unknown_keys_are_not_guessed_at(
    tmp_path: Path,
) -> None:
    server = start_redis(tmp_path)
    settings = Settings(redis_queue_url=server.url)
    ring = Keyring()
    server.stop()
    ring.is_known = False
    ring.preload(server.url)
    guard = Guard(settings, keyring=ring)

    assert not guard.is_open
    assert status(guard.admit(ask(x_api_key="arqs_00000000_" + "x" * 43))) == 503
    assert status(guard.admit(ask("/health"))) == 200


def test_a_created_key_lets_a_server_listen_for_others(redis_server: RunningRedis) -> None:
    settings = Settings(redis_queue_url=redis_server.url, queue_ui_host="0.0.0.0")
    with pytest.raises(SettingsError, match="arqscope keys create"):
        check_access(settings)

    made = _command(redis_server, "keys", "create", "ops", "--role", "admin")

    assert made.stdout.startswith("arqs_")
    check_access(settings)


def test_the_command_creates_lists_revokes_and_checks_the_audit(
    redis_server: RunningRedis, tmp_path: Path
) -> None:
    text = _command(redis_server, "keys", "create", "ci", "--days", "30").stdout.strip()
    key_id = text.split("_")[1]
    listed = _command(redis_server, "keys", "list").stdout
    revoked = _command(redis_server, "keys", "revoke", key_id).stdout
    verified = _command(redis_server, "audit", "verify").stdout
    export = tmp_path / "audit.jsonl"
    export.write_text(_command(redis_server, "audit", "export").stdout)

    assert "ci" in listed
    assert text not in listed
    assert "is revoked" in revoked
    assert "the chain holds: 2 lines" in verified
    head = verified.split()[-1]
    assert (
        "holds"
        in _command(redis_server, "audit", "verify", "--file", str(export), "--head", head).stdout
    )
    lines = export.read_text().splitlines()
    export.write_text("\n".join([lines[0].replace("create_key", "create_kex"), *lines[1:]]))
    assert _command(redis_server, "audit", "verify", "--file", str(export)).returncode == 1


def _command(redis: RunningRedis, *words: str) -> subprocess.CompletedProcess[str]:
    world = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "PYTHONPATH": str(ROOT),
        "REDIS_QUEUE_URL": redis.url,
        "REDIS_URL": redis.url,
        "REDIS_STREAMS_URL": redis.url,
    }
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        env=world, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
