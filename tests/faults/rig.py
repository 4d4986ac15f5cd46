"""One test's machinery: a private redis-server, workers as processes, a ledger and what was acked."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

from app import keys
from app.enqueue import JobRequest, enqueue_many
from app.errors import RedisRefused, RedisUnavailable
from app.records import JobRun
from app.wire.connections import connect
from tests.conftest import RunningRedis
from tests.faults import ledger
from tests.faults.checker import Verdict, conserved
from tests.faults.nursery import ROOT, Nursery, plain_environment
from tests.waiting import until

T = TypeVar("T")

QUEUE: Final = "async-processing"
#: whether the sizes are those of FAULTS.md (`make faults`) or of the slice CI runs
FULL: Final = os.environ.get("ARQSCOPE_FAULTS") == "full"


def sized(full: T, slice_: T) -> T:
    """*full* under `make faults`, else *slice_*."""
    return full if FULL else slice_


@dataclass
class WorkerProcess:
    """One worker started for a test."""

    pid: int
    log: Path
    exit_code: Callable[[], int | None]
    started_at: float = field(default_factory=time.monotonic)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code() is None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.is_alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send(signal.SIGTERM)

    async def ended(self, limit_s: float = 30) -> int:
        """Wait for its end and return the exit code."""
        await until(lambda: asyncio.sleep(0, not self.is_alive), timeout_s=limit_s)
        return cast(int, self.exit_code())

    def said(self) -> str:
        """Everything it logged."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Rig:
    """A queue under fault. ``acked`` holds the ids a producer was told are accepted."""

    def __init__(
        self, directory: Path, server: RunningRedis, nursery: Nursery, seed: int, lease_s: float
    ) -> None:
        self.server = server
        self.directory = directory
        self.seed = seed
        self.random = random.Random(seed)
        self.lease_s = lease_s
        self.queue = QUEUE
        self.acked: set[str] = set()
        self.unknown = 0  #: enqueue calls whose outcome was unknown and that were repeated
        self.workers: list[WorkerProcess] = []
        self.ledger = directory / "ledger"
        self.ledger.mkdir(parents=True)
        self.client = connect(server.database(2), timeout_s=5, decode_responses=False)
        self.producer = connect(server.database(2))
        self._nursery = nursery
        self.policy(attempts=3, backoff_s=0.05, backoff_cap_s=0.2)

    def policy(self, queue: str = QUEUE, **fields: float) -> None:
        """Write the policy of *queue*; workers started later read it."""
        lines = [f"[queues.{queue}]", *(f"{name} = {value}" for name, value in fields.items())]
        (self.directory / "arqscope.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def environment(self, **more: object) -> dict[str, str]:
        """What a worker is started with."""
        return {
            "REDIS_URL": self.server.database(0),
            "REDIS_STREAMS_URL": self.server.database(1),
            "REDIS_QUEUE_URL": self.server.database(2),
            "ARQSCOPE_FUNCTIONS": "tests.faults.fault_jobs",
            "ARQSCOPE_LEASE_S": str(self.lease_s),
            "ARQSCOPE_DRAIN_S": "10",
            "ARQSCOPE_CONFIG_FILE": str(self.directory / "arqscope.toml"),
            "CONCURRENCY": "10",
            ledger.VARIABLE: str(self.ledger),
            "PYTHONPATH": str(ROOT),
            **{name: str(value) for name, value in more.items()},
        }

    def start(
        self,
        *,
        queue: str = "",
        cgroup: str = "",
        broken_hooks: bool = False,
        more: Mapping[str, str] = MappingProxyType({}),
        **environment: object,
    ) -> WorkerProcess:
        """Fork a worker; *more* and *environment* replace single variables."""
        log = self.directory / f"worker-{len(self.workers)}.log"
        nursery = self._nursery
        pid: int = nursery.ask(
            {
                "start": {**self.environment(**environment), **more},
                "queue": queue or self.queue,
                "log": str(log),
                "cgroup": cgroup,
                "broken_hooks": broken_hooks,
            }
        )
        worker = WorkerProcess(pid, log, lambda: cast(int | None, nursery.ask({"poll": pid})))
        self.workers.append(worker)
        return worker

    def start_fresh(self, *prefix: str, queue: str = "", **environment: object) -> WorkerProcess:
        """Start ``python -m workers.settings`` itself, under the command *prefix*."""
        log = self.directory / f"worker-{len(self.workers)}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "workers.settings", queue or self.queue],
                cwd=ROOT,
                env={**plain_environment(), **self.environment(**environment)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        worker = WorkerProcess(process.pid, log, process.poll)
        self.workers.append(worker)
        return worker

    @property
    def pids(self) -> list[int]:
        """The processes an answer goes through: the test's, Redis, the workers that live."""
        server = self.server.process
        alive = [worker.pid for worker in self.workers if worker.is_alive]
        return [os.getpid(), *([server.pid] if server is not None else []), *alive]

    async def stop(self) -> list[int]:
        """SIGTERM every worker that lives and return their exit codes."""
        alive = [worker for worker in self.workers if worker.is_alive]
        for worker in alive:
            worker.terminate()
        return [await worker.ended() for worker in alive]

    async def close(self) -> None:
        """End, by pid, everything this test started."""
        await self.close_workers()
        await self.client.aclose()
        await self.producer.aclose(close_connection_pool=True)
        self.server.stop()
        if FULL:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def close_workers(self) -> None:
        """SIGKILL every worker and wait until all are gone."""
        for worker in self.workers:
            worker.send(signal.SIGCONT)
            worker.kill()
        for worker in self.workers:
            await worker.ended()

    # -- producing -----------------------------------------------------------------------------

    async def submit(self, requests: Sequence[JobRequest], limit_s: float = 30) -> None:
        """Enqueue; an unknown outcome is repeated with the same ids until it is known."""
        end = time.monotonic() + limit_s
        while True:
            try:
                answers = await enqueue_many(self.producer, self.queue, requests)
            except (RedisUnavailable, RedisRefused):
                self.unknown += 1
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.05)
            else:
                self.acked.update(answer.id for answer in answers)
                return

    async def work(self, count: int, seconds: float, prefix: str = "j", **more: Any) -> list[str]:
        """Enqueue *count* jobs that take *seconds* each."""
        requests = [
            JobRequest(name="work", args=(seconds,), id=f"{prefix}{number}", **more)
            for number in range(count)
        ]
        await self.submit(requests)
        return [request.id for request in requests]

    # -- looking -------------------------------------------------------------------------------

    async def totals(self) -> dict[str, int]:
        """The queue's counters."""
        raw = await cast(Any, self.client.hgetall(keys.totals(self.queue)))
        return {name.decode(): int(value) for name, value in raw.items()}

    async def letter(self, letter_id: str) -> dict[str, str]:
        """The record of a dead letter; empty when there is none."""
        raw = await cast(Any, self.client.hgetall(keys.dead_record(self.queue, letter_id)))
        return {
            name.decode(): value.decode("utf-8", "surrogateescape") for name, value in raw.items()
        }

    async def runs(self) -> list[JobRun]:
        """Every run reported, oldest first."""
        entries = await self.client.xrange(keys.runs(self.queue))
        return [JobRun.from_json(fields[b"r"]) for _, fields in entries]

    def entries(self, effect: str = "") -> list[ledger.Entry]:
        """What the ledger holds; of one effect when given."""
        return [e for e in ledger.read(self.ledger) if not effect or e.effect == effect]

    async def has(self, effect: str, count: int = 1, limit_s: float = 40) -> list[ledger.Entry]:
        """Wait until the ledger holds *effect* *count* times."""

        async def enough() -> bool:
            return len(self.entries(effect)) >= count

        await until(enough, timeout_s=limit_s)
        return self.entries(effect)

    async def has_started(self, worker: WorkerProcess, limit_s: float = 40) -> None:
        """Wait until *worker* says that it works."""
        await until(lambda: asyncio.sleep(0, "worker started" in worker.said()), timeout_s=limit_s)

    async def is_empty(self) -> bool:
        """Whether nothing is queued or running."""
        return bool(await self.client.zcard(self.queue) == 0)

    async def emptied(self, limit_s: float = 30) -> float:
        """Wait until nothing is queued or running; return the seconds it took."""
        started = time.monotonic()
        await until(self.is_empty, timeout_s=limit_s)
        return time.monotonic() - started

    async def holds(self, condition: Callable[[], Awaitable[Any]], limit_s: float = 40) -> None:
        """Wait for *condition*."""
        await until(condition, timeout_s=limit_s)

    async def verdict(self, *, must_be_empty: bool = True, effect: str = "done") -> Verdict:
        """Check the conservation law."""
        return await conserved(
            self.client,
            self.queue,
            self.acked,
            self.ledger,
            effect=effect,
            must_be_empty=must_be_empty,
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The value *share* of *values* are not above; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
