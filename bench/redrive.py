"""T9: put 50,000 dead letters back, each with its state change and lineage, unthrottled."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.contenders import PEERS, VENVS, contenders, installed
from bench.drain import FAILURES
from bench.machine import ROOT, Server, ahead, environment, median, redis_server
from bench.results import Row

COUNT = 50_000
TARGET_PER_S = 60_000.0
#: what a dead job leaves behind: a traceback as long as they are, and a payload of 300 bytes
TRACEBACK = '  File "app/sync.py", line 42, in sync\n    await client.fetch(record)\n' * 30
PAYLOAD = b'j1:{"t":null,"f":"sync","a":[{"text":"' + b"x" * 220 + b'"}],"k":{},"et":1700000000000}'


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T9: ours by an operation as the runner drives it, BullMQ by retryJobs, rq by its registry."""
    count = 5_000 if quick else COUNT
    plans: dict[str, Callable[[], dict[str, float]]] = {"arqscope": lambda: _ours(count)}
    if "BullMQ" in contenders():
        plans["BullMQ"] = lambda: _peer(["node", str(PEERS / "bullmq" / "redrive.mjs")], count)
    rq = VENVS / "rq" / "bin" / "python"
    if rq.exists():
        some = min(count, 5_000)  # one round trip each: the rate does not depend on how many
        plans["rq"] = lambda: _peer([str(rq), str(PEERS / "rq_redrive.py")], some)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
    print(f"  T9, {count:,} dead letters", flush=True)
    for n in range(rounds):
        for name, plan in plans.items():
            try:
                sample = plan()
            except FAILURES as error:
                if name == "arqscope":
                    raise
                print(f"    round {n + 1}  {name:<12}failed: {error}", flush=True)
                continue
            taken[name].append(sample)
            told = "  ".join(f"{key} {value:,.1f}" for key, value in sample.items())
            print(f"    round {n + 1}  {name:<12}{told}", flush=True)
    rates = {name: median([s["per_s"] for s in samples]) for name, samples in taken.items()}
    ours = rates.pop("arqscope")
    blocked = median([s["blocked_ms"] for s in taken["arqscope"]])
    settings = (
        f"{count:,} dead letters, 1 process, no throttle, it and its Redis ahead of other programs; "
        "rq: 5,000, one call each"
    )
    return [
        Row(
            id="T9.redrive",
            what="dead letters put back with state change and lineage",
            unit="letters/s",
            ours=ours,
            peers=rates,
            target=f"≥ {TARGET_PER_S:,.0f}/s",
            met=ours >= TARGET_PER_S,
            settings=settings,
            rounds=rounds,
        ),
        Row(
            id="T9.blocked",
            what="longest call meanwhile, on Redis' own clock",
            unit="ms",
            ours=blocked,
            target="≤ 5 ms",
            met=blocked <= 5,
            settings=settings,
            rounds=rounds,
        ),
    ]


def versions() -> dict[str, str]:
    """Versions of the peers only this row has."""
    found = installed(VENVS / "rq" / "bin" / "python", "rq")
    return {"rq": found} if found else {}


def _peer(command: list[str], count: int) -> dict[str, float]:
    with redis_server() as server, ahead(server) as first:
        line = [*command, json.dumps({"port": server.port, "count": count})]
        done = subprocess.run(
            [*first, *line],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=environment(),
            timeout=600,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))


def _ours(count: int) -> dict[str, float]:
    with redis_server() as server:
        _bury(server, count)
        server.redis.config_set("slowlog-log-slower-than", 500)
        server.redis.slowlog_reset()
        with ahead(server) as first:
            done = subprocess.run(
                [*first, sys.executable, "-m", "bench.redrive", str(server.port)],
                capture_output=True, text=True, check=True, cwd=ROOT, env=environment(), timeout=600,
            )  # fmt: skip
        sample = dict(json.loads(done.stdout.splitlines()[-1]))
        slow: Any = server.redis.slowlog_get(1_000)
        sample["blocked_ms"] = max((row["duration"] for row in slow), default=500) / 1000
        _check(server, count)
        return sample


def _bury(server: Server, count: int) -> None:
    """Write dead letters as the finish script leaves them."""
    from app import keys
    from app.records import DeadLetter, LetterState

    now_ms = int(time.time() * 1000) - count
    source = "q"
    for start in range(0, count, 1_000):
        pipe = server.redis.pipeline(transaction=False)
        for n in range(start, min(count, start + 1_000)):
            letter = DeadLetter(
                id=f"job-{n:08}", kind="job", source=source, name="sync", state=LetterState.NEW,
                reason="attempts", error_type="TimeoutError", error="the supplier did not answer",
                traceback=TRACEBACK, fingerprint="0123456789abcdef", attempts=3, died_ms=now_ms + n,
            )  # fmt: skip
            pipe.hset(keys.dead_record(source, letter.id), mapping=letter.to_fields())  # type: ignore[arg-type]
            pipe.set(keys.dead_payload(source, letter.id), PAYLOAD)
            pipe.zadd(keys.dead_open(source), {letter.id: letter.died_ms})
        pipe.execute()


def _check(server: Server, count: int) -> None:
    from app import keys

    found = (
        server.redis.zcard("q"),
        server.redis.zcard(keys.dead_retrying("q")),
        server.redis.zcard(keys.dead_open("q")),
        server.redis.hexists(keys.dead_record("q", f"job-{count - 1:08}"), "redrive:1"),
    )
    if found != (count, count, 0, True):
        raise RuntimeError(f"not every letter was put back: {found}")


async def _redrive(port: int) -> dict[str, float]:
    from app import operations
    from app.operations import Operation
    from app.operations.drive import drive
    from app.wire.connections import Connections, connect

    redis = connect(f"redis://127.0.0.1:{port}/0", timeout_s=5)
    connections = Connections(queue=redis, streams=redis, cache=redis)
    await redis.ping()
    began = time.perf_counter()
    made, _ = await operations.create(
        redis, Operation(id=operations.new_id(), kind="retry_letters", source="q", actor="bench")
    )
    ended = await drive(connections, made.id)
    took_s = time.perf_counter() - began
    await redis.aclose()
    return {"per_s": ended.done / took_s, "done": ended.done}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_redrive(int(sys.argv[1])))) + "\n")
