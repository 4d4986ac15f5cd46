"""One of two queue servers is killed under load: the other's queue goes on, nothing of either is lost.

FAULTS.md knows one queue Redis; the row is ours.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from app import keys
from app.collector import Collector
from app.settings import Settings
from app.wire.connections import Connections
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.load import Load, grown
from tests.faults.rig import Rig, sized
from tests.waiting import until

Servers = tuple[Rig, Rig, Settings, Connections]
AWAY = "event-driven-jobs"
#: jobs each server takes before, during and after the outage
JOBS = sized(1_000, 100)
#: times the further server is killed
KILLS = sized(3, 1)


@pytest.fixture
async def servers(make_rig: Callable[..., Rig]) -> AsyncIterator[Servers]:
    """The home's queue and a further server's, each with two workers that have the same settings."""
    home, away = make_rig(), make_rig()
    away.queue = AWAY
    urls = {
        "REDIS_URL": home.server.database(0),
        "REDIS_STREAMS_URL": home.server.database(1),
        "REDIS_QUEUE_URL": home.server.database(2),
        "REDIS_QUEUE_SHARDS": f"{AWAY}={away.server.database(2)}",
    }
    settings = Settings.load(
        {**urls, "ARQSCOPE_CONFIG_FILE": str(home.directory / "none.toml")}, env_file=None
    )
    for rig in (home, home, away, away):
        await rig.has_started(rig.start(more=urls))
    connections = Connections.of(settings)
    yield home, away, settings, connections
    await connections.close()


@pytest.mark.row("R21")
async def test_the_other_servers_queue_goes_on_and_nothing_is_lost(
    servers: Servers, row: Row
) -> None:
    home, away, settings, connections = servers
    collector = Collector(settings)
    loads = [Load(rig, connections.holding(rig.queue)).start() for rig in (home, away)]
    refused_at_home: list[int] = []

    async def waiting() -> Any:
        found = (await collector.sample(full=False)).queues.set_index("queue")["waiting"]
        return found[home.queue], found[AWAY]

    try:
        for _ in range(KILLS):
            await asyncio.gather(grown(home, JOBS), grown(away, JOBS))
            away.server.kill()
            before = (await home.totals())["complete"]

            async def is_told() -> bool:
                here, there = await waiting()
                return bool(here == here and there != there)

            await until(is_told)
            await grown(home, JOBS)  # accepted meanwhile …

            async def has_worked(before: int = before) -> bool:
                return (await home.totals())["complete"] >= before + JOBS

            await until(has_worked, timeout_s=60)  # … and done
            here, there = await waiting()
            assert here == here
            assert there != there
            refused_at_home.append(loads[0].refused)
            away.server.start()
            await grown(away, JOBS)
    finally:
        for load in loads:
            await load.stop()
        await collector.stop()
    await asyncio.gather(home.emptied(60), away.emptied(60))

    assert refused_at_home == [0] * KILLS
    verdicts = [await rig.verdict() for rig in (home, away)]
    row.figure(
        kills=KILLS,
        **{
            name: sum(verdict.figures()[name] for verdict in verdicts)
            for name in verdicts[0].figures()
        },
        refused_at_home=refused_at_home[-1],
        gap_at_home_s=loads[0].longest_gap_s,
        gap_of_the_other_s=loads[1].longest_gap_s,
    )
    for verdict in verdicts:
        assert verdict.holds, describe(verdict)
        assert verdict.dead == 0
    assert not await home.client.exists(keys.runs(AWAY), keys.totals(AWAY))
