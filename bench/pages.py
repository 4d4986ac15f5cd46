"""T10: what many viewers cost, how late they see, what one session takes, and the first paint."""

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median as middle
from typing import Any

import httpx

from app.door.departures import CALM_S
from bench.machine import cpu_s, free_port, percentile, redis_server, started, wait_for
from bench.results import Row
from bench.viewer import Viewer

SESSIONS = 60
CHROMIUM = Path("/usr/bin/chromium")


def rss_mb(pid: int) -> float:
    """Resident memory now, MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


_began = time.monotonic()


def _tell(what: str) -> None:
    """Say how far it is: the whole takes minutes in which nothing else is to be seen."""
    print(f"    {time.monotonic() - _began:4.0f} s  {what}", flush=True)


async def _open_many(root: str, count: int, http: httpx.AsyncClient) -> list[Viewer]:
    return [await Viewer(root, cookies={"arqscope_refresh": "1"}).open(http) for _ in range(count)]


async def _all_gone(root: str, http: httpx.AsyncClient) -> None:
    """Wait until the server holds no session, and has had the time to give back what they held."""
    end = time.monotonic() + 120
    while "arqscope_page_sessions 0.0" not in (await http.get(f"{root}/metrics")).text:
        if time.monotonic() > end:
            raise AssertionError("sessions without a viewer are still held after two minutes")
        await asyncio.sleep(1)
    await asyncio.sleep(CALM_S + 5)


async def _measure(root: str, pid: int, *, quick: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    sessions, span_s, turns = (10, 5.0, 40) if quick else (SESSIONS, 30.0, 1000)
    async with httpx.AsyncClient(timeout=30) as http:
        for viewer in await _open_many(root, 3, http):  # imports, caches
            await viewer.close()
        _tell("first sessions came and went; what they held is freed")
        await _all_gone(root, http)
        before_mb, before = rss_mb(pid), cpu_s(pid)
        began = time.monotonic()
        await asyncio.sleep(5)
        idle = (cpu_s(pid) - before) / (time.monotonic() - began)
        _tell(f"{idle:.1%} of a core without viewers; {sessions} sessions open")
        before = cpu_s(pid)
        began = time.monotonic()
        viewers = await _open_many(root, sessions, http)
        opening_s = time.monotonic() - began
        found["open_ms"] = (cpu_s(pid) - before - idle * opening_s) / sessions * 1000
        found["mb"] = (rss_mb(pid) - before_mb) / sessions
        _tell(
            f"{found['open_ms']:.0f} ms and {found['mb']:.2f} MB a session; they look for {span_s:.0f} s"
        )
        for viewer in viewers:
            viewer.late_ms.clear()
            viewer.bytes_in = 0
        before, began = cpu_s(pid), time.monotonic()
        await asyncio.sleep(span_s)
        found["cpu"] = (cpu_s(pid) - before) / (time.monotonic() - began) * 100
        found["idle_cpu"] = idle * 100
        late = [ms for viewer in viewers for ms in viewer.late_ms]
        found["late_p95"] = percentile(late, 0.95)
        found["updates"] = len(late) / sessions / span_s
        found["bytes"] = middle(viewer.bytes_in for viewer in viewers)
        _tell(
            f"{found['cpu']:.1f} % of a core, p95 {found['late_p95']:.0f} ms; {turns} sessions come and go"
        )
        for viewer in viewers:
            await viewer.close()
        await _all_gone(root, http)
        start_mb = rss_mb(pid)
        for turn in range(turns // 20):
            if turn and not turn % 10:
                _tell(f"{turn * 20} sessions, {rss_mb(pid):.0f} MB (before: {start_mb:.0f})")
            for viewer in await _open_many(root, 20, http):
                await viewer.close()
        _tell("all are gone; what they held is freed")
        await _all_gone(root, http)
        found["after_ratio"] = rss_mb(pid) / start_mb
    return found


def first_paint(root: str) -> dict[str, float]:
    """First contentful paint and the moment the page lives, of a second visit, s."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as run:
        browser = run.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        paints, lives = [], []
        for _ in range(6):
            page: Any = context.new_page()
            began = time.monotonic()
            page.goto(f"{root}/admin/queues")
            page.wait_for_function("!document.getElementById('first')")
            lives.append(time.monotonic() - began)
            script = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
            paints.append(page.evaluate(script) / 1000)
            page.close()
        browser.close()
    return {"paint": middle(paints[1:]), "lives": middle(lives[1:])}


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T10."""
    with ExitStack() as stack:
        server = stack.enter_context(redis_server())
        port, url = free_port(), f"redis://127.0.0.1:{server.port}"
        settings = {
            "REDIS_QUEUE_URL": f"{url}/0", "REDIS_STREAMS_URL": f"{url}/1", "REDIS_URL": f"{url}/2",
            "QUEUE_UI_PORT": str(port), "QUEUE_UI_HOST": "127.0.0.1", "GENERIC_JOBS": "true",
            "LOG_LEVEL": "WARNING",
        }  # fmt: skip
        for command in (["-m", "app.cli", "worker", "async-processing"], ["-m", "app.demo"]):
            stack.enter_context(started([sys.executable, *command], **settings))
        process = stack.enter_context(
            started([sys.executable, "-m", "app.cli", "serve"], **settings)
        )
        root = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{root}/health/live", timeout=2).status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(answers, 60, "the dashboard does not answer")
        time.sleep(3 if quick else 20)
        _tell("the demo load runs; a browser looks")
        painted = first_paint(root) if CHROMIUM.exists() else {}
        found = asyncio.run(_measure(root, process.pid, quick=quick)) | painted
    sessions = 10 if quick else SESSIONS
    said = f"{sessions} sessions on the overview at 1 Hz, demo load, 4 charts of 3 queues each"
    rows = [
        _row("T10.cpu", "CPU of the dashboard, collector included", "%", found["cpu"], 12, said),
        _row("T10.late-p95", "age of a snapshot when a viewer has it, 95th percentile", "ms",
             found["late_p95"], 150, said),
        _row("T10.open", "CPU of the server per session opened", "ms", found["open_ms"], 150, said),
        _row("T10.memory", "memory per open session", "MB", found["mb"], 3, said),
        _row("T10.freed", "memory after 1,000 sessions opened and closed, against before", "x",
             found["after_ratio"], 1.1, "20 at a time"),
    ]  # fmt: skip
    if painted:
        rows.append(_row("T10.paint", "first contentful paint, warm", "s", found["paint"], 1,
                         "Chromium, second visit, overview"))  # fmt: skip
        rows.append(_row("T10.lives", "until the page lives (scripts run, document drawn), warm", "s",
                         found["lives"], None, "Chromium, second visit, overview"))  # fmt: skip
    print(f"    idle {found['idle_cpu']:.1f} % CPU; {found['updates']:.2f} updates/s a viewer; "
          f"{found['bytes'] / 1000 / (5 if quick else 30):,.0f} kB/s a viewer")  # fmt: skip
    return rows


def _row(row_id: str, what: str, unit: str, ours: float, limit: float | None, settings: str) -> Row:
    return Row(
        id=row_id, what=what, unit=unit, ours=ours, settings=settings,
        target=f"≤ {limit:g} {unit}" if limit is not None else "",
        met=ours <= limit if limit is not None else None,
    )  # fmt: skip


__all__ = ["measure"]
