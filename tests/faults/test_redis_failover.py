"""Failover: three sentinels and a master that dies under load (HA), and replication that stalls (R9)."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.wire.connections import connect
from tests.conftest import wait_until
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.fleet import Fleet, replicated, start_fleet
from tests.faults.load import Load, grown
from tests.faults.nursery import Nursery
from tests.faults.proxy import ChaosProxy
from tests.faults.rig import QUEUE, Rig, sized
from tests.waiting import until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A master, two replicas, three sentinels."""
    made = start_fleet(tmp_path / "fleet")
    yield made
    made.stop()


@pytest.fixture
async def rig(tmp_path: Path, fleet: Fleet, nursery: Nursery, seed: int) -> AsyncIterator[Rig]:
    """A rig whose Redis is the fleet, reached through its sentinels."""
    made = Rig(tmp_path / "rig", fleet, nursery, seed, 2.0)  # type: ignore[arg-type]
    yield made
    await made.close_workers()
    await made.client.aclose()
    await made.producer.aclose(close_connection_pool=True)


@pytest.mark.row("R20")
async def test_the_master_dies_under_load_and_the_sentinels_name_another(
    rig: Rig, fleet: Fleet, row: Row
) -> None:
    """Workers and producers follow by themselves; what was acknowledged and not replicated is the RPO."""
    workers = [rig.start() for _ in range(2)]
    for worker in workers:
        await rig.has_started(worker)
    load = Load(rig).start()
    kills = sized(3, 1)
    lost_seconds: list[float] = []
    for _ in range(kills):
        await grown(rig, sized(1000, 100))
        old = fleet.master()
        killed_at = time.monotonic()
        old.kill()
        await until(
            lambda gone=old.port: asyncio.sleep(0, fleet.master().port != gone), timeout_s=40
        )
        await grown(rig, 50)
        lost_seconds.append(killed_at)
        old.start()  # comes back as a replica
        wait_until(lambda: fleet.known_replicas() >= 2, 30)
    await load.stop()
    await rig.emptied(60)
    verdict = await rig.verdict()

    rpo_s = max(
        (
            min(abs(killed - load.acked_at[i]) for killed in lost_seconds)
            for i in verdict.lost
            if i in load.acked_at
        ),
        default=0.0,
    )
    row.figure(
        kills=kills, jobs=len(rig.acked), lost=len(verdict.lost), rpo_s=rpo_s,
        duplicates=verdict.duplicates, refused=load.refused, longest_gap_s=load.longest_gap_s,
        worker_exits=sum(not worker.is_alive for worker in workers),
        min_replicas_to_write=1,
    )  # fmt: skip
    assert not verdict.doubled, describe(verdict)
    assert all(worker.is_alive for worker in workers)
    assert rpo_s <= 1.0, describe(verdict)
    assert len(verdict.lost) <= 10 * kills, describe(verdict)
    assert load.longest_gap_s < 15


#: s a replica may be silent and still counts, as ``replicated`` sets it
MAX_LAG_S = 2


async def _everything_arrived(master: Redis, replica: Redis) -> bool:
    """Whether the replica has taken all that the master had written when it was asked."""
    written = (await master.info("replication"))["master_repl_offset"]
    taken = (await replica.info("replication"))["slave_repl_offset"]
    return bool(taken >= written)


async def _second_is_over(master: Redis) -> bool:
    """Whether the master's clock is in the last tenth of a second: it counts lag in whole ones."""
    _, us = await master.time()
    return bool(us >= 900_000)


@pytest.mark.row("R9")
@pytest.mark.parametrize(
    ("fault", "stall_s"), [("closed link", 1.0), ("stalled link", 3.5), ("no guard", 2.5)]
)
async def test_a_cut_off_master_refuses_instead_of_losing(
    tmp_path: Path, nursery: Nursery, seed: int, row: Row, fault: str, stall_s: float
) -> None:
    """
    The replica stalls, the master goes on, then dies: what it took meanwhile is lost, unless it refuses.

    The load is held while the replica is stopped, until that has everything: every acknowledged write
    that is missing afterwards is counted, whenever it was acknowledged. A stalled link swallows what is
    sent, else the replica's socket would keep it. Redis counts lag in whole seconds and looks at it once
    a second; the stop comes at the end of one, so that the window is max-lag and the second of that look.
    """
    async with ChaosProxy(0) as link:
        servers = await asyncio.to_thread(
            replicated,
            tmp_path / "servers",
            1,
            guard=fault != "no guard",
            max_lag_s=MAX_LAG_S,
            through=link,
        )
        master, replica = servers
        rig = Rig(tmp_path / "rig", master, nursery, seed, 2.0)
        load = Load(rig).start()
        admin, follower = connect(master.url), connect(replica.url)
        try:
            await until(lambda: asyncio.sleep(0, len(rig.acked) >= 50))
            await load.hold()
            await until(lambda: _everything_arrived(admin, follower))
            await until(lambda: _second_is_over(admin))
            assert replica.process is not None
            os.kill(replica.process.pid, signal.SIGSTOP)
            link.blackhole = True
            stalled_at = time.monotonic()
            if fault != "stalled link":
                await admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
            before = set(load.acked_at)
            load.go_on()
            await until(
                lambda: asyncio.sleep(0, time.monotonic() - stalled_at > sized(5.0, stall_s)),
                timeout_s=20,
            )
            refused = load.refused
            master.kill()
            await load.stop()
            os.kill(replica.process.pid, signal.SIGCONT)
            promoted = connect(replica.url, timeout_s=5)
            await until(lambda: promoted.execute_command("REPLICAOF", "NO", "ONE"), timeout_s=20)
            await promoted.aclose(close_connection_pool=True)
            reader = connect(replica.database(2))
            kept = {str(i) for i in await reader.zrange(QUEUE, 0, -1)}
            await reader.aclose(close_connection_pool=True)
        finally:
            await admin.aclose(close_connection_pool=True)
            await follower.aclose(close_connection_pool=True)
            await rig.close()
            replica.kill()
    taken = set(load.acked_at) - before
    lost = set(load.acked_at) - kept
    window_s = max((load.acked_at[i] - stalled_at for i in lost), default=0.0)

    row.figure(
        fault=fault,
        acked=len(load.acked_at),
        acked_before=len(before),
        lost=len(lost),
        window_s=window_s,
        refused=refused,
    )
    assert before <= kept  # the replica had them
    match fault:
        case "closed link":
            assert lost == set()
            assert refused > 0
        case "stalled link":
            assert lost == taken
            assert len(lost) > 0
            assert window_s <= MAX_LAG_S + 1.5
            assert refused > 0
        case _:
            assert lost == taken
            assert len(lost) > 0  # what the guard is for
            assert refused == 0
            assert window_s > MAX_LAG_S
