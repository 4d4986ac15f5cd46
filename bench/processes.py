"""Viewers of one server with one process and with two: pages opened per second, and how late open ones are.

``python -m bench.processes`` prints a row per number of processes. The viewers take their share of the cores too.
"""

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Final

import httpx

from bench.machine import (
    cpu_s,
    free_port,
    machine,
    median,
    percentile,
    redis_server,
    started,
    wait_for,
)
from bench.viewer import Viewer

OPENERS: Final = 8  #: that open one page after the other
OPEN_S: Final = 12.0
WATCHERS: Final = 30  #: that stay
WATCH_S: Final = 12.0


async def _open_for(root: str, http: httpx.AsyncClient) -> tuple[float, list[float]]:
    """Pages opened per second by OPENERS, and the seconds each took."""
    took: list[float] = []
    end = time.monotonic() + OPEN_S

    async def one_after_the_other() -> None:
        while time.monotonic() < end:
            viewer = await Viewer(root).open(http, read=False)
            took.append(viewer.opened_s)
            await viewer.close()

    began = time.monotonic()
    await asyncio.gather(*(one_after_the_other() for _ in range(OPENERS)))
    return len(took) / (time.monotonic() - began), took


async def _watch(root: str, http: httpx.AsyncClient, pids: list[int]) -> tuple[list[float], float]:
    """Ages of the snapshots WATCHERS get, in ms, and the CPU seconds per second of the servers."""
    viewers: list[Viewer] = []
    while len(viewers) < WATCHERS:
        some = (Viewer(root).open(http) for _ in range(OPENERS // 2))
        viewers += await asyncio.gather(*some)
    for viewer in viewers:
        viewer.late_ms.clear()
    began, used = time.monotonic(), sum(map(cpu_s, pids))
    await asyncio.sleep(WATCH_S)
    cores = (sum(map(cpu_s, pids)) - used) / (time.monotonic() - began)
    late = [ms for viewer in viewers for ms in viewer.late_ms]
    for viewer in viewers:
        await viewer.close()
    return late, cores


async def _measure(root: str, pids: list[int]) -> dict[str, float]:
    # a connection per page: a kept one would always ask the same process
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=60) as http:
        for _ in range(4):
            await (await Viewer(root).open(http, read=False)).close()
        began, used = time.monotonic(), time.process_time()
        per_s, took = await _open_for(root, http)
        # when it is near 1 the viewers, which are one process, are what was measured
        openers = (time.process_time() - used) / (time.monotonic() - began)
        late, cores = await _watch(root, http, pids)
    return {
        "opened_per_s": per_s, "open_p50_ms": median(took) * 1000, "open_p95_ms": percentile(took, 0.95) * 1000,
        "openers_cores": openers, "updates": len(late), "late_p50_ms": median(late), "late_p95_ms": percentile(late, 0.95), "cores": cores,
    }  # fmt: skip


def _of(pid: int) -> list[int]:
    """*pid* and the processes it started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [pid, *map(int, text.split())]


def _answers(root: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{root}/health/live", timeout=2).status_code == 200
    return False


def measured(processes: int) -> dict[str, float]:
    """One server with so many processes, on a Redis with the demo's load."""
    with contextlib.ExitStack() as stack:
        url = f"redis://127.0.0.1:{stack.enter_context(redis_server()).port}"
        settings = {
            "REDIS_QUEUE_URL": f"{url}/0", "REDIS_STREAMS_URL": f"{url}/1", "REDIS_URL": f"{url}/2",
            "QUEUE_UI_PORT": str(free_port()), "QUEUE_UI_HOST": "127.0.0.1", "GENERIC_JOBS": "true",
            "LOG_LEVEL": "ERROR",
        }  # fmt: skip
        serve = ["-m", "app.cli", "serve", "--num-procs", str(processes)]
        for command in (["-m", "app.cli", "worker", "async-processing"], ["-m", "app.demo"]):
            stack.enter_context(started([sys.executable, *command], **settings))
        process = stack.enter_context(started([sys.executable, *serve], gently=True, **settings))
        root = f"http://127.0.0.1:{settings['QUEUE_UI_PORT']}"
        wait_for(lambda: _answers(root), 60, "the server does not answer")
        wanted = 1 if processes == 1 else processes + 1
        wait_for(lambda: len(_of(process.pid)) == wanted, 60, "not every process started")
        time.sleep(10)  # the last one imports
        return asyncio.run(_measure(root, _of(process.pid)))


def main() -> None:
    """Print a row per number of processes."""
    write = sys.stdout.write
    write(f"{machine()}\n")
    for processes in (1, 2):
        found = measured(processes)
        write(
            f"processes={processes}  load={os.getloadavg()[0]:.1f}  "
            + "  ".join(f"{n}={v:.1f}" for n, v in found.items())
            + "\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
