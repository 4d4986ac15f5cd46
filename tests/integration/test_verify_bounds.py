"""verify against servers that keep it waiting or answer what nobody thought of: each check ends, with a proof."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from app.errors import CheckFailed
from app.verify import standing, work
from app.verify.deployment import Deployment
from app.verify.proofs import Shown
from app.verify.script import Check, _prove


class Page(RequestHandler):
    """A page as ours, without a script."""

    def get(self) -> None:
        self.write('<script>{"token":"t"}</script>')


class Silent(WebSocketHandler):
    """Opens, and says nothing."""

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "bokeh" if "bokeh" in subprotocols else None


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """Address of a server whose page opens and whose websocket is silent."""
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/admin/queues", Page), ("/admin/queues/ws", Silent)]))
    server.add_sockets(sockets)
    yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    server.stop()
    await server.close_all_connections()


async def test_a_page_whose_websocket_is_silent_fails_in_bounded_time(
    silent_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "SOCKET_S", 0.5)

    async with asyncio.timeout(20):
        with pytest.raises(CheckFailed, match="websocket does not open"):
            await standing.page_opens(Deployment(url=silent_url))


async def test_a_check_that_breaks_is_a_failed_proof_and_the_next_are_made() -> None:
    """
    An answer nobody thought of ended the command with a traceback, and the other proofs with it.
    """

    async def breaks(_: Deployment) -> str:
        raise KeyError("checks")

    proof = await _prove(
        Check(name="odd", about="an odd answer", prove=breaks), Deployment(url="http://x")
    )

    assert proof.shown is Shown.FAILED
    assert proof.evidence == "the check broke: KeyError: 'checks'"


async def test_a_count_that_is_not_known_yet_is_waited_for_and_else_told() -> None:
    """
    Right after a restart of a queue's Redis /stats has null; that broke the load's check.
    """
    told: list[int | None] = [None, None, 0]

    class Sampling(Deployment):
        async def get(self, path: str) -> Any:
            return {"q": {"accepted": told.pop(0) if told else None}}

    assert await work._accepted(Sampling(url="http://x"), "q") == 0
    with pytest.raises(CheckFailed, match="does not know how many jobs q accepted"):
        await work._accepted(Sampling(url="http://x", patience_s=0.2), "q")
