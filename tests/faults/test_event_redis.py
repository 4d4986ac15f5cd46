"""Events under fault, rows of FAULTS.md: groups that vanish, and a Redis that dies or is slow."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any, cast

import pytest

from app import keys
from app.settings import Settings
from app.wire.connections import connect
from tests.faults import ledger
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.event_rig import GROUP, STREAM, EventRig, MakeRig, both_in_full, both_versions
from tests.faults.fault_events import fields
from tests.faults.proxy import ChaosProxy
from tests.faults.rig import sized
from workers.events.group import EventGroup


async def _reading(rig: EventRig, count: int) -> bool:
    """Whether so many processors wait for entries."""
    info: Any = await rig.redis.info("clients")
    return bool(info["blocked_clients"] >= count)


@pytest.mark.row("E9")
@both_versions
@pytest.mark.parametrize("fault", sized(["destroy", "delete", "flush"], ["destroy", "flush"]))
async def test_a_group_that_vanishes_is_made_again_where_it_was(
    make_event_rig: MakeRig, row: Row, kind: str, fault: str
) -> None:
    rig = make_event_rig(lease_s=5, kind=kind)
    cache = connect(rig.server.database(0))
    for _ in range(2):
        rig.start()
    await rig.holds(lambda: _reading(rig, 2))
    recoveries = []
    handled = 0
    for _ in range(sized(10, 2)):
        ids = await rig.work(20, kind="count.me")
        handled += len(ids)
        await rig.has("done", handled)
        await rig.settled()
        match fault:
            case "destroy":
                await rig.redis.xgroup_destroy(STREAM, GROUP)
            case "delete":
                await rig.redis.delete(STREAM)
            case _:
                await rig.redis.flushdb()
        began = time.monotonic()
        handled += len(await rig.work(20, kind="count.me"))
        await rig.has("done", handled)
        recoveries.append(time.monotonic() - began)
    await rig.settled()
    alive = [one.is_alive for one in rig.processors]
    alerts: Any = await cast(Any, cache.lrange(keys.DLQ_ALERTS, 0, -1))
    await rig.stop()
    await cache.aclose()

    done = ledger.counts(rig.entries(), "done")
    row.figure(
        redis=kind,
        fault=fault,
        recovery_max_s=max(recoveries),
        alerts=len(alerts),
        repeated=sum(n - 1 for n in done.values()),
    )
    assert alive == [True, True]
    assert set(done) == set(rig.acked)
    assert max(recoveries) <= 2
    assert len(alerts) == sized(10, 2)


async def _all_silent(rig: EventRig, for_s: float) -> bool:
    """Whether no consumer was heard of for so long."""
    rows = await rig.redis.xinfo_consumers(STREAM, GROUP)
    return min(row["idle"] for row in rows) > for_s * 1000


async def _has_names(rig: EventRig, most: int) -> bool:
    return len(await rig.redis.xinfo_consumers(STREAM, GROUP)) <= most


@pytest.mark.row("E11")
@both_in_full
async def test_names_of_dead_consumers_do_not_pile_up(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    A thousand restarts without a goodbye; some left entries behind.
    """
    rig = make_event_rig(lease_s=0.5, kind=kind)
    ids = await rig.work(20)
    await rig.redis.xgroup_create(STREAM, GROUP, "0")
    names = [f"gone-{number}" for number in range(sized(1_000, 100))]
    for name in names[:10]:
        await rig.redis.xreadgroup(GROUP, name, {STREAM: ">"}, count=2)
    for name in names[10:]:
        await rig.redis.xgroup_createconsumer(STREAM, GROUP, name)
    await rig.holds(lambda: _all_silent(rig, 1.5))
    fleet = [rig.start() for _ in range(2)]
    await rig.has("done", len(ids))
    # the processors' first look is after a lease, the next ones half a minute later
    await rig.holds(lambda: _has_names(rig, len(fleet) + 10), 15)
    group = EventGroup(rig.redis, rig.redis, stream=STREAM, group=GROUP, consumer="-")

    async def are_few() -> bool:
        await group.prune_consumers(1_500)  # of those that owned something at the first look
        return await _has_names(rig, len(fleet))

    await rig.holds(are_few, 10)
    await rig.stop()

    verdict = await rig.verdict()
    left = len(await rig.redis.xinfo_consumers(STREAM, GROUP))
    row.figure(redis=kind, names=len(names), left=left, **verdict.figures())
    assert verdict.holds, verdict.said()
    assert left == 0


@pytest.mark.row("R1")
@pytest.mark.seeded
async def test_events_outlive_every_redis_that_is_killed(make_event_rig: MakeRig, row: Row) -> None:
    """
    Streams and queue Redis are two servers, killed in turn under load.
    """
    rig = make_event_rig(lease_s=3, apart=True)
    fleet = [rig.start() for _ in range(2)]
    recoveries = []
    await rig.publish([fields("failpoint.none") for _ in range(5)])
    await rig.has("done", 5)
    for number in range(sized(20, 2)):
        server = rig.server if number % 2 == 0 else rig.queue_server
        await crash(server)
        await asyncio.sleep(rig.random.uniform(0.2, 1.0))
        await asyncio.to_thread(server.start)
        began = time.monotonic()
        before = len(rig.acked)
        await rig.publish([fields("failpoint.none") for _ in range(20)])
        await rig.has("done", before + 20)
        recoveries.append(time.monotonic() - began)
    await rig.settled()
    alive = [one.is_alive for one in fleet]
    codes = await rig.stop()

    verdict = await rig.verdict()
    jobs = await rig.queue.zcard("async-processing")
    row.figure(
        redis_kills=len(recoveries),
        exits=alive.count(False),
        event_recovery_max_s=max(recoveries),
        jobs=jobs,
        **verdict.figures(),
    )
    assert verdict.holds, verdict.said()
    assert (alive, codes) == ([True, True], [0, 0])
    assert jobs >= len(rig.acked)
    assert max(recoveries) <= 2.5


def _kept_file(rig: EventRig) -> Path:
    """The file Redis appends to: 7 has a directory of them, the newest is the one."""
    parts = list(rig.server.directory.glob("appendonlydir/*.incr.aof"))
    return max(parts, key=lambda part: part.stat().st_mtime_ns, default=None) or (
        rig.server.directory / "appendonly.aof"
    )


@pytest.mark.row("E17")
@pytest.mark.seeded
@both_in_full
async def test_what_redis_forgets_of_events_is_done_again_by_processors_that_live_on(
    make_event_rig: MakeRig, row: Row, kind: str
) -> None:
    """
    Its file is cut off at an earlier moment, as by a power cut: effects, acknowledgements and reads it
    had answered are gone, the processors remember them.
    """
    rig = make_event_rig(lease_s=1.0, kind=kind)
    fleet = [rig.start() for _ in range(2)]
    for one in fleet:
        await rig.started(one)
    cut_bytes = 0
    for number in range(sized(20, 2)):
        rows = [fields("work.made", {"n": n}, workspaceId=f"w{n % 10}") for n in range(200)]
        for _ in range(5):
            rows.insert(rig.random.randrange(200), {"type": "broken.entry", "data": '{"n":'})
        await rig.publish(rows)
        await rig.has("done", 200 * number + rig.random.randrange(20, 180))
        # Redis writes before it answers, and the disk has all of what is kept
        kept = _kept_file(rig).stat().st_size
        await rig.has("done", 200 * (number + 1) - rig.random.randrange(20))
        rig.server.kill()
        cut_bytes += _kept_file(rig).stat().st_size - kept
        os.truncate(_kept_file(rig), kept)
        await asyncio.to_thread(rig.server.start)
        await rig.settled()
    alive = [one.is_alive for one in fleet]
    codes = await rig.stop()

    verdict = await rig.verdict({"broken.entry": "malformed"})
    row.figure(redis=kind, cuts=number + 1, cut_bytes=cut_bytes, **verdict.figures())
    assert verdict.holds, verdict.said()
    assert (alive, codes) == ([True, True], [0, 0])
    assert cut_bytes > 0


@pytest.mark.row("R12")
@pytest.mark.seeded
async def test_a_slow_redis_takes_no_event_from_a_living_processor(
    make_event_rig: MakeRig, row: Row
) -> None:
    """
    Latency, a pause and a freeze shorter than the lease: what is held is renewed in time.
    """
    rig = make_event_rig(lease_s=sized(30.0, 4.0))
    delay_s, slow_s, pause_s, freeze_s = sized((0.2, 2.0, 5.0, 10.0), (0.1, 0.2, 0.3, 0.5))
    async with ChaosProxy(rig.server.port, rig.seed) as proxy:
        through = f"redis://:{rig.server.password}@127.0.0.1:{proxy.port}/1"
        fleet = [rig.start({"REDIS_STREAMS_URL": through}) for _ in range(2)]
        for one in fleet:
            await rig.started(one)
        await rig.work(10, seconds=sized(40.0, 2.0))
        await rig.has("start", 10)
        proxy.delay_s, proxy.jitter_s = delay_s, delay_s / 2
        await rig.work(sized(200, 20))
        await asyncio.sleep(sized(8.0, 0.3))
        proxy.delay_s, proxy.jitter_s = slow_s, 0.0
        await rig.work(sized(50, 5))
        await asyncio.sleep(sized(12.0, 0.3))
        proxy.delay_s = 0.0
        await rig.redis.execute_command("CLIENT", "PAUSE", int(pause_s * 1000), "ALL")
        await asyncio.sleep(pause_s)
        process = rig.server.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(freeze_s)
        process.send_signal(signal.SIGCONT)
        await rig.settled(120)
        alive = [one.is_alive for one in fleet]
        await rig.stop()

    verdict = await rig.verdict()
    begun = {(entry.id, entry.pid) for entry in rig.entries("start")}
    again = len(begun) - len({entry_id for entry_id, _ in begun})
    row.figure(event_lease_s=rig.lease_s, false_takeovers=again, **verdict.figures())
    assert alive == [True, True]
    assert verdict.holds, verdict.said()
    assert again == 0  # one that waits for Redis begins again in the same process


@pytest.mark.row("R17")
async def test_a_listener_that_stops_reading_holds_no_event_up_and_misses_no_state(
    make_event_rig: MakeRig, row: Row
) -> None:
    """
    Notifications are hints: Redis drops the deaf listener, the counters and recent events tell all.
    """
    rig = make_event_rig(lease_s=5)
    count = sized(60_000, 1_500)
    await rig.redis.config_set("client-output-buffer-limit", "pubsub 1mb 512kb 1")
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port, limit=1024)
    writer.write(f"AUTH {rig.server.password}\r\nSUBSCRIBE user:u1\r\n".encode())
    await reader.readuntil(b"subscribe")
    rig.start()
    rows = [fields("tell.me", {"n": n}) for n in range(count)]
    for start in range(0, count, 1_000):
        await rig.publish(rows[start : start + 1_000])
    await rig.settled(120)

    resumed = time.monotonic()
    settings = Settings(redis_streams_url=rig.server.database(1))
    streams = connect(settings.url("streams"))
    processed = int(await cast(Any, streams.hget(keys.event_totals(STREAM), "processed")) or 0)
    recent = await streams.xrevrange(keys.recent_events(STREAM), count=1)
    converged_s = time.monotonic() - resumed
    await streams.aclose()
    writer.close()
    await rig.stop()

    row.figure(messages=count, converged_s=converged_s, processed=processed)
    assert processed == count
    assert recent[0][1]["type"] == "tell.me"
    assert converged_s <= 2
