"""Queues sharded over two real Redis servers: enqueue, run, see, act, and what happens without one."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import actions, keys, operations, reader
from app.actions import Connections
from app.actions.letters import shelf_of
from app.annals import past
from app.annals.historian import Historian
from app.annals.tiers import TierRow
from app.collector import Collector
from app.doctor.examination import examine
from app.enqueue import JobRequest, enqueue
from app.errors import RedisUnavailable
from app.explanation import explanation
from app.letters import causes
from app.records import JobState, LetterState
from app.sampling.sample import Sample
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import RunningRedis, wait_until
from tests.integration.shards import (  # noqa: F401 - fixtures
    AWAY_QUEUE,
    HOME_QUEUE,
    _all_done,
    _letters,
    _second,
    connections,
    ended,
    keys_of,
    second,
    sharded,
    submit,
    working,
)
from tests.letters import ANN
from tests.serving import RunningServer, start_server, stop
from tests.waiting import until
from workers.letters.rounds import DeadLetterProcessor
from workers.operations import OperationRunner


async def test_a_queue_lives_wholly_on_its_server(connections, sharded):
    """
    Enqueued through an action and run by its worker: nothing of it is on the other server.
    """
    away, home = connections.holding(AWAY_QUEUE), connections.queue
    async with working(sharded, AWAY_QUEUE), working(sharded, HOME_QUEUE):
        first = await submit(connections, sharded, AWAY_QUEUE)
        second = await submit(connections, sharded, HOME_QUEUE)
        await until(ended(connections, sharded, first, JobState.COMPLETE))
        await until(ended(connections, sharded, second, JobState.COMPLETE))

        beats = {
            name: await redis.zcard(keys.WORKERS)
            for name, redis in connections.queue_servers.items()
        }

    assert beats == {"queue": 1, "queue-2": 1}
    here, there = await keys_of(home), await keys_of(away)
    assert keys.arq_result(first) in there - here
    assert keys.arq_result(second) in here - there
    assert [key for key in here if AWAY_QUEUE in key or first in key] == []
    assert [key for key in there if HOME_QUEUE in key or second in key] == []
    assert await home.xlen(keys.AUDIT) == 2  # what belongs to the deployment is at home
    assert not await away.exists(keys.AUDIT)


async def test_one_sample_tells_of_both_servers_and_each_is_lost_alone(
    connections, sharded, second
):
    """
    A dead queue server makes its queues unknown, not the others; back again, so are its numbers.
    """
    for queue, count in ((HOME_QUEUE, 2), (AWAY_QUEUE, 3)):
        for _ in range(count):
            await submit(connections, sharded, queue)
    collector = Collector(sharded)
    try:
        async with working(sharded, "reports-daily") as worker:
            await until(lambda: _all_done(connections, AWAY_QUEUE))
            whole = await collector.sample()
            assert worker.id in set(whole.workers["id"])
        rows = whole.queues.set_index("queue")
        assert list(whole.queues["queue"]) == [HOME_QUEUE, AWAY_QUEUE]
        assert rows.loc[HOME_QUEUE, "waiting"] == 2
        assert rows.loc[AWAY_QUEUE, ["waiting", "complete", "workers"]].tolist() == [0, 3, 1]
        assert sorted(whole.runs["queue"]) == [AWAY_QUEUE] * 3
        assert list(whole.redis["role"]) == ["queue", "queue-2", "streams", "cache"]
        assert whole.redis["up"].all()

        second.kill()
        lost = await collector.sample()
        assert set(lost.problems) == {"queue-2"}
        rows = lost.queues.set_index("queue")
        assert rows.loc[HOME_QUEUE, "waiting"] == 2
        assert rows.loc[AWAY_QUEUE, ["waiting", "complete"]].isna().all()
        assert list(lost.redis["up"]) == [True, False, True, True]
        assert len(lost.workers)  # what it told last, under its banner

        second.start()

        async def is_back() -> bool:
            found = await collector.sample()
            return not found.problems and bool(found.queues["waiting"].notna().all())

        await until(is_back)
    finally:
        await collector.stop()


async def test_actions_reach_the_server_that_holds_the_queue(connections, sharded):
    """
    Pause, cancel, retry, an operation: all on the further server, all audited at home.
    """
    away = connections.holding(AWAY_QUEUE)
    await actions.pause_queue(connections, sharded, ANN, AWAY_QUEUE)
    assert await away.smembers(keys.PAUSED_QUEUES) == {AWAY_QUEUE}
    cancelled = await submit(connections, sharded, AWAY_QUEUE)
    assert (await actions.cancel_job(connections, sharded, ANN, AWAY_QUEUE, cancelled)).changed
    await actions.resume_queue(connections, sharded, ANN, AWAY_QUEUE)
    assert not await connections.queue.exists(keys.PAUSED_QUEUES)
    async with working(sharded, AWAY_QUEUE):
        dead = [await submit(connections, sharded, AWAY_QUEUE, shouldFail=True) for _ in range(3)]
        await until(lambda: _letters(away, 3))

        report = await actions.retry_letter(connections, sharded, ANN, AWAY_QUEUE, dead[0])
        assert report.changed
        await until(lambda: _letters(away, 3))  # it failed again

        started = await actions.start_operation(
            connections, sharded, ANN, "discard_letters", AWAY_QUEUE, {}
        )
        assert started.detail["matched"] == 3
        runner, stopping = OperationRunner(connections), asyncio.Event()
        running = asyncio.create_task(runner.run(stopping))
        await until(lambda: _letters(away, 0))
        stopping.set()
        await running
    found = await operations.read(connections.queue, started.detail["operation"])
    assert (found.done, str(found.state)) == (3, "done")
    page = await reader.letters_page(away, AWAY_QUEUE, "closed")
    assert {letter.state for letter in page.items} == {LetterState.DISCARDED}
    assert not [key for key in await keys_of(connections.queue) if ":dead:" in key]


async def test_dead_letters_of_every_server_are_decided_and_counted_once(connections, sharded):
    """
    A processor per server, each under its own lease; the causes are one list, at home.
    """
    ids = {}
    for queue in (HOME_QUEUE, AWAY_QUEUE):
        async with working(sharded, queue):
            ids[queue] = await submit(
                connections, sharded, queue, shouldFail=True, error="no route"
            )
            await until(ended(connections, sharded, ids[queue], JobState.DEAD))
    processors = [
        DeadLetterProcessor(
            sharded, redis, connections.streams, connections.cache, (), server=name,
            home=connections.queue,
        )
        for name, redis in connections.queue_servers.items()
    ]  # fmt: skip
    for one in processors * 2:  # the second round finds nothing new to count
        await one.round()

    for queue, letter_id in ids.items():
        shelf = await shelf_of(connections, sharded, queue)
        decision = await shelf.redis.hget(keys.dead_record(queue, letter_id), "decision")
        assert decision, f"{queue}: nobody decided"
    (fingerprint,) = await connections.queue.zrange(keys.CAUSES, 0, -1)
    cause, _ = await causes.read(connections.queue, fingerprint)
    assert cause.count == 2
    assert sorted(cause.sources) == sorted(ids)
    found = await explanation(connections, sharded.stream_name, sharded.queue_names, fingerprint)
    assert found.looked_at == 2
    assert not await connections.holding(AWAY_QUEUE).exists(keys.CAUSES)


async def test_a_queue_that_was_placed_elsewhere_while_jobs_waited_is_told(
    connections, settings, sharded
):
    """
    Before: everything at home. After: the queue is placed away, its jobs lie where they lay.
    """
    before = Settings(**settings.model_dump() | {"queues": sharded.queues, "generic_jobs": True})
    old = Connections.of(before)
    waiting = [await submit(old, before, AWAY_QUEUE) for _ in range(4)]

    diagnosis = await examine(connections, sharded)

    (found,) = [one for one in diagnosis.findings if one.hazard == "misplaced-queue"]
    assert found.where == f"queue {AWAY_QUEUE}"
    assert found.evidence == "4 jobs, 0 open dead letters on queue; placed on queue-2"
    assert found.severity == "critical"
    assert "--burst" in found.remedy
    async with working(before, AWAY_QUEUE):  # the remedy: run them where they lie
        for job_id in waiting:
            await until(ended(old, before, job_id, JobState.COMPLETE))
    after = await examine(connections, sharded)
    assert "misplaced-queue" not in {one.hazard for one in after.findings}
    await old.close()


async def test_minutes_of_a_server_that_is_away_are_written_once_it_is_back(
    connections, sharded, second
):
    """
    History is at home, minutes are counted where the queue is; the home's history waits for nobody.
    """
    home, away, historian = connections.queue, connections.holding(AWAY_QUEUE), Historian()
    first = int(time.time() // 3600) * 60 - 50  # ten past: an hour that ends is packed, not open

    def see(minute: int) -> None:
        row = {"waiting": 1, "deferred": 0, "running": 0}
        rows = [row | {"queue": queue} for queue in (HOME_QUEUE, AWAY_QUEUE)]
        at_ms = minute * 60_000 + 5_000
        historian.see(Sample(at_us=at_ms * 1000, now_ms=at_ms, queues=rows))

    async def write(minute: int) -> None:
        await historian.write(home, (minute + 1) * 60_000 + 4_000, connections.holding)

    async def counted(minute: int) -> Any:
        text = await home.hget(keys.history_open(AWAY_QUEUE), f"m{minute}")
        return None if text is None else TierRow.from_json(text).counts.get("complete")

    await away.hset(keys.minute(AWAY_QUEUE, first), "f|o|complete", 5)
    await away.hset(keys.minute(AWAY_QUEUE, first + 1), "f|o|complete", 6)
    see(first)
    await write(first)
    assert await counted(first) == 5
    second.kill()
    see(first + 1)
    await write(first + 1)
    assert await home.hexists(keys.history_open(HOME_QUEUE), f"m{first + 1}")
    assert await counted(first + 1) is None
    second.start()
    await until(lambda: away.ping())
    see(first + 2)
    await write(first + 2)
    assert await counted(first + 1) == 6

    async with working(sharded, AWAY_QUEUE):
        job_id = await submit(connections, sharded, AWAY_QUEUE)
        await until(ended(connections, sharded, job_id, JobState.COMPLETE))
    now_ms = time.time() * 1000
    later = int(now_ms // 60_000) + 1  # a moment that lies behind the run
    see(later)
    await write(later)
    then = await past.as_of(
        home, connections.streams, now_ms + 90_000, now_ms=now_ms, holding=connections.holding
    )
    assert list(then.queues["queue"]) == [HOME_QUEUE, AWAY_QUEUE]
    assert list(then.runs["job_id"]) == [job_id]


def test_the_server_answers_for_the_queues_whose_redis_is_there(
    redis_server: RunningRedis, second: RunningRedis, tmp_path: Path
) -> None:
    """
    One of two queue servers dies: /stats, pages' numbers and POST go on for the other's queues.
    """
    config = tmp_path / "arqscope.toml"
    config.write_text(f'[queues."{AWAY_QUEUE}"]\nattempts = 1\n')
    server: RunningServer = start_server(
        redis_server,
        tmp_path,
        REDIS_QUEUE_SHARDS=f"reports-*={second.url}",
        ARQSCOPE_CONFIG_FILE=str(config),
        GENERIC_JOBS="true",
    )
    try:
        with server.client() as api:

            def post(queue: str) -> httpx.Response:
                return api.post(f"/jobs/{queue}", json={"name": "generic", "data": {}})

            def waits(queue: str) -> Any:
                answer = api.get("/stats")
                return answer.status_code == 200 and answer.json()[queue]["waiting"]

            assert post(AWAY_QUEUE).status_code == 201
            assert post(HOME_QUEUE).status_code == 201
            wait_until(lambda: waits(AWAY_QUEUE) == 1 and waits(HOME_QUEUE) == 1, 15)
            (listed,) = api.get(f"/jobs/{AWAY_QUEUE}").json()["items"]
            assert api.get(f"/jobs/{AWAY_QUEUE}/{listed['id']}").json()["queue"] == AWAY_QUEUE
            assert api.post(f"/queues/{AWAY_QUEUE}/pause").json()["changed"]
            assert api.get("/health").json()["checks"]["redis-queue-2"] == "ok"

            second.kill()
            wait_until(lambda: waits(AWAY_QUEUE) is None and waits(HOME_QUEUE) == 1, 15)
            began = time.monotonic()
            refused = post(AWAY_QUEUE)
            assert refused.status_code == 503
            assert time.monotonic() - began < 3
            assert post(HOME_QUEUE).status_code == 201
            wait_until(lambda: waits(HOME_QUEUE) == 2, 15)
            wait_until(lambda: api.get("/health").status_code == 503, 5)
            checks = api.get("/health").json()["checks"]
            assert [name for name, said in checks.items() if said != "ok"] == [
                "redis-queue-2",
                "workers",
            ]
            assert api.get("/health/ready").status_code == 200
            metrics = api.get("/metrics").text
            assert 'arqscope_redis_up{role="queue-2"} 0.0' in metrics
            assert f'arqscope_queue_waiting{{queue="{HOME_QUEUE}"}} 2.0' in metrics
            assert f'arqscope_queue_waiting{{queue="{AWAY_QUEUE}"}}' not in metrics

            second.start()
            wait_until(lambda: waits(AWAY_QUEUE) == 1, 20)
    finally:
        stop(server)


async def test_a_client_of_a_server_that_is_away_says_so_in_time(connections, sharded, second):
    """
    A producer of the lost server's queue is told within 2 s; the other's notices nothing.
    """
    second.kill()
    with pytest.raises(RedisUnavailable):
        await enqueue(connections.holding(AWAY_QUEUE), AWAY_QUEUE, JobRequest(name="generic"))
    assert (await enqueue(connections.queue, HOME_QUEUE, JobRequest(name="generic"))).created
    alone = connect(sharded.url_of_queue(HOME_QUEUE))
    assert await alone.zcard(HOME_QUEUE) == 1
    await alone.aclose()
