"""Who takes part: how each contender's worker, filler and producer are started, and read."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import app
from bench import ours
from bench.machine import ROOT, Server, environment

PEERS = ROOT / "bench" / "peers"
VENVS = ROOT / "bench" / ".venvs"


@dataclass(frozen=True, slots=True)
class Contender:
    """One product at one setting."""

    name: str
    settings: str
    command: tuple[str, ...]  #: takes work|fill|pick and a JSON object
    remaining: Callable[[Server], int]  #: jobs not yet recorded as finished
    reads: int  #: commands one call of ``remaining`` costs
    version: str
    extra: dict[str, Any] = field(default_factory=dict)

    def line(self, verb: str, port: int, **options: Any) -> list[str]:
        """Return the command line of one of its processes."""
        return [*self.command, verb, json.dumps({"port": port, **self.extra, **options})]

    def fill(self, server: Server, count: int, ms: float = 0.0) -> None:
        """Put *count* jobs of *ms* on its queue."""
        line = self.line("fill", server.port, count=count, ms=ms)
        subprocess.run(line, check=True, cwd=ROOT, env=environment(), timeout=600)


def _zcard(key: str) -> Callable[[Server], int]:
    return lambda server: int(server.redis.zcard(key))  # type: ignore[arg-type]


def _group(key: str, group: str) -> Callable[[Server], int]:
    def remaining(server: Server) -> int:
        for row in server.redis.xinfo_groups(key):  # type: ignore[union-attr]
            if row["name"] == group.encode():
                return int(row["pending"]) + int(row["lag"] or 0)
        return 0

    return remaining


def _bullmq(server: Server) -> int:
    pipe = server.redis.pipeline(transaction=False)
    pipe.llen("bull:q:wait")
    pipe.llen("bull:q:active")
    return sum(pipe.execute())


def installed(python: Path, package: str) -> str:
    """Return the version of a package in an environment, empty when it is not there."""
    if not python.exists():
        return ""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@cache
def contenders() -> dict[str, Contender]:
    """Return ours and every peer that is installed, by name."""
    found = [
        Contender(
            "arqscope",
            "uvloop, JSON codec, retry policy, 30 s leases, results kept 1 h",
            (sys.executable, "-m", "bench.ours"),
            _zcard(ours.QUEUE),
            1,
            app.__version__,
        )
    ]

    def python_peer(name: str, file: str, package: str, settings: str, **rest: Any) -> None:
        python = VENVS / package / "bin" / "python"
        if version := installed(python, package):
            command = (str(python), str(PEERS / file))
            found.append(Contender(name, settings, command, version=version, **rest))

    arq: dict[str, Any] = {"remaining": _zcard("arq:queue"), "reads": 1}
    python_peer("arq", "arq_peer.py", "arq", "defaults: 10 jobs, poll 0.5 s, asyncio", **arq)
    python_peer(
        "arq tuned", "arq_peer.py", "arq", "uvloop, poll 10 ms", extra={"tuned": True}, **arq
    )
    python_peer(
        "saq", "saq_peer.py", "saq", "uvloop", remaining=_zcard("saq:q:incomplete"), reads=1
    )
    python_peer(
        "taskiq",
        "taskiq_peer.py",
        "taskiq",
        "uvloop, stream broker, no result backend",
        remaining=_group("q", "taskiq"),
        reads=1,
    )
    python_peer(
        "streaq",
        "streaq_peer.py",
        "streaq",
        "uvloop",
        remaining=_group("streaq:q:queues:normal", "workers"),
        reads=1,
    )
    package = PEERS / "bullmq" / "node_modules" / "bullmq" / "package.json"
    node = shutil.which("node")
    if node and package.exists():
        version = json.loads(package.read_text("utf-8"))["version"]
        command = (node, str(PEERS / "bullmq" / "peer.mjs"))
        found.append(Contender("BullMQ", "defaults, jobs kept", command, _bullmq, 2, str(version)))
    return {c.name: c for c in found}
