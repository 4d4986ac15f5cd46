"""Claim due jobs: one script call hands a batch over, leased, with payload and past attempts."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis

from app import keys
from app.payloads.codec import safe_str
from app.wire.scripts import script

#: jobs per script call: bounds how long a claim may hold Redis
BATCH: Final = 250
#: Crashes after which a job runs alone on its worker. A worker that vanished may have been killed by
#: any job it ran, or by none: up to here a crash is a suspicion. Beyond, only this job is left to
#: blame, and the crashes up to the policy's limit are what convicts it (ARCHITECTURE, Decisions).
QUARANTINE_CRASHES: Final = 2
MAX_KEPT_ATTEMPTS: Final = 10
MAX_TRACEBACK_CHARS: Final = 3_000


@dataclass(frozen=True, slots=True)
class Attempts:
    """What earlier runs of a job came to: runs started, and how they ended."""

    runs: int = 0
    errors: int = 0
    shutdowns: int = 0
    crashes: int = 0
    failures: tuple[dict[str, Any], ...] = ()  #: newest last: attempt, started_ms, error, traceback
    unknown_since_ms: int = 0  #: when a worker first did not know the function

    @classmethod
    def decode(cls, text: str) -> "Attempts":
        """Decode ``runs:errors:shutdowns:crashes|json``; what does not decode counts as none."""
        head, _, tail = text.partition("|")
        try:
            runs, errors, shutdowns, crashes = (int(part) for part in head.split(":"))
            kept = json.loads(tail) if tail else {}
            return cls(
                runs, errors, shutdowns, crashes, tuple(kept.get("f", ())), int(kept.get("u", 0))
            )
        except (ValueError, AttributeError, TypeError):
            return cls()

    def encode(self) -> str:
        """Encode for the attempts hash; the claim script reads and counts in the part before |."""
        head = f"{self.runs}:{self.errors}:{self.shutdowns}:{self.crashes}|"
        if not self.failures and not self.unknown_since_ms:
            return head
        return head + json.dumps({"f": self.failures, "u": self.unknown_since_ms})

    def failed(self, started_ms: int, error: str, traceback: str) -> "Attempts":
        """Return these attempts plus one that failed."""
        entry = {
            "attempt": self.runs + 1,
            "started_ms": started_ms,
            "error": safe_str(error, 500),
            "traceback": traceback[-MAX_TRACEBACK_CHARS:],
        }
        failures = (*self.failures, entry)[-MAX_KEPT_ATTEMPTS:]
        return Attempts(self.runs + 1, self.errors + 1, self.shutdowns, self.crashes, failures)

    def shut_down(self) -> "Attempts":
        """Return these attempts plus one that a stopping worker interrupted."""
        return Attempts(self.runs + 1, self.errors, self.shutdowns + 1, self.crashes, self.failures)

    def unknown(self, since_ms: int) -> "Attempts":
        """Return these attempts, marked as unknown to this worker since *since_ms*."""
        return Attempts(
            self.runs, self.errors, self.shutdowns, self.crashes, self.failures, since_ms
        )


_NONE: Final = Attempts()


@dataclass(slots=True)
class Claim:
    """One job leased to this worker."""

    id: str
    token: str
    payload: bytes | None  #: None: the payload is gone (expired)
    due_ms: int
    claimed_ms: int
    attempts: Attempts = field(default=_NONE)
    stock_tries: int = 0
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim brought."""

    now_ms: int
    next_due_ms: int | None  #: None: nothing is deferred, or the batch was not empty
    paused: bool
    quarantined_waits: bool  #: a job that must run alone waits for an idle worker
    claims: list[Claim]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimer:
    """Claims for one worker on one queue."""

    queue: str
    worker_id: str
    lease_ms: int
    crashes: int  #: crashes after which a job is buried

    async def claim(self, redis: Redis, wanted: int, *, token: str, idle: bool) -> Claimed:
        """Claim up to *wanted* due jobs under *token*; redis-py's errors pass through."""
        queue = self.queue
        reply: list[bytes] = await script(__file__, "claim").run(
            redis,
            [
                queue,
                keys.running(queue),
                keys.attempts(queue),
                keys.wake(queue),
                keys.PAUSED_QUEUES,
                keys.ARQ_ABORT,
                keys.totals(queue),
            ],
            [
                queue,
                min(wanted, BATCH),
                self.lease_ms,
                self.worker_id,
                token,
                keys.ARQ_IN_PROGRESS,
                keys.ARQ_JOB,
                keys.ARQ_RETRY,
                "1" if idle else "0",
                QUARANTINE_CRASHES,
                self.crashes,
            ],
        )
        now_ms, next_due = int(reply[0]), int(reply[1])
        claims = [
            Claim(
                id=reply[i].decode("utf-8", "surrogateescape"),
                token=token,
                payload=reply[i + 1] if reply[i + 2] == b"1" else None,
                due_ms=int(reply[i + 3]),
                claimed_ms=now_ms,
                attempts=Attempts.decode(reply[i + 4].decode("utf-8", "replace"))
                if reply[i + 4]
                else _NONE,
                stock_tries=int(reply[i + 5]) if reply[i + 5].isdigit() else 0,
                aborted=reply[i + 6] == b"1",
            )
            for i in range(3, len(reply), 7)
        ]
        return Claimed(
            now_ms,
            next_due if next_due >= 0 else None,
            next_due == -2,
            reply[2] == b"1",
            claims,
        )

    async def give_back(self, redis: Redis, known: Iterable[str]) -> list[str]:
        """Put back what this worker was handed in claims whose replies were lost: not in *known*."""
        queue = self.queue
        reply: list[bytes] = await script(__file__, "give_back").run(
            redis,
            [queue, keys.running(queue), keys.wake(queue)],
            [keys.ARQ_IN_PROGRESS, self.worker_id, *known],
        )
        return [raw.decode("utf-8", "surrogateescape") for raw in reply]
