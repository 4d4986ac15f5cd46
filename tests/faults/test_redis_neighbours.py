"""Redis as it is set up and shared: wrong settings (R7), a master that keeps nothing (R10), what answers that is
no answer (R15), two projects on one server (R18), old and new versions (R19), and a split fleet (R14)."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import actions
from app.actions import Actor, Connections
from app.doctor import preflight
from app.doctor.findings import Severity
from app.embedded import VARIABLES
from app.enqueue import JobRequest, enqueue
from app.errors import ArqscopeError, RedisUnavailable
from app.settings import Settings
from app.wire.connections import connect, explained
from tests.conftest import ROOT, RunningRedis, redis_binary, start_redis, unused_port
from tests.faults import ledger
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.fleet import replicated
from tests.faults.nursery import Nursery
from tests.faults.proxy import ChaosProxy
from tests.faults.rig import QUEUE, Rig, WorkerProcess, sized
from tests.waiting import until

MakeRig = Callable[..., Rig]
ANN = Actor(name="ann", role="operator")


#: what starts, and until when: a worker ends by itself, the others run until they are told to stop
STARTS = {
    "worker": ("worker", QUEUE, "--burst"),
    "events": ("events",),
    "dead-letters": ("dead-letters",),
    "serve": ("serve",),
    "up": ("up", "--port", "{port}"),
}


async def started(
    what: str, directory: Path, roles: Callable[[int], str], **more: str
) -> tuple[int | None, str]:
    """Start a process and wait for its end, or until it works: its exit code (None: it works), and what it said."""
    port = str(unused_port())
    environment = {k: v for k, v in os.environ.items() if "REDIS" not in k and "ARQSCOPE" not in k}
    urls = {name: roles(n) for n, name in enumerate(VARIABLES.values())}
    log = directory / f"{what}.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "app.cli",
            *(word.replace("{port}", port) for word in STARTS[what]),
            env={**environment, **urls, "PYTHONPATH": str(ROOT), "QUEUE_UI_PORT": port, **more},
            cwd=directory, stdout=out, stderr=out,
        )  # fmt: skip
    works = ("event processor started", "sampling role=", "Dashboard")

    async def settled() -> bool:
        return process.returncode is not None or any(w in log.read_text() for w in works)

    try:
        await until(settled, timeout_s=60)
        code = process.returncode
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return code, log.read_text()


@pytest.mark.row("R7")
async def test_wrong_settings_are_found_before_they_cost(tmp_path: Path, row: Row) -> None:
    """
    Eviction, no append-only file, no password, no protected mode, all on one server: no process starts on it;
    told to start all the same, a worker says each with its remedy, and works.
    """
    server = start_redis(
        tmp_path / "redis",
        extra=(
            "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb", "--appendonly", "no",
            "--protected-mode", "no",
        ),
    )  # fmt: skip
    admin = connect(server.url)
    await admin.config_set("requirepass", "")
    await admin.aclose(close_connection_pool=True)

    def bare(number: int) -> str:
        return f"redis://127.0.0.1:{server.port}/{number}"

    settings = Settings(
        redis_url=bare(0), redis_streams_url=bare(1), redis_queue_url=bare(2),
        accept_hazards="eviction",
    )  # fmt: skip
    try:
        seen = await preflight.look(settings)
        began = time.monotonic()
        for _ in range(10):
            await preflight.look(settings)
        look_s = (time.monotonic() - began) / 10
        refused = {what: await started(what, tmp_path, bare) for what in STARTS}
        code, told = await started("worker", tmp_path, bare, ARQSCOPE_ACCEPT_HAZARDS="eviction")
        served, shown = await started("serve", tmp_path, bare, ARQSCOPE_ACCEPT_HAZARDS="eviction")
        wrong, said = await started("worker", tmp_path, bare, ARQSCOPE_ACCEPT_HAZARDS="evict")
    finally:
        server.stop()

    wanted = {"eviction", "aof-off", "no-password", "unprotected"}
    found = {f.hazard: f for f in seen.told}
    row.figure(
        detected=len(wanted & found.keys()), of=len(wanted), look_ms=look_s * 1000,
        refused=sum(code == 1 for code, _ in refused.values()), starts=len(refused),
    )  # fmt: skip
    assert wanted <= found.keys()
    assert all(found[name].severity is not Severity.NOTICE for name in wanted)
    for what, (ended, text) in refused.items():
        assert ended == 1, (what, text)
        assert (
            "(eviction: maxmemory-policy=allkeys-lru) Remedy: maxmemory-policy noeviction" in text
        )
        assert "ARQSCOPE_ACCEPT_HAZARDS=eviction" in text
        assert "Traceback" not in text, (what, text)
    assert code == 0, told
    assert served is None, shown
    for name in wanted:
        for text in (told, shown):
            assert f"hazard={name}" in text, (name, text)
            assert found[name].remedy in text, (name, text)
    assert wrong == 1
    assert "'evict' is none of eviction, replicas-of-nothing" in said
    assert look_s < 0.5


@pytest.mark.row("R10")
async def test_a_master_that_keeps_nothing_is_refused_before_it_empties_its_replica(
    tmp_path: Path, row: Row
) -> None:
    """
    No process starts on it, though CONFIG is not for it to ask; why: the master restarts, and the replica forgets
    everything too. With snapshots, it is told and not refused.
    """
    master, replica = replicated(tmp_path, 1, guard=False)
    client, behind = connect(master.database(2)), connect(replica.database(2))

    def as_worker(number: int) -> str:
        return f"redis://w:w@127.0.0.1:{master.port}/{number}"

    try:
        await client.acl_setuser(
            "w", enabled=True, passwords=["+w"], keys=["*"], channels=["*"],
            commands=["+@all", "-config"],
        )  # fmt: skip
        await client.config_set("appendonly", "no")
        refused = {what: await started(what, tmp_path, as_worker) for what in STARTS}
        accepted, warned = await started(
            "worker", tmp_path, as_worker, ARQSCOPE_ACCEPT_HAZARDS="replicas-of-nothing"
        )
        await client.config_set("save", "3600 1")
        snapshots, told = await started("worker", tmp_path, master.database)
        await client.config_set("save", "")
        await enqueue(client, QUEUE, JobRequest(name="work", id="j1"))
        await until(lambda: behind.zcard(QUEUE))
        master.extra = (*master.extra, "--appendonly", "no")
        master.kill()
        master.start()

        async def emptied() -> bool:
            return await behind.zcard(QUEUE) == 0 and await _is_linked(behind)

        await until(emptied, timeout_s=20)
        left = int(await behind.zcard(QUEUE))
    finally:
        await client.aclose(close_connection_pool=True)
        await behind.aclose(close_connection_pool=True)
        replica.kill()
        master.kill()

    row.figure(
        refused=sum(code == 1 for code, _ in refused.values()), starts=len(refused),
        left_on_replica=left,
    )  # fmt: skip
    for what, (code, text) in refused.items():
        assert code == 1, (what, text)
        assert "(replicas-of-nothing: appendonly=no, save=unknown, 1 replica(s))" in text, what
        assert "Traceback" not in text, (what, text)
    assert "CONFIG GET" in refused["events"][1], "what is not known is said"
    assert (accepted, snapshots) == (0, 0), (warned, told)
    assert "hazard=replicas-of-nothing" in warned
    assert "its replicas go back to the last one" in told


async def _is_linked(replica: Redis) -> bool:
    return bool((await replica.info("replication")).get("master_link_status") == "up")


# -- what answers that is no answer -----------------------------------------------------------------


async def _loading(rig: Rig) -> Exception:
    """Restart it with data that takes long to load; return what a client is told meanwhile."""
    async with rig.client.pipeline() as pipe:
        for number in range(600):
            pipe.set(f"filler:{number}", b"x" * 2_000)
        await pipe.execute()
    await rig.client.bgrewriteaof()
    await until(lambda: _is_rewritten(rig.client))
    plain = rig.server.extra
    rig.server.extra = (
        *plain, "--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024",
    )  # fmt: skip
    rig.server.stop()
    starting = asyncio.get_running_loop().run_in_executor(None, rig.server.start)
    probe = Redis.from_url(rig.server.database(2), retry_on_timeout=False)
    said: list[Exception] = []

    async def told() -> bool:
        try:
            await probe.get("x")
        except Exception as error:
            said.append(error)
        return any("loading" in str(error).lower() for error in said)

    await until(told)
    await probe.aclose()
    await starting
    rig.server.extra = plain
    return said[-1]


async def _is_rewritten(client: Redis) -> bool:
    info: Any = await client.info("persistence")
    return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]


_BUSY = "local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 2 do end return 1"


async def _busy(rig: Rig) -> Exception:
    """Run a script that does not end for two seconds; return what others are told."""
    await rig.client.config_set("busy-reply-threshold", 50)
    other, said = connect(rig.server.database(2), timeout_s=10), []
    script = asyncio.create_task(other.eval(_BUSY, 0))

    async def told() -> bool:
        try:
            await enqueue(rig.producer, rig.queue, JobRequest(name="work", id="busy"))
        except ArqscopeError as error:
            said.append(error)
        return any("BUSY" in str(error) or "busy" in str(error) for error in said)

    await until(told)
    await script
    await other.aclose(close_connection_pool=True)
    return said[-1]


async def _oom_kill(rig: Rig) -> Exception:
    """SIGKILL it, as the kernel does; return what a client is told."""
    rig.server.kill()
    try:
        with pytest.raises(ArqscopeError) as told:
            await enqueue(rig.producer, rig.queue, JobRequest(name="work", id="killed"))
    finally:
        rig.server.start()
    return told.value


async def _too_many(rig: Rig) -> Exception:
    """Let no new client in; return what one is told."""
    info: Any = await rig.client.info("clients")
    await rig.client.config_set("maxclients", max(1, int(info["connected_clients"])))
    fresh = connect(rig.server.database(2))
    try:
        with pytest.raises(RedisError, match="max number of clients") as told:
            await fresh.ping()
        return explained(told.value, rig.server.database(2))
    finally:
        await rig.client.config_set("maxclients", 1000)
        await fresh.aclose(close_connection_pool=True)


FAULTS = {"LOADING": _loading, "BUSY": _busy, "OOM kill": _oom_kill, "maxclients": _too_many}


@pytest.mark.row("R15")
@pytest.mark.parametrize("fault", list(FAULTS))
async def test_what_is_no_answer_is_told_as_unavailable_and_worked_through(
    make_rig: MakeRig, row: Row, fault: str
) -> None:
    rig = make_rig(lease_s=3)
    worker = rig.start()
    await rig.has_started(worker)
    await rig.work(10, 0.05, prefix="before")

    error = await FAULTS[fault](rig)
    healed_at = time.monotonic()
    await rig.work(10, 0.01, prefix="after")
    await rig.emptied(30)
    await until(lambda: _done(rig, 20))
    resumed_s = time.monotonic() - healed_at
    alive = worker.is_alive
    await rig.stop()
    verdict = await rig.verdict()

    told = explained(error, rig.server.url)
    row.figure(fault=fault, told=type(told).__name__, resumed_s=resumed_s, **verdict.figures())
    assert isinstance(told, RedisUnavailable)
    assert "test-password" not in str(told)
    assert alive
    assert verdict.holds, describe(verdict)


async def _done(rig: Rig, count: int) -> bool:
    return len({entry.id for entry in rig.entries("done")}) >= count


# -- neighbours -------------------------------------------------------------------------------------


@dataclass
class Database:
    """A server as one of two projects sees it: its own databases."""

    server: RunningRedis
    first: int

    def database(self, number: int) -> str:
        return self.server.database(self.first + number)

    def stop(self) -> None:
        """The server is the other's too."""


@pytest.fixture
async def neighbours(
    make_rig: MakeRig, tmp_path: Path, nursery: Nursery, seed: int
) -> AsyncIterator[tuple[Rig, Rig]]:
    """Two projects: same server, same queue names, same job ids, different databases."""
    ours = make_rig(lease_s=2)
    theirs = Rig(tmp_path / "theirs", Database(ours.server, 4), nursery, seed, 2.0)  # type: ignore[arg-type]
    yield ours, theirs
    await theirs.close()


def _of(rig: Rig) -> tuple[Connections, Settings]:
    settings = Settings(
        redis_url=rig.server.database(0),
        redis_streams_url=rig.server.database(1),
        redis_queue_url=rig.server.database(2),
    )
    clients = {role: connect(settings.url(role)) for role in ("queue", "streams", "cache")}
    return Connections(**clients), settings


@pytest.mark.row("R18")
async def test_two_projects_on_one_server_do_not_hear_each_other(
    neighbours: tuple[Rig, Rig], row: Row
) -> None:
    """``arq:abort`` and job ids are per database, but pub/sub channels are not: one may stop the other's workers."""
    ours, theirs = neighbours
    workers = [ours.start(), theirs.start()]
    await ours.has_started(workers[0])
    await theirs.has_started(workers[1])
    for rig in neighbours:
        await rig.work(3, 1.5, prefix="same")
        await rig.has("start", 3)
    connections, settings = _of(ours)

    await actions.abort_job(connections, settings, ANN, QUEUE, "same1")
    await actions.pause_queue(connections, settings, ANN, QUEUE)
    told = await actions.control_workers(connections, settings, ANN, QUEUE, "stop")
    await until(lambda: asyncio.sleep(0, not workers[0].is_alive), timeout_s=20)
    await theirs.work(5, 0.01, prefix="later")
    await theirs.emptied(20)
    alive = workers[1].is_alive
    await theirs.stop()
    verdict = await theirs.verdict()
    for client in (connections.queue, connections.streams, connections.cache):
        await client.aclose(close_connection_pool=True)

    crossed = len(theirs.entries("cancelled")) + int(not alive) + int(told.detail["heard"] != 1)
    row.figure(cross_talk=crossed, heard=told.detail["heard"], **verdict.figures())
    assert crossed == 0
    assert verdict.holds, describe(verdict)
    assert verdict.complete == 8


# -- versions ---------------------------------------------------------------------------------------


@pytest.mark.row("R19")
@pytest.mark.parametrize("kind", ["system", "bundled"])
async def test_every_supported_redis_gives_the_same_results(
    tmp_path: Path, nursery: Nursery, seed: int, row: Row, kind: str
) -> None:
    """One mix of jobs, a killed worker and a restarted server in it; what comes out is the same."""
    server = start_redis(
        tmp_path / "redis", redis_binary(kind), extra=("--appendfsync", "everysec")
    )
    rig = Rig(tmp_path / "rig", server, nursery, seed, 1.0)
    count = sized(300, 30)
    try:
        info: Any = await rig.client.info("server")
        first = rig.start()
        await rig.work(count, 0.02, prefix="ok")
        failing = [JobRequest(name="always_fail", id=f"f{n}") for n in range(count // 3)]
        permanent = [JobRequest(name="permanent", id=f"p{n}") for n in range(count // 3)]
        await rig.submit([*failing, *permanent])
        await rig.has("done", 5)
        first.kill()
        rig.start()
        server.restart()
        await rig.emptied(60)
        await rig.stop()
        verdict = await rig.verdict()
        totals = await rig.totals()
    finally:
        await rig.close()

    row.figure(redis=str(info["redis_version"]), ok=totals["complete"], **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert (totals["complete"], verdict.dead) == (count, 2 * (count // 3))


# -- a split fleet ----------------------------------------------------------------------------------


@pytest.mark.row("R14")
async def test_workers_cut_off_from_their_queue_stop_their_jobs_before_others_take_them(
    make_rig: MakeRig, row: Row, seed: int
) -> None:
    """Half of the workers lose the queue's Redis, and nothing else; their jobs run on the other half."""
    rig = make_rig(lease_s=3)
    async with ChaosProxy(rig.server.port, seed) as proxy:
        url = rig.server.database(2).replace(f":{rig.server.port}/", f":{proxy.port}/")
        cut_off: list[WorkerProcess] = [rig.start(more={"REDIS_QUEUE_URL": url}) for _ in range(2)]
        for worker in cut_off:
            await rig.has_started(worker)
        ids = await rig.work(8, sized(20.0, 7.0))
        await rig.has("start", 8)
        whole = [rig.start() for _ in range(2)]
        for worker in whole:
            await rig.has_started(worker)
        proxy.blackhole = True
        split_at = time.time()
        await until(lambda: _started_again(rig, set(ids), split_at), timeout_s=30)
        proxy.blackhole = False
        proxy.cut()
        await rig.emptied(60)
        exits = await rig.stop()
    verdict = await rig.verdict()
    pids = {worker.pid for worker in cut_off}
    overlaps = _overlaps(rig.entries(), pids)

    row.figure(
        overlapping=len(overlaps), longest_overlap_s=max(overlaps, default=0.0),
        fenced=len([e for e in rig.entries("cancelled") if e.pid in pids]), **verdict.figures(),
    )  # fmt: skip
    assert overlaps == []
    assert exits == [0] * 4
    assert verdict.holds, describe(verdict)


async def _started_again(rig: Rig, ids: set[str], since: float) -> bool:
    return {e.id for e in rig.entries("start") if e.at > since} >= ids


def _overlaps(entries: list[ledger.Entry], cut_off: set[int]) -> list[float]:
    """s each job ran on two workers at once: begun elsewhere before the cut-off one had let go."""
    found = []
    for listed in ledger.by_job(entries).values():
        let_go = [e.at for e in listed if e.pid in cut_off and e.effect in ("cancelled", "done")]
        began = [e.at for e in listed if e.pid not in cut_off and e.effect == "start"]
        if let_go and began and max(let_go) > min(began):
            found.append(max(let_go) - min(began))
    return found
