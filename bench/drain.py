"""T1: drain a backlog of no-op jobs with one worker; and the drain measurement others use."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from bench.contenders import Contender, contenders
from bench.machine import Server, cpu_s, median, peak_rss_mb, redis_server, started
from bench.results import Row

#: s between two looks at what remains
LOOK_S = 0.004
#: s of draining after which a slow contender's rate is known well enough
ENOUGH_S = 12.0
#: what a peer's failure looks like: it loses its figure, the run goes on
FAILURES = (subprocess.SubprocessError, TimeoutError, RuntimeError, ZeroDivisionError)


@dataclass(frozen=True, slots=True)
class Drain:
    """What one drain came to, per job where it says so."""

    jobs_per_s: float
    worker_us: float  #: CPU of the workers per job
    redis_us: float  #: CPU of Redis per job
    commands: float  #: Redis commands per job, those inside scripts too
    rss_mb: float  #: peak of the biggest worker


def drain(
    contender: Contender,
    count: int,
    *,
    slots: int = 100,
    ms: float = 0.0,
    workers: int = 1,
    floor: int = 0,
    enough_s: float = ENOUGH_S,
) -> Drain:
    """Fill a fresh Redis, start the workers, and measure from the moment all of them run jobs.

    The window opens and closes at a change of what remains, so that waves of slow jobs do not
    bias it; it closes when *floor* jobs remain or after *enough_s*.
    """
    with redis_server() as server, tempfile.TemporaryDirectory() as folder:
        contender.fill(server, count, ms)
        outs = [Path(folder) / f"worker{n}" for n in range(workers)]
        with contextlib.ExitStack() as stack:
            pids = [
                stack.enter_context(
                    started(contender.line("work", server.port, slots=slots, out=str(out)))
                ).pid
                for out in outs
            ]
            limit = time.monotonic() + 60
            while not all(out.exists() and out.stat().st_size for out in outs):
                if time.monotonic() > limit:
                    raise TimeoutError(f"{contender.name}: no job ran within 60 s")
                time.sleep(0.002)
            before = _remaining_after_change(contender, server, -1)[0]
            begin = time.monotonic()
            busy_before = sum(map(cpu_s, pids))
            redis_before, calls_before = server.cpu_s(), server.calls()
            left, at, looks = before, begin, 0
            while left > floor and at - begin < enough_s:
                left, more = _remaining_after_change(contender, server, left)
                at = time.monotonic()
                looks += more
            done, took_s = before - left, at - begin
            calls = server.calls() - calls_before - looks * contender.reads - 1
            return Drain(
                done / took_s,
                (sum(map(cpu_s, pids)) - busy_before) / done * 1e6,
                (server.cpu_s() - redis_before) / done * 1e6,
                calls / done,
                max(map(peak_rss_mb, pids)),
            )


def _remaining_after_change(contender: Contender, server: Server, last: int) -> tuple[int, int]:
    """Return what remains once it differs from *last* (-1: from the first look), and the looks."""
    looks = 0
    end = time.monotonic() + 60
    while True:
        left = contender.remaining(server)
        looks += 1
        if last == -1:
            last = left
            if not left:
                raise RuntimeError(f"{contender.name}: the backlog was gone before it was measured")
        elif left != last:
            return left, looks
        if time.monotonic() > end:
            raise TimeoutError(f"{contender.name}: {left} jobs stay undone")
        time.sleep(LOOK_S)


def rounds_of(plans: Mapping[str, Callable[[], Drain]], rounds: int) -> dict[str, Drain]:
    """Run every plan *rounds* times, interleaved, and return each one's medians."""
    taken: dict[str, list[Drain]] = {name: [] for name in plans}
    for n in range(rounds):
        for name, plan in plans.items():
            try:
                sample = plan()
            except FAILURES as error:
                if name.startswith("arqscope"):
                    raise
                print(f"    round {n + 1}  {name:<24}failed: {error}", flush=True)
                continue
            taken[name].append(sample)
            print(
                f"    round {n + 1}  {name:<24}{sample.jobs_per_s:>10,.0f} jobs/s"
                f"{sample.worker_us:>8.0f} µs{sample.redis_us:>7.1f} µs Redis"
                f"{sample.commands:>7.2f} commands{sample.rss_mb:>6.0f} MB",
                flush=True,
            )
    return {
        name: Drain(*(median([getattr(s, f.name) for s in samples]) for f in fields(Drain)))
        for name, samples in taken.items()
    }


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T1."""
    known = contenders()
    ours = known["arqscope"]
    rows: list[Row] = []
    for count in (4_000, 20_000) if quick else (20_000, 200_000):
        print(f"  T1, backlog {count:,}", flush=True)
        big = count > 20_000
        names = [n for n in known if not big or n in ("arqscope", "arq", "arq tuned", "BullMQ")]
        enough_s = 3.0 if quick else ENOUGH_S
        plans = {
            name: partial(
                drain, known[name], count, enough_s=60.0 if known[name] is ours else enough_s
            )
            for name in names
        }
        found = rounds_of(plans, rounds)
        rows += _rows(found, "200k" if big else "20k", rounds, big=big)
    return rows


def _rows(found: Mapping[str, Drain], size: str, rounds: int, *, big: bool) -> list[Row]:
    ours = found["arqscope"]
    peers = {name: drained for name, drained in found.items() if name != "arqscope"}
    settings = f"backlog {size}, 1 worker process, 100 slots (arq: its defaults)"

    def row(part: str, what: str, unit: str, field: str, target: str, met: bool | None) -> Row:
        return Row(
            id=f"T1.{part}-{size}",
            what=what,
            unit=unit,
            ours=getattr(ours, field),
            peers={name: getattr(p, field) for name, p in peers.items()},
            target=target,
            met=met,
            settings=settings,
            rounds=rounds,
        )

    wanted = {"arq": 60.0, "arq tuned": 5.0, "BullMQ": 0.8 if big else 1.0}
    known = {name: least for name, least in wanted.items() if name in peers}
    fast = all(ours.jobs_per_s >= least * peers[n].jobs_per_s for n, least in known.items())
    bull = peers.get("BullMQ")
    return [
        row(
            "drain",
            "no-op jobs drained",
            "jobs/s",
            "jobs_per_s",
            ", ".join(f"≥ {least:g} x {name}" for name, least in wanted.items()),
            fast if len(known) == len(wanted) or not fast else None,
        ),
        row(
            "redis-cpu",
            "CPU of Redis per job",
            "µs",
            "redis_us",
            "≤ 0.7 x BullMQ",
            ours.redis_us <= 0.7 * bull.redis_us if bull else None,
        ),
        row("commands", "Redis commands per job", "", "commands", "≤ 8", ours.commands <= 8),
        row("rss", "peak memory of the worker", "MB", "rss_mb", "≤ 60 MB", ours.rss_mb <= 60),
        row("worker-cpu", "CPU of the worker per job", "µs", "worker_us", "", None),
    ]
