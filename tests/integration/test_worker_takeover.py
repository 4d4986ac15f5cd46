"""The worker when another Redis answers to the name, a reply is lost at the last moment, or a tick is refused."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync
from arq import cron
from arq.connections import ArqRedis
from arq.utils import to_unix_ms
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from app import keys
from app.enqueue import JobRequest, enqueue_many
from app.payloads.codec import Codec
from app.settings import Settings
from app.streams.events import Event
from app.wire.connections import connect
from tests.conftest import RunningRedis, start_redis
from tests.faults.proxy import ChaosProxy
from tests.integration.test_event_processor import STREAM, processing, quick
from tests.integration.worker_rig import QUEUE, func, linger, succeed
from tests.waiting import until
from workers.claims.leases import LeaseKeeper
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.event_router import Registry


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[RunningRedis, RunningRedis]]:
    """Two servers of one password: the one that is master, and the one that will be."""
    made = start_redis(tmp_path / "old"), start_redis(tmp_path / "new")
    yield made
    for server in made:
        server.stop()


def through(proxy: ChaosProxy, server: RunningRedis, database: int = 0) -> str:
    return server.database(database).replace(f":{server.port}/", f":{proxy.port}/")


async def demote(proxy: ChaosProxy, old: RunningRedis, new: RunningRedis) -> None:
    """Make *old* a replica of nobody; who connects from now on reaches *new*. Nothing is cut."""
    client = connect(old.url)
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    await client.aclose(close_connection_pool=True)
    proxy.target_port = new.port


async def test_leases_are_renewed_at_the_new_master_though_the_old_one_still_answers(
    pair: tuple[RunningRedis, RunningRedis],
) -> None:
    """
    A demoted master keeps its connections and refuses: the renewing thread must leave it.
    """
    old, new = pair
    token, queue = "w#1", connect(new.url)
    for server in pair:
        client = connect(server.url)
        await client.hset(keys.running(QUEUE), "j1", f"1:1:1:{token}")  # type: ignore[misc]
        await client.zadd(QUEUE, {"j1": 1})
        await client.aclose(close_connection_pool=True)
    async with ChaosProxy(old.port) as proxy:
        pool = redis_sync.ConnectionPool.from_url(through(proxy, old), socket_timeout=2)
        keeper = LeaseKeeper(pool, QUEUE, lease_s=3, on_lost=lambda _: None)
        keeper.start()
        await until(lambda: asyncio.sleep(0, proxy.connections > 0))
        await demote(proxy, old, new)
        keeper.held["j1"] = token

        await until(lambda: queue.exists(keys.arq_in_progress("j1")))

        await asyncio.to_thread(keeper.stop)
    await queue.aclose(close_connection_pool=True)


async def test_events_are_taken_from_the_new_master_though_the_old_one_still_answers(
    pair: tuple[RunningRedis, RunningRedis], settings: Settings
) -> None:
    """
    The same for a processor: after a refusal it hangs up, and what it asks next is asked of the other.
    """
    old, new = pair
    handled: list[str] = []
    registry = Registry()

    @registry.on("*")
    async def handle(event: Event, context: Any) -> None:
        handled.append(event.type)

    before, after = connect(old.database(1)), connect(new.database(1))
    async with ChaosProxy(old.port) as proxy:
        moved = quick(settings, redis_streams_url=through(proxy, old, 1))
        async with processing(moved, registry):
            await before.xadd(STREAM, {"type": "first.one", "data": "1"})
            await until(lambda: asyncio.sleep(0, handled == ["first.one"]))
            await demote(proxy, old, new)
            await after.xadd(STREAM, {"type": "second.one", "data": "2"})

            await until(lambda: asyncio.sleep(0, handled == ["first.one", "second.one"]))
    for client in (before, after):
        await client.aclose(close_connection_pool=True)


async def test_jobs_of_a_claim_whose_reply_was_lost_at_the_stop_are_put_back(
    redis_server: RunningRedis,
) -> None:
    """
    Nobody would look again: they would count as crashes at the end of their lease.
    """
    redis = Redis.from_url(redis_server.url)
    await redis.flushdb()
    requests = [JobRequest(name="succeed", id=f"j{n}") for n in range(5)]
    await enqueue_many(redis, QUEUE, requests)
    async with ChaosProxy(redis_server.port) as proxy:
        options = EngineOptions(url=through(proxy, redis_server), codec=Codec(), lease_s=30)
        worker = Worker(
            functions=[func(succeed, name="succeed")],
            queue_name=QUEUE,
            handle_signals=False,
            ctx={"arqscope": options},
        )
        told = worker._on_trouble
        troubles: list[str] = []

        def stop_at_trouble(text: str) -> None:
            troubles.append(text)
            told(text)
            worker.handle_sig(15)  # type: ignore[arg-type]

        worker._on_trouble = stop_at_trouble  # type: ignore[method-assign]
        proxy.lose_reply_with = b'"f":"succeed"'

        await asyncio.wait_for(worker.main(), 30)

        assert troubles[0].startswith("cannot claim jobs")
        assert await redis.zcard(QUEUE) == 5
        assert await redis.hlen(keys.running(QUEUE)) == 0  # type: ignore[misc]
        assert not await redis.exists(*(keys.arq_in_progress(f"j{n}") for n in range(5)))
        assert not await redis.exists(keys.attempts(QUEUE))  # no crash, no attempt
        await worker.close()
    await redis.aclose(close_connection_pool=True)


@pytest.mark.parametrize("at_startup", [False, True])
async def test_a_tick_redis_refused_is_asked_for_again_and_is_one_job(
    redis_server: RunningRedis, monkeypatch: pytest.MonkeyPatch, *, at_startup: bool
) -> None:
    """
    arq moves to the next tick before it knows whether this one was enqueued.
    """
    redis = Redis.from_url(redis_server.url)
    await redis.flushdb()
    worker = Worker(
        functions=[func(linger, name="linger")],
        queue_name=QUEUE,
        handle_signals=False,
        cron_jobs=[cron(succeed, name="tick", hour=3, minute=30, run_at_startup=at_startup)],
        ctx={"arqscope": EngineOptions(url=redis_server.url, codec=Codec())},
    )
    worker._pool = ArqRedis.from_url(redis_server.url)
    (tick,) = worker.cron_jobs or ()
    now = datetime.now(UTC)
    due = now if at_startup else now + timedelta(seconds=0.2)
    if not at_startup:
        tick.next_run = due

    async def refused(*_: Any, **__: Any) -> None:
        raise ReadOnlyError("You can't write against a read only replica.")

    with monkeypatch.context() as patched:
        patched.setattr(worker.pool, "enqueue_job", refused)
        with pytest.raises(ReadOnlyError):
            await worker.run_cron(now, 0.5)

    for _ in range(3):
        await worker.run_cron(now, 0.5)

    assert await redis.zrange(QUEUE, 0, -1) == [f"tick:{to_unix_ms(due)}".encode()]
    assert tick.next_run is not None
    assert tick.next_run > due
    await worker.close()
    await redis.aclose(close_connection_pool=True)
