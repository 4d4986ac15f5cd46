"""Start workers fast: a process that has imported the worker once and forks one per request.

Each fork runs ``workers.settings.run`` in a process of its own, as ``python -m workers.settings``
does, without the second of imports that 200 restarts would each pay; ``queue`` null runs
``workers.event_processor``. Requests and answers are lines of JSON on stdin and stdout:
``{"start": environment, "queue": …, "log": …}`` → pid, ``{"poll": pid}`` → exit code or null.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


def plain_environment() -> dict[str, str]:
    """Our environment without the switches of these tests, which the settings do not know."""
    return {k: v for k, v in os.environ.items() if not k.startswith("ARQSCOPE_FAULTS")}


class Nursery:
    """The forking process, seen from the tests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=ROOT,
            env={**plain_environment(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: Mapping[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def main() -> None:
    """Answer requests until stdin closes."""
    import workers.event_processor
    import workers.events.handlers
    import workers.settings  # noqa: F401

    _die_with_parent()
    codes: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer: Any = _fork(request)
        else:
            answer = _exit_code(request["poll"], codes)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _fork(request: Mapping[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        log = os.open(request["log"], os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((0, nothing), (1, log), (2, log)):
            os.dup2(target, number)
        os.environ.update(request["start"])
        if request.get("cgroup"):
            Path(request["cgroup"], "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        _run(request["queue"], broken_hooks=bool(request.get("broken_hooks")))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(queue: str | None, *, broken_hooks: bool) -> None:
    from workers import event_processor, settings

    if queue is None:
        event_processor.main()
        return

    if broken_hooks:
        plain = settings.worker_settings

        async def broken(ctx: Mapping[str, Any]) -> None:
            raise RuntimeError(f"hook broken for {ctx.get('job_id')}")

        def with_hooks(*args: Any, **kwargs: Any) -> dict[str, Any]:
            hooks = ("on_job_start", "on_job_end", "after_job_end")
            return {**plain(*args, **kwargs), **dict.fromkeys(hooks, broken)}

        settings.worker_settings = with_hooks
    settings.run(queue)


def _exit_code(pid: int, codes: dict[int, int]) -> int | None:
    if pid not in codes:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return -1
        if found == pid:
            codes[pid] = os.waitstatus_to_exitcode(status)
    return codes.get(pid)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    main()
