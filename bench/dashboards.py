"""The peers of T6: what dashboards of others take for their first page of jobs, where they install."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any, Final

from bench.contenders import PEERS, VENVS, installed
from bench.machine import ROOT, Server, environment, free_port, redis_server

_BOARD: Final = PEERS / "bullmq" / "node_modules" / "@bull-board" / "express" / "package.json"
_ARQ_DASHBOARD: Final = VENVS / "arq-dashboard" / "bin" / "python"
_LISTING: Final = """
import asyncio, json, sys, time
from arq.connections import RedisSettings, create_pool

def read(raw):
    return json.loads(raw[3:])

async def main():
    options = json.loads(sys.argv[1])
    redis = await create_pool(RedisSettings(port=options["port"]), job_deserializer=read)
    begin = time.perf_counter()
    await redis.queued_jobs(queue_name=options["queue"])
    print(json.dumps({"ms": (time.perf_counter() - begin) * 1000}))

asyncio.run(main())
"""


def versions() -> dict[str, str]:
    """Versions of the peers only this row has."""
    found = {}
    if version := installed(_ARQ_DASHBOARD, "arq-dashboard"):
        found["arq-dashboard"] = version
    if _BOARD.exists():
        found["bull-board"] = str(json.loads(_BOARD.read_text(encoding="utf-8"))["version"])
    return found


def arq_ms(server: Server, queue: str) -> float:
    """Milliseconds of arq's own listing, ``queued_jobs()``, of a queue that is filled."""
    python = VENVS / "arq" / "bin" / "python"
    return _ms([str(python), "-c", _LISTING], {"port": server.port, "queue": queue})


def arq_dashboard_ms(server: Server, queue: str) -> float:
    """Milliseconds of arq-dashboard's first page, over HTTP, of a queue that is filled."""
    options = {"port": server.port, "queue": queue, "web_port": free_port()}
    return _ms([str(_ARQ_DASHBOARD), str(PEERS / "arq_dashboard_peer.py")], options)


def bull_board_ms(count: int) -> float:
    """Milliseconds of bull-board's first page, over HTTP, of *count* jobs of BullMQ."""
    if not _BOARD.exists():
        return float("nan")
    with redis_server() as server:
        options = {"port": server.port, "web_port": free_port(), "count": count}
        return _ms(["node", str(PEERS / "bullmq" / "board.mjs")], options)


def _ms(command: list[str], options: Mapping[str, Any]) -> float:
    """What the script prints; NaN when its peer is not installed or fails."""
    try:
        done = subprocess.run(
            [*command, json.dumps(options)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=environment(),
            timeout=300,
        )
        return float(json.loads(done.stdout.splitlines()[-1])["ms"])
    except subprocess.CalledProcessError as error:
        print(f"    {command[-1]} failed: {error.stderr[-300:]}", flush=True)
    except (subprocess.SubprocessError, OSError, ValueError, LookupError):
        pass
    return float("nan")
