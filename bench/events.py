"""T8: events handled by one processor: a backlog drained, and latency at a steady rate."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import redis as redis_py

import app
from bench.contenders import PEERS, VENVS, installed
from bench.drain import FAILURES
from bench.machine import (
    ROOT,
    Server,
    cpu_s,
    environment,
    median,
    peak_rss_mb,
    percentile,
    redis_server,
    started,
    wait_for,
)
from bench.results import Row

STREAM, GROUP = "bench-events", "bench"
#: s between two looks at what remains
LOOK_S = 0.01
#: s of draining after which a slow contender's rate is known well enough
ENOUGH_S = 4.0
#: marked events at the start that do not count: scripts load, code warms up
WARM = 500
RATE_PER_S = 1_000


@dataclass(frozen=True, slots=True)
class Consumer:
    """One way to consume the stream: its command takes a JSON object."""

    name: str
    command: tuple[str, ...]
    version: str
    settings: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def line(self, server: Server, out: Path) -> list[str]:
        """Return the command line of its process."""
        options = {"port": server.port, "stream": STREAM, "group": GROUP, "out": str(out)}
        return [*self.command, json.dumps({**options, **self.extra})]


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain came to."""

    events_per_s: float
    consumer_us: float  #: CPU of the consumer per event
    redis_us: float  #: CPU of Redis per event
    rss_mb: float


@cache
def consumers() -> dict[str, Consumer]:
    """Return ours and every peer that is installed, by name."""
    plain = (sys.executable, str(PEERS / "redispy_stream.py"))
    found = [
        Consumer(
            "arqscope",
            (sys.executable, "-m", "bench.ours_events"),
            app.__version__,
            "defaults: batches up to 1,000, 5 slots, lease 30 s, every safety on",
        ),
        Consumer("redis-py COUNT 1", plain, redis_py.__version__, "ack each", {"count": 1}),
        Consumer(
            "redis-py batched",
            plain,
            redis_py.__version__,
            "COUNT 1000, one XACK and the next read in a pipeline, no safety",
            {"count": 1000},
        ),
    ]
    python = VENVS / "faststream" / "bin" / "python"
    if version := installed(python, "faststream"):
        command = (str(python), str(PEERS / "faststream_peer.py"))
        found += [
            Consumer("faststream", command, version, "one at a time", {"count": 0}),
            Consumer("faststream batched", command, version, "batch=True, 100", {"count": 100}),
        ]
    return {one.name: one for one in found}


def _fill(server: Server, count: int) -> None:
    """Append events as a producer writes them; one in four has a workspace, whose order is kept."""
    pipe = server.redis.pipeline(transaction=False)
    for number in range(count):
        row = {
            "type": "bench.noop",
            "timestamp": "2026-11-23T12:00:00.000+00:00",
            "source": "bench",
            "correlationId": f"{number:016x}",
            "data": json.dumps({"n": number, "email": "a@example.org"}),
        }
        if number % 4 == 0:
            row["workspaceId"] = f"ws{number % 1000}"
        pipe.xadd(STREAM, row)  # type: ignore[arg-type]
        if number % 1000 == 999:
            pipe.execute()
    pipe.execute()


def _left(server: Server) -> int:
    for row in server.redis.xinfo_groups(STREAM):  # type: ignore[union-attr]
        if row["name"] == GROUP.encode():
            return int(row["pending"]) + int(row["lag"] or 0)
    raise RuntimeError("the group is gone")


def drain(consumer: Consumer, count: int, enough_s: float) -> Drained:
    """Fill a fresh stream, start the consumer, and measure from its first acknowledgement on."""
    with redis_server() as server, tempfile.TemporaryDirectory() as folder:
        _fill(server, count)
        server.redis.xgroup_create(STREAM, GROUP, "0")
        with started(consumer.line(server, Path(folder) / "out")) as process:
            wait_for(lambda: _left(server) < count, 60, f"{consumer.name}: no event was handled")
            before, begin = _left(server), time.monotonic()
            busy, redis_busy = cpu_s(process.pid), server.cpu_s()
            left = before
            while left and time.monotonic() - begin < enough_s:
                time.sleep(LOOK_S)
                left = _left(server)
            took_s, done = time.monotonic() - begin, before - left
            return Drained(
                done / took_s,
                (cpu_s(process.pid) - busy) / done * 1e6,
                (server.cpu_s() - redis_busy) / done * 1e6,
                peak_rss_mb(process.pid),
            )


def latency(consumer: Consumer, count: int) -> tuple[float, float]:
    """Publish *count* events at 1,000 a second; p50 and p99 in ms from before XADD to the handler."""
    with redis_server() as server, tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        server.redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        with started(consumer.line(server, out), gently=True):
            data = json.dumps({"sent_at": time.time()})
            server.redis.xadd(STREAM, {"type": "bench.mark", "source": "b", "data": data})
            wait_for(lambda: _left(server) == 0, 30, f"{consumer.name}: no event was handled")
            producer = [sys.executable, str(PEERS / "event_producer.py")]
            options = {"port": server.port, "stream": STREAM, "out": str(out)}
            more = {"count": count + WARM, "per_s": RATE_PER_S}
            subprocess.run(
                [*producer, json.dumps({**options, **more})],
                check=True,
                cwd=ROOT,
                env=environment(),
                timeout=300,
            )
            wait_for(lambda: _left(server) == 0, 20, f"{consumer.name}: events missing")
        taken = [float(line) for line in out.read_text("ascii").splitlines()][WARM:]
    if len(taken) < count:
        raise RuntimeError(f"{consumer.name}: {count - len(taken)} events were not stamped")
    return percentile(taken, 0.5), percentile(taken, 0.99)


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T8."""
    known = consumers()
    drains: dict[str, list[Drained]] = {name: [] for name in known}
    late: dict[str, list[tuple[float, float]]] = {name: [] for name in known}
    for number in range(rounds):
        for name, one in known.items():
            slow = "COUNT 1" in name or name == "faststream"
            count = (20_000 if slow else 100_000) // (5 if quick else 1)
            with contextlib.suppress(*(() if name == "arqscope" else FAILURES)):
                drained = drain(one, count, ENOUGH_S)
                drains[name].append(drained)
                late[name].append(latency(one, 1_000 if quick else 4_000))
                print(
                    f"    round {number + 1}  {name:<20}{drained.events_per_s:>10,.0f} ev/s"
                    f"{drained.consumer_us:>8.1f} µs{drained.redis_us:>7.1f} µs Redis"
                    f"{drained.rss_mb:>6.0f} MB   p50 {late[name][-1][0]:.2f}"
                    f"  p99 {late[name][-1][1]:.2f} ms",
                    flush=True,
                )
    rates = {
        name: Drained(*(median([getattr(s, f.name) for s in taken]) for f in fields(Drained)))
        for name, taken in drains.items()
    }
    p50 = {name: median([a for a, _ in taken]) for name, taken in late.items()}
    p99 = {name: median([b for _, b in taken]) for name, taken in late.items()}

    def row(part: str, what: str, unit: str, figures: Mapping[str, float], **more: Any) -> Row:
        peers = {name: value for name, value in figures.items() if name != "arqscope"}
        how = more.pop("settings", "backlog 100k (20k one at a time), 1 process, no-op handler")
        return Row(
            id=f"T8.{part}",
            what=what,
            unit=unit,
            ours=figures["arqscope"],
            peers=peers,
            settings=how,
            rounds=rounds,
            **more,
        )

    speed = {name: one.events_per_s for name, one in rates.items()}
    steady = "1,000 events/s, from before XADD to the handler"
    return [
        row(
            "drain",
            "events handled",
            "ev/s",
            speed,
            target="≥ 40,000 ev/s",
            met=speed["arqscope"] >= 40_000,
        ),
        row("cpu", "CPU per event", "µs", {n: r.consumer_us for n, r in rates.items()}),
        row("redis-cpu", "CPU of Redis per event", "µs", {n: r.redis_us for n, r in rates.items()}),
        row("rss", "peak memory", "MB", {n: r.rss_mb for n, r in rates.items()}),
        row(
            "p50",
            "latency, median",
            "ms",
            p50,
            settings=steady,
            target="≤ 3 ms",
            met=p50["arqscope"] <= 3,
        ),
        row("p99", "latency, 99th percentile", "ms", p99, settings=steady),
    ]
