"""Plain ``def`` job functions: they run in children that can be killed."""

import asyncio
import multiprocessing
import os
import time
from typing import Any

import pytest

from app.payloads.codec import RemoteError
from tests.waiting import until
from workers.runs.sync_functions import in_child_process


def add(ctx: dict[str, Any], a: int, b: int) -> tuple[int, int]:
    return a + b, os.getpid()


def block(ctx: dict[str, Any]) -> None:
    time.sleep(60)


def die(ctx: dict[str, Any]) -> None:
    os._exit(3)


def refuse(ctx: dict[str, Any]) -> None:
    raise ValueError("no such base")


async def test_a_child_answers_and_is_used_again() -> None:
    run = in_child_process(add)

    first, second = await run({}, 1, 2), await run({}, 3, b=4)

    assert (first[0], second[0]) == (3, 7)
    assert first[1] == second[1] != os.getpid()


async def test_the_loop_stays_free_and_a_cancelled_call_ends_its_child_at_once() -> None:
    run = in_child_process(block)
    call = asyncio.create_task(run({}))
    beats = 0
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        await asyncio.sleep(0.01)
        beats += 1

    started = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert beats > 50
    assert time.monotonic() - started < 5


async def test_a_call_cancelled_while_its_child_starts_leaves_no_child_behind() -> None:
    """
    A child takes a second to start; a timeout or an abort may come meanwhile.
    """
    before = {child.pid for child in multiprocessing.active_children()}
    call = asyncio.create_task(in_child_process(block)({}))

    await until(_one_more_than(before))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await until(_no_more_than(before))


def _one_more_than(before: set[int | None]) -> Any:
    async def more() -> bool:
        return bool({child.pid for child in multiprocessing.active_children()} - before)

    return more


def _no_more_than(before: set[int | None]) -> Any:
    async def none() -> bool:
        return not {child.pid for child in multiprocessing.active_children()} - before

    return none


async def test_an_exception_comes_back_as_itself_and_a_dead_child_says_so() -> None:
    with pytest.raises(ValueError, match="no such base"):
        await in_child_process(refuse)({})
    with pytest.raises(RemoteError, match="ended with code 3"):
        await in_child_process(die)({})
