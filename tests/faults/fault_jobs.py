"""Job functions the workers under fault run; each writes what it does to the ledger."""

import asyncio
import ctypes
import os
import re
import signal
import threading
import time
from typing import Any

from app.errors import PermanentError
from tests.faults import ledger


async def work(ctx: dict[str, Any], seconds: float = 0.0) -> str:
    """Take *seconds*; ``start`` before and ``done`` after."""
    _note(ctx, "start")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        _note(ctx, "cancelled")
        raise
    _note(ctx, "done")
    return str(ctx["job_id"])


async def count_steps(ctx: dict[str, Any], steps: int, step_s: float) -> int:
    """Do *steps* steps of which none is lost when the worker stops: a checkpoint after each."""
    job = ctx["job"]
    first = await job.restore(0)
    for step in range(first, steps):
        await asyncio.sleep(step_s)
        _note(ctx, f"step {step}")
        await job.checkpoint(step + 1)
    _note(ctx, "done")
    return steps


async def ignore_cancellation(ctx: dict[str, Any], seconds: float) -> None:
    _note(ctx, "start")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await asyncio.sleep(end - time.monotonic())
        except asyncio.CancelledError:
            _note(ctx, "ignored")


async def kill_worker(ctx: dict[str, Any]) -> None:
    _note(ctx, "start")
    await asyncio.sleep(0.05)  # let others start beside it
    os.kill(os.getpid(), signal.SIGKILL)


async def eat_memory(ctx: dict[str, Any], megabytes: int) -> None:
    _note(ctx, "start")
    await asyncio.sleep(0.05)
    kept = [b"x" * 1_048_576 for _ in range(megabytes)]
    await asyncio.sleep(
        60
    )  # until it is killed: by the kernel at once, by who else does once he looks
    _note(ctx, f"survived {len(kept)}")


async def always_fail(ctx: dict[str, Any]) -> None:
    _note(ctx, "start")
    raise ConnectionError("the base does not answer")


async def permanent(ctx: dict[str, Any]) -> None:
    """Give up at once."""
    _note(ctx, "start")
    raise PermanentError("there is no such base")


async def raise_this(ctx: dict[str, Any], kind: str) -> None:
    """Raise one of the exceptions that have broken workers before."""
    _note(ctx, "start")
    raise _exception(kind)


async def measure_loop(ctx: dict[str, Any], seconds: float) -> list[float]:
    """Return how late, in ms, the loop woke a sleeper; sampled every 10 ms."""
    late: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.monotonic()
        await asyncio.sleep(0.01)
        late.append((time.monotonic() - before - 0.01) * 1000)
    return sorted(late)[-max(1, len(late) // 100) :]  # the slowest 1 %, smallest first


async def stop_renewals(ctx: dict[str, Any]) -> None:
    """End the thread that renews leases, as a bug in it would."""
    for thread in threading.enumerate():
        if thread.name == "arqscope-leases" and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )
    _note(ctx, "done")


def block(ctx: dict[str, Any], seconds: float) -> None:
    ledger.write(f"pid {os.getpid()}", ctx["job_id"], ctx["job_try"])
    time.sleep(seconds)


def backtrack(ctx: dict[str, Any]) -> None:
    ledger.write(f"pid {os.getpid()}", ctx["job_id"], ctx["job_try"])
    re.match(r"(a+)+$", "a" * 64 + "!")


def crunch(ctx: dict[str, Any]) -> None:
    """Hold the interpreter with frames for as long as it is let."""
    import pandas as pd  # noqa: PLC0415, RUF100 - only here: a worker must not load pandas

    ledger.write(f"pid {os.getpid()}", ctx["job_id"], ctx["job_try"])
    while True:
        pd.DataFrame({"n": range(1_000_000)}).sort_values("n", ascending=False)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Unpicklable(Exception):
    def __init__(self, text: str, lock: Any) -> None:
        super().__init__(text)
        self.lock = lock


class NotAnException(BaseException):
    pass


#: what ``raise_this`` knows
EXCEPTIONS = (
    "value",
    "base",
    "exit",
    "keyboard",
    "generator-exit",
    "cancelled",
    "group",
    "unprintable",
    "unpicklable",
    "huge",
    "cyclic",
    "surrogate",
)


def _exception(kind: str) -> BaseException:
    match kind:
        case "base":
            return NotAnException("not an Exception")
        case "exit":
            return SystemExit(3)
        case "keyboard":
            return KeyboardInterrupt()
        case "generator-exit":
            return GeneratorExit()
        case "cancelled":
            return asyncio.CancelledError("by the job itself")
        case "group":
            return BaseExceptionGroup("several", [ValueError("one"), SystemExit(2)])
        case "unprintable":
            return Unprintable()
        case "unpicklable":
            return Unpicklable("holds a lock", threading.Lock())
        case "huge":
            return ValueError("x" * 10_000_000)
        case "surrogate":
            return ValueError("broken \ud800 text \x00\x1b[31m")
        case "cyclic":
            first, second = ValueError("first"), ValueError("second")
            first.__cause__, second.__cause__ = second, first
            return first
        case _:
            return ValueError("plain")


def _note(ctx: dict[str, Any], effect: str) -> None:
    ledger.write(effect, ctx["job_id"], ctx["job_try"])
