"""``arqscope up`` as a person uses it: starts, is stopped or killed, starts again, loses nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from app.child import die_with_parent
from tests.conftest import ROOT, redis_binary, unused_port, wait_until
from tests.faults.crash import all_written

ARQSCOPE = [sys.executable, "-P", "-m", "app.cli"]


def environment(directory: Path, **more: str) -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "REDIS_SERVER", "VIRTUAL_ENV")
    base = {name: os.environ[name] for name in kept if name in os.environ}
    return {
        **base,
        "PYTHONPATH": str(ROOT),
        "ARQSCOPE_DATA_DIR": str(directory / "data"),
        "QUEUE_UI_PORT": str(unused_port()),
        **more,
    }


def arqscope(*arguments: str, directory: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ARQSCOPE, *arguments],
        cwd=directory,
        env=environment(directory, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Up:
    """A running ``arqscope up`` in a directory of its own."""

    def __init__(self, directory: Path, *arguments: str, **more: str) -> None:
        self.directory = directory
        self.output = directory / "output"
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                [*ARQSCOPE, "up", *arguments],
                cwd=directory,
                env=environment(directory, **more),
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def pids(self) -> list[int]:
        """Processes of this stack, found by the data directory in their command or environment."""
        mark = str(self.directory / "data").encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                if mark in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ProcessLookupError):
                continue
        return found

    def queue_redis(self) -> redis.Redis:
        conf = (self.directory / "data" / "redis-queue" / "redis.conf").read_text()
        port = next(line.split()[1] for line in conf.splitlines() if line.startswith("port "))
        password = (self.directory / "data" / "password").read_text().strip()
        return redis.Redis(port=int(port), password=password, decode_responses=True)

    def accepted(self) -> int:
        try:
            with self.queue_redis() as client:
                return int(client.hget("arqscope:{async-processing}:totals", "accepted") or 0)
        except (OSError, redis.RedisError, StopIteration):
            return 0

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        wait_until(lambda: not self.pids(), what="everything ends with its parent")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    redis_binary()
    return tmp_path


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_says_what_was_kept(directory: Path, signal_number: int):
    up = Up(directory, "--demo")
    try:
        wait_until(lambda: up.accepted() > 10, 40, "the demo load enqueues jobs")

        up.process.send_signal(signal_number)

        assert up.process.wait(60) == 0
        assert "unfinished job" in up.text
        assert str(directory / "data") in up.text
        assert up.pids() == []
    finally:
        up.end()


def test_killed_hard_it_leaves_nothing_running_and_loses_no_job(directory: Path):
    up = Up(directory, QUEUE_UI_HOST="127.0.0.1")
    try:
        wait_until(
            lambda: (directory / "data" / "redis-queue" / "redis.conf").exists() and _answers(up),
            40,
        )
        ids = []
        for number in range(5):
            done = arqscope(
                "jobs", "enqueue", "async-processing", "generic", "--id", f"kept-{number}",
                "--delay", "3600", directory=directory,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            ids.append(done.stdout.strip())

        shown = json.loads(arqscope("queues", "--json", directory=directory).stdout)
        assert {row["queue"]: row["deferred"] for row in shown}["async-processing"] == 5

        # what is written is not at risk from the death of a process, only from the death of the machine
        with up.queue_redis() as client:
            wait_until(
                lambda: all_written(client.info("persistence")), what="no fsync is under way"
            )
        up.process.kill()
        up.process.wait()
        wait_until(lambda: not up.pids(), what="nothing is left running")
        up = Up(directory)
        wait_until(lambda: _answers(up), 40, "it starts again")

        with up.queue_redis() as client:
            assert sorted(client.zrange("async-processing", 0, -1)) == ids
    finally:
        up.end()


def test_a_worker_that_crashes_is_started_again(directory: Path):
    up = Up(directory)
    pid_file = directory / "data" / "run" / "worker-async-processing.pid"
    try:
        wait_until(lambda: pid_file.exists() and pid_file.read_text(), 40)
        first = pid_file.read_text().split("\0")[0]

        os.kill(int(first), signal.SIGKILL)

        wait_until(
            lambda: pid_file.exists() and pid_file.read_text().split("\0")[0] not in ("", first), 20
        )
        assert "worker-async-processing ended (signal SIGKILL)" in up.text

        def alive() -> bool:  # asks the embedded Redis, as the other commands do
            told = arqscope("alive", "worker", "async-processing", directory=directory)
            return told.returncode == 0 and "worker async-processing running" in told.stdout

        wait_until(alive, 60, "arqscope alive finds the worker of this stack")
    finally:
        up.end()


def test_a_second_stack_on_the_same_data_is_one_sentence(directory: Path):
    up = Up(directory)
    try:
        wait_until(lambda: (directory / "data" / "lock").exists() and _answers(up), 40)

        second = arqscope("up", directory=directory)

        assert second.returncode == 1
        assert f"pid {up.process.pid}" in second.stderr
    finally:
        up.end()


def test_a_busy_port_is_one_sentence(directory: Path):
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        refused = arqscope("up", "--port", str(port), directory=directory)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"arqscope: port {port} on 127.0.0.1 is in use")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "more", "says"),
    [
        (("up",), {"REDIS_SERVER": "/nothing"}, "REDIS_SERVER=/nothing"),
        (("worker", "nope"), {}, "no queue named 'nope'; there are: long-running-jobs"),
        (("up",), {"ARQSCOPE_LEASES": "1"}, "did you mean ARQSCOPE_LEASE_S"),
        (("up",), {"CONCURRENCY": "many"}, "CONCURRENCY='many'"),
        (("queues",), {"REDIS_QUEUE_URL": "redis://127.0.0.1:1/0"}, "127.0.0.1:1"),
        (("jobs", "enqueue", "async-processing", "generic", "--data", "[1]"), {}, "JSON object"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_exit_code_1(
    directory: Path, arguments: tuple[str, ...], more: dict[str, str], says: str
):
    refused = arqscope(*arguments, directory=directory, **more)

    assert refused.returncode == 1
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stderr.count("\n") == 1


def _answers(up: Up) -> bool:
    try:
        with up.queue_redis() as client:
            return bool(client.ping())
    except (OSError, redis.RedisError, StopIteration):
        return False
