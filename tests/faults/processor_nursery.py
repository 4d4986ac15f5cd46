"""Start dead-letter processors fast, each with a failpoint: one process imports, then forks.

A request is one line of JSON: ``{"task": "rounds", "settings": …, "failpoint": "after redrive", "nth": 2}``;
the fork does the task (rounds of the processor, carrying parcels, writing one down) and is killed, by SIGKILL,
before or after the nth call of what the failpoint names, or ``5 ms`` after the task began. The answer is its exit
code: -9 killed there, 0 the failpoint was not reached.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from tests.faults.nursery import ROOT, _die_with_parent, plain_environment

#: what a failpoint may name: a step of the processor, as (object, attribute)
STEPS: Final = {
    "page": ("workers.letters.rounds", "open_page"),
    "read": ("workers.letters.rounds", "unsettled"),
    "count": ("app.letters.causes", "note_deaths"),
    "mark": ("workers.letters.rounds", "mark_counted"),
    "plan": ("app.letters.causes", "plan_retries"),
    "redrive": ("app.letters.redrive", "redrive"),
    "alert": ("app.alerts", "raise_alert"),
    "note": ("app.letters.redrive", "note_decision"),
    "close": ("app.letters.redrive", "close"),
}
#: the steps of carrying parcels from one queue server to another, and of writing one down
CARRYING: Final = {
    "scan": ("redis.asyncio.client", "Redis.hscan"),
    "place": ("app.parcels", "place"),
    "forget": ("redis.asyncio.client", "Redis.hdel"),
}
POSTING: Final = {
    "ask": ("redis.asyncio.client", "Redis.hlen"),
    "write": ("redis.asyncio.client", "Redis.hset"),
}


def failpoints(steps: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """Before and after each of *steps*."""
    return tuple(f"{when} {step}" for step in steps for when in ("before", "after"))


FAILPOINTS: Final = failpoints(STEPS)
ROUNDS: Final = 2


class ProcessorNursery:
    """The forking process, seen from the tests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.processor_nursery"],
            cwd=ROOT,
            env={**plain_environment(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, settings: Mapping[str, str], failpoint: str, nth: int, *, task: str = "rounds"
    ) -> int:
        """Run one process until it is killed, or has done its task; its exit code."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        request = {"task": task, "settings": dict(settings), "failpoint": failpoint, "nth": nth}
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return int(json.loads(stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(20)


def main() -> None:
    """Answer requests until stdin closes."""
    import workers.events.context
    import workers.letters.rounds  # noqa: F401

    _die_with_parent()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                _die_with_parent()
                _run(json.loads(line))
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _run(request: Mapping[str, Any]) -> None:
    failpoint = request["failpoint"]
    if failpoint.endswith(" ms"):
        delay_s = float(failpoint.removesuffix(" ms")) / 1000
        threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    elif failpoint:
        _arm(failpoint, request["nth"])
    task, _, argument = request["task"].partition(" ")
    asyncio.run(_TASKS[task](request["settings"], argument))


def _arm(failpoint: str, nth: int) -> None:
    when, _, step = failpoint.partition(" ")
    module, path = {**STEPS, **CARRYING, **POSTING}[step]
    *holders, name = path.split(".")
    holder: Any = sys.modules[module]
    for one in holders:
        holder = getattr(holder, one)
    plain: Any = getattr(holder, name)
    calls = [0]

    async def armed(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if when == "before" and calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        reply = await plain(*args, **more)
        if when == "after" and calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    setattr(holder, name, armed)


async def _rounds(fields: Mapping[str, str], _: str) -> None:
    from app.settings import Settings
    from app.wire.connections import connect
    from workers.letters.rounds import DeadLetterProcessor

    settings = Settings.load(fields, env_file=None)
    clients = [connect(settings.url(role)) for role in ("queue", "streams", "cache")]
    processor = DeadLetterProcessor(settings, *clients)
    for _ in range(ROUNDS):
        await processor.round()
    for client in clients:
        await client.aclose()


async def _carry(fields: Mapping[str, str], server: str) -> None:
    from app import parcels
    from app.settings import Settings
    from app.wire.connections import Connections

    connections = Connections.of(Settings.load(fields, env_file=None))
    parcels.PAGE = 4  # type: ignore[misc]  # several pages of a test's few parcels
    await parcels.carry(connections, server)
    await connections.close()


async def _post(fields: Mapping[str, str], argument: str) -> None:
    """What an event handler does for a queue whose server is away; *argument*: ``queue job-id``."""
    from app.enqueue import JobRequest, codec_of
    from app.settings import Settings
    from app.wire.connections import Connections
    from workers.events.context import Effects

    settings = Settings.load(fields, env_file=None)
    connections = Connections.of(settings)
    effects = Effects(connections, stream=settings.stream_name, codec=codec_of(settings))
    queue, job_id = argument.split()
    await effects.enqueue(queue, JobRequest(name="work", args=(0.0,), id=job_id))
    await connections.close()


_TASKS: Final = {"rounds": _rounds, "carry": _carry, "post": _post}


if __name__ == "__main__":
    main()
