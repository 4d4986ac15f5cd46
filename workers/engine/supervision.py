"""What a worker looks after beside its jobs: the fence of timeouts and leases, aborts, cron, slots at run time."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from app import keys
from app.payloads.codec import safe_str
from workers.claims.janitor import Janitor

if TYPE_CHECKING:
    from workers.engine.worker import Worker

log = logging.getLogger("arqscope.worker")

#: s between two rounds; timeouts and the lease watch are that exact
ROUND_S: Final = 0.1
#: part of the lease after which a worker that cannot renew lets go; the rest is for the letting go
FENCE_SHARE: Final = 0.9
ABORT_ROUND_S: Final = 0.5
SLOTS_ROUND_S: Final = 5.0
JANITOR_S: Final = 30.0
MAX_SLOTS: Final = 10_000


async def supervise(
    worker: "Worker", *, on_trouble: Callable[[str], None], on_slots: Callable[[], None]
) -> None:
    """Look after *worker* until cancelled; an error is told to *on_trouble* and ends nothing."""
    next_abort = next_janitor = next_slots = 0.0
    janitor = Janitor(worker.queue_name)
    while True:
        await asyncio.sleep(ROUND_S)
        now = time.monotonic()
        try:
            if now >= next_abort and worker.tasks and worker.allow_abort_jobs:
                next_abort = now + ABORT_ROUND_S
                await _abort_asked(worker)
            if now >= next_slots and not worker.burst:
                next_slots = now + SLOTS_ROUND_S
                if await _slots_changed(worker):
                    on_slots()
            if now >= next_janitor:
                next_janitor = now + JANITOR_S
                await janitor.round(worker.pool, int(time.time() * 1000))
            await worker.heart_beat()
            await worker.schedules.store(worker.pool, worker.queue_name)
        except Exception as error:
            on_trouble(f"supervision: {safe_str(error, 200)}")


async def fence(worker: "Worker", *, on_trouble: Callable[[str], None]) -> None:
    """Stop jobs whose time or whose lease is over, until cancelled. Asks Redis nothing: where Redis hangs,
    that is when others are about to take these jobs.
    """
    while True:
        await asyncio.sleep(ROUND_S)
        try:
            worker.runner.enforce_timeouts(time.monotonic())
            leases = worker.leases
            if not leases.alive or leases.silent_s > worker.options.lease_s * FENCE_SHARE:
                worker.runner.stop_all("the leases could not be renewed")
        except Exception as error:
            on_trouble(f"fence: {safe_str(error, 200)}")


async def _abort_asked(worker: "Worker") -> None:
    ids = list(worker.tasks)
    scores = await cast(Any, worker.pool.zmscore(keys.ARQ_ABORT, ids))
    for job_id, score in zip(ids, scores, strict=True):
        if score is not None:
            worker.runner.abort(job_id)


async def _slots_changed(worker: "Worker") -> bool:
    """Take over the number of slots an operator set; whether it changed."""
    wanted = await worker.pool.get(keys.concurrency(worker.queue_name))
    if not wanted or not wanted.isdigit() or int(wanted) == worker.max_jobs:
        return False
    if not 1 <= int(wanted) <= MAX_SLOTS:
        return False
    log.info("concurrency changed", extra={"slots": int(wanted)})
    worker.max_jobs = int(wanted)
    return True
