"""Workers under fault, rows of FAULTS.md: a Redis that dies, refuses, is slow or falls silent."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.enqueue import JobRequest, enqueue
from app.errors import RedisRefused
from tests.conftest import RunningRedis, start_redis
from tests.faults.api import api
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.lateness import Lateness
from tests.faults.proxy import ChaosProxy
from tests.faults.rig import Rig, WorkerProcess, sized
from tests.faults.silence import silent_line
from tests.waiting import until

MakeRig = Callable[..., Rig]


@asynccontextmanager
async def _load(rig: Rig, per_s: float = 20, seconds: float = 0.05) -> AsyncIterator[None]:
    """Enqueue jobs all the while, as long as the block runs."""
    count = 0

    async def feed() -> None:
        nonlocal count
        while True:
            request = JobRequest(name="work", args=(seconds,), id=f"load{count}")
            count += 1
            await rig.submit([request], limit_s=100)
            await asyncio.sleep(1 / per_s)

    feeding = asyncio.create_task(feed())
    try:
        yield
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _next_done(rig: Rig, after: float, limit_s: float = 20) -> float:
    """Wait for a job that ended after wall-clock *after*; return the seconds from then to its end."""

    async def seen() -> bool:
        return any(e.at > after for e in rig.entries("done"))

    await until(seen, timeout_s=limit_s)
    return min(e.at for e in rig.entries("done") if e.at > after) - after


async def _heard(
    worker: WorkerProcess, *words: str, limit_s: float = 15, since: int | None = None
) -> float:
    """Wait until the worker has logged an ERROR with one of *words*; return the seconds it took.

    *since*: the length its log had when that could have begun; None: now.
    """
    started, seen = time.monotonic(), len(worker.said()) if since is None else since

    async def loud() -> bool:
        lines = worker.said()[seen:].splitlines()
        return any("ERROR" in line and any(w in line for w in words) for line in lines)

    await until(loud, timeout_s=limit_s)
    return time.monotonic() - started


@pytest.mark.row("R1")
@pytest.mark.seeded
async def test_workers_outlive_every_redis_that_is_killed(
    make_rig: MakeRig, row: Row, tmp_path: Path
) -> None:
    """
    Queue, streams and cache Redis are three servers, killed in turn under load.
    """
    rig = make_rig(lease_s=3)
    others = {
        name: start_redis(tmp_path / name, extra=("--appendfsync", "everysec"))
        for name in ("REDIS_URL", "REDIS_STREAMS_URL")
    }
    servers: list[RunningRedis] = [rig.server, *others.values()]
    fleet = [rig.start(more={n: s.url for n, s in others.items()}) for _ in range(2)]
    recoveries = []
    try:
        async with _load(rig):
            await rig.has("done", 5)
            for number in range(sized(20, 3)):
                server = servers[number % 3]
                await crash(server)
                await asyncio.sleep(rig.random.uniform(0.2, 1.0))
                await asyncio.get_running_loop().run_in_executor(None, server.start)
                recoveries.append(await _next_done(rig, time.time()))
                await asyncio.sleep(sized(3.0, 0.2))
        await rig.emptied()
        alive = [worker.is_alive for worker in fleet]
        codes = await rig.stop()
    finally:
        for server in others.values():
            server.stop()

    verdict = await rig.verdict()
    row.figure(
        redis_kills=len(recoveries),
        exits=alive.count(False),
        recovery_max_s=max(recoveries),
        unknown_enqueues=rig.unknown,
        **verdict.figures(),
    )
    assert verdict.holds, describe(verdict)
    assert (alive, codes) == ([True, True], [0, 0])
    assert max(recoveries) <= 2


@pytest.mark.row("R6")
async def test_a_full_redis_is_loud_and_what_runs_is_finished_when_there_is_room(
    make_rig: MakeRig, row: Row
) -> None:
    """
    ``maxmemory`` with noeviction: ``/health`` is red though Redis answers every PING and keeps the last
    heartbeat, producers get 503. Stock arq says nothing and dies as the job ends.
    """
    rig = make_rig(lease_s=2)
    worker = rig.start()
    async with api(rig) as http:
        await rig.work(5, 1.0, prefix="running")
        await rig.has("start", 5)
        assert await _health(http) == (200, "ok")

        await rig.client.config_set("maxmemory", "1mb")
        full_at = time.monotonic()
        await until(lambda: _is_red(http))
        red_s = time.monotonic() - full_at
        status, said = await _health(http)
        await _heard(worker, "OOM", "maxmemory", since=0)
        loud_s = time.monotonic() - full_at
        with pytest.raises(RedisRefused):
            await enqueue(rig.producer, rig.queue, JobRequest(name="work", id="refused"))
        posted = await http.post(f"/jobs/{rig.queue}", json={"name": "work", "data": {}})
        state = await _beaten_state(rig)
        await asyncio.sleep(sized(10.0, 1.0))
        alive = worker.is_alive
        await rig.client.config_set("maxmemory", "0")
        freed_s = await rig.emptied()
        await until(lambda: _is_green(http))
    await rig.stop()

    verdict = await rig.verdict()
    row.figure(red_s=red_s, health=said, post_status=posted.status_code, state=state)
    row.figure(loud_s=loud_s, deaths=int(not alive), resumed_s=freed_s, **verdict.figures())
    assert alive
    assert loud_s <= 5
    assert red_s <= 5
    assert (status, said) == (503, "out of memory: writes are refused")
    assert posted.status_code == 503, posted.text
    assert verdict.holds, describe(verdict)
    assert (verdict.complete, verdict.duplicates) == (5, 0)


async def _health(http: httpx.AsyncClient) -> tuple[int, str]:
    """Status of ``/health`` and what it says of the queue's Redis."""
    answer = await http.get("/health")
    return answer.status_code, answer.json()["checks"]["redis-queue"]


async def _is_red(http: httpx.AsyncClient) -> bool:
    return (await _health(http))[0] == 503


async def _is_green(http: httpx.AsyncClient) -> bool:
    return (await _health(http))[0] == 200


async def _beaten_state(rig: Rig) -> str:
    """What the heartbeat says of the worker: a full Redis takes none, so the last one stands."""
    names = await rig.client.zrange(keys.WORKERS, 0, -1)
    if not names:
        return "none"
    raw = await cast(Any, rig.client.hget(keys.worker(names[0].decode()), "state"))
    return (raw or b"none").decode()


@pytest.mark.row("R8")
async def test_a_redis_turned_replica_is_loud_and_work_goes_on_when_it_is_master_again(
    make_rig: MakeRig, row: Row
) -> None:
    rig = make_rig(lease_s=2)
    worker = rig.start()
    async with _load(rig):
        await rig.has("done", 3)
        await rig.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        loud_s = await _heard(worker, "READONLY", "read only", "replica")
        await asyncio.sleep(sized(20.0, 1.0))
        await rig.client.execute_command("REPLICAOF", "NO", "ONE")
        resumed_s = await _next_done(rig, time.time())
    await rig.emptied()
    alive = worker.is_alive
    await rig.stop()

    verdict = await rig.verdict()
    row.figure(loud_s=loud_s, resumed_s=resumed_s, deaths=int(not alive), **verdict.figures())
    assert alive
    assert verdict.holds, describe(verdict)
    assert loud_s <= 5
    assert resumed_s <= 2


def _through(rig: Rig, proxy: ChaosProxy) -> dict[str, str]:
    """Environment of a worker whose queue Redis is behind *proxy*."""
    url = rig.server.database(2)
    return {"REDIS_QUEUE_URL": url.replace(f":{rig.server.port}/", f":{proxy.port}/")}


@pytest.mark.row("R11")
async def test_a_wrong_password_is_said_clearly_and_patiently_and_never_shown(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Wrong at the start, rotated while running, user switched off: each heals without a restart.

    Recovery is at most 2 s of which the processes were not kept from a core (``Lateness``): a worker that
    asks too seldom sleeps meanwhile, and that counts.
    """
    rig = make_rig(lease_s=2)
    await rig.client.execute_command("ACL", "SETUSER", "boss", "on", ">boss", "~*", "&*", "+@all")
    boss = Redis.from_url(
        rig.server.database(2)
        .replace("redis://:", "redis://boss:")
        .replace(rig.server.password, "boss")
    )
    secret, right = "s3cret-that-must-not-be-logged", rig.server.password
    watch_s = sized(10.0, 1.2)
    async with ChaosProxy(rig.server.port) as proxy:
        wrong = {k: v.replace(right, secret) for k, v in _through(rig, proxy).items()}
        worker = rig.start(more=wrong)
        said_s = await _heard(worker, "invalid username-password", "WRONGPASS", since=0)
        at_start = await _attempts(proxy, watch_s)
        await boss.config_set("requirepass", secret)  # the fix: the server learns it
        recovered = [await _works(rig, boss, "fixed")]
        await rig.has_started(worker)

        seen = len(worker.said())
        await boss.config_set("requirepass", right)  # rotated under the worker's feet
        await boss.execute_command("CLIENT", "KILL", "USER", "default")
        rotated_s = await _heard(worker, "invalid username-password", "WRONGPASS", since=seen)
        rotated = await _attempts(proxy, watch_s)
        await boss.config_set("requirepass", secret)
        recovered.append(await _works(rig, boss, "rotated"))

        seen = len(worker.said())
        await boss.execute_command("ACL", "SETUSER", "default", "off")
        await boss.execute_command("CLIENT", "KILL", "USER", "default")
        await _heard(worker, "invalid username-password", "WRONGPASS", since=seen)
        switched = await _attempts(proxy, watch_s)
        await boss.execute_command("ACL", "SETUSER", "default", "on")
        recovered.append(await _works(rig, boss, "switched"))
        alive = worker.is_alive
        await boss.aclose()
    everything = "".join(w.said() for w in rig.workers)
    hits = everything.count(secret) + everything.count(right)
    row.figure(
        said_s=said_s,
        rotated_s=rotated_s,
        attempts_per_s_start=at_start[0] / at_start[1],
        attempts_per_s_running=max(n / window_s for n, window_s in (rotated, switched)),
        recovery_max_s=max(recovered),
        secrets_in_logs=hits,
    )
    assert (alive, hits) == (True, 0)
    # the whole process, all of its connections; a short window holds one more than its length in seconds
    for count, window_s in (at_start, rotated, switched):
        assert count <= window_s + sized(0, 1)
    assert max(recovered) <= 2


async def _attempts(proxy: ChaosProxy, watch_s: float) -> tuple[int, float]:
    """How many connections were opened within about *watch_s* from now, and how long that was."""
    before, started = proxy.connections, time.monotonic()
    await asyncio.sleep(watch_s)
    return proxy.connections - before, time.monotonic() - started


async def _works(rig: Rig, redis: Redis, name: str) -> float:
    """Wait until a job put on the queue now has run; return the seconds our processes took."""
    late = Lateness(*rig.pids)
    await redis.set(keys.arq_job(name), b'j1:{"t":null,"f":"work","a":[0],"k":{},"et":1}')
    await redis.zadd(rig.queue, {name: 1})
    await until(lambda: redis.exists(keys.arq_result(name)), timeout_s=20)
    return late.took_s


@asynccontextmanager
async def _watched_leases(rig: Rig, ids: list[str]) -> AsyncIterator[list[float]]:
    """Collect, ten times a second, the shortest time any lease of *ids* has left; 0: one ran out."""
    left_s: list[float] = []

    async def watch() -> None:
        while True:
            try:
                async with rig.client.pipeline(transaction=False) as pipe:
                    for job_id in ids:
                        pipe.hexists(keys.running(rig.queue), job_id)
                        pipe.pttl(keys.arq_in_progress(job_id))
                    found = await pipe.execute()
                pairs = zip(found[::2], found[1::2], strict=True)
                left_s.extend(max(0, ms) / 1000 for runs, ms in pairs if runs)
            except (RedisError, OSError):
                pass  # frozen: looked at again when it answers
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    try:
        yield left_s
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.row("R12")
@pytest.mark.seeded
async def test_a_slow_redis_takes_no_job_from_a_living_worker(make_rig: MakeRig, row: Row) -> None:
    """
    Latency, a pause and a freeze shorter than the lease: leases are renewed in time.
    """
    rig = make_rig(lease_s=sized(30.0, 5.0))
    delay_s, slow_s, pause_s, freeze_s = sized((0.2, 2.0, 5.0, 10.0), (0.1, 0.3, 0.4, 0.8))
    async with ChaosProxy(rig.server.port, rig.seed) as proxy:
        fleet = [rig.start(more=_through(rig, proxy)) for _ in range(2)]
        longs = await rig.work(6, sized(50.0, 4.0), prefix="long")
        await rig.has("start", 6)
        async with _load(rig, per_s=5), _watched_leases(rig, longs) as left_s:
            proxy.delay_s, proxy.jitter_s = delay_s, delay_s / 2
            await asyncio.sleep(sized(8.0, 0.7))
            proxy.delay_s, proxy.jitter_s = slow_s, 0.0
            await asyncio.sleep(sized(12.0, 0.7))
            proxy.delay_s = 0.0
            await rig.client.execute_command("CLIENT", "PAUSE", int(pause_s * 1000), "ALL")
            await asyncio.sleep(pause_s)
            process = rig.server.process
            assert process is not None
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(freeze_s)
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
        await rig.emptied(60)
        alive = [worker.is_alive for worker in fleet]
        await rig.stop()

    verdict = await rig.verdict()
    totals = await rig.totals()
    row.figure(
        false_takeovers=totals.get("crashed", 0),
        shutdowns=totals.get("shutdown", 0),
        lease_s=rig.lease_s,
        lease_left_min_s=min(left_s),
        **verdict.figures(),
    )
    assert alive == [True, True]
    assert verdict.holds, describe(verdict)
    assert min(left_s) > 0
    assert (totals.get("crashed", 0), totals.get("shutdown", 0)) == (0, 0)
    assert verdict.duplicates == 0


@pytest.mark.row("R13")
async def test_a_redis_that_swallows_everything_is_noticed_and_left_for_a_new_connection(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Nothing is refused and nothing answered, as behind a dropping firewall; stock arq never says so.

    Waiting for an answer that does not come counts in full; only the wait for a core does not.
    """
    async with silent_line() as line:
        rig = make_rig(lease_s=sized(30.0, 2.0), extra=("--appendfsync", "everysec", *line.options))
        line.lead_to(rig)
        idle = line.start_worker(rig)
        await rig.work(2, 0.1)
        await rig.emptied()
        busy = line.start_worker(rig)
        await rig.work(12, sized(40.0, 2.0), prefix="long")
        await rig.has("start", 14)

        before = {worker.pid: len(worker.said()) for worker in (idle, busy)}
        late = Lateness(*rig.pids)
        line.silence()

        async def heard(worker: WorkerProcess) -> float:
            await _heard(worker, "trouble", "lease", limit_s=40, since=before[worker.pid])
            return late.took_s

        noticed = await asyncio.gather(heard(idle), heard(busy))
        await asyncio.sleep(sized(max(0.0, 60 - max(noticed)), 0.5))
        await crash(rig.server)  # the server goes while nobody can see it
        await asyncio.get_running_loop().run_in_executor(None, rig.server.start)
        line.heal()
        late = Lateness(*rig.pids)
        await rig.work(1, 0, prefix="after")
        await rig.holds(lambda: rig.client.exists(keys.arq_result("after0")), limit_s=30)
        resumed_s = late.took_s
        await rig.emptied(90)
        alive = [idle.is_alive, busy.is_alive]
        await rig.stop()

    verdict = await rig.verdict()
    row.figure(line=line.kind, detect_max_s=max(noticed), resumed_s=resumed_s, **verdict.figures())
    assert alive == [True, True], idle.said()[-3000:] + busy.said()[-3000:]
    assert verdict.holds, describe(verdict)
    assert max(noticed) <= 10
    assert resumed_s <= 12


@pytest.mark.row("R12")
async def test_a_claim_whose_reply_was_lost_costs_its_jobs_neither_time_nor_a_crash(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Redis handed the jobs over, the worker never heard of it: it puts them back and claims again.
    """
    rig = make_rig(lease_s=10)
    async with ChaosProxy(rig.server.port) as proxy:
        worker = rig.start(more=_through(rig, proxy))
        await rig.has_started(worker)
        proxy.lose_reply_with = b'"f":"work"'
        submitted_at = time.time()
        await rig.work(5, 0.1)
        await rig.emptied(20)
        took_s = max(e.at for e in rig.entries("done")) - submitted_at
        await rig.stop()

    verdict = await rig.verdict()
    totals = await rig.totals()
    assert proxy.lose_reply_with == b""
    row.figure(took_s=took_s, crashed=totals.get("crashed", 0), **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert totals.get("crashed", 0) == 0
    assert took_s < 5
