"""Log lines of every process: one JSON object each, arq's own among them, no secret, one request id throughout."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest

from tests.acceptance.test_stack import environment
from tests.conftest import RunningRedis, start_redis, wait_until

KEY = "log-lines-key-0123456789abcdef"
PAYLOAD_KEY = "payload-key-0123456789abcdef"
SECRETS = (KEY, PAYLOAD_KEY, "test-password", "hunter2-in-a-field")
REQUEST = "request-0123456789"
#: a user's own module: it logs, and fails with a secret and a forged line in its error
MODULE = """
import logging
from workers.event_router import on

log = logging.getLogger("my.jobs")


async def fails(ctx, data):
    log.info("about to fail", extra={"password": "hunter2-in-a-field"})
    raise ValueError('x\\n{"event": "forged"}\\nredis://:test-password@10.0.0.1/0 payload-key-0123456789abcdef')


@on("user.created")
async def greets(event, context):
    log.info("greeted", extra={"who": event.user_id})
    await context.enqueue("fails", {}, queue="async-processing")
"""
#: name → command; the stock command is arq's own
PROCESSES = {
    "worker": ["app.cli", "worker", "async-processing"],
    "stock": ["arq", "workers.settings.EventDrivenJobs"],
    "events": ["app.cli", "events"],
    "dead-letters": ["app.cli", "dead-letters"],
    "serve": ["app.cli", "serve"],
}


class Fleet:
    """Every process the product has, as an operator starts them, each with a log file."""

    def __init__(self, redis: RunningRedis, directory: Path) -> None:
        (directory / "mine.py").write_text(MODULE)
        base = environment(directory)
        self.env = base | {
            "REDIS_URL": redis.database(0), "REDIS_STREAMS_URL": redis.database(1),
            "REDIS_QUEUE_URL": redis.database(2), "API_KEY": KEY, "ARQSCOPE_PAYLOAD_KEY": PAYLOAD_KEY,
            "ARQSCOPE_LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG", "MAX_JOB_ATTEMPTS": "1",
            "ARQSCOPE_FUNCTIONS": "mine", "ARQSCOPE_HANDLERS": "mine",
            "PYTHONPATH": f"{base['PYTHONPATH']}:{directory}",
        }  # fmt: skip
        self.directory = directory
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.env['QUEUE_UI_PORT']}",
            headers={"X-API-Key": KEY, "X-Request-Id": REQUEST},
            timeout=10,
        )
        self.processes: dict[str, Popen[bytes]] = {}
        for name, command in PROCESSES.items():
            with (directory / f"{name}.log").open("wb") as out:
                self.processes[name] = Popen(
                    [sys.executable, "-m", *command], cwd=directory, env=self.env, stdout=out, stderr=out
                )  # fmt: skip

    def lines(self, name: str) -> list[str]:
        return (self.directory / f"{name}.log").read_text().splitlines()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(name) if line.startswith("{")]

    def answers(self) -> bool:
        for name, process in self.processes.items():
            assert process.poll() is None, (name, self.lines(name)[-20:])
        try:
            known = self.http.get("/workers")
        except httpx.HTTPError:
            return False
        roles = [one["role"] for one in known.json()] if known.status_code == 200 else []
        return len(roles) == len(PROCESSES) - 1  # all but the server are in it

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            process.wait(40)
        self.http.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    redis = start_redis(tmp_path_factory.mktemp("redis"))
    made = Fleet(redis, tmp_path_factory.mktemp("fleet"))
    try:
        wait_until(made.answers, 60, "every process is at work")
        yield made
    finally:
        made.end()
        redis.stop()


def test_one_request_is_found_in_every_process_by_its_id_and_every_line_is_one_object(
    fleet: Fleet,
) -> None:
    """
    An event over HTTP; its handler makes a job, which dies; who publishes gave an id once.
    """
    sent = fleet.http.post("/events", json={"type": "user.created", "userId": "ann", "data": {}})
    assert sent.status_code == 201
    assert sent.headers["X-Request-Id"] == REQUEST
    wait_until(lambda: any(e["event"] == "job is dead" for e in fleet.events("worker")), 40)
    found: list[dict[str, Any]] = []  # open, or closed by the policy in the very next round

    def is_listed() -> bool:
        for state in ("open", "closed"):
            answer = fleet.http.get(f"/dead-letters/async-processing?state={state}")
            found.extend(answer.json()["items"])
        return bool(found)

    wait_until(is_listed, 20)
    letter = found[0]
    audit = fleet.http.get("/audit").json()["items"]
    wait_until(
        lambda: any(e["event"] == "dead letter decided" for e in fleet.events("dead-letters")), 40
    )
    fleet.end()

    assert letter["correlation_id"] == REQUEST
    assert any(REQUEST in line["body"] for line in audit)
    about = {
        name: {e["event"] for e in fleet.events(name) if e.get("requestId") == REQUEST}
        for name in PROCESSES
    }
    assert "greeted" in about["events"]
    assert {"about to fail", "job is dead"} <= about["worker"]
    assert about["serve"]
    for name in PROCESSES:
        lines = [line for line in fleet.lines(name) if line]
        broken = [line for line in lines if not _is_event(line)]
        assert broken == [], (name, broken[:5])
        assert lines, name
        text = "\n".join(fleet.lines(name))
        assert [secret for secret in SECRETS if secret in text] == [], name
    loggers = {e["logger"].partition(".")[0] for name in PROCESSES for e in fleet.events(name)}
    assert "arqscope" in loggers


def _is_event(line: str) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return {"timestamp", "level", "logger", "event"} <= set(event) and event["event"] != "forged"
