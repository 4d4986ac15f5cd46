"""Results of stock arq, which no list holds: found by a bounded SCAN, decoded without executing."""

import re
from typing import Any, Final

from redis.asyncio import Redis

from app import keys
from app.cursors import Page, bad_cursor
from app.jobs.rows import JobFilter, JobRow, is_wanted
from app.payloads.codec import Codec, raw_bytes
from app.payloads.contents import Arguments, outcome_of
from app.records import JobState
from app.wire.batch import Batch, into

#: keys one page looks at, and one command of it
WINDOW: Final = 20_000
STEP: Final = 1_000
#: bytes a result may have to be read for a list
MAX_BYTES: Final = 65_536
_CURSOR: Final = re.compile(r"s(\d{1,20})")


def is_cursor(cursor: str | None) -> bool:
    """Whether *cursor* is one of these pages."""
    return cursor is not None and _CURSOR.fullmatch(cursor) is not None


async def results_page(
    redis: Redis,
    queue: str,
    state: JobState,
    cursor: str | None,
    limit: int,
    wanted: JobFilter,
    codec: Codec | None,
) -> Page[JobRow]:
    """Results of *queue* whose job ended in *state*, in no order, until the page or a window is full.

    A page holds all that the last SCAN found, which may be a few more than *limit*: SCAN cannot go
    on inside of a step. What SCAN gives twice is listed twice.
    """
    at, rows, looked = 0, list[JobRow](), 0
    if cursor is not None:
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise bad_cursor(cursor)
        at = int(found[1])
    while True:
        at, names = await redis.scan(at, match=f"{keys.ARQ_RESULT}*", count=STEP)
        looked += STEP
        ids = [str(name).removeprefix(keys.ARQ_RESULT) for name in names]
        for row in await _read(redis, queue, ids, codec):
            if row.state is state and is_wanted(row, wanted, row.finished_ms):
                rows.append(row)
        if at == 0 or looked >= WINDOW or len(rows) >= limit:
            break
    return Page(
        items=rows,
        cursor=f"s{at}" if at else None,
        scanned=looked,
        window=f"stock arq keeps no list of results: looked at about {looked:,} keys, in no order",
        partial=bool(at) and len(rows) < limit,
    )


async def _read(redis: Redis, queue: str, ids: list[str], codec: Codec | None) -> list[JobRow]:
    sizes: dict[str, Any] = {}
    batch = Batch(redis)
    for job_id in ids:
        batch.ask(into(sizes, job_id), "STRLEN", keys.arq_result(job_id))
    await batch.run()
    raws: dict[str, Any] = {}
    batch = Batch(redis)
    for job_id, size in sizes.items():
        if size and int(size) <= MAX_BYTES:
            batch.ask_bytes(into(raws, job_id), "GET", keys.arq_result(job_id))
    await batch.run()
    rows = []
    for job_id, raw in raws.items():
        told = outcome_of(raw_bytes(raw), codec)
        if told.get("q") == queue:
            rows.append(_row(job_id, queue, told))
    return rows


def _row(job_id: str, queue: str, told: dict[str, Any]) -> JobRow:
    succeeded, outcome = bool(told.get("s")), told.get("r")
    error = "" if succeeded else str(outcome)[:300]
    state = JobState.COMPLETE if succeeded else JobState.FAILED
    if not succeeded and "CancelledError" in error:
        state = JobState.ABORTED
    return JobRow(
        id=job_id,
        queue=queue,
        state=state,
        function=str(told.get("f") or ""),
        arguments=Arguments(
            function=str(told.get("f") or ""),
            args=tuple(told["a"]),
            kwargs=dict(told["k"]),
            note=str(told.get("note", "")),
        ),
        due_ms=_ms(told.get("et")),
        started_ms=_ms(told.get("st")),
        finished_ms=_ms(told.get("ft")),
        attempt=_ms(told.get("t")),
        error=error,
    )


def _ms(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0
