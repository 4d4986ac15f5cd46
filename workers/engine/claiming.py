"""The loop of a worker: claim what its slots allow, hand it to the runner, wait until there is more."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.wire.connections import is_refusal
from workers.claims import pools
from workers.claims.claimer import Claimer
from workers.claims.wakeups import POLL_S
from workers.heartbeat import GOODBYE_S

log = logging.getLogger("arqscope.worker")

if TYPE_CHECKING:
    from workers.engine.worker import Worker

#: s between two looks at what else may have changed
ROUND_S: Final = 0.1


class Claiming:
    """One worker's claims, over a connection of their own: one that failed is never sent twice."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._redis: Redis | None = None
        self.rounds = 0  #: claims asked for so far

    async def run(self, *, on_trouble: Callable[[str], None]) -> None:
        """Claim until the worker drains or, in burst mode, until the queue is empty."""
        worker = self._worker
        claimer = Claimer(
            queue=worker.queue_name,
            worker_id=worker.id,
            lease_ms=int(worker.options.lease_s * 1000),
            crashes=worker.options.policy.crashes,
        )
        pause_s = 0.05
        patience = worker.patience
        redis = self._redis = pools.for_claims(worker.pool.connection_pool)
        unsure_until = next_look = 0.0  # a claim that failed may still have been carried out, or be
        while not worker.draining:
            wanted = worker.admission.claimable()
            if wanted <= 0:
                worker.slot_free.clear()
                patience.at_rest(worker.leases.silent_s)
                if not worker.burst:
                    await worker.wakeups.hang_up()
                if worker.admission.claimable() <= 0 and not worker.draining:
                    await until_set(worker.slot_free, ROUND_S)
                if self._burst_is_over():
                    return
                continue
            self.rounds += 1
            worker.wakeups.forget()
            token = f"{worker.id}#{self.rounds}"
            try:
                if next_look <= time.monotonic() < unsure_until:
                    next_look = time.monotonic() + 1.0
                    back = await claimer.give_back(redis, list(worker.leases.held))
                    if back:
                        log.warning("jobs of a lost claim put back", extra={"count": len(back)})
                found = await claimer.claim(
                    redis, wanted, token=token, idle=not worker.tasks and not len(worker.outbox)
                )
            except Exception as error:  # redis-py also raises AttributeError, RuntimeError …
                unsure_until = time.monotonic() + worker.options.lease_s
                on_trouble(f"cannot claim jobs: {patience.told(error)}")
                patience.at_work(error)
                if is_refusal(error):
                    with contextlib.suppress(Exception):  # closing what is broken ends no work
                        await redis.connection_pool.disconnect(inuse_connections=False)
                await until_set(worker.stop_wanted, pause_s * (0.5 + random.random()))  # noqa: S311
                pause_s = min(1.0, pause_s * 2)
                continue
            pause_s = 0.05
            patience.renew()
            worker.trouble = ""
            worker.admission.make_room(waits=found.quarantined_waits)
            worker.wakeups.clock_offset_ms = found.now_ms - time.time() * 1000
            if found.claims:
                worker.admission.note(found.claims)
                for claim in found.claims:
                    worker.runner.start(claim)
                await asyncio.sleep(0)
                continue
            if worker.burst:
                if await self._burst_queue_is_empty():
                    return
                await until_set(worker.slot_free, min(POLL_S, worker.poll_delay_s))
                continue
            await worker.wakeups.idle(found.next_due_ms, paused=found.paused)
        if time.monotonic() < unsure_until:  # else they would count as crashes at their lease's end
            with contextlib.suppress(Exception):
                async with asyncio.timeout(GOODBYE_S):
                    await claimer.give_back(redis, list(worker.leases.held))

    async def close(self) -> None:
        """Close the connection claims went over."""
        if self._redis is not None:
            await self._redis.aclose(close_connection_pool=True)

    def _burst_is_over(self) -> bool:
        worker = self._worker
        return worker.burst and 0 <= worker.max_burst_jobs <= worker.jobs_started()

    async def _burst_queue_is_empty(self) -> bool:
        worker = self._worker
        try:
            if worker.tasks or len(worker.outbox):
                await until_set(worker.slot_free, ROUND_S)
                async with asyncio.timeout(worker.options.lease_s):
                    await worker.outbox.drained()
            return not worker.tasks and await worker.pool.zcard(worker.queue_name) == 0
        except (
            RedisError,
            OSError,
        ):  # a TimeoutError among them; the next claim meets and tells it
            return False


async def until_set(event: asyncio.Event, limit_s: float) -> None:
    """Return when *event* is set, or after *limit_s* seconds."""
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return
