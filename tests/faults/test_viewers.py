"""Faults of those who look: sessions that come and go, one that stops reading, payloads of 10 MB."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from app import keys
from app.door.departures import CALM_S
from app.records import DeadLetter, LetterState
from app.wire.connections import connect
from bench.pages import rss_mb
from bench.viewer import Viewer
from tests.conftest import RunningRedis, redis_binary, start_redis
from tests.faults.conftest import Row
from tests.faults.rig import FULL
from tests.serving import RunningServer, start_server, stop
from tests.waiting import until

QUEUE = "async-processing"
EVERY_SECOND = {"arqscope_refresh": "1"}
pytestmark = [pytest.mark.timeout(900 if FULL else 120)]


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The real server, with the real pages, on a Redis of its own."""
    directory = tmp_path_factory.mktemp("viewers")
    redis: RunningRedis = start_redis(directory / "redis", redis_binary())
    command = [sys.executable, "-m", "app.cli", "serve"]
    server = start_server(redis, directory, command=command)
    yield server
    stop(server)
    redis.stop()


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


@pytest_asyncio.fixture
async def queue(dashboard: RunningServer) -> AsyncIterator[Redis]:
    client = connect(dashboard.redis.database(2))
    yield client
    await client.aclose()


async def everybody_gone(dashboard: RunningServer, http: httpx.AsyncClient) -> None:
    """Wait until the server has let go of every session."""

    async def nobody() -> bool:
        told = (await http.get(f"{dashboard.url}/metrics")).text
        return "\narqscope_page_sessions 0.0\n" in told

    await until(nobody, timeout_s=90)


async def settled_mb(pid: int) -> float:
    """Resident memory, once it has not fallen for a while: what was freed goes back bit by bit."""
    least, since = rss_mb(pid), time.monotonic()
    while time.monotonic() - since < (2 * CALM_S if FULL else 0):
        await asyncio.sleep(0.5)
        now = rss_mb(pid)
        if now < least - 0.5:
            least, since = now, time.monotonic()
    return least


@pytest.mark.row("C5")
async def test_sessions_that_end_are_freed(
    dashboard: RunningServer, http: httpx.AsyncClient, row: Row
) -> None:
    """
    Opened and closed again and again, memory comes back; who is gone is sent nothing.
    """
    rounds, sessions = (50, 20) if FULL else (2, 3)
    pid = dashboard.process.pid
    for viewer in [await Viewer(dashboard.url).open(http) for _ in range(sessions)]:
        await viewer.close()
    await everybody_gone(dashboard, http)
    before = await settled_mb(pid)
    for _ in range(rounds):
        opened = [await Viewer(dashboard.url).open(http) for _ in range(sessions)]
        for viewer in opened:
            await viewer.close()
    await everybody_gone(dashboard, http)
    ratio = await settled_mb(pid) / before
    row.figure(sessions=rounds * sessions, rss_ratio=ratio)

    assert ratio < (1.10 if FULL else 1.5)


@pytest.mark.row("C6")
async def test_a_viewer_who_stops_reading_does_not_slow_the_others(
    dashboard: RunningServer, http: httpx.AsyncClient, row: Row
) -> None:
    """
    Its socket fills; the others go on seeing every sample.
    """
    reading = [
        await Viewer(dashboard.url, cookies=EVERY_SECOND).open(http)
        for _ in range(10 if FULL else 2)
    ]
    deaf = [
        await Viewer(dashboard.url, cookies=EVERY_SECOND).open(http, read=False)
        for _ in range(10 if FULL else 2)
    ]
    for viewer in reading:
        viewer.late_ms.clear()

    async def enough() -> bool:
        return all(len(viewer.late_ms) >= (30 if FULL else 2) for viewer in reading)

    await until(enough, timeout_s=120 if FULL else 20)
    late = sorted(ms for viewer in reading for ms in viewer.late_ms)
    p95 = late[int(len(late) * 0.95) - 1]
    row.figure(p95_ms=p95, readers=len(reading), deaf=len(deaf))
    for viewer in (*reading, *deaf):
        await viewer.close()

    assert p95 < 2 * 1000


@pytest.mark.row("C7")
async def test_ten_thousand_letters_and_huge_payloads_stay_small_on_the_wire(
    dashboard: RunningServer, http: httpx.AsyncClient, queue: Redis, row: Row
) -> None:
    """
    Lists are paged by the server and previews are cut: no message of a megabyte.
    """
    letters, payload_bytes = (10_000, 10_000_000) if FULL else (1_000, 3_000_000)
    first = await Viewer(dashboard.url).open(http)  # what a process loads once is not the row's
    await first.close()
    now_ms = int(time.time() * 1000)
    pipe = queue.pipeline(transaction=False)
    for number in range(letters):
        letter = DeadLetter(
            id=f"big-{number}", kind="job", source=QUEUE, name="generic", state=LetterState.NEW,
            reason="attempts", error_type="ValueError", error="ValueError: " + "x" * 300,
            traceback="y" * 4_000, fingerprint=f"f{number % 40}", attempts=3,
            died_ms=now_ms - number,
        )  # fmt: skip
        pipe.hset(keys.dead_record(QUEUE, letter.id), mapping=letter.to_fields())
        pipe.zadd(keys.dead_open(QUEUE), {letter.id: now_ms - number})
        if len(pipe) >= 1_000:  # in one go it is more than a connection takes in its time
            await pipe.execute()
    pipe.set(keys.dead_payload(QUEUE, "big-0"), b"\x80" + b"z" * payload_bytes)
    pipe.set(keys.arq_job("huge"), '{"f":"generic","a":["' + "w" * payload_bytes + '"]}')
    pipe.zadd(QUEUE, {"huge": now_ms - 1000})
    await pipe.execute()

    largest, slowest, which = 0, 0.0, ""
    for page in (
        "queues", "dead-letters", "dead-letters?cause=f1", f"jobs?queue={QUEUE}&state=waiting",
        f"dead-letter?source={QUEUE}&id=big-0", f"job?queue={QUEUE}&id=huge",
    ):  # fmt: skip
        viewer = await Viewer(dashboard.url, page=page, cookies=EVERY_SECOND).open(http)

        async def updated(viewer: Viewer = viewer) -> bool:
            return bool(viewer.late_ms)

        await until(updated)
        largest = max(largest, viewer.largest)
        slowest, which = max((slowest, which), (viewer.opened_s, page))
        await viewer.close()
    row.figure(largest_message=largest, slowest_page_s=slowest, slowest=which, letters=letters)
    await queue.delete(keys.arq_job("huge"), QUEUE)

    assert largest < 1_000_000
    assert slowest < (1.5 if FULL else 10)
