"""The same scope over HTTP: its key, its server, and what it does not follow."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pandas as pd
import pytest

from app.errors import ActionRefused, InvalidRequest, NotFound, RedisUnavailable
from app.notebook import Scope, connect
from app.settings import Settings
from tests.conftest import ROOT, wait_until
from tests.integration.scope_rig import (  # noqa: F401 - fixtures
    QUEUE,
    queue_server,
    scope,
)


@pytest.fixture
def served(scope: Scope, settings: Settings, tmp_path: Any) -> Iterator[str]:
    """A server of its own process over the same Redis; its address. Keys: ``k-operator``, ``k-viewer``."""
    port = settings.queue_ui_port
    world = {k: v for k, v in os.environ.items() if "REDIS" not in k and "ARQSCOPE" not in k} | {
        "REDIS_URL": settings.redis_url, "REDIS_STREAMS_URL": settings.redis_streams_url,
        "REDIS_QUEUE_URL": settings.redis_queue_url, "QUEUE_UI_PORT": str(port),
        "API_KEY": "k-operator", "ARQSCOPE_DATA_DIR": str(tmp_path / "served"),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    with (tmp_path / "served.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            cwd=tmp_path,
            env=world,
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(process, address, tmp_path), 40, "the server answers")
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _answers(process: Any, address: str, directory: Any) -> bool:
    assert process.poll() is None, (directory / "served.log").read_text()[-2000:]
    try:
        return httpx.get(f"{address}/health/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_same_object_over_http(scope: Scope, served: str, settings: Settings) -> None:
    """
    Every question of a scope has the same answer through the API as through Redis.
    """
    far = connect(served, key="k-operator")
    with far:
        for ask in (
            lambda s: s.runs.where(queue=QUEUE).head(5),
            lambda s: s.dead_letters.where(fingerprint="f1"),
            lambda s: s.jobs(QUEUE),
            lambda s: s.jobs(QUEUE, state="deferred"),
            lambda s: s.jobs(QUEUE, state="failed", function="data-sync"),
            lambda s: s.causes.where("count > 1"),
            lambda s: s.operations,
        ):
            near_frame, far_frame = ask(scope).df(), ask(far).df()
            pd.testing.assert_frame_equal(near_frame, far_frame)
            plan = ask(far).explain()
            assert all(step.where == "http" and "GET /" in step.text for step in plan.steps)
        near_frame, far_frame = scope.cause_periods(), far.cause_periods()
        pd.testing.assert_frame_equal(near_frame, far_frame)
        assert near_frame["deaths"].isna().all()  # nobody counts here
        history = far.history("wait_p95", "2h", source=QUEUE).df()
        assert list(history.columns) == ["at", "source", "wait_p95_s"]
        assert far.why(QUEUE, "later").hold == "deferred"
        assert far.job(QUEUE, "w2").detail.arguments.args == ({"n": 2},)
        assert far.forecast(QUEUE, workers=2).drains is None
        assert far.publish("user.created", {"n": 1}, event_id="e1").changed
        assert far.enqueue(QUEUE, "generic", {"n": 9}, id="far-1").created
        done = far.dead_letters.where(source=QUEUE, fingerprint="f1").retry(rate="5/s")
        assert far.operation(done.detail["operations"][0]).matched == 5
        assert far.dead_letters.where(fingerprint="f2").head(1).discard().changed
        with pytest.raises(NotFound, match="nobody"):
            far.job(QUEUE, "nobody")
        with pytest.raises(NotFound):
            far.forecast("nothing")
        assert "1970" not in repr(far)
        chart = far.chart("backlog")
        assert chart.picture().startswith("<svg")
        chart.stop()
        page = far.page("workers")
        assert "async-processing" in page.screen.html()
        page.stop()
        with pytest.raises(ActionRefused, match="settings are the server's"):
            far.page("settings")
        with pytest.raises(ActionRefused, match="the server shows it"):
            far.deployment.page_connections().queue.get("x")


def test_all_pages_of_a_kernel_act_through_one_set_of_connections(scope: Scope) -> None:
    """
    Each page opened its own, and a notebook left open for a week ran out of them.
    """
    first = scope.deployment.page_connections()

    assert scope.deployment.page_connections() is first


def test_a_wrong_key_is_said_clearly_and_never_shown(served: str) -> None:
    with pytest.raises(ActionRefused, match="give connect") as told:
        connect(served, key="wrong-key-1")

    assert "wrong-key-1" not in str(told.value)
    with pytest.raises(InvalidRequest, match="holds a password"):
        connect("http://me:secret@127.0.0.1:1")


def test_a_redirect_does_not_get_the_key() -> None:
    """
    An address that points elsewhere is told, not followed.
    """
    asked: list[Any] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.headers.get("X-API-Key") == "other":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>something else</html>")
                return
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/stolen")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InvalidRequest, match="redirects to"):
            connect(f"http://127.0.0.1:{server.server_port}", key="k")
        with pytest.raises(RedisUnavailable, match="is this an arqscope server"):
            connect(f"http://127.0.0.1:{server.server_port}", key="other")
        server.shutdown()

    assert "/stolen" not in asked
