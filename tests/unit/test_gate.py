"""The gate: one attempt at a time while a password is refused, for coroutines and threads alike."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from redis.exceptions import AuthenticationError, ConnectionError  # noqa: A004

from app.wire.gate import Gate
from tests.waiting import within

AGAIN_S = 0.05


class Server:
    """Counts attempts and answers as told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.attempts: list[float] = []

    async def connect(self) -> None:
        self.connect_blocking()

    def connect_blocking(self) -> None:
        self.attempts.append(time.monotonic())
        if self.error is not None:
            raise self.error


def _gate() -> Gate:
    return Gate(again_s=AGAIN_S, jitter_s=0.01)


async def _tries(gate: Gate, server: Server) -> type[BaseException] | None:
    try:
        await gate.pass_through(server.connect)
    except (AuthenticationError, ConnectionError) as error:
        return type(error) if not isinstance(error, AuthenticationError) else AuthenticationError
    return None


async def _refused() -> tuple[Gate, Server]:
    gate, server = _gate(), Server(AuthenticationError("WRONGPASS"))
    assert await _tries(gate, server) is AuthenticationError
    return gate, server


async def test_a_server_that_takes_the_password_is_never_waited_for() -> None:
    gate, server = _gate(), Server()
    await asyncio.gather(*(gate.pass_through(server.connect) for _ in range(20)))

    assert len(server.attempts) == 20
    assert gate.is_open


async def test_a_server_that_is_gone_is_not_a_matter_of_the_gate() -> None:
    gate, server = _gate(), Server(ConnectionError("refused"))
    outcomes = await asyncio.gather(*(_tries(gate, server) for _ in range(5)))

    assert outcomes == [ConnectionError] * 5
    assert len(server.attempts) == 5


async def test_one_attempt_counts_for_all_who_wait() -> None:
    gate, server = await _refused()
    outcomes = await asyncio.gather(*(_tries(gate, server) for _ in range(9)))

    assert outcomes == [AuthenticationError] * 9
    assert len(server.attempts) == 2
    assert server.attempts[1] - server.attempts[0] >= AGAIN_S


async def test_all_pass_as_soon_as_one_is_let_in() -> None:
    gate, server = await _refused()
    server.error = None
    async with within(10 * AGAIN_S):
        outcomes = await asyncio.gather(*(_tries(gate, server) for _ in range(9)))

    assert outcomes == [None] * 9


async def test_who_gives_up_waiting_leaves_the_turn_to_the_next() -> None:
    gate, server = await _refused()
    server.error = None
    first = asyncio.create_task(_tries(gate, server))
    others = [asyncio.create_task(_tries(gate, server)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    others[0].cancel()

    assert await asyncio.gather(*others[1:]) == [None, None]


async def test_a_server_that_goes_away_meanwhile_opens_the_gate() -> None:
    gate, server = await _refused()
    server.error = ConnectionError("refused")

    assert await _tries(gate, server) is ConnectionError
    assert gate.is_open


async def test_threads_and_event_loops_share_the_turns() -> None:
    """
    The lease thread has no event loop, others have one of their own.
    """
    gate, server = await _refused()
    outcomes: list[str] = []

    def blocking() -> None:
        try:
            gate.pass_through_blocking(server.connect_blocking)
        except AuthenticationError:
            outcomes.append("refused")

    def looping() -> None:
        outcomes.append("refused" if asyncio.run(_tries(gate, server)) else "let in")

    targets: list[Callable[[], None]] = [blocking, looping, blocking, looping]
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    own = await _tries(gate, server)
    await asyncio.gather(*(asyncio.to_thread(thread.join, 5) for thread in threads))

    assert own is AuthenticationError
    assert outcomes == ["refused"] * 4
    spans = [b - a for a, b in zip(server.attempts, server.attempts[1:], strict=False)]
    assert min(spans) >= AGAIN_S


async def test_a_turn_whose_loop_is_blocked_goes_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    A job may hold the event loop for minutes; the lease thread must get its chance.
    """
    monkeypatch.setattr("app.wire.gate.TURN_S", 0.1)
    gate, server = await _refused()
    server.error = None
    held = asyncio.create_task(_tries(gate, server))
    await asyncio.sleep(0)  # it has the turn now, and waits

    let_in = threading.Event()

    def renew() -> None:
        gate.pass_through_blocking(server.connect_blocking)
        let_in.set()

    thread = threading.Thread(target=renew)
    thread.start()
    let_in.wait(5)  # the loop stands still meanwhile
    thread.join(5)

    assert let_in.is_set()
    assert await held is None
