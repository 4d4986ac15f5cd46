"""Embedded Redis and the stack around it: data survives, nothing is left running."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from app.child import Child
from app.embedded import (
    EmbeddedRedis,
    ServerBinary,
    bundled_server,
    choose_ports,
    embedded_servers,
    find_server,
    password_of,
    sole_owner,
)
from app.errors import ArqscopeError, RedisServerMissing, RedisUnavailable
from tests.conftest import redis_binary, unused_port, wait_until

KINDS = pytest.mark.parametrize("kind", ["system", "bundled"])


def server_of(kind: str, data_dir: Path) -> EmbeddedRedis:
    binary = bundled_server() if kind == "bundled" else find_server()
    if binary is None:
        redis_binary(kind)  # skips, or fails in CI
    assert binary is not None
    return EmbeddedRedis("queue", binary, data_dir, unused_port(), password_of(data_dir))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@KINDS
def test_data_survives_stopping_and_starting(kind: str, tmp_path: Path):
    for value in ("first", "second"):
        server = server_of(kind, tmp_path)
        server.start()
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            if value == "second":
                assert client.get("kept") == "first"
            client.set("kept", value)
        server.stop()


@KINDS
def test_data_survives_a_crash_of_the_server(kind: str, tmp_path: Path):
    server = server_of(kind, tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        for number in range(1_000):
            client.set(f"k{number}", number)
        # while an fsync is under way, everysec holds writes back for up to two seconds: FAULTS row R2
        wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0, 10)
    assert server.child.process is not None
    server.child.process.kill()
    server.child.process.wait()

    server.start()

    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 1_000
    server.stop()


def test_a_server_asks_for_the_password_and_hides_it(tmp_path: Path):
    server = server_of("system", tmp_path)
    server.start()
    pid = server.child.process.pid if server.child.process else 0
    password = password_of(tmp_path)

    with redis.Redis(port=server.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    assert password not in Path(f"/proc/{pid}/cmdline").read_text()
    for secret in (tmp_path / "password", server.directory / "redis.conf"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    server.stop()


def test_a_port_that_is_taken_is_passed_over():
    port = unused_port()
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        chosen = choose_ports({"cache": port, "streams": port + 1})

    assert chosen["cache"] not in (port, port + 1)
    assert len(set(chosen.values())) == 2


def test_a_server_that_cannot_start_says_why(tmp_path: Path):
    server = server_of("system", tmp_path)
    (server.directory / "appendonlydir").parent.mkdir(parents=True)
    (server.directory / "appendonlydir").write_text("in the way")

    with pytest.raises(RedisUnavailable, match="did not start"):
        server.start()


def test_the_named_binary_wins_and_a_wrong_one_is_refused(tmp_path: Path):
    found = find_server()

    assert find_server({"REDIS_SERVER": str(found.path), "PATH": ""}) == found
    with pytest.raises(RedisServerMissing, match="REDIS_SERVER"):
        find_server({"REDIS_SERVER": str(tmp_path / "nothing")})


def test_without_a_binary_on_path_the_bundled_one_is_used():
    bundled = bundled_server()
    if bundled is None:
        redis_binary("bundled")

    found = find_server({"PATH": ""})

    assert found == bundled
    assert not found.has_group_lag


def test_without_any_binary_the_error_names_the_ways(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.embedded.bundled_server", lambda: None)

    with pytest.raises(RedisServerMissing, match="apt install redis-server"):
        find_server({"PATH": ""})


def test_a_second_stack_on_the_same_data_is_refused(tmp_path: Path):
    with (
        sole_owner(tmp_path),
        pytest.raises(ArqscopeError, match=str(os.getpid())),
        sole_owner(tmp_path),
    ):
        pass


def test_a_stale_server_is_stopped_but_never_a_stranger(tmp_path: Path):
    left = server_of("system", tmp_path)
    left.start()
    pid = left.child.process.pid if left.child.process else 0
    stranger = subprocess.Popen(["/bin/sleep", "60"])

    Child(name="redis-queue", command=[], directory=tmp_path / "run").stop_stale()
    reused = Child(name="other", command=[], directory=tmp_path / "run")
    reused.pid_path.write_text(f"{stranger.pid}\0redis-server\0x.conf")
    found = reused.stop_stale()

    assert not alive(pid)
    assert not found
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    left.stop()


PARENT = """
import sys, time
from pathlib import Path
from app.embedded import embedded_servers, ROLES
for server in embedded_servers(Path(sys.argv[1])):
    server.start()
    print(server.child.process.pid, flush=True)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_parent_killed_hard_leaves_nothing_running(tmp_path: Path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = []
    for line in parent.stdout:
        if line.strip() == "ready":
            break
        pids.append(int(line))
    assert [alive(pid) for pid in pids] == [True] * 3

    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    wait_until(lambda: not any(map(alive, pids)), what="servers end with their parent")


def test_three_roles_get_three_servers(tmp_path: Path):
    servers = embedded_servers(tmp_path, binary=ServerBinary(redis_binary(), (7, 0, 0)))

    assert [server.role for server in servers] == ["cache", "streams", "queue"]
    assert len({server.port for server in servers}) == 3
