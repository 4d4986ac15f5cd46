"""One stream test's machinery: private servers, processors as processes, what was acked, the check."""

import asyncio
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.records import DeadLetter
from tests.conftest import RunningRedis
from tests.faults import ledger
from tests.faults.fault_events import fields
from tests.faults.nursery import ROOT, Nursery
from tests.faults.rig import FULL, WorkerProcess, sized
from tests.waiting import until

STREAM, GROUP = "pyairtable-events", "event-processors"
both_versions = pytest.mark.parametrize("kind", ["system", "bundled"])
#: rows whose slice would tell nothing new on the embedded 6.2; `make faults` runs them on both
both_in_full = pytest.mark.parametrize("kind", sized(["system", "bundled"], ["system"]))


@dataclass(frozen=True, slots=True)
class EventVerdict:
    """What became of every event a producer was told is appended."""

    lost: tuple[str, ...]  #: acked and without effect
    doubled: tuple[str, ...]  #: two effects in Redis of one event
    vanished: tuple[str, ...]  #: acked and not in the stream
    letters: Mapping[str, str]  #: dead letter id -> reason
    wrong_letters: tuple[str, ...]  #: missing, unexpected or of another reason
    pending: int
    external_repeats: int  #: further runs of a handler up to its end

    @property
    def holds(self) -> bool:
        """Whether every good event had its effect once and every bad one is a letter."""
        wrong = (self.lost, self.doubled, self.vanished, self.wrong_letters, self.pending)
        return not any(wrong)

    def figures(self) -> dict[str, int]:
        """For the line of the row."""
        return {
            "lost": len(self.lost),
            "doubled": len(self.doubled),
            "letters": len(self.letters),
            "wrong_letters": len(self.wrong_letters),
            "pending": self.pending,
            "external_repeats": self.external_repeats,
        }

    def said(self) -> str:
        """The first few things wrong, for an assertion."""
        names = ("lost", "doubled", "vanished", "wrong_letters")
        wrong: dict[str, Any] = {name: list(getattr(self, name))[:5] for name in names}
        return json.dumps({**wrong, "pending": self.pending})


class EventRig:
    """A stream under fault. ``acked`` holds the ids a producer was told were appended."""

    def __init__(
        self,
        directory: Path,
        server: RunningRedis,
        queue_server: RunningRedis,
        nursery: Nursery,
        seed: int,
        lease_s: float,
    ) -> None:
        self.server, self.queue_server = server, queue_server
        self.directory = directory
        self.seed, self.lease_s = seed, lease_s
        self.random = random.Random(seed)
        self.ledger = directory / "ledger"
        self.ledger.mkdir(parents=True)
        self.acked: dict[str, str] = {}  #: entry id -> type
        self.unknown = 0  #: pipelines whose outcome was unknown and that were repeated
        self.processors: list[WorkerProcess] = []
        self.deaths = 0
        self._nursery = nursery
        self.redis = Redis.from_url(
            server.database(1),
            socket_timeout=10,
            decode_responses=True,
            encoding_errors="surrogateescape",
        )
        self.queue = Redis.from_url(
            queue_server.database(2), socket_timeout=10, decode_responses=True
        )

    # -- processes -----------------------------------------------------------------------------

    def environment(self, **more: object) -> dict[str, str]:
        """What a processor is started with."""
        return {
            "REDIS_URL": self.server.database(0),
            "REDIS_STREAMS_URL": self.server.database(1),
            "REDIS_QUEUE_URL": self.queue_server.database(2),
            "ARQSCOPE_HANDLERS": "tests.faults.fault_events",
            "ARQSCOPE_FUNCTIONS": "tests.faults.fault_jobs",
            "ARQSCOPE_LEASE_S": str(self.lease_s),
            "ARQSCOPE_DRAIN_S": "10",
            "ARQSCOPE_EVENT_ATTEMPTS": "3",
            "ARQSCOPE_CONFIG_FILE": str(self.directory / "arqscope.toml"),
            "BLOCK_TIME": "200",
            "CONCURRENCY": "10",
            ledger.VARIABLE: str(self.ledger),
            "PYTHONPATH": str(ROOT),
            **{name: str(value) for name, value in more.items()},
        }

    def start(
        self,
        more: Mapping[str, str] = MappingProxyType({}),
        *,
        queue: str | None = None,
        **environment: object,
    ) -> WorkerProcess:
        """Fork a processor, or a worker of *queue*."""
        log = self.directory / f"processor-{len(self.processors)}.log"
        nursery = self._nursery
        request = {
            "start": {**self.environment(**environment), **more},
            "queue": queue,
            "log": str(log),
        }
        pid: int = nursery.ask(request)
        process = WorkerProcess(pid, log, lambda: cast(int | None, nursery.ask({"poll": pid})))
        self.processors.append(process)
        return process

    async def started(self, process: WorkerProcess) -> None:
        """Wait until *process* says that it reads."""
        await self.holds(lambda: asyncio.sleep(0, "event processor started" in process.said()))

    def keep_alive(self, count: int, more: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start as many processors as are missing to *count*."""
        alive = [one for one in self.processors if one.is_alive]
        for _ in range(count - len(alive)):
            self.start(more)

    @property
    def alive(self) -> list[WorkerProcess]:
        """Those that run."""
        return [one for one in self.processors if one.is_alive]

    async def stop(self) -> list[int]:
        """SIGTERM every process that lives and return their exit codes."""
        alive = self.alive
        for one in alive:
            one.terminate()
        return [await one.ended() for one in alive]

    async def close(self) -> None:
        """End, by pid, everything this test started."""
        for one in self.processors:
            one.send(18)  # SIGCONT
            one.kill()
        for one in self.processors:
            await one.ended()
        await self.redis.aclose()
        await self.queue.aclose()
        self.server.stop()
        if self.queue_server is not self.server:
            self.queue_server.stop()
        if FULL:
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- producing -----------------------------------------------------------------------------

    async def publish(self, rows: Sequence[Mapping[Any, Any]], limit_s: float = 30) -> list[str]:
        """Append entries; a pipeline of unknown outcome is sent again (its entries may be twice)."""
        end = time.monotonic() + limit_s
        while True:
            try:
                async with self.redis.pipeline(transaction=True) as pipe:
                    for row in rows:
                        pipe.xadd(STREAM, cast(Any, row))
                    ids = await pipe.execute()
            except (RedisError, OSError):
                self.unknown += 1
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.05)
            else:
                self.acked.update(
                    (one, str(row.get("type", ""))) for one, row in zip(ids, rows, strict=True)
                )
                return [str(one) for one in ids]

    async def work(self, count: int, kind: str = "work.made", **data: Any) -> list[str]:
        """Append *count* events over ten workspaces."""
        return await self.publish(
            [fields(kind, {"n": n, **data}, workspaceId=f"w{n % 10}") for n in range(count)]
        )

    # -- looking -------------------------------------------------------------------------------

    def entries(self, effect: str = "") -> list[ledger.Entry]:
        """What the ledger holds; of one effect when given."""
        return [e for e in ledger.read(self.ledger) if not effect or e.effect == effect]

    async def holds(self, condition: Callable[[], Awaitable[Any]], limit_s: float = 20) -> None:
        """Wait for *condition*."""
        await until(condition, timeout_s=limit_s)

    async def has(self, effect: str, count: int, limit_s: float = 20) -> list[ledger.Entry]:
        """Wait until the ledger holds *effect* *count* times."""

        async def enough() -> bool:
            return len(self.entries(effect)) >= count

        await self.holds(enough, limit_s)
        return self.entries(effect)

    async def is_settled(self) -> bool:
        """Whether the group has been given everything and nothing is pending."""
        groups: Any = await self.redis.xinfo_groups(STREAM)
        info: Any = await self.redis.xinfo_stream(STREAM)
        return any(
            row["pending"] == 0 and row["last-delivered-id"] == info["last-generated-id"]
            for row in groups
            if row["name"] == GROUP
        )

    async def settled(self, limit_s: float = 60) -> float:
        """Wait until nothing is unread or pending; return the seconds it took."""
        began = time.monotonic()
        await self.holds(self.is_settled, limit_s)
        return time.monotonic() - began

    async def totals(self) -> dict[str, int]:
        """The stream's counters."""
        raw = await cast(Any, self.redis.hgetall(keys.event_totals(STREAM)))
        return {name: int(value) for name, value in raw.items()}

    async def letters(self) -> dict[str, DeadLetter]:
        """The open dead letters of the stream."""
        found = {}
        for one in await self.redis.zrange(keys.dead_open(STREAM), 0, -1):
            raw = await cast(Any, self.redis.hgetall(keys.dead_record(STREAM, one)))
            found[one] = DeadLetter.from_fields(raw)
        return found

    async def verdict(self, bad: Mapping[str, str] = MappingProxyType({})) -> EventVerdict:
        """Check every entry of the stream; *bad* maps types to the reason their letters must have."""
        effects: Counter[str] = Counter()
        entries: dict[str, str] = {}
        after = "-"
        while page := await self.redis.xrange(STREAM, after, count=5_000):
            for entry_id, row in page:
                kind = row.get("type", "")
                if kind == "effect.made":
                    effects[json.loads(row["data"])["of"]] += 1
                else:
                    entries[entry_id] = kind
            after = f"({page[-1][0]}"
        good = [one for one, kind in entries.items() if kind not in bad]
        due = {one: bad[kind] for one, kind in entries.items() if kind in bad}
        found = {one: letter.reason for one, letter in (await self.letters()).items()}
        wrong = {one for one in {*due, *found} if due.get(one) != found.get(one)}
        done = Counter(entry.id for entry in self.entries("done"))
        pending: Any = await self.redis.xpending(STREAM, GROUP)
        return EventVerdict(
            lost=tuple(one for one in good if not effects[one]),
            doubled=tuple(one for one, number in effects.items() if number > 1),
            vanished=tuple(one for one in self.acked if one not in entries),
            letters=found,
            wrong_letters=tuple(f"{i}: {due.get(i)} / {found.get(i)}" for i in sorted(wrong)),
            pending=int(pending["pending"]),
            external_repeats=sum(number - 1 for number in done.values() if number > 1),
        )


MakeRig = Callable[..., EventRig]
