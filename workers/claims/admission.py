"""How many jobs a worker may claim now."""

import time
from typing import TYPE_CHECKING, Final

from workers.claims.claimer import BATCH, QUARANTINE_CRASHES, Claim

if TYPE_CHECKING:
    from workers.engine.worker import Worker

#: endings that may wait for Redis before no new job is claimed, per slot
OUTBOX_PER_SLOT: Final = 4
#: ms; jobs that run shorter than this are claimed in big batches
SHORT_RUN_MS: Final = 5.0


class Admission:
    """Lets jobs in as slots, leases, the outbox and quarantined jobs allow."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._solo = False  #: what runs is a job that must run alone
        self._room_until = 0.0  #: monotonic; until then nothing new beside such a job
        self._room_again_at = 0.0  #: monotonic; before that no room is made again

    def claimable(self) -> int:
        """Jobs that may be claimed now."""
        worker = self._worker
        if worker.draining or worker.quiet or not worker.allow_pick_jobs or self._solo_runs():
            return 0
        leases, lease_s = worker.leases, worker.options.lease_s
        if not leases.alive or leases.silent_s > lease_s * 0.67:
            return 0  # without renewal nothing new may start
        if len(worker.outbox) > OUTBOX_PER_SLOT * max(worker.max_jobs, 25):
            return 0
        if (worker.tasks or len(worker.outbox)) and time.monotonic() < self._room_until:
            return 0
        free = worker.max_jobs - len(worker.tasks)
        if worker.burst and worker.max_burst_jobs >= 0:
            free = min(free, worker.max_burst_jobs - worker.jobs_started())
        return min(free, self._batch())

    def note(self, claims: list[Claim]) -> None:
        """Remember what was claimed: a quarantined job comes alone."""
        self._solo = len(claims) == 1 and claims[0].attempts.crashes >= QUARANTINE_CRASHES
        if self._solo:
            self._room_again_at = 0.0  # it worked: the next such job need not wait

    def make_room(self, *, waits: bool) -> None:
        """Let what runs here end, for a lease at most, so that a quarantined job gets its turn.

        Without it a worker that always has work would never be idle, and the job never run.
        """
        now, lease_s = time.monotonic(), self._worker.options.lease_s
        if waits and now >= self._room_again_at:
            self._room_until = now + lease_s
            self._room_again_at = now + 4 * lease_s

    def _batch(self) -> int:
        """Jobs per claim: many when they are short, an eighth of the slots when they take time.

        Slots that all wait for one big claim would start, and so end, together, wave after wave,
        each idle while the others are claimed and recorded.
        """
        if self._worker.runner.endings.mean_run_ms < SHORT_RUN_MS:
            return BATCH
        return min(BATCH, max(4, self._worker.max_jobs // 8))

    def _solo_runs(self) -> bool:
        if self._solo and not self._worker.tasks:
            self._solo = False
        return self._solo
