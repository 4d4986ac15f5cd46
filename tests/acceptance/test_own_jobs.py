"""The README's own example of a job module, run as it stands there by a real worker."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import redis

from app import keys
from app.enqueue import JobRequest, enqueue_many
from app.payloads.codec import Codec
from app.records import DeadLetter
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import ROOT, unused_port, wait_until

QUEUE = "async-processing"


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The README's ``my_jobs.py`` in a directory of its own."""
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"```python\n(# my_jobs\.py\n.*?)```", text, re.DOTALL)
    assert found, "README.md has no my_jobs.py"
    (tmp_path / "my_jobs.py").write_text(found.group(1), "utf-8")
    return tmp_path


def test_the_example_of_the_readme_does_what_it_says(module: Path, settings: Settings) -> None:
    """Progress, log, checkpoint, once, the permanent error and the plain def."""
    asyncio.run(
        fill(
            settings,
            JobRequest(name="resize", args=({"images": 3},), id="order-7"),
            JobRequest(name="resize", args=({"images": -1},), id="order-8"),
            JobRequest(name="checksum", args=({"bytes": [200, 100]},), id="sum"),
        )
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{module}",
        "ARQSCOPE_FUNCTIONS": "my_jobs",
        "REDIS_URL": settings.url("cache"),
        "REDIS_STREAMS_URL": settings.url("streams"),
        "REDIS_QUEUE_URL": settings.url("queue"),
    }
    command = [sys.executable, "-m", "workers.settings", QUEUE, "--burst"]
    subprocess.run(command, env=environment, cwd=module, check=True, timeout=60)

    queue: Any = redis.Redis.from_url(settings.url("queue"))
    assert result(queue, "order-7") == {"resized": 3}
    assert result(queue, "sum") == 300 % 256
    letter = DeadLetter.from_fields(decoded(queue.hgetall(keys.dead_record(QUEUE, "order-8"))))
    assert (letter.error_type, letter.attempts) == ("PermanentError", 1)
    progress = decoded(queue.hgetall(keys.progress(QUEUE, "order-7")))
    assert (progress["done"], progress["total"], progress["message"]) == ("3", "3", "image 3")
    assert (
        b"all images are resized"
        in queue.lrange(f"{keys.progress(QUEUE, 'order-7')}:log", 0, -1)[-1]
    )


def test_the_commands_of_the_readme_run_it_as_they_stand(module: Path) -> None:
    """Both lines of the console, typed into a shell in the directory of ``my_jobs.py``."""
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"```console\n(\$ ARQSCOPE_FUNCTIONS=my_jobs.*?)```", text, re.DOTALL)
    assert found, "README.md does not say how to run my_jobs.py"
    start, enqueue = (line.removeprefix("$ ") for line in found.group(1).splitlines())
    port = unused_port()
    kept = ("HOME", "LANG", "REDIS_SERVER")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "QUEUE_UI_PORT": str(port),
    }
    with (module / "up.log").open("wb") as log:
        stack = subprocess.Popen(
            ["sh", "-c", f"exec env {start}"],  # one process, to be stopped as Ctrl-C does
            cwd=module,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answer(port, "/health").get("status") == "healthy", 40)
        typed = ["sh", "-c", enqueue]
        made = subprocess.run(
            typed, cwd=module, env=environment, capture_output=True, text=True, timeout=40
        )
        assert made.returncode == 0, made.stderr
        job = f"/jobs/{QUEUE}/{made.stdout.strip()}"
        wait_until(lambda: answer(port, job).get("state") == "complete", 30, made.stdout)
        assert answer(port, job)["result"] == {"resized": 12}
    finally:
        os.killpg(stack.pid, signal.SIGINT)
        assert stack.wait(40) == 0


def answer(port: int, path: str) -> dict[str, Any]:
    """What the dashboard says, {} while it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return dict(json.load(reply))
    except OSError:
        return {}


async def fill(settings: Settings, *requests: JobRequest) -> None:
    """Put jobs on the queue."""
    client = connect(settings.url("queue"))
    await enqueue_many(client, QUEUE, list(requests))
    await client.aclose(close_connection_pool=True)


def result(queue: Any, job_id: str) -> Any:
    """The stored result of *job_id*."""
    return Codec().decode(queue.get(keys.arq_result(job_id)))["r"]


def decoded(fields: dict[bytes, bytes]) -> dict[str, str]:
    """A hash as text."""
    return {name.decode(): value.decode() for name, value in fields.items()}
