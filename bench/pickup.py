"""T2: how soon an idle worker picks a job up, and what idling costs."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.contenders import Contender, contenders
from bench.machine import (
    ROOT,
    cpu_s,
    environment,
    median,
    percentile,
    redis_server,
    started,
    wait_for,
)
from bench.results import Row

#: samples at the start that do not count: scripts load, code warms up
WARM = 10
#: s a worker idles before its cost is measured, and s it is measured
SETTLE_S, IDLE_S = 2.0, 15.0


@dataclass(frozen=True, slots=True)
class Pickup:
    """Latencies of one round in ms, from before the producer's call to the job's first line."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Idle:
    """What a worker without work costs."""

    commands_per_s: float
    cpu_percent: float


def pickup(
    worker: Contender,
    producer: Contender,
    count: int,
    *,
    events: bool = False,
    polled: bool = False,
    busy: bool = False,
) -> Pickup:
    """Send single jobs to an idle worker and read the latencies it saw.

    A worker that polls every half second is *polled*: fewer jobs, spread over several polls.
    A *busy* one runs a long job in one of its slots meanwhile.
    """
    low_s, high_s = (0.2, 1.2) if polled else (0.01, 0.04)
    count = count // 6 if polled else count
    with _worker(worker, 100, events=events, pickle=producer is not worker) as (port, out, _):
        if busy:
            long = producer.line("fill", port, count=1, ms=600_000)
            subprocess.run(long, check=True, cwd=ROOT, env=environment(), timeout=60)
        line = producer.line("pick", port, count=count + WARM, low_s=low_s, high_s=high_s)
        subprocess.run(line, check=True, cwd=ROOT, env=environment(), timeout=300)
        wait_for(lambda: len(_lines(out)) >= count + WARM + 1, 20, f"{worker.name}: jobs missing")
        taken = [float(line) for line in _lines(out)[-count:]]
    return Pickup(percentile(taken, 0.5), percentile(taken, 0.99))


def idle(contender: Contender, *, idle_s: float = IDLE_S, events: bool = False) -> Idle:
    """Let a worker idle and count what it sends and burns."""
    with _worker(contender, 100, events=events) as (_, _, cost):
        time.sleep(SETTLE_S)
        before, began = cost(), time.monotonic()
        time.sleep(idle_s)
        after, took_s = cost(), time.monotonic() - began
    return Idle((after[0] - before[0] - 1) / took_s, (after[1] - before[1]) / took_s * 100)


@contextlib.contextmanager
def _worker(
    contender: Contender, slots: int, *, events: bool, pickle: bool = False
) -> Iterator[tuple[int, Path, Callable[[], tuple[int, float]]]]:
    """Start a worker on an empty Redis and wait until it has run one job."""
    flags = ["--notify-keyspace-events", "Kz"] if events else []
    with redis_server(*flags) as server, tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "worker"
        contender.fill(server, 1)
        line = contender.line("work", server.port, slots=slots, out=str(out), pickle=pickle)
        with started(line) as process:
            wait_for(lambda: _lines(out), 60, f"{contender.name}: the worker does not start")
            time.sleep(1.0)

            def cost() -> tuple[int, float]:
                return server.calls(), cpu_s(process.pid)

            yield server.port, out, cost


def _lines(out: Path) -> list[str]:
    return out.read_text("utf-8").split("\n")[:-1] if out.exists() else []


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T2."""
    known = contenders()
    ours, stock = known["arqscope"], known.get("arq")
    count = 60 if quick else 300
    plans: dict[str, Callable[[], Pickup]] = {
        name: partial(pickup, c, c, count, polled=c.name == "arq") for name, c in known.items()
    }
    plans["busy worker"] = partial(pickup, ours, ours, count, busy=True)
    if stock is not None:
        plans["stock producer, Kz"] = partial(pickup, ours, stock, count, events=True)
        plans["stock producer"] = partial(pickup, ours, stock, count, polled=True)
    taken: dict[str, list[Pickup]] = {name: [] for name in plans}
    print("  T2, pickup", flush=True)
    for n in range(rounds):
        for name, plan in plans.items():
            taken[name].append(plan())
            last = taken[name][-1]
            print(
                f"    round {n + 1}  {name:<24} p50 {last.p50_ms:8.2f} ms"
                f"   p99 {last.p99_ms:8.2f} ms",
                flush=True,
            )
    p50 = {name: median([p.p50_ms for p in samples]) for name, samples in taken.items()}
    p99 = {name: median([p.p99_ms for p in samples]) for name, samples in taken.items()}
    peers = [name for name in known if name != "arqscope"]
    rows = [
        _row("pickup-p50", "pickup on an idle queue, median", p50, peers, 2.0, rounds),
        _row("pickup-p99", "pickup on an idle queue, 99th percentile", p99, peers, 8.0, rounds),
        Row(
            id="T2.busy-p50",
            what="pickup by a worker that runs a long job and has slots free, median",
            unit="ms",
            ours=p50["busy worker"],
            peers={},
            target="≤ 2 ms",
            met=p50["busy worker"] <= 2.0,
            settings="1 worker, 100 slots, one of them taken for the whole time",
            rounds=rounds,
        ),
    ]
    if stock is not None:
        rows += [
            _stock("stock-p50", p50, "stock producer, Kz", 3.0, rounds),
            _stock("stock-p99", p99, "stock producer, Kz", 8.0, rounds),
            _stock("stock-polled-p50", p50, "stock producer", None, rounds),
        ]
    return rows + _idle_rows(quick=quick, rounds=rounds)


def _row(
    part: str, what: str, values: dict[str, float], peers: list[str], limit_ms: float, rounds: int
) -> Row:
    return Row(
        id=f"T2.{part}",
        what=what,
        unit="ms",
        ours=values["arqscope"],
        peers={name: values[name] for name in peers},
        target=f"≤ {limit_ms:g} ms",
        met=values["arqscope"] <= limit_ms,
        settings="1 worker, 100 slots; each product's own producer; Redis as it is by default",
        rounds=rounds,
    )


def _stock(
    part: str, values: dict[str, float], name: str, limit_ms: float | None, rounds: int
) -> Row:
    peers = {n: value for n, value in values.items() if n in ("arq", "arq tuned")}
    events = "notify-keyspace-events Kz" if limit_ms else "no keyspace events: poll every 0.5 s"
    return Row(
        id=f"T2.{part}",
        what="pickup of a stock arq producer's (pickled) job by our worker",
        unit="ms",
        ours=values[name],
        peers=peers,
        target=f"≤ {limit_ms:g} ms" if limit_ms else "",
        met=values[name] <= limit_ms if limit_ms else None,
        settings=events,
        rounds=rounds,
    )


def _idle_rows(*, quick: bool, rounds: int) -> list[Row]:
    known = contenders()
    taken: dict[str, list[Idle]] = {name: [] for name in known}
    print("  T2, idle", flush=True)
    for n in range(1 if quick else rounds):
        for name, contender in known.items():
            if name != "arqscope" and n:
                continue  # the peers' idle cost does not wander: one round
            taken[name].append(idle(contender, idle_s=5.0 if quick else IDLE_S))
            last = taken[name][-1]
            print(
                f"    round {n + 1}  {name:<24}{last.commands_per_s:8.2f} commands/s"
                f"{last.cpu_percent:8.2f} % CPU",
                flush=True,
            )
    commands = {name: median([i.commands_per_s for i in s]) for name, s in taken.items()}
    percent = {name: median([i.cpu_percent for i in s]) for name, s in taken.items()}
    rows = []
    for part, what, unit, values, limit in (
        ("idle-commands", "commands of an idle worker", "per s", commands, 5.0),
        ("idle-cpu", "CPU of an idle worker", "%", percent, 0.5),
    ):
        mine = values.pop("arqscope")
        rows.append(
            Row(
                id=f"T2.{part}",
                what=what,
                unit=unit,
                ours=mine,
                peers=values,
                target=f"≤ {limit:g} {unit}",
                met=mine <= limit,
                settings="1 worker, 100 slots, empty queue",
                rounds=rounds,
            )
        )
    return rows
