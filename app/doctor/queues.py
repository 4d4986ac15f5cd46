"""The queues: what is seen of each on its server, and of the keys they share. Bounded reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from arq.constants import health_check_key_suffix
from redis.asyncio import Redis

from app import keys
from app.placement import HOME, Placement
from app.records import WorkerInfo
from app.sampling.listings import WORKER_FIELDS, decoded_workers
from app.settings import Settings
from app.wire.batch import Batch, into

#: ids looked at from either end of a queue
HEAD: Final = 200
#: keys passed in the look for results that never expire
SCANNED: Final = 5_000
SCAN_STEP: Final = 1_000
#: ms arq itself keeps its abort ids, if its cleaner worked
ABORT_MS: Final = 3_600_000
_QUEUES_AT_MOST: Final = 200


@dataclass(slots=True, kw_only=True)
class Queue:
    """What was seen of one queue."""

    name: str
    is_ours: bool = True  #: declared, or registered by our producers and workers
    now_ms: int = 0
    depth: int = 0
    due: int = 0
    first_due_ms: float | None = None
    is_paused: bool = False
    running: int = 0  #: jobs our workers run
    health_left_ms: int = -2  #: of arq's health record (ours write it too); -2: there is none
    dead_open: int = 0
    ids: list[str] = field(default_factory=list)  #: of both ends
    locks: dict[str, str] = field(default_factory=dict)  #: id → who holds it; a stock lock is ``1``
    lock_left_ms: dict[str, int] = field(default_factory=dict)
    payload_left_ms: dict[str, int] = field(default_factory=dict)  #: -2: gone, -1: never
    vaulted: set[str] = field(default_factory=set)
    results: set[str] = field(default_factory=set)  #: of these ids a result lies there already
    workers: list[WorkerInfo] = field(default_factory=list)

    @property
    def oldest_wait_s(self) -> float:
        """s the oldest due job has been due."""
        return (
            0.0 if self.first_due_ms is None else max(0.0, (self.now_ms - self.first_due_ms) / 1000)
        )

    @property
    def stock_locks(self) -> list[str]:
        """Ids that a stock worker holds."""
        return [i for i, holder in self.locks.items() if holder == "1"]


@dataclass(slots=True, kw_only=True)
class Queues:
    """What was seen of all queues of a Redis, and of the keys they share."""

    queues: list[Queue] = field(default_factory=list)
    stale_aborts: int = 0
    oldest_abort_ms: float = 0.0
    aborts_of_waiting: list[str] = field(default_factory=list)
    scanned: int = 0
    results_forever: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    now_ms: int = 0
    server: str = HOME
    parcels: int = 0  #: jobs that wait here to be carried to another queue server
    misplaced: list["Misplaced"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A queue that left things on a server which does not hold it."""

    name: str
    jobs: int
    letters: int
    holder: str  #: the server it is placed on


async def look_at(redis: Redis, settings: Settings, server: str = HOME) -> Queues:
    """Look at every queue *server* holds: a few round trips, bounded however much is stored."""
    placement = settings.placement
    listed = {str(n) for n in await _members(redis, keys.QUEUES)}
    declared = list(placement.held_by(server, settings.queue_names))
    registered = sorted(set(placement.held_by(server, listed)) - set(declared))
    foreign = sorted(
        {str(n) for n in await _members(redis, keys.FOREIGN)} - {*declared, *registered}
    )
    seconds, micros = await redis.time()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    names = [*declared, *registered, *foreign][:_QUEUES_AT_MOST]
    queues = {name: Queue(name=name, is_ours=name not in foreign, now_ms=now_ms) for name in names}
    await _depths(redis, queues, now_ms)
    for queue in queues.values():
        await _jobs(redis, queue)
    for worker in await _workers(redis, now_ms):
        if worker.source in queues:
            queues[worker.source].workers.append(worker)
    found = Queues(queues=list(queues.values()), foreign=foreign, now_ms=now_ms, server=server)
    await _shared(redis, found)
    found.parcels = int(await _count(redis.hlen(keys.PARCELS)))
    elsewhere = {*settings.queue_names, *listed} - {*declared, *registered}
    found.misplaced = await _misplaced(redis, sorted(elsewhere)[:_QUEUES_AT_MOST], placement)
    return found


async def _misplaced(redis: Redis, names: list[str], placement: Placement) -> list[Misplaced]:
    """Those of *names*, queues of other servers, of which something lies here."""
    got: dict[str, Any] = {}
    batch = Batch(redis)
    for name in names:
        batch.ask_raw(into(got, f"jobs|{name}"), "ZCARD", name)
        batch.ask_raw(into(got, f"letters|{name}"), "ZCARD", keys.dead_open(name))
    await batch.run()
    found = [
        Misplaced(
            name,
            int(got.get(f"jobs|{name}") or 0),
            int(got.get(f"letters|{name}") or 0),
            placement.server_of(name),
        )
        for name in names
    ]
    return [one for one in found if one.jobs or one.letters]


async def _count(reply: Any) -> Any:
    return await reply


async def _members(redis: Redis, key: str) -> set[Any]:
    found: Any = await redis.smembers(key)  # type: ignore[misc]
    return set(found)


async def _depths(redis: Redis, queues: Mapping[str, Queue], now_ms: int) -> None:
    got: dict[str, Any] = {}
    batch = Batch(redis)
    batch.ask(into(got, "paused"), "SMEMBERS", keys.PAUSED_QUEUES)
    for name in queues:
        for what, *command in (
            ("depth", "ZCARD", name),
            ("due", "ZCOUNT", name, "-inf", now_ms),
            ("first", "ZRANGE", name, 0, HEAD - 1, "WITHSCORES"),
            ("last", "ZREVRANGE", name, 0, HEAD - 1),
            ("health", "PTTL", name + health_check_key_suffix),
            ("running", "HLEN", keys.running(name)),
            ("dead", "ZCARD", keys.dead_open(name)),
        ):
            batch.ask_raw(into(got, f"{what}|{name}"), *command)
    await batch.run()
    for name, queue in queues.items():
        queue.depth, queue.due = (
            int(got.get(f"depth|{name}") or 0),
            int(got.get(f"due|{name}") or 0),
        )
        queue.is_paused = name in (got.get("paused") or ())
        queue.running = int(got.get(f"running|{name}") or 0)
        queue.dead_open = int(got.get(f"dead|{name}") or 0)
        queue.health_left_ms = int(got.get(f"health|{name}", -2))
        first = list(got.get(f"first|{name}") or ())
        queue.first_due_ms = float(first[1]) if first and float(first[1]) <= now_ms else None
        ids = [str(i) for i in (*first[::2], *(got.get(f"last|{name}") or ()))]
        queue.ids = list(dict.fromkeys(ids))


async def _jobs(redis: Redis, queue: Queue) -> None:
    got: dict[str, Any] = {}
    batch = Batch(redis)
    for job_id in queue.ids:
        lock = keys.arq_in_progress(job_id)
        batch.ask_raw(into(got, f"payload|{job_id}"), "PTTL", keys.arq_job(job_id))
        batch.ask_raw(into(got, f"lock|{job_id}"), "GET", lock)
        batch.ask_raw(into(got, f"left|{job_id}"), "PTTL", lock)
        batch.ask_raw(into(got, f"result|{job_id}"), "EXISTS", keys.arq_result(job_id))
        batch.ask_raw(into(got, f"vault|{job_id}"), "EXISTS", keys.vault(queue.name, job_id))
    await batch.run()
    for job_id in queue.ids:
        queue.payload_left_ms[job_id] = int(got.get(f"payload|{job_id}", -1))
        if holder := got.get(f"lock|{job_id}"):
            queue.locks[job_id] = str(holder)
            queue.lock_left_ms[job_id] = int(got.get(f"left|{job_id}", -2))
        if got.get(f"result|{job_id}"):
            queue.results.add(job_id)
        if got.get(f"vault|{job_id}"):
            queue.vaulted.add(job_id)


async def _workers(redis: Redis, now_ms: int) -> list[WorkerInfo]:
    ids: Any = await redis.zrangebyscore(keys.WORKERS, now_ms - 20_000, "+inf", start=0, num=500)
    got: dict[str, Any] = {}
    batch = Batch(redis)
    for worker_id in ids:
        batch.ask_raw(
            into(got, str(worker_id)), "HMGET", keys.worker(str(worker_id)), *WORKER_FIELDS
        )
    await batch.run()
    flat = [value for reply in got.values() for value in reply]
    return decoded_workers(flat)[0]


async def _shared(redis: Redis, found: Queues) -> None:
    old = found.now_ms - ABORT_MS
    aborts: Any = await redis.zrangebyscore(
        keys.ARQ_ABORT, 2, old, start=0, num=HEAD, withscores=True
    )
    found.stale_aborts = int(await redis.zcount(keys.ARQ_ABORT, 2, old))
    found.oldest_abort_ms = float(aborts[0][1]) if aborts else 0.0
    stale = {str(i) for i, _ in aborts}
    for queue in found.queues:
        found.aborts_of_waiting += sorted(stale & (set(queue.ids) - set(queue.locks)))
    cursor: Any = 0
    while found.scanned < SCANNED:
        cursor, names = await redis.scan(cursor, match=f"{keys.ARQ_RESULT}*", count=SCAN_STEP)
        found.scanned += SCAN_STEP
        left: dict[str, Any] = {}
        batch = Batch(redis)
        for name in names:
            batch.ask_raw(into(left, str(name)), "PTTL", str(name))
        await batch.run()
        found.results_forever += [name for name, ms in left.items() if ms == -1]
        if not int(cursor):
            break
