"""One attempt at an event: handlers that suspend or not, fail, time out, cancel themselves."""

import asyncio
from typing import Any

import pytest

from app.errors import PermanentError, RedisUnavailable
from workers.event_router import Registry
from workers.events.attempt import Decision, Delivery, GiveUp, Handled, TryAgain, Wait, attempt


async def attempted(*functions: Any, timeout_s: float = 5.0) -> tuple[Decision, Delivery]:
    registry = Registry()
    for function in functions:
        registry.on("a.b")(function)
    delivery = Delivery("1-1", {"type": "a.b", "data": "1"}, 1)
    event = delivery.decode()
    assert event is not None
    effects: Any = None

    async def on_done(delivery: Delivery, name: str) -> None: ...

    decision = await attempt(
        delivery,
        event,
        registry.plan("a.b"),
        effects,
        on_done,
        is_stopping=lambda: False,
        timeout_s=timeout_s,
    )
    return decision, delivery


async def test_a_handler_runs_in_one_task_whether_it_suspends_or_not():
    """
    What it begins before its first suspension, a time-out say, must bind to the task it ends in.
    """
    tasks = []

    async def handle(event: Any, context: Any) -> None:
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001)
        tasks.append(asyncio.current_task())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(5)
        tasks.append(asyncio.current_task())

    decision, _ = await attempted(handle)

    assert isinstance(decision, Handled)
    assert set(tasks) == {asyncio.current_task()}


async def test_an_error_thrown_into_a_suspended_handler_is_the_handlers_to_catch():
    seen = []

    async def handle(event: Any, context: Any) -> None:
        for number in range(3):
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_exception, KeyError(number))
            try:
                await future
            except KeyError as error:
                seen.append(error.args[0])

    decision, _ = await attempted(handle)

    assert (type(decision), seen) == (Handled, [0, 1, 2])


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("x"), TryAgain),
        (SystemExit(3), TryAgain),
        (asyncio.CancelledError(), TryAgain),
        (PermanentError("x"), GiveUp),
        (RedisUnavailable("x"), Wait),
    ],
)
async def test_what_a_handler_raises_decides(suspends: bool, error: BaseException, expected: type):
    async def handle(event: Any, context: Any) -> None:
        if suspends:
            await asyncio.sleep(0)
        raise error

    decision, _ = await attempted(handle)

    assert type(decision) is expected


async def test_a_handler_that_takes_too_long_is_ended():
    ended = []

    async def handle(event: Any, context: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    decision, _ = await attempted(handle, timeout_s=0.01)

    assert isinstance(decision, TryAgain)
    assert isinstance(decision.error, TimeoutError)
    assert ended == [True]


async def test_a_handler_that_cancels_its_own_task_costs_an_attempt_and_no_runner():
    async def handle(event: Any, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    decision, _ = await attempted(handle)
    await asyncio.sleep(0)  # nothing of the cancellation is left

    assert isinstance(decision, TryAgain)


async def test_of_several_handlers_those_that_are_through_are_remembered():
    ran = []

    async def good(event: Any, context: Any) -> None:
        ran.append("good")

    def plain(event: Any, context: Any) -> None:
        ran.append("plain")

    async def bad(event: Any, context: Any) -> None:
        raise ValueError("x")

    decision, delivery = await attempted(bad, good, plain)

    assert isinstance(decision, TryAgain)
    assert (ran, delivery.done) == (["good", "plain"], {"good", "plain"})
