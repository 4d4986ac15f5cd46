"""The built-in job functions: bounded, visible work with progress and a checkpoint.

Each takes one object, ``data``; ``duration`` (ms, at most an hour) sizes the work, and without it the
amount of data does. ``shouldFail`` makes any of them raise ``error`` at its end, for drills.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from typing import Any, Final

from app.errors import PermanentError
from workers.runs.job_context import JobHandle

MAX_DURATION_MS: Final = 3_600_000
#: times a job reports its progress
STEPS: Final = 20
#: ms after which a job looks whether its worker stops
SLICE_MS: Final = 250.0

#: exception types a drill may ask for by name, in ``error`` as ``ConnectionError: text``
_DRILLS: Final[dict[str, type[Exception]]] = {
    "ConnectionError": ConnectionError,
    "TimeoutError": TimeoutError,
    "ValueError": ValueError,
    "KeyError": KeyError,
    "PermissionError": PermissionError,
    "PermanentError": PermanentError,
}


async def _work(ctx: Mapping[str, Any], data: Mapping[str, Any], unit_ms: float, units: int) -> int:
    """Take the time *units* take, in slices; resumes from the checkpoint of an interrupted run."""
    job: JobHandle = ctx["job"]
    asked = data.get("duration")
    number = isinstance(asked, int | float) and not isinstance(asked, bool)
    if asked is not None and (not number or not 0 <= asked <= MAX_DURATION_MS):
        raise PermanentError(
            f"duration={asked!r} must be a number of ms from 0 to {MAX_DURATION_MS}"
        )
    total_ms = float(asked) if asked is not None else min(units * unit_ms, MAX_DURATION_MS)
    step_ms = total_ms / STEPS
    slice_ms = min(step_ms, SLICE_MS)
    worked_ms = float(await job.restore(0.0)) if job.attempt > 1 else 0.0
    reported_ms = worked_ms
    while worked_ms < total_ms:
        before = time.monotonic()
        await asyncio.sleep(min(slice_ms, total_ms - worked_ms) / 1000)
        worked_ms += (time.monotonic() - before) * 1000
        if job.should_stop():  # short jobs still end; a long one is cut off and resumes here
            await job.checkpoint(min(worked_ms, total_ms))
        if total_ms >= 1000 and worked_ms - reported_ms >= step_ms and worked_ms < total_ms:
            reported_ms = worked_ms
            await job.progress(int(units * worked_ms / total_ms), units, "working")
    await job.progress(units, units, "working")
    if data.get("shouldFail"):
        name, _, text = str(data.get("error", "the job was asked to fail")).partition(": ")
        drill = _DRILLS.get(name)
        raise drill(text) if drill else RuntimeError(str(data.get("error") or "asked to fail"))
    return units


def _count(data: Mapping[str, Any], field: str, default: int) -> int:
    value = data.get(field, default)
    if isinstance(value, list | tuple | str):
        return len(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10_000_000:
        raise PermanentError(f"{field}={value!r} must be a whole number from 0 to 10,000,000")
    return value


async def data_sync(ctx: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Synchronise ``records`` rows of base ``baseId``; 1 ms a row unless ``duration`` says more."""
    records = await _work(ctx, data, 1.0, _count(data, "records", 100))
    return {"baseId": data.get("baseId"), "synced": records}


async def ai_processing(ctx: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Process ``text`` word by word; the digest stands for the model's answer and can be checked."""
    text = str(data.get("text", ""))
    words = text.split()
    await _work(ctx, data, 20.0, max(1, len(words)))
    return {
        "words": len(words),
        "characters": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


async def bulk_operation(ctx: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Apply ``operation`` to ``items`` (a list or a count), reporting progress."""
    items = await _work(ctx, data, 2.0, _count(data, "items", 500))
    return {"operation": str(data.get("operation", "update")), "applied": items}


async def notification(ctx: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Send ``message`` to user ``userId`` (or workspace ``workspaceId``) over pub/sub, once a job."""
    await _work(ctx, data, 1.0, 1)
    notify = ctx.get("notify")
    receivers = 0
    if notify is not None and await ctx["job"].once("sent"):
        receivers = await notify(data)
    return {"sent": True, "receivers": receivers}


async def generic(ctx: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Work for ``duration`` ms and, with ``shouldFail``, raise ``error``."""
    await _work(ctx, data, 5.0, STEPS)
    return {"done": True}


#: name a producer asks for → function
BUILT_IN: Final = {
    "data-sync": data_sync,
    "ai-processing": ai_processing,
    "bulk-operation": bulk_operation,
    "notification": notification,
    "generic": generic,
}
