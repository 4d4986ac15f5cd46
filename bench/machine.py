"""The machine under the benchmarks: private Redis, processes, their CPU and memory, versions."""

import contextlib
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

ROOT = Path(__file__).resolve().parent.parent
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Server:
    """A private redis-server: loopback only, no persistence, at most 2 GB."""

    port: int
    process: subprocess.Popen[bytes]
    redis: Redis

    def cpu_s(self) -> float:
        """CPU of the server so far, all its threads."""
        return cpu_s(self.process.pid)

    def calls(self) -> int:
        """Commands the server executed so far, those inside scripts too."""
        stats: Mapping[str, Mapping[str, Any]] = self.redis.info("commandstats")  # type: ignore[assignment]
        return sum(int(row["calls"]) for row in stats.values())


@contextlib.contextmanager
def redis_server(*arguments: str) -> Iterator[Server]:
    """Run a redis-server for one measurement; nothing of it is left."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="arqscope-bench-") as folder:
        settings = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        bounds = ["--maxmemory", "2gb", "--maxmemory-policy", "noeviction"]
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--dir", folder, *settings, *bounds, *arguments],
            stdout=subprocess.DEVNULL,
        )
        client = Redis(host="127.0.0.1", port=port)
        try:
            wait_for(lambda: _answers(client), 10, "redis-server did not start")
            yield Server(port, process, client)
        finally:
            client.close()
            process.kill()
            process.wait()


@contextlib.contextmanager
def ahead(server: Server) -> Iterator[list[str]]:
    """Let *server*, and commands begun with what this yields, have the CPU before everything else.

    For a measurement of a second on a machine that others use. Nothing changes, and [] is yielded,
    where real-time priorities are not ours to give.
    """
    try:
        os.sched_setscheduler(server.process.pid, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, OSError):
        yield []
        return
    try:
        yield ["chrt", "--fifo", "1"] if shutil.which("chrt") else []
    finally:
        os.sched_setscheduler(server.process.pid, os.SCHED_OTHER, os.sched_param(0))


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except (RedisError, OSError):
        return False


@contextlib.contextmanager
def started(
    command: Sequence[str], *, gently: bool = False, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* until the block ends; its errors go to ours.

    It is killed, *gently* with SIGTERM: what a stopping worker prints and awaits is not measured.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment() | settings
    )
    try:
        yield process
    finally:
        if gently:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    """Our environment with the tree importable and nothing of the product's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ARQSCOPE_")}
    return kept | {"PYTHONPATH": str(ROOT), "NODE_ENV": "production"}


def wait_for(condition: Callable[[], Any], limit_s: float, otherwise: str) -> None:
    """Poll until *condition* holds; TimeoutError says *otherwise*."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(0.01)


def cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def peak_rss_mb(pid: int) -> float:
    """Peak resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


def median(values: Sequence[float]) -> float:
    """Median of the values that are numbers, NaN when there is none."""
    known = [v for v in values if v == v]
    return statistics.median(known) if known else float("nan")


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def machine() -> dict[str, str]:
    """Describe the machine without naming it."""
    model = "unknown CPU"
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
        model = found[1].strip() if found else platform.machine()
    return {
        "cpu": f"{os.cpu_count()} x {model}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "redis-server": _first_match(["redis-server", "--version"], r"v=(\S+)"),
        "node": _first_match(["node", "--version"], r"v(\S+)"),
    }


def _first_match(command: Sequence[str], pattern: str) -> str:
    if shutil.which(command[0]) is None:
        return "absent"
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(pattern, text)
    return found[1] if found else "unknown"
