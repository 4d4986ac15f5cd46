"""Run plain ``def`` job functions in child processes that can be killed at the timeout.

A child is started fresh by ``spawn`` and kept for the next call of its function; a call that is
cancelled (timeout, abort, lost lease, stop) kills its child, whatever the code in it is doing.
"""

import asyncio
import contextlib
import ctypes
import functools
import multiprocessing
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Final

from app.payloads.codec import RemoteError, safe_str

#: idle children kept per function
KEPT_IDLE: Final = 4
_spawn: Final = multiprocessing.get_context("spawn")
_PASSED: Final = ("job_id", "job_try", "enqueue_time", "score")


class _Child:
    """One process that runs one function, call after call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    async def call(self, ctx: dict[str, Any], args: Any, kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        answered = loop.create_future()

        def readable() -> None:
            if not answered.done():
                answered.set_result(None)

        loop.add_reader(self._pipe.fileno(), readable)
        try:
            self._pipe.send((ctx, args, kwargs))
            await answered
        finally:
            loop.remove_reader(self._pipe.fileno())
        try:
            ok, value = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(1)
            code = self._process.exitcode
            raise RemoteError("ChildDied", f"the child process ended with code {code}") from error
        if ok:
            return value
        if isinstance(value, BaseException):
            raise value
        raise RemoteError(*value)

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.kill()
        self._process.join(2)


async def _started(function: Callable[..., Any]) -> _Child:
    """Start a child in a thread; one whose caller was cancelled meanwhile is killed, not forgotten."""
    starting = asyncio.get_running_loop().run_in_executor(None, _Child, function)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_unwanted)
        raise


def _unwanted(starting: "asyncio.Future[_Child]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().kill()


def in_child_process(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a plain importable *function* as a coroutine function that runs it in a child process."""
    idle: deque[_Child] = deque()

    @functools.wraps(function)
    async def run(ctx: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        child = None
        while idle and child is None:
            child = idle.pop()
            if not child.alive:
                child = None
        if child is None:
            child = await _started(function)
        passed = {name: ctx[name] for name in _PASSED if name in ctx}
        passed["idempotency_key"] = (
            ctx["job"].idempotency_key if "job" in ctx else ctx.get("job_id")
        )
        clean = False
        try:
            result = await child.call(passed, args, kwargs)
            clean = True
        except RemoteError as error:
            clean = error.type_name != "ChildDied"
            raise
        except Exception:
            clean = True
            raise
        finally:
            if clean and len(idle) < KEPT_IDLE and child.alive:
                idle.append(child)
            else:
                child.kill()
        return result

    return run


def _serve(pipe: Connection, function: Callable[..., Any]) -> None:
    """Answer calls until the pipe closes. Runs in the child; ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's to handle
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    while True:
        try:
            ctx, args, kwargs = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            reply: tuple[bool, Any] = (True, function(ctx, *args, **kwargs))
        except BaseException as error:  # noqa: BLE001, RUF100 - reported to the worker, which decides
            reply = (False, error if isinstance(error, Exception) else _described(error))
        try:
            pipe.send(reply)
        except Exception as error:  # the value or the exception does not pickle: send it as text
            failed = reply[1] if not reply[0] else error
            pipe.send((False, _described(failed)))


def _described(error: BaseException) -> tuple[str, str, str]:
    trace = "".join(traceback.format_tb(error.__traceback__, limit=-20))
    return type(error).__name__, safe_str(error), trace[-8_000:]
