"""Drive an operation: canaries first, then steps at its rate, until it ends or is paused.

The runner (``workers.operations``) calls this, and so may a command, a test or a benchmark. Whoever
drives may be killed anywhere: the next one goes on, and nothing is done twice.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from app import operations
from app.operations import CANARY_PASSED, Operation, OperationState
from app.operations.kinds import kind_of
from app.wire.connections import Connections

#: acted on between two stores of the progress, when nothing throttles
STEP: Final = 10_000
#: s between two looks at the canaries, and at a bucket that is empty
LOOK_S: Final = 0.25
#: s worth of rate that may be saved up: bounds a burst
BURST_S: Final = 0.25
#: s worth of rate that is waited for: bounds the steps, and so the calls, a second
CHUNK_S: Final = 0.05


class Bucket:
    """Tokens that come at *rate_per_s*; None: always enough. Begins empty."""

    def __init__(
        self, rate_per_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate_per_s = rate_per_s
        self._clock = clock
        self._tokens = 0.0
        self._at = clock()

    def allowed(self, most: int) -> int:
        """How many may be taken now, at most *most*."""
        if self._rate_per_s is None:
            return most
        now = self._clock()
        room = max(1.0, self._rate_per_s * BURST_S)
        self._tokens = min(room, self._tokens + (now - self._at) * self._rate_per_s)
        self._at = now
        return min(most, int(self._tokens)) if self._tokens >= min(most, self._chunk()) else 0

    def take(self, count: int) -> None:
        """Pay for what was done."""
        if self._rate_per_s is not None:
            self._tokens -= count

    def wait_s(self) -> float:
        """Seconds until some may be taken."""
        if self._rate_per_s is None:
            return 0.0
        return max(0.0, (self._chunk() - self._tokens) / self._rate_per_s)

    def _chunk(self) -> float:
        return max(1.0, (self._rate_per_s or 0.0) * CHUNK_S)


async def drive(
    connections: Connections,
    operation_id: str,
    *,
    token: str = "",
    stop: asyncio.Event | None = None,
    hold: Callable[[], bool] = lambda: True,
) -> Operation:
    """Drive one operation until it ends, is paused, *stop* is set or *hold* says no.

    Raises what Redis raises; calling it again goes on. With a *token*, ActionRefused once another
    process holds the operation's lease.
    """
    stop = stop or asyncio.Event()
    operation = await operations.read(connections.queue, operation_id)
    bucket = Bucket(operation.rate_per_s)
    while (
        operation.state.is_open
        and operation.state is not OperationState.PAUSED
        and not stop.is_set()
        and hold()
    ):
        operation, wait_s = await advance(connections, operation, bucket, token=token)
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            except TimeoutError:
                operation = await operations.read(connections.queue, operation_id)
    return operation


async def advance(
    connections: Connections, operation: Operation, bucket: Bucket, *, token: str = ""
) -> tuple[Operation, float]:
    """Do the next thing; returns what the operation is then, and the seconds to wait before more."""
    match operation.state:
        case OperationState.WAITING:
            return await _begin(connections, operation, token), 0.0
        case OperationState.CANARY if operation.canary_at is not None:
            return await _judge(connections, operation, token)
        case _:
            return await _step(connections, operation, bucket, token)


async def _begin(connections: Connections, operation: Operation, token: str) -> Operation:
    first = OperationState.CANARY if operation.canary else OperationState.RUNNING
    started = {"started_at": f"{time.time() * 1000:.0f}"}
    return await operations.save(connections.queue, operation, started, state=first, token=token)


async def _step(
    connections: Connections, operation: Operation, bucket: Bucket, token: str
) -> tuple[Operation, float]:
    is_canary = operation.state is OperationState.CANARY
    most = bucket.allowed(operation.canary - operation.done if is_canary else STEP)
    if most <= 0:
        return operation, min(LOOK_S, max(0.01, bucket.wait_s()))
    step = await kind_of(operation.kind).step(connections, operation, most)
    bucket.take(step.done + step.failed)
    fields = {
        "cursor": step.cursor,
        "done": str(operation.done + step.done),
        "skipped": str(operation.skipped + step.skipped),
        "failed": str(operation.failed + step.failed),
    }
    state = None
    if is_canary and (step.finished or operation.done + step.done >= operation.canary):
        fields["canary_at"] = f"{time.time() * 1000:.0f}"
    elif step.finished:
        state = OperationState.DONE
    return await operations.save(
        connections.queue, operation, fields, state=state, token=token
    ), 0.0


async def _judge(
    connections: Connections, operation: Operation, token: str
) -> tuple[Operation, float]:
    """Wait for the canaries' outcomes, then go on or stop."""
    found = await kind_of(operation.kind).outcomes(connections, operation)
    sent = found.waiting + found.well + found.failed
    share = found.failed / sent if sent else 0.0
    waited_s = time.time() - operation.canary_at.timestamp() if operation.canary_at else 0.0
    state, note = OperationState.RUNNING, CANARY_PASSED
    if share > operation.canary_max_failed:
        state = OperationState.STOPPED
        note = (
            f"{found.failed} of {sent} canaries failed, "
            f"more than the {operation.canary_max_failed:.0%} allowed"
        )
    elif found.waiting and waited_s < operation.canary_wait_s:
        return operation, LOOK_S
    elif found.waiting:
        state = OperationState.STOPPED
        note = (
            f"{found.waiting} of {sent} canaries did not end within {operation.canary_wait_s:g} s"
        )
    saved = await operations.save(
        connections.queue, operation, {"note": note}, state=state, token=token
    )
    return saved, 0.0
