"""Start dead-letter processors fast, each with a failpoint: one process imports, then forks.

A request is one line of JSON: ``{"settings": …, "failpoint": "after redrive", "nth": 2}``; the fork
runs rounds and is killed, by SIGKILL, before or after the nth call of what the failpoint names. The
answer is its exit code: -9 killed there, 0 the failpoint was not reached.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
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
FAILPOINTS: Final = tuple(f"{when} {step}" for step in STEPS for when in ("before", "after"))
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

    def run(self, settings: Mapping[str, str], failpoint: str, nth: int) -> int:
        """Run one processor until it is killed, or for two rounds; its exit code."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        request = {"settings": dict(settings), "failpoint": failpoint, "nth": nth}
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
    if request["failpoint"]:
        _arm(request["failpoint"], request["nth"])
    asyncio.run(_rounds(request["settings"]))


def _arm(failpoint: str, nth: int) -> None:
    when, _, step = failpoint.partition(" ")
    module, name = STEPS[step]
    holder = sys.modules[module]
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


async def _rounds(fields: Mapping[str, str]) -> None:
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


if __name__ == "__main__":
    main()
