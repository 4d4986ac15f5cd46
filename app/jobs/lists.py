"""Lists of jobs, a page at a time, however many there are: by state, and by what they are and hold.

A page of waiting jobs costs the same at a million as at ten. A filter looks through a stated window
per page (``Page.window``) and says when that ended before the page was full (``Page.partial``).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app import keys
from app.cursors import Page, bad_cursor, claim_of, limited, run_of, stream_page
from app.errors import InvalidRequest
from app.jobs.chain import has_failed, waiting_state
from app.jobs.rows import JobFilter, JobRow, is_wanted
from app.jobs.stock_results import is_cursor as is_stock_cursor
from app.jobs.stock_results import results_page
from app.jobs.walk import PREVIEW_BYTES, Stretch
from app.payloads.codec import Codec, raw_bytes
from app.payloads.contents import arguments_of, function_of
from app.records import JobRun, JobState, Outcome
from app.wire.batch import Batch, into

#: waiting jobs one page of a filtered list looks at, and a script call of it
WINDOW: Final = 100_000
STRETCH: Final = 2_000
#: the same where Redis does not let us run scripts
PLAIN_WINDOW: Final = 5_000
PLAIN_STRETCH: Final = 500
#: run reports read at once, and looked at for one page of a filtered list
RUNS_WINDOW: Final = 2_000
RUNS_FILTERED: Final = 10_000
#: running jobs looked at for one page of a filtered list
RUNNING_WINDOW: Final = 2_000

JobsOf = Literal["waiting", "deferred", "running", "complete", "failed", "aborted"]
_ENDED: Final[Mapping[str, tuple[Outcome, ...]]] = {
    "complete": (Outcome.COMPLETE,),
    "failed": (Outcome.RETRY, Outcome.DEAD),
    "aborted": (Outcome.ABORTED,),
}
_STATE: Final = {
    "complete": JobState.COMPLETE, "failed": JobState.FAILED, "aborted": JobState.ABORTED,
}  # fmt: skip


EVERYTHING: Final = JobFilter()


async def jobs_page(
    redis: Redis,
    queue: str,
    state: JobsOf,
    cursor: str | None = None,
    limit: int = 50,
    *,
    codec: Codec | None = None,
    wanted: JobFilter = EVERYTHING,
) -> Page[JobRow]:
    """One page of the jobs of *queue* in *state*.

    ``waiting`` and ``deferred`` come by due time, ``running`` in no order, ``complete``, ``failed``
    (runs that did not end well) and ``aborted`` newest first out of the last ~10,000 run reports; of
    a queue that only stock arq serves, out of the results found by a bounded look, in no order.
    Raises InvalidRequest for a wrong cursor, limit or state.
    """
    limit = limited(limit)
    if state in _ENDED:
        if is_stock_cursor(cursor) or (cursor is None and await _is_stock(redis, queue)):
            return await results_page(redis, queue, _STATE[state], cursor, limit, wanted, codec)
        return await _runs_page(redis, queue, state, cursor, limit, wanted)
    now: Any = await redis.time()
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    if state == "running":
        return await _running_page(redis, queue, cursor, limit, now_ms, codec, wanted)
    if state not in ("waiting", "deferred"):
        raise InvalidRequest(f"state={state!r} is not known", field="state", hint=f"{JobsOf}")
    if wanted.error:  # no waiting job has one
        return Page(items=[], cursor=None, scanned=0, now_ms=now_ms)
    low, high = (None, now_ms) if state == "waiting" else (now_ms + 1, None)
    if wanted.since_ms is not None:
        low = max(wanted.since_ms, low or wanted.since_ms)
    if wanted.until_ms is not None:
        high = min(wanted.until_ms, high or wanted.until_ms)
    stretch = await Stretch.begin(redis, queue, low, high, cursor)
    if wanted.looks_inside:
        rows = await _searched(stretch, limit, wanted, now_ms, codec)
    else:
        pairs = await stretch.next(limit)
        rows = await _job_rows(redis, queue, pairs, {}, now_ms, codec)
    if state == "deferred":  # a running job's score is its lease's end
        rows = [row for row in rows if row.state is not JobState.RUNNING]
    partial = wanted.looks_inside and not stretch.ended and len(rows) < limit
    return Page(
        items=rows,
        cursor=await stretch.cursor(),
        scanned=stretch.looked,
        now_ms=now_ms,
        window=f"looked at {stretch.looked:,} {state} jobs" if wanted.looks_inside else "",
        partial=partial,
    )


async def _is_stock(redis: Redis, queue: str) -> bool:
    """Whether nobody of ours ever reported a run of *queue* or produced to it."""
    got: dict[str, Any] = {}
    batch = Batch(redis)
    batch.ask(into(got, "reported"), "EXISTS", keys.runs(queue))
    batch.ask(into(got, "known"), "SISMEMBER", keys.QUEUES, queue)
    await batch.run()
    return not (got.get("reported") or got.get("known"))


async def _searched(
    stretch: Stretch, limit: int, wanted: JobFilter, now_ms: int, codec: Codec | None
) -> list[JobRow]:
    needles = [*_needles(wanted.function), *_needles(wanted.text)]
    found: list[tuple[str, float]] = []
    window, plain = WINDOW, False
    while not stretch.ended and stretch.looked < window and len(found) < limit:
        matches = limit - len(found)
        if plain:
            heads = await _plain_search(stretch, matches, wanted)
        else:
            try:
                count = min(STRETCH, window - stretch.looked)
                heads = await stretch.search(count, matches, needles)
            except ResponseError:  # no right to run scripts: look ourselves, less far
                window, plain = PLAIN_WINDOW, True
                continue
        found += [
            (job_id, score)
            for job_id, score, head in heads
            if not wanted.function or function_of(head) == wanted.function
        ]
    return await _job_rows(stretch.redis, stretch.queue, found, {}, now_ms, codec)


async def _plain_search(
    stretch: Stretch, matches: int, wanted: JobFilter
) -> list[tuple[str, float, bytes]]:
    pairs = await stretch.next(min(PLAIN_STRETCH, matches * 10))
    heads: dict[str, Any] = {}
    batch = Batch(stretch.redis)
    for job_id, _ in pairs:
        batch.ask(into(heads, job_id), "GETRANGE", keys.arq_job(job_id), 0, PREVIEW_BYTES - 1)
    await batch.run()
    text = [needle.encode("utf-8", "surrogateescape") for needle in _needles(wanted.text)]
    return [
        (job_id, score, head)
        for job_id, score in pairs
        if (head := raw_bytes(heads.get(job_id))) is not None
        and (not wanted.text or wanted.text in job_id or any(needle in head for needle in text))
    ]


def _needles(text: str) -> tuple[str, str]:
    """*text* as a pickle has it, and as JSON has it."""
    return text, json.dumps(text)[1:-1]


async def _job_rows(
    redis: Redis,
    queue: str,
    pairs: Sequence[tuple[str, float]],
    claims: Mapping[str, str],
    now_ms: int,
    codec: Codec | None,
) -> list[JobRow]:
    batch = Batch(redis)
    commands = row_commands(queue, pairs, claims)
    answers: dict[str, Any] = {}
    for number, command in enumerate(commands):
        batch.ask(into(answers, str(number)), *command)
    await batch.run()
    replies = [answers.get(str(number)) for number in range(len(commands))]
    return rows_from(queue, pairs, claims, replies, now_ms, codec)


def row_commands(
    queue: str, pairs: Sequence[tuple[str, float]], claims: Mapping[str, str]
) -> list[tuple[Any, ...]]:
    """What is asked to make rows of jobs: payload's head and size, claim, attempts and lock of each."""
    made: list[tuple[Any, ...]] = []
    for job_id, _ in pairs:
        key = keys.arq_job(job_id)
        made += [("GETRANGE", key, 0, PREVIEW_BYTES - 1), ("STRLEN", key)]
        if job_id not in claims:
            # a stock worker leaves what it runs in the queue, locked
            made += [
                ("HGET", keys.running(queue), job_id),
                ("HGET", keys.attempts(queue), job_id),
                ("EXISTS", keys.arq_in_progress(job_id)),
            ]
    return made


def rows_from(
    queue: str,
    pairs: Sequence[tuple[str, float]],
    claims: Mapping[str, str],
    replies: Sequence[Any],
    now_ms: int,
    codec: Codec | None,
) -> list[JobRow]:
    """Rows of jobs from the *replies* to ``row_commands``, in the same order."""
    answer = iter(replies)
    rows = []
    for job_id, due in pairs:
        head, size = raw_bytes(next(answer)), int(next(answer) or 0)
        told, attempts, lock = (
            (claims[job_id], "", 0)
            if job_id in claims
            else (next(answer), next(answer), next(answer))
        )
        claim = claim_of(told or "")
        arguments = arguments_of(head, codec, size_bytes=size)
        waiting = waiting_state(due, now_ms, has_failed=has_failed(str(attempts or "")))
        rows.append(
            JobRow(
                id=job_id,
                queue=queue,
                state=JobState.RUNNING if claim["started_ms"] or lock else waiting,
                function=arguments.function,
                arguments=arguments,
                due_ms=claim["due_ms"] or int(due),
                started_ms=claim["started_ms"],
                attempt=claim["attempt"],
                worker=claim["worker"],
            )
        )
    return rows


async def _running_page(
    redis: Redis,
    queue: str,
    cursor: str | None,
    limit: int,
    now_ms: int,
    codec: Codec | None,
    wanted: JobFilter,
) -> Page[JobRow]:
    if cursor is not None and not cursor.isdecimal():
        raise bad_cursor(cursor)
    at, rows, looked = int(cursor or 0), [], 0
    while True:
        reply: Any = await cast(Any, redis.hscan(keys.running(queue), at, count=limit))
        at, claims = int(reply[0]), reply[1]
        pairs = [(job_id, float(claim_of(claim)["due_ms"])) for job_id, claim in claims.items()]
        looked += len(pairs)
        found = await _job_rows(redis, queue, pairs, claims, now_ms, codec)
        rows += [row for row in found if is_wanted(row, wanted, row.started_ms)]
        if not at or len(rows) >= limit or looked >= RUNNING_WINDOW or wanted == EVERYTHING:
            break
    return Page(
        items=rows,
        cursor=str(at) if at else None,
        scanned=looked,
        now_ms=now_ms,
        window="" if wanted == EVERYTHING else f"looked at {looked:,} running jobs",
        partial=bool(at) and len(rows) < limit and wanted != EVERYTHING,
    )


async def _runs_page(
    redis: Redis, queue: str, state: str, cursor: str | None, limit: int, wanted: JobFilter
) -> Page[JobRow]:
    outcomes = _ENDED[state]
    newest = "+" if wanted.until_ms is None else str(wanted.until_ms)
    oldest = "-" if wanted.since_ms is None else str(wanted.since_ms)
    window = RUNS_FILTERED if wanted.looks_inside else RUNS_WINDOW
    rows: list[JobRow] = []
    scanned, at, more = 0, cursor, True
    while more and scanned < window and len(rows) < limit:
        entries = await stream_page(
            redis, keys.runs(queue), at, RUNS_WINDOW, newest=newest, oldest=oldest
        )
        more = len(entries) == RUNS_WINDOW
        for number, (entry_id, fields) in enumerate(entries, 1):
            scanned, at = scanned + 1, entry_id
            run = run_of(fields.get("r", "")) if fields else None
            if run is None or run.outcome not in outcomes:
                continue
            dead = run.outcome is Outcome.DEAD
            row = _run_row(run, JobState.DEAD if dead else _STATE[state])
            if is_wanted(row, wanted, run.finished_ms):
                rows.append(row)
                if len(rows) == limit:
                    more = more or number < len(entries)
                    break
    return Page(
        items=rows,
        cursor=at if more else None,
        scanned=scanned,
        window=f"looked at {scanned:,} run reports, the last 10,000 are kept",
        partial=more and len(rows) < limit,
    )


def _run_row(run: JobRun, state: JobState) -> JobRow:
    return JobRow(
        id=run.job_id,
        queue=run.queue,
        state=state,
        function=run.function,
        due_ms=run.due_ms,
        started_ms=run.started_ms,
        finished_ms=run.finished_ms,
        attempt=run.attempt,
        worker=run.worker,
        error=run.error,
    )
