"""Queues on two queue servers, one of them killed under load: the other's queue goes on, nothing of either is lost.

Rows R21 to R23: FAULTS.md knows one queue Redis. R21 kills the further server, R22 the home, R23 whoever carries
parcels from one to the other.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app import keys, parcels
from app.api import health
from app.collector import Collector
from app.enqueue import JobRequest
from app.errors import ArqscopeError
from app.next_jobs import NextJob, next_id
from app.settings import Settings
from app.wire.connections import Connections
from tests.conftest import start_redis
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.load import Load, grown
from tests.faults.processor_nursery import CARRYING, POSTING, ProcessorNursery, failpoints
from tests.faults.rig import QUEUE, Rig, sized
from tests.waiting import until

AWAY = "event-driven-jobs"
#: jobs each server takes before, during and after an outage
JOBS = sized(1_000, 100)
#: times a server is killed
KILLS = sized(3, 1)
#: rounds over every failpoint of carrying and posting; and carriers killed at a moment of chance
ROUNDS, BY_CHANCE = sized(8, 1), sized(20, 3)
#: chains begun per killed carrier
CHAINS = sized(20, 6)


class Servers:
    """A home and a further queue server, each with its queue; streams and cache on a server of their own."""

    def __init__(self, home: Rig, away: Rig, urls: dict[str, str]) -> None:
        self.home, self.away, self.urls = home, away, urls
        self.settings = Settings.load(
            {**urls, "ARQSCOPE_CONFIG_FILE": str(home.directory / "none.toml")}, env_file=None
        )
        self.connections = Connections.of(self.settings)

    async def work(self, *rigs: Rig) -> None:
        """Start a worker of each of *rigs*."""
        for rig in rigs:
            await rig.has_started(rig.start(more=self.urls))

    async def checks(self) -> dict[str, str]:
        """What ``/health`` says of each part, asked anew."""
        health._last.clear()
        runtime = SimpleNamespace(connections=self.connections, settings=self.settings)
        return await health.checks(cast(Any, runtime))


@pytest.fixture
async def servers(make_rig: Callable[..., Rig], tmp_path: Path) -> AsyncIterator[Servers]:
    home, away, rest = make_rig(), make_rig(), start_redis(tmp_path / "rest")
    away.queue = AWAY
    made = Servers(
        home, away,
        {
            "REDIS_URL": rest.database(0),
            "REDIS_STREAMS_URL": rest.database(1),
            "REDIS_QUEUE_URL": home.server.database(2),
            "REDIS_QUEUE_SHARDS": f"{AWAY}={away.server.database(2)}",
        },
    )  # fmt: skip
    yield made
    await made.connections.close()
    rest.stop()


async def killed_under_load(servers: Servers, killed: Rig, other: Rig, row: Row) -> None:
    """Kill the server of *killed* again and again while both queues have load."""
    home, away = servers.home, servers.away
    name = "queue" if killed is home else "queue-2"
    await servers.work(home, home, away, away)
    collector = Collector(servers.settings)
    loads = {rig: Load(rig, servers.connections.holding(rig.queue)).start() for rig in (home, away)}
    refused: list[int] = []

    async def is_told() -> bool:
        """The pages know which server is away, and what the other's queue does all the same."""
        snapshot = await collector.sample(full=False)
        waiting = snapshot.queues.set_index("queue")["waiting"]
        down = list(snapshot.redis.loc[~snapshot.redis["up"].astype(bool), "role"])
        return (
            set(snapshot.problems) == {name}
            and down == [name]
            and bool(waiting[killed.queue] != waiting[killed.queue])  # NaN: unknown
            and bool(waiting[other.queue] == waiting[other.queue])
        )

    async def is_ill() -> bool:
        """``/health`` names the server, and that its workers are unknown; nothing else."""
        checks = await servers.checks()
        return {part for part, said in checks.items() if said != "ok"} == {
            f"redis-{name}",
            "workers",
        }

    try:
        for _ in range(KILLS):
            await asyncio.gather(grown(home, JOBS), grown(away, JOBS))
            killed.server.kill()
            before = (await other.totals())["complete"]
            await until(is_told)
            await until(is_ill)
            await grown(other, JOBS)  # accepted meanwhile …

            async def has_worked(before: int = before) -> bool:
                return (await other.totals())["complete"] >= before + JOBS

            await until(has_worked, timeout_s=60)  # … and done
            await until(is_told)  # still
            refused.append(loads[other].refused)
            killed.server.start()
            await grown(killed, JOBS)
    finally:
        for load in loads.values():
            await load.stop()
        await collector.stop()
    await asyncio.gather(home.emptied(60), away.emptied(60))

    async def is_well() -> bool:
        return set((await servers.checks()).values()) == {"ok"}

    await until(is_well)
    verdicts = {rig: await rig.verdict() for rig in (killed, other)}
    row.figure(
        kills=KILLS,
        **verdicts[killed].figures(),
        jobs_other=verdicts[other].acked,
        lost_other=len(verdicts[other].lost),
        refused_other=refused[-1],
        gap_s=loads[killed].longest_gap_s,
        gap_other_s=loads[other].longest_gap_s,
    )
    assert refused == [0] * KILLS
    for verdict in verdicts.values():
        assert verdict.holds, describe(verdict)
        assert verdict.dead == 0
    assert not await home.client.exists(keys.runs(AWAY), keys.totals(AWAY))
    assert not await away.client.exists(keys.runs(QUEUE), keys.totals(QUEUE))


@pytest.mark.row("R21")
async def test_a_further_server_dies_and_the_homes_queue_goes_on(
    servers: Servers, row: Row
) -> None:
    await killed_under_load(servers, servers.away, servers.home, row)


@pytest.mark.row("R22")
async def test_the_home_dies_and_the_others_queue_goes_on(servers: Servers, row: Row) -> None:
    """
    Workers and producers of the further server need nothing of the home.
    """
    await killed_under_load(servers, servers.home, servers.away, row)


@pytest.mark.row("R23")
@pytest.mark.seeded
async def test_whoever_carries_parcels_is_killed_at_every_step(servers: Servers, row: Row) -> None:
    """
    Chains from one server to the other: each next job is made, and once. Two carriers at a time, the further
    server dead in between, and event processors killed while they write parcels down, are part of it.
    """
    home, away, chosen = servers.home, servers.away, servers.home.random
    await servers.work(home, away)
    then = [NextJob(name="work", queue=AWAY, data=0.0)]
    killed: Counter[str] = Counter()
    planned = [(point, nth) for nth in (1, 2) for point in failpoints(CARRYING)] * ROUNDS
    planned += [(f"{chosen.uniform(0, 25):.2f} ms", 1) for _ in range(BY_CHANCE)]
    chosen.shuffle(planned)

    async def begin(prefix: str) -> None:
        chains = [
            JobRequest(name="work", args=(0.0,), id=f"{prefix}c{n}", then=then)
            for n in range(CHAINS)
        ]
        await home.submit(chains)
        away.acked.update(next_id(chain.id, 1) for chain in chains)
        await home.emptied()  # every one of them ended: its parcel is written down

    async def carried() -> bool:
        await parcels.carry(servers.connections, "queue")
        return not await servers.connections.queue.exists(keys.PARCELS)

    with ProcessorNursery() as nursery:

        async def run(task: str, point: str, nth: int) -> int:
            code = await asyncio.to_thread(nursery.run, servers.urls, point, nth, task=task)
            assert code in (0, -9), code
            if code:
                killed[point if point[0].isalpha() else "by chance"] += 1
            return code

        for number, (point, nth) in enumerate(planned):
            await begin(f"k{number}")
            if not await run("carry queue", point, nth):
                assert nth > 1 or point.endswith("ms"), point  # nth 2: one page held all
        await asyncio.gather(*(parcels.carry(servers.connections, "queue") for _ in range(2)))

        away.server.kill()
        await begin("down")
        points = failpoints(POSTING) * ROUNDS
        for number, point in enumerate(points):
            job_id = f"evt-{number}"
            assert await run(f"post {AWAY} {job_id}", point, 1) == -9
            assert await run(f"post {AWAY} {job_id}", "", 0) == 0  # the event is delivered again
            away.acked.add(job_id)
        try:
            assert await parcels.carry(servers.connections, "queue") == 0  # they stay
        except ArqscopeError as error:
            pytest.fail(f"a server that is away ends the carrying: {error}")
        away.server.start()
        await until(carried)
        await asyncio.gather(home.emptied(60), away.emptied(60))

    verdicts = [await rig.verdict() for rig in (home, away)]
    accepted = (await away.totals())["accepted"]
    row.figure(
        kills=killed.total(),
        killed_by_chance=killed["by chance"],
        **verdicts[1].figures(),
        accepted=accepted,
        lost_home=len(verdicts[0].lost),
    )
    for verdict in verdicts:
        assert verdict.holds, describe(verdict)
    assert verdicts[1].duplicates == 0
    assert verdicts[1].complete == accepted == len(away.acked)
    every = {*failpoints(CARRYING), *failpoints(POSTING)}
    assert every <= killed.keys(), every - killed.keys()
    assert killed.total() >= sized(100, 10)
