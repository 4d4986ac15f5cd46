"""What happens once viewers have left: one tidying, when it is calm, and at the latest after a while."""

import asyncio
import gc
import weakref
from typing import Any

import pytest
from bokeh.server.views.ws import WSHandler

from app.door.departures import Departures
from app.door.page_routes import PageSocket
from tests.waiting import until


class Model:
    """Points at itself, as a session's models do: only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


async def leave(departures: Departures, count: int) -> None:
    for _ in range(count):
        await departures.on_session_destroyed(None)


async def test_what_left_together_is_collected_together() -> None:
    departures, trims = Departures(calm_s=0.01), []
    departures._trim = lambda pad: trims.append(pad) or 1  # type: ignore[func-returns-value]
    gc.disable()  # so that nothing else frees it
    try:
        left = weakref.ref(Model())
        assert left() is not None
        await leave(departures, 3)

        async def tidied() -> bool:
            return departures.tidied > 0

        await until(tidied)
    finally:
        gc.enable()
    assert left() is None
    assert (departures.tidied, departures.departed, trims) == (1, 0, [0])


async def test_each_departure_puts_it_off_but_not_for_ever() -> None:
    class Loop:
        now = 100.0

        def time(self) -> float:
            return self.now

    loop = asyncio.get_running_loop()
    departures, clock, waits = Departures(calm_s=3, patience_s=10), Loop(), []

    def later(wait: float, callback: Any) -> asyncio.TimerHandle:
        waits.append(wait)
        return asyncio.TimerHandle(0, callback, (), loop)

    clock.call_later = later  # type: ignore[attr-defined]
    for moment in (100.0, 102.0, 108.0, 109.5, 111.0):
        clock.now = moment
        departures.put_off(clock)  # type: ignore[arg-type]

    assert waits == [3, 3, 2, 0.5, 0]


async def test_without_glibc_it_collects_all_the_same() -> None:
    departures = Departures(calm_s=0.01)
    departures._trim = None
    await leave(departures, 1)

    async def tidied() -> bool:
        return departures.tidied == 1

    await until(tidied)


async def test_a_socket_closed_while_it_opens_leaves_its_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    class Session:
        def request_expiration(self) -> None:
            told.append("expire")

    class Connection:
        session = Session()

    async def opens_too_late(self: Any, token: str) -> None:
        self.on_close()  # Tornado, meanwhile
        self.connection = Connection()

    class Context:
        sessions = ()

    socket = PageSocket.__new__(PageSocket)
    socket.application_context = Context()
    socket.connection = None
    monkeypatch.setattr("app.door.page_routes.get_session_id", lambda token: token)
    monkeypatch.setattr(WSHandler, "on_close", lambda self: told.append("lost"))
    monkeypatch.setattr("panel.io.server.WSHandler._async_open", opens_too_late)
    await socket._async_open("a token")
    socket.on_close()

    assert told == ["lost", "expire"]
