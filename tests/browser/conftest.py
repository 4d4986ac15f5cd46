"""A browser, a server with a real Redis and real workers, and a page that notices what goes wrong.

One stack for all tests of this folder: it is started once, and the tests make data of their own.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis as SyncRedis

from app.enqueue import JobRequest, enqueue_many
from app.settings import Settings
from app.wire.connections import connect
from tests.chromium import chromium
from tests.conftest import RunningRedis, redis_binary, start_redis, unused_port

ROOT = Path(__file__).resolve().parents[2]
READY_S = 90
#: ms the browser waits for what is looked for; what is bounded is measured
PATIENCE_MS = 60_000
AXE = Path(__file__).parent / "axe" / "axe.min.js"
#: what axe finds on a page, WCAG A and AA, in words
CHECK = """async () => {
  const found = await axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
  return found.violations.map(v => v.id + ": " + v.nodes.slice(0, 3).map(
      n => n.target.flat().join(" ") + " " + (n.any[0]?.message || n.failureSummary)).join(" | "))
}"""
#: an error a policy leaves to people, so that its letters stay open
DENIED = "PermissionError: the token of base lacks the scope data.records:write"


@dataclass
class House:
    """A running deployment: Redis, a worker of async-processing, dead letters, dashboard."""

    redis: RunningRedis
    url: str
    processes: list[subprocess.Popen[bytes]]
    settings: Settings = field(default_factory=Settings)

    @property
    def queue(self) -> Any:
        """A client of the queue Redis."""
        client: Any = SyncRedis.from_url(self.redis.database(2), decode_responses=True)
        return client

    def run(self, work: Callable[[Any], Coroutine[Any, Any, Any]], role: str = "queue") -> Any:
        """Run *work* with a client of *role*."""

        async def wrapped() -> Any:
            client = connect(self.settings.url(role))
            try:
                return await work(client)
            finally:
                await client.aclose()

        with ThreadPoolExecutor(1) as pool:  # playwright's loop runs in this thread
            return pool.submit(asyncio.run, wrapped()).result(20)

    def enqueue(self, queue: str, *requests: JobRequest) -> list[str]:
        """Put jobs on a queue; their ids."""
        made = self.run(lambda redis: enqueue_many(redis, queue, requests))
        return [one.id for one in made]


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 40) -> Any:
    """Poll *condition* until it is true."""
    end = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"not true within {timeout_s} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The deployment all browser tests look at."""
    directory = tmp_path_factory.mktemp("house")
    redis = start_redis(directory / "redis", redis_binary())
    port = unused_port()
    world = {
        k: v for k, v in os.environ.items() if "REDIS" not in k and not k.startswith("ARQSCOPE_")
    } | {
        "REDIS_URL": redis.database(0),
        "REDIS_STREAMS_URL": redis.database(1),
        "REDIS_QUEUE_URL": redis.database(2),
        "QUEUE_UI_HOST": "127.0.0.1",
        "QUEUE_UI_PORT": str(port),
        "GENERIC_JOBS": "true",
        "ARQSCOPE_SAMPLE_INTERVAL_S": "0.25",
        "RETRY_DELAY": "3600000",  # what a policy retries comes back after the tests
        "ARQSCOPE_DATA_DIR": str(directory / "data"),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    settings = Settings(
        redis_url=redis.database(0),
        redis_streams_url=redis.database(1),
        redis_queue_url=redis.database(2),
    )
    processes = []
    for name, *command in (
        ("dashboard", "serve"), ("worker", "worker", "async-processing"), ("letters", "dead-letters"),
    ):  # fmt: skip
        with (directory / f"{name}.log").open("wb") as out:
            processes.append(
                subprocess.Popen([sys.executable, "-m", "app.cli", *command], cwd=directory, env=world,
                                 stdout=out, stderr=out)
            )  # fmt: skip
    found = House(redis, f"http://127.0.0.1:{port}", processes, settings)

    def answers() -> bool:
        if processes[0].poll() is not None:
            raise AssertionError((directory / "dashboard.log").read_text()[-3000:])
        try:
            return httpx.get(f"{found.url}/health/live", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for(answers, "the dashboard answers", READY_S)
    try:
        yield found
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        redis.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    with chromium() as made:
        yield made


@dataclass
class Window:
    """A page of a browser that writes down complaints and requests to anywhere else."""

    page: Any
    url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, where: str = "queues") -> Any:
        """Go to the page *where* and wait until it lives."""
        self.page.goto(f"{self.url}/admin/{where}")
        self.settle()
        return self.page

    def go(self, where: str) -> Any:
        """Switch to the page *where* as a link does, within the session that is open."""
        if not self.page.url.startswith(self.url):
            return self.open(where)
        self.page.evaluate(
            "where => { history.pushState({}, '', where); dispatchEvent(new PopStateEvent('popstate')) }",
            where,
        )
        name = where.partition("?")[0]
        self.page.locator(f'.frame[data-page="{name}"]').wait_for()
        return self.page

    def settle(self) -> None:
        """Wait until the script has taken over from the first paint, with a sample in it."""
        self.page.locator(".frame .part-foot time").first.wait_for(state="attached")
        self.page.wait_for_function("!document.getElementById('first')")


@pytest.fixture(scope="module")
def profile(browser: Any) -> Iterator[Any]:
    """One profile for all windows, so that scripts are fetched and compiled once."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def window(profile: Any, house: House) -> Iterator[Window]:
    """A fresh window of 1,280 x 900; afterwards it must have nothing to complain about."""
    found = Window(profile.new_page(), house.url)
    watch(found)
    yield found
    found.page.close()
    assert found.complaints == []


_LATE = re.compile(r"reference p\d+ isn't known")


def watch(window: Window) -> None:
    """Write down errors of the console and requests that leave the machine."""
    complaints, page = window.complaints, window.page
    page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
    # known: a chart's update that crosses the switch to another page; the next update is whole again
    page.on("pageerror", lambda e: _LATE.search(str(e)) or complaints.append(str(e)))
    page.on("dialog", lambda box: (complaints.append(f"dialog: {box.message}"), box.dismiss()))

    def asked(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in (
            "127.0.0.1",
            "localhost",
        ):
            complaints.append(f"request to {request.url}")

    page.on("request", asked)
