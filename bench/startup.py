"""T12: how soon a worker is there."""

import subprocess
import sys
import time
from collections.abc import Callable

from bench.contenders import VENVS
from bench.machine import ROOT, environment, median, redis_server, started, wait_for
from bench.results import Row

QUEUE = "async-processing"


def import_s(python: str, module: str) -> float:
    """Import *module* in a fresh interpreter; the interpreter's own start counts."""
    begin = time.perf_counter()
    line = [python, "-c", f"import {module}"]
    subprocess.run(line, check=True, cwd=ROOT, env=environment())
    return time.perf_counter() - begin


def ready_s() -> float:
    """From spawning the product's worker to the end of a job that waited for it."""
    with redis_server() as server:
        url = f"redis://127.0.0.1:{server.port}"
        fill = [sys.executable, "-c", _FILL, f"{url}/0"]
        subprocess.run(fill, check=True, cwd=ROOT, env=environment())
        begin = time.perf_counter()
        with started(
            [sys.executable, "-m", "workers.settings", QUEUE],
            REDIS_QUEUE_URL=f"{url}/0",
            REDIS_STREAMS_URL=f"{url}/1",
            REDIS_URL=f"{url}/2",
            LOG_LEVEL="WARNING",
        ):
            wait_for(lambda: not server.redis.zcard(QUEUE), 20, "the worker is not ready")
            return time.perf_counter() - begin


_FILL = f"""
import asyncio, sys
from app.wire.connections import connect
from app.enqueue import JobRequest, enqueue

asyncio.run(enqueue(connect(sys.argv[1]), {QUEUE!r}, JobRequest(name="notification", args=({{"message": "ready"}},))))
"""


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T12."""
    stock = VENVS / "arq" / "bin" / "python"
    plans: dict[str, Callable[[], float]] = {
        "import": lambda: import_s(sys.executable, "workers.settings"),
        "ready": ready_s,
    }
    if stock.exists():
        plans["import arq"] = lambda: import_s(str(stock), "arq.worker")
    rounds = max(rounds, 1 if quick else 5)
    taken: dict[str, list[float]] = {name: [] for name in plans}
    for plan in plans.values():
        plan()  # writes the .pyc files
    for n in range(rounds):
        for name, plan in plans.items():
            taken[name].append(plan())
            print(f"    round {n + 1}  {name:<24}{taken[name][-1]:6.3f} s", flush=True)
    found = {name: median(values) for name, values in taken.items()}
    return [
        Row(
            id="T12.import",
            what="import workers.settings, interpreter start included (peer: import arq.worker)",
            unit="s",
            ours=found["import"],
            peers={"arq": found["import arq"]} if "import arq" in found else {},
            target="≤ 0.5 s",
            met=found["import"] <= 0.5,
            settings="fresh interpreter, .pyc files present",
            rounds=rounds,
        ),
        Row(
            id="T12.ready",
            what="from spawning a worker to the end of a job that waited for it",
            unit="s",
            ours=found["ready"],
            target="≤ 1 s",
            met=found["ready"] <= 1,
            settings=f"python -m workers.settings {QUEUE}",
            rounds=rounds,
        ),
    ]
