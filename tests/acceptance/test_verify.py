"""``arqscope verify`` against a whole stack: it passes, and each planted fault is told in its sentence."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from app.verify.deployment import Deployment, by_command, by_shutdown
from app.verify.proofs import Proof, Shown, exit_code
from app.verify.script import verify
from tests.acceptance.test_stack import ARQSCOPE, Up, environment
from tests.conftest import ROOT, redis_binary, start_redis, unused_port, wait_until
from tests.serving import start_server, stop

KEY = "acceptance-key-0123456789abcdef0123"
DEAD_QUEUE = "event-driven-jobs"
#: so long that an event finds the read under way that the processor hangs in
READ_S = 20


@dataclass
class Stack:
    """A running stack with a key, and its servers by role."""

    up: Up
    url: str
    urls: dict[str, str] = field(default_factory=dict)

    def pid(self, name: str) -> int:
        text = (self.up.directory / "data" / "run" / f"{name}.pid").read_text()
        return int(text.split("\0")[0])

    def redis(self, role: str) -> redis.Redis:
        return redis.Redis.from_url(self.urls[role], decode_responses=True)

    def deployment(self, **more: Any) -> Deployment:
        return Deployment(**{"url": self.url, "key": KEY, "patience_s": 3.0, "load": 20, **more})

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """SIGSTOP a process of the stack."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def hanging_in_its_read(self) -> Iterator[None]:
        """SIGSTOP the event processor early in a read: Redis still gives it the next event."""
        pid = self.pid("events")

        def is_caught() -> bool:
            os.kill(pid, signal.SIGSTOP)
            reads = [
                int(one["idle"])
                for one in client.client_list()
                if one["cmd"] == "xreadgroup" and "b" in one["flags"]
            ]
            if reads and min(reads) < READ_S / 4:
                return True
            os.kill(pid, signal.SIGCONT)
            return False

        with self.redis("streams") as client:
            wait_until(is_caught, 60, "the event processor begins a read")
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def configured(self, role: str, name: str, value: str) -> Iterator[None]:
        """Change a setting of a running Redis."""
        with self.redis(role) as client:
            before = str(client.config_get(name)[name])
            client.config_set(name, value)
            try:
                yield
            finally:
                client.config_set(name, before)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    redis_binary()
    directory = tmp_path_factory.mktemp("verify")
    port = unused_port()
    up = Up(directory, "--port", str(port), API_KEY=KEY, BLOCK_TIME=str(READ_S * 1000))
    stack = Stack(up, f"http://127.0.0.1:{port}")

    def is_ready() -> bool:
        try:
            told = httpx.get(f"{stack.url}/stats", headers={"X-API-Key": KEY}, timeout=5).json()
        except (httpx.HTTPError, ValueError):
            return False
        return all(row.get("workers", 1) for row in told.values() if isinstance(row, dict))

    try:
        wait_until(is_ready, 90, "the stack answers and has its workers")
        data = directory / "data"
        password = (data / "password").read_text().strip()
        for role in ("cache", "streams", "queue"):
            lines = (data / f"redis-{role}" / "redis.conf").read_text().splitlines()
            number = next(line.split()[1] for line in lines if line.startswith("port "))
            stack.urls[role] = f"redis://:{password}@127.0.0.1:{number}/0"
        yield stack
    finally:
        up.end()


async def proofs_of(to: Deployment, *only: str) -> dict[str, Proof]:
    try:
        return {proof.check: proof async for proof in verify(to, only)}
    finally:
        await to.close()


def run(to: Deployment, check: str) -> Proof:
    return asyncio.run(proofs_of(to, check))[check]


def said(proof: Proof) -> str:
    assert proof.shown is Shown.FAILED, proof
    assert proof.remedy
    return proof.evidence


def verified(stack: Stack, *words: str) -> dict[str, dict[str, Any]]:
    """``arqscope verify`` beside the stack, which was given its port by ``--port``; what passed."""
    done = subprocess.run(
        [*ARQSCOPE, "verify", "--json", *words],
        cwd=stack.up.directory,
        env=environment(stack.up.directory, API_KEY=KEY),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    told = json.loads(done.stdout)
    assert (done.returncode, told["passed"]) == (0, True), told
    assert {check["shown"] for check in told["checks"]} == {"passed"}
    return {check["check"]: check for check in told["checks"]}


def test_it_passes_against_the_whole_stack_restart_of_redis_included(stack: Stack) -> None:
    told = verified(stack, "--load", "50")

    assert len(told) == 14
    assert "→" in told["persistence"]["evidence"]


def test_the_stack_that_runs_here_is_known_by_its_address_too(stack: Stack) -> None:
    """
    Its Redis servers are asked themselves, and restarted.
    """
    told = verified(stack, stack.url, "--only", "redis-queue", "--only", "persistence")

    assert "the server itself" not in told["redis-queue"]["evidence"]
    assert "→" in told["persistence"]["evidence"]


def test_what_cannot_be_checked_is_said_and_never_passes(stack: Stack) -> None:
    proof = run(stack.deployment(), "persistence")

    assert proof.shown is Shown.UNCHECKED
    assert "--restart-command" in proof.remedy
    assert exit_code([proof]) == 3


# -- ten planted faults, and some more ------------------------------------------------------------


def test_fault_nothing_listens(stack: Stack) -> None:
    proofs = asyncio.run(proofs_of(stack.deployment(url=f"http://127.0.0.1:{unused_port()}")))

    assert "nothing answers at" in said(proofs.pop("server"))
    assert {proof.shown for proof in proofs.values()} == {Shown.UNCHECKED}


class Passing(BaseHTTPRequestHandler):
    """A proxy as people misconfigure it: it adds the key itself, and knows no websockets."""

    target = ""

    def do_GET(self) -> None:
        if not self.target:
            self._answer(200, b"It works!")
            return
        request = urllib.request.Request(self.target + self.path, headers={"X-API-Key": KEY})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                self._answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, error.read())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def listening(target: str) -> Iterator[str]:
    handler = type("Handler", (Passing,), {"target": target})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_fault_another_program_listens(stack: Stack) -> None:
    with listening("") as url:
        proof = run(stack.deployment(url=url), "server")

    assert "it is not arqscope" in said(proof)


def test_fault_a_proxy_lets_everybody_in(stack: Stack) -> None:
    with listening(stack.url) as url:
        proof = run(stack.deployment(url=url), "access")

    assert said(proof) == "/stats answers without a key"


def test_fault_a_proxy_passes_no_websockets(stack: Stack) -> None:
    with listening(stack.url) as url:
        proof = run(stack.deployment(url=url), "ui")

    assert "websocket does not open" in said(proof)


def test_fault_a_wrong_key(stack: Stack) -> None:
    proof = run(stack.deployment(key="wrong" * 8), "jobs")

    assert "the key is refused" in said(proof)


def test_fault_a_key_that_may_not_act(stack: Stack) -> None:
    made = subprocess.run(
        [*ARQSCOPE, "keys", "create", "verify", "--role", "viewer"],
        cwd=stack.up.directory,
        env=environment(stack.up.directory),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    key = made.stdout.strip()

    asked_at = [0.0]

    def known() -> bool:  # asked once a second: a key that is not known yet counts as a guess
        if time.monotonic() - asked_at[0] < 1.0:
            return False
        asked_at[0] = time.monotonic()
        answer = httpx.get(f"{stack.url}/stats", headers={"X-API-Key": key}, timeout=5)
        return answer.status_code == 200

    wait_until(known, 10)
    proof = run(stack.deployment(key=key), "jobs")

    assert "this key may not do it" in said(proof)


def test_fault_a_paused_queue(stack: Stack) -> None:
    headers = {"X-API-Key": KEY}
    httpx.post(f"{stack.url}/queues/{DEAD_QUEUE}/pause", headers=headers, timeout=5)
    try:
        proof = run(stack.deployment(), "jobs")
    finally:
        httpx.post(f"{stack.url}/queues/{DEAD_QUEUE}/resume", headers=headers, timeout=5)

    assert said(proof) == f"{DEAD_QUEUE} is paused: its job waits"


def test_fault_the_event_processor_hangs(stack: Stack) -> None:
    with stack.hanging_in_its_read():
        proof = run(stack.deployment(), "streams")

    assert "the event was taken and is not handled" in said(proof)


def test_fault_a_full_redis(stack: Stack) -> None:
    with stack.configured("queue", "maxmemory", "1"):
        by_server = run(stack.deployment(), "health")
        by_us = run(stack.deployment(urls=stack.urls), "redis-queue")

    assert "redis-queue out of memory" in said(by_server)
    assert "refuses: command not allowed when used memory > 'maxmemory'" in said(by_us)
    assert "raise maxmemory" in by_us.remedy


def test_fault_a_hanging_redis(stack: Stack) -> None:
    with stack.stopped("redis-streams"):
        proof = run(stack.deployment(urls=stack.urls), "redis-streams")

    assert "redis-streams: Redis at redis://:***@" in said(proof)
    assert "does not answer" in said(proof)


def test_fault_a_dead_pubsub_redis(stack: Stack) -> None:
    with stack.stopped("redis-cache"):
        proof = run(stack.deployment(), "pubsub")

    assert "nobody can listen" in said(proof) or "/notifications/" in said(proof)


STOCK = """
import sys
from arq.connections import RedisSettings
from arq.worker import func, run_worker
from app.payloads.codec import Codec

async def generic(ctx, data):
    raise ValueError("lost by stock arq")

class Stock:
    functions = [func(generic, name="generic")]
    redis_settings = RedisSettings.from_dsn(sys.argv[1])
    queue_name = sys.argv[2]
    job_serializer = Codec().encode
    job_deserializer = Codec().decode
    poll_delay = 0.05

run_worker(Stock)
"""


def test_fault_a_stock_worker_serves_the_queue(stack: Stack) -> None:
    """What fails at a stock arq worker is never a dead letter."""
    command = [sys.executable, "-c", STOCK, stack.urls["queue"], DEAD_QUEUE]
    with stack.stopped(f"worker-{DEAD_QUEUE}"):
        stock = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            proof = run(stack.deployment(patience_s=15.0), "dead-letters")
        finally:
            stock.terminate()
            stock.wait(20)

    assert "failed and is in no dead letter" in said(proof)
    assert "stock arq worker" in proof.remedy


def test_fault_a_restart_that_restarts_nothing(stack: Stack) -> None:
    to = stack.deployment(urls=stack.urls, restart=by_command(f"{sys.executable} -c pass"))

    assert "redis-queue was not restarted" in said(run(to, "persistence"))


def test_fault_a_restart_command_that_fails(stack: Stack) -> None:
    to = stack.deployment(restart=by_command("ls /nowhere/{service}"))

    assert "/nowhere/redis-queue" in said(run(to, "persistence"))


def test_fault_no_persistence(stack: Stack) -> None:
    """Last: it takes the queue's Redis back to its last append-only file."""
    with stack.redis("queue") as client:
        client.config_set("appendonly", "no")

    to = stack.deployment(urls=stack.urls, restart=by_shutdown(stack.urls), patience_s=20.0)
    proof = run(to, "persistence")

    assert (
        said(proof)
        == "the delayed job of long-running-jobs is gone after the restart of redis-queue"
    )
    assert "appendonly yes" in proof.remedy


def test_fault_no_worker(tmp_path: Path) -> None:
    server = start_redis(tmp_path / "redis")
    http = start_server(server, tmp_path)
    try:
        proof = run(Deployment(url=http.url, patience_s=2), "jobs")
    finally:
        stop(http)
        server.stop()

    assert "no worker serves" in said(proof)
    assert "arqscope worker" in proof.remedy
