"""Jobs that block, hooks and audits that fail, one id asked for often, wrong clocks (W9, W14, W16, W17)."""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from arq.jobs import Job

from app import keys
from app.enqueue import JobRequest, enqueue_many
from app.errors import RedisUnavailable
from app.payloads.codec import Codec
from app.records import JobRun
from app.wire.connections import connect
from tests.conftest import lacking, unused_port
from tests.faults.api import api
from tests.faults.checker import describe
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.proxy import ChaosProxy
from tests.faults.rig import Rig, sized
from tests.waiting import until

MakeRig = Callable[..., Rig]


@pytest.mark.row("W9")
async def test_blocking_functions_hold_neither_the_loop_nor_their_worker(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Sleeps, backtracking and number crunching run in children that the timeout kills.
    """
    rig = make_rig(lease_s=3)
    blockers = {"sleep": ("block", (60,)), "regex": ("backtrack", ())}
    if sized(True, False):
        blockers["frames"] = ("crunch", ())
    limit_s = sized(4.0, 1.6)  # a loaded machine needs a second to start a child
    worker = rig.start()
    await rig.submit([JobRequest(name="measure_loop", args=(limit_s + 1,), id="metronome")])
    await rig.submit(
        [
            JobRequest(name=name, args=args, id=i, timeout_s=limit_s, attempts=1)
            for i, (name, args) in blockers.items()
        ]
    )
    await rig.holds(lambda: asyncio.sleep(0, _children(rig, len(blockers))))
    submitted_at = time.time()
    await rig.emptied(limit_s + 15)
    killed_s = max(run.finished_ms for run in await rig.runs()) / 1000 - submitted_at
    children = _children(rig, len(blockers))
    slowest = await Job("metronome", rig.client, rig.queue, Codec().decode).result(timeout=1)
    reasons = {i: (await rig.letter(i))["reason"] for i in blockers}
    await until(lambda: asyncio.sleep(0, not any(_exists(pid) for pid in children)))

    row.figure(loop_lag_p99_ms=slowest[0], loop_lag_max_ms=slowest[-1], killed_s=killed_s)
    assert worker.is_alive
    assert reasons == dict.fromkeys(blockers, "timeout")
    assert killed_s <= limit_s + 5
    assert slowest[0] < 250
    assert (await rig.verdict(effect="start")).lost == ()


def _children(rig: Rig, count: int) -> list[int]:
    """Pids of the children that run blocking functions, once there are *count*."""
    pids = [int(e.effect[4:]) for e in rig.entries() if e.effect.startswith("pid ")]
    return pids if len(pids) >= count else []


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.row("W14")
async def test_hooks_that_raise_and_a_redis_that_is_away_cost_no_ending(
    make_rig: MakeRig, row: Row
) -> None:
    """
    All hooks raise, the cache Redis does not exist, and the queue Redis dies as the jobs end.
    """
    rig = make_rig(lease_s=5)
    nobody = f"redis://127.0.0.1:{unused_port()}/0"
    fleet = [rig.start(broken_hooks=True, REDIS_URL=nobody) for _ in range(2)]
    await rig.work(20, 1.0)
    await rig.submit([JobRequest(name="always_fail", id=f"f{n}") for n in range(20)])

    async def ten_work() -> (
        bool
    ):  # those that fail may be due in the same millisecond, and start first
        return sum(entry.id.startswith("j") for entry in rig.entries("start")) >= 10

    await rig.holds(ten_work)

    await crash(rig.server)
    await rig.has("done", 10)
    await asyncio.sleep(0.3)
    rig.server.start()
    await rig.emptied()
    alive = [worker.is_alive for worker in fleet]
    codes = await rig.stop()

    verdict = await rig.verdict()
    row.figure(deaths=alive.count(False), **verdict.figures())
    assert (alive, codes) == ([True, True], [0, 0])
    assert verdict.holds, describe(verdict)
    assert (verdict.complete, verdict.dead) == (20, 20)


@pytest.mark.row("W14")
async def test_an_audit_that_cannot_be_written_refuses_the_action_and_costs_no_ending(
    make_rig: MakeRig, row: Row
) -> None:
    """
    Somebody wants to abort a job: without an audit line nothing is aborted, and the job ends as it would
    have, also where letters are written.
    """
    rig = make_rig()
    worker = rig.start()
    async with api(rig) as http:
        await rig.work(3, 0.8)
        await rig.has("start", 3)
        await rig.client.set(keys.AUDIT, "not a stream: XADD is refused")
        refused = [
            await http.post(f"/jobs/{rig.queue}/j0/abort"),
            await http.post(f"/jobs/{rig.queue}", json={"name": "work", "data": {}}),
            await http.post(f"/queues/{rig.queue}/pause"),
        ]
        looked = await http.get(f"/jobs/{rig.queue}/j0")
    await rig.submit([JobRequest(name="always_fail", id="dies")])
    await rig.emptied()
    alive = worker.is_alive
    await rig.stop()

    verdict = await rig.verdict()
    row.figure(
        refused=[answer.status_code for answer in refused],
        looked=looked.status_code,
        deaths=int(not alive),
        **verdict.figures(),
    )
    assert alive
    assert [answer.status_code for answer in refused] == [503] * 3
    assert looked.status_code == 200
    assert verdict.holds, describe(verdict)
    assert (verdict.complete, verdict.dead, verdict.aborted) == (3, 1, 0)
    assert (await rig.totals())["accepted"] == 4
    assert not await rig.client.exists(keys.PAUSED_QUEUES, keys.ARQ_ABORT)


@pytest.mark.row("W16")
async def test_one_id_is_one_job_however_often_and_through_whatever_it_is_asked_for(
    make_rig: MakeRig, row: Row
) -> None:
    """
    A hundred producers at once, and one whose reply is lost after the job was accepted.
    """
    rig = make_rig()
    rig.start()
    same = [JobRequest(name="work", id="same")]
    made = await asyncio.gather(*(enqueue_many(rig.producer, rig.queue, same) for _ in range(100)))
    async with ChaosProxy(rig.server.port) as proxy:
        url = rig.server.database(2).replace(f":{rig.server.port}/", f":{proxy.port}/")
        producer = connect(url, retries=0)
        await producer.ping()
        proxy.cut_next_reply = True
        with pytest.raises(RedisUnavailable):
            await enqueue_many(producer, rig.queue, [JobRequest(name="work", id="cut")])
        again = await enqueue_many(producer, rig.queue, [JobRequest(name="work", id="cut")])
        await producer.aclose(close_connection_pool=True)
    rig.acked |= {"same", "cut"}
    await rig.emptied()
    await rig.stop()

    verdict = await rig.verdict()
    created = sum(answer.created for answers in made for answer in answers)
    row.figure(created=created, created_again=again[0].created, **verdict.figures())
    assert verdict.holds, describe(verdict)
    assert (created, again[0].created, verdict.duplicates) == (1, False, 0)
    assert (await rig.totals())["accepted"] == 2


@pytest.mark.row("W17")
@pytest.mark.parametrize("shift", ["+2h", "-2h"])
async def test_a_workers_wrong_clock_starts_nothing_early_and_nothing_late(
    make_rig: MakeRig, row: Row, shift: str
) -> None:
    """
    Redis' clock decides when a job is due; stock arq runs the hour's job at once.
    """
    faketime = shutil.which("faketime")
    if faketime is None:
        lacking("faketime")
    rig = make_rig()
    # faketime forks: what it started dies with it
    prefix = (faketime, "-f", shift, "setpriv", "--pdeathsig", "KILL")
    worker = rig.start_fresh(*prefix, FAKETIME_DONT_FAKE_MONOTONIC=1)
    await rig.has_started(worker)
    delay_s = sized(2.0, 1.2)
    before_ms = await _now_ms(rig)
    await rig.submit(
        [
            JobRequest(name="work", id="now"),
            JobRequest(name="work", id="soon", delay_s=delay_s),
            JobRequest(name="work", id="later", delay_s=3600),
        ]
    )
    after_ms = await _now_ms(rig)
    await rig.holds(lambda: rig.client.exists(keys.arq_result("soon")), limit_s=10)

    # an end's report has its id from Redis, whose clock is the one that counts
    ends = await rig.client.xrange(keys.runs(rig.queue))
    ((ended_ms, due_ms),) = [
        (int(entry.partition(b"-")[0]), run.due_ms)
        for entry, fields in ends
        if (run := JobRun.from_json(fields[b"r"])).job_id == "soon"
    ]
    waiting = [raw.decode() for raw in await rig.client.zrange(rig.queue, 0, -1)]
    row.figure(shift=shift, late_s=(ended_ms - due_ms) / 1000, waiting=waiting)
    assert worker.is_alive
    assert waiting == ["later"]
    assert before_ms <= due_ms - delay_s * 1000 <= after_ms
    assert due_ms <= ended_ms <= due_ms + 1000


async def _now_ms(rig: Rig) -> int:
    """Redis' clock."""
    seconds, micros = await rig.client.time()
    return int(seconds) * 1000 + int(micros) // 1000
