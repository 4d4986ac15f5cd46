"""A run: one job between its claim and its ending."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from app.payloads.codec import JobPayload
from workers.claims.claimer import Claim

#: stands for the job of a payload that cannot be decoded
NO_JOB: Final = JobPayload("<unknown>", (), {}, 0, None, {})


@dataclass(slots=True)
class Run:
    """A job between its claim and its ending."""

    claim: Claim
    started_ms: int  #: Redis' clock
    started_at: float  #: monotonic
    job: JobPayload = NO_JOB
    function: Any = None  #: None: it was never called
    deadline: float = float("inf")  #: monotonic
    task: asyncio.Task[None] | None = None
    stopped: str = ""  #: why we cancelled it: timeout · abort · stop · lost
    cancelled_at: float = 0.0  #: monotonic, the last time
    ended: bool = False  #: its ending is in the outbox
