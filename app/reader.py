"""Read jobs, dead letters, events and the audit log from Redis, a page at a time.

With ``readings`` the only code that decodes what Redis holds. Never writes, never unpickles: a
pickled payload is shown as such. Every read is bounded and resumes by a cursor.
"""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from redis.asyncio import Redis

from app import keys
from app.errors import BadPayload, BadRecord, InvalidRequest
from app.frames import printable
from app.letter_filter import LetterFilter, from_now, sweep
from app.payload import Codec, JobPayload
from app.payload import raw_bytes as raw_bytes
from app.readings import Batch, id_ms
from app.records import DeadLetter, JobRun, JobState, LetterState, Outcome
from app.redrive import Shelf

MAX_PAGE: Final = 500
#: run reports looked at for one page, or for one job's runs
RUNS_WINDOW: Final = 2000
#: payload bytes read per job of a page; a larger one shows its function only
PREVIEW_BYTES: Final = 4096
#: letters looked at for one page of those that match
MAX_SCANNED: Final = 20_000
PICKLED: Final = "pickled, not decoded"

JobsOf = Literal["waiting", "deferred", "running", "complete", "failed"]
LettersOf = Literal["open", "retrying", "closed"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some items, and where to go on; *scanned* tells how many records were looked at for them."""

    items: list[T]
    cursor: str | None  #: None: this was the last page
    scanned: int
    now_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What a payload says, decoded without executing anything."""

    function: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    enqueued_ms: int = 0
    note: str = ""  #: why it could not be decoded; empty when it was
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job or run in a list. Times are epoch ms, 0 when unknown."""

    id: str
    queue: str
    state: JobState
    function: str = ""
    arguments: Arguments = field(default_factory=Arguments)
    due_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    attempt: int = 0
    worker: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """Everything known about one job. Times are epoch ms, 0 when unknown."""

    id: str
    queue: str  #: empty when only its result is left
    state: JobState
    function: str
    arguments: Arguments
    enqueued_ms: int = 0
    due_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    attempt: int = 0
    worker: str = ""
    result: Any = None
    result_note: str = ""  #: why the result is not shown
    progress: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[JobRun, ...] = ()  #: newest first, among the last 2,000 runs of its queue
    letter: DeadLetter | None = None
    correlation_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterDetail:
    """One dead letter with what it carried."""

    letter: DeadLetter
    arguments: Arguments
    raw: str = ""  #: the fields of a dead event, as JSON text
    lineage: tuple[Mapping[str, Any], ...] = ()  #: each redrive: n, at_ms, actor, edited, operation


def arguments_of(raw: bytes, codec: Codec | None = None, *, size_bytes: int = 0) -> Arguments:
    """Decode a payload for people; what cannot be decoded is a note, never an exception."""
    size = size_bytes or len(raw)
    if not raw:
        return Arguments(note="the payload is gone")
    if raw[:1] == b"\x80":
        return Arguments(note=PICKLED, size_bytes=size)
    if size > len(raw):
        found = re.search(rb'"f":"((?:[^"\\]|\\.){0,128})"', raw)
        name = found.group(1).decode("utf-8", "replace") if found else ""
        return Arguments(
            function=name, note=f"{size:,} bytes, open the job to see", size_bytes=size
        )
    try:
        job: JobPayload = Codec(key=codec.key if codec else None).decode_job(raw)
    except BadPayload as error:
        return Arguments(note=printable(error), size_bytes=size)
    return Arguments(
        function=job.function,
        args=job.args,
        kwargs=job.kwargs,
        options=job.options,
        enqueued_ms=job.enqueued_ms,
        size_bytes=size,
    )


async def job(
    redis: Redis, job_id: str, *, queues: Sequence[str] = (), codec: Codec | None = None
) -> JobDetail | None:
    """Everything about *job_id*, looked for in *queues* and in the registry; None: nobody knows it.

    Two round trips; runs are those among the last 2,000 of its queue.
    """
    names = list(dict.fromkeys((*queues, *sorted(await _members(redis, keys.QUEUES)))))[:200]
    root = job_id.partition("~r")[0]
    batch = Batch(redis)
    got: dict[str, Any] = {"score": {}, "claim": {}, "letter": {}}
    batch.ask(lambda r: got.__setitem__("payload", r), "GET", keys.arq_job(job_id))
    batch.ask(lambda r: got.__setitem__("result", r), "GET", keys.arq_result(job_id))
    batch.ask(lambda r: got.__setitem__("now", r), "TIME")
    for name in names:
        for kind, *command in (
            ("score", "ZSCORE", name, job_id),
            ("claim", "HGET", keys.running(name), job_id),
            ("letter", "HGETALL", keys.dead_record(name, root)),
        ):
            batch.ask(_into(got[kind], name), *command)
    await batch.run()
    letter_of = {name: _letter(raw) for name, raw in got["letter"].items() if raw}
    holders = [n for n in names if got["score"].get(n) is not None or got["claim"].get(n)]
    queue = next(iter([*holders, *letter_of]), "")
    payload, result = raw_bytes(got.get("payload")), raw_bytes(got.get("result"))
    outcome = _result(result, codec)
    queue = queue or str(outcome.get("q") or "")
    if not (payload or result or queue):
        return None
    runs, progress = await _trail(redis, queue, job_id) if queue else ((), {})
    arguments = arguments_of(payload, codec)
    if not payload and outcome.get("f"):
        arguments = Arguments(
            function=str(outcome["f"]), args=tuple(outcome["a"]), kwargs=outcome["k"],
            enqueued_ms=int(outcome.get("et") or 0),
        )  # fmt: skip
    elif not payload and queue in letter_of:
        arguments = (await _letter_arguments(redis, queue, root, codec))[0]
    claim = _claim(got["claim"].get(queue) or "")
    now_ms = int(got["now"][0]) * 1000 + int(got["now"][1]) // 1000
    letter = letter_of.get(queue)
    last = runs[0] if runs else None
    return JobDetail(
        id=job_id,
        queue=queue,
        state=_state(claim, got["score"].get(queue), now_ms, last, outcome, letter),
        function=arguments.function or (last.function if last else "") or getattr(letter, "name", ""),
        arguments=arguments,
        enqueued_ms=arguments.enqueued_ms or (last.enqueued_ms if last else 0),
        due_ms=claim["due_ms"] or int(got["score"].get(queue) or 0) or (last.due_ms if last else 0),
        started_ms=claim["started_ms"] or (last.started_ms if last else 0),
        finished_ms=0 if claim["started_ms"] or last is None else last.finished_ms,
        attempt=claim["attempt"] or (last.attempt if last else 0),
        worker=claim["worker"] or (last.worker if last else ""),
        result=outcome.get("r"),
        result_note=str(outcome.get("note", "")),
        progress=progress,
        runs=runs,
        letter=letter,
        correlation_id=str(arguments.options.get("cid", "")) or getattr(letter, "correlation_id", ""),
    )  # fmt: skip


def _into(target: dict[str, Any], name: str) -> Any:
    return lambda reply: target.__setitem__(name, reply)


async def _members(redis: Redis, key: str) -> set[str]:
    found: Any = await redis.smembers(key)  # type: ignore[misc]
    return set(found)


def _letter(raw: Mapping[str, str]) -> DeadLetter | None:
    try:
        return DeadLetter.from_fields(raw)
    except BadRecord:
        return None


def _claim(text: str) -> dict[str, Any]:
    parts = text.split(":", 3)
    if len(parts) < 4 or not all(part.isdigit() for part in parts[:3]):
        return {"started_ms": 0, "due_ms": 0, "attempt": 0, "worker": ""}
    started, due, attempt = (int(part) for part in parts[:3])
    return {"started_ms": started, "due_ms": due, "attempt": attempt, "worker": parts[3]}


def _result(raw: bytes, codec: Codec | None) -> dict[str, Any]:
    if not raw:
        return {}
    if raw[:1] == b"\x80":
        return {"note": PICKLED}
    try:
        found = Codec(key=codec.key if codec else None).decode(raw)
    except BadPayload as error:
        return {"note": printable(error)}
    return {"a": (), "k": {}, **found}


def _state(
    claim: Mapping[str, Any],
    score: float | None,
    now_ms: int,
    last: JobRun | None,
    outcome: Mapping[str, Any],
    letter: DeadLetter | None,
) -> JobState:
    if claim["started_ms"]:
        return JobState.RUNNING
    if score is not None:
        if last is not None and last.outcome is Outcome.RETRY:
            return JobState.RETRYING
        return JobState.DEFERRED if float(score) > now_ms else JobState.QUEUED
    if letter is not None and letter.decision == "ABORT":
        return JobState.ABORTED
    if letter is not None and letter.state is not LetterState.RESOLVED:
        return JobState.RETRYING if letter.state is LetterState.RETRYING else JobState.DEAD
    if last is not None and last.outcome is Outcome.ABORTED:
        return JobState.ABORTED
    if outcome:
        return JobState.COMPLETE if outcome.get("s", True) else JobState.FAILED
    if last is not None and last.outcome is Outcome.COMPLETE:
        return JobState.COMPLETE
    return JobState.COMPLETE if letter is not None else JobState.FAILED


async def _trail(
    redis: Redis, queue: str, job_id: str
) -> tuple[tuple[JobRun, ...], Mapping[str, str]]:
    batch = Batch(redis)
    found: list[JobRun] = []
    progress: dict[str, str] = {}

    def take(entries: Sequence[Any]) -> None:
        needle = f'"job_id":"{job_id}"'
        for _, fields in entries:
            text = fields.get("r", "") if fields else ""
            if needle in text:
                run = _run(text)
                if run is not None and run.job_id == job_id:
                    found.append(run)

    batch.ask(take, "XREVRANGE", keys.runs(queue), "+", "-", "COUNT", RUNS_WINDOW)
    batch.ask(progress.update, "HGETALL", keys.progress(queue, job_id.partition("~r")[0]))
    await batch.run()
    return tuple(found), progress


def _run(text: str) -> JobRun | None:
    try:
        return JobRun.from_json(text)
    except BadRecord:
        return None


# --- pages ------------------------------------------------------------------------------------


def _limited(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(
            f"limit={limit} is out of range", field="limit", hint=f"between 1 and {MAX_PAGE}"
        )
    return limit


def _bad_cursor(cursor: str) -> InvalidRequest:
    hint = "pass the cursor of the page before, unchanged"
    return InvalidRequest(f"cursor={cursor[:60]!r} is not valid", field="cursor", hint=hint)


async def jobs_page(
    redis: Redis,
    queue: str,
    state: JobsOf,
    cursor: str | None = None,
    limit: int = 50,
    *,
    codec: Codec | None = None,
) -> Page[JobRow]:
    """One page of the jobs of *queue* in *state*.

    ``waiting`` and ``deferred`` come by due time, ``running`` in no order, ``complete`` and
    ``failed`` (runs that did not end well) newest first out of the kept run reports; one page looks
    at no more than 2,000 of them, so that it may be short and still have a cursor.
    """
    limit = _limited(limit)
    if state in ("complete", "failed"):
        return await _runs_page(redis, queue, state, cursor, limit)
    now: Any = await redis.time()
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    if state == "running":
        if cursor is not None and not cursor.isdigit():
            raise _bad_cursor(cursor)
        following, claims = await redis.hscan(keys.running(queue), int(cursor or 0), count=limit)
        ids = list(claims)
        due = {job_id: float(_claim(claim)["due_ms"]) for job_id, claim in claims.items()}
        next_cursor = str(following) if int(following) else None
    elif state in ("waiting", "deferred"):
        low, high = ("-inf", str(now_ms)) if state == "waiting" else (f"({now_ms}", "+inf")
        pairs, next_cursor = await _by_score(redis, queue, low, high, cursor, limit)
        ids, due, claims = [job_id for job_id, _ in pairs], dict(pairs), {}
    else:
        raise InvalidRequest(f"state={state!r} is not known", field="state", hint=f"{JobsOf}")
    rows = await _job_rows(redis, queue, ids, due, claims, now_ms, codec)
    if state == "deferred":  # a running job's score is its lease's end
        rows = [row for row in rows if row.state is not JobState.RUNNING]
    return Page(items=rows, cursor=next_cursor, scanned=len(ids), now_ms=now_ms)


async def _by_score(
    redis: Redis,
    key: str,
    low: str,
    high: str,
    cursor: str | None,
    limit: int,
    *,
    newest: bool = False,
) -> tuple[list[tuple[str, float]], str | None]:
    """Members by score, and the cursor ``score:members of that score already seen``."""
    skip = 0
    if cursor is not None:
        score, _, seen = cursor.rpartition(":")
        if not re.fullmatch(r"\d{1,17}(\.\d+)?", score) or not re.fullmatch(r"\d{1,9}", seen):
            raise _bad_cursor(cursor)
        skip = int(seen)
        low, high = (low, score) if newest else (score, high)
    read: Any = redis.zrevrangebyscore if newest else redis.zrangebyscore
    first, last = (high, low) if newest else (low, high)
    found: Any = await read(key, first, last, start=skip, num=limit, withscores=True)
    pairs = [(str(member), float(score)) for member, score in found]
    if len(pairs) < limit:
        return pairs, None
    edge = pairs[-1][1]
    seen_there = sum(score == edge for _, score in pairs)
    if cursor is not None and float(cursor.rpartition(":")[0]) == edge:
        seen_there += skip
    return pairs, f"{edge:.0f}:{seen_there}"


async def _job_rows(
    redis: Redis,
    queue: str,
    ids: Sequence[str],
    due: Mapping[str, float],
    claims: Mapping[str, str],
    now_ms: int,
    codec: Codec | None,
) -> list[JobRow]:
    batch = Batch(redis)
    heads: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for job_id in ids:
        key = keys.arq_job(job_id)
        batch.ask(_into(heads, job_id), "GETRANGE", key, 0, PREVIEW_BYTES - 1)
        batch.ask(_into(sizes, job_id), "STRLEN", key)
        if job_id not in claims:
            batch.ask(_into(found, job_id), "HGET", keys.running(queue), job_id)
    await batch.run()
    rows = []
    for job_id in ids:
        claim = _claim(claims.get(job_id) or found.get(job_id) or "")
        head = raw_bytes(heads.get(job_id))
        arguments = arguments_of(head, codec, size_bytes=int(sizes.get(job_id) or 0))
        waiting = JobState.DEFERRED if due[job_id] > now_ms else JobState.QUEUED
        rows.append(
            JobRow(
                id=job_id,
                queue=queue,
                state=JobState.RUNNING if claim["started_ms"] else waiting,
                function=arguments.function,
                arguments=arguments,
                due_ms=claim["due_ms"] or int(due[job_id]),
                started_ms=claim["started_ms"],
                attempt=claim["attempt"],
                worker=claim["worker"],
            )
        )
    return rows


async def _runs_page(
    redis: Redis, queue: str, state: str, cursor: str | None, limit: int
) -> Page[JobRow]:
    wanted = (Outcome.COMPLETE,) if state == "complete" else (Outcome.RETRY, Outcome.DEAD)
    entries = await _stream_page(redis, keys.runs(queue), cursor, RUNS_WINDOW)
    rows: list[JobRow] = []
    scanned, last = 0, None
    for entry_id, fields in entries:
        scanned, last = scanned + 1, entry_id
        run = _run(fields.get("r", "")) if fields else None
        if run is None or run.outcome not in wanted:
            continue
        rows.append(
            JobRow(
                id=run.job_id,
                queue=queue,
                state=JobState.COMPLETE if state == "complete" else JobState.FAILED,
                function=run.function,
                due_ms=run.due_ms,
                started_ms=run.started_ms,
                finished_ms=run.finished_ms,
                attempt=run.attempt,
                worker=run.worker,
                error=run.error,
            )
        )
        if len(rows) == limit:
            break
    more = scanned < len(entries) or len(entries) == RUNS_WINDOW
    return Page(items=rows, cursor=last if more else None, scanned=scanned)


async def _stream_page(redis: Redis, key: str, cursor: str | None, count: int) -> list[Any]:
    if cursor is not None and not re.fullmatch(r"\d{1,20}-\d{1,20}", cursor):
        raise _bad_cursor(cursor)
    found: Any = await redis.xrevrange(key, f"({cursor}" if cursor else "+", "-", count=count)
    return list(found)


async def letters_page(
    redis: Redis, source: str, state: LettersOf = "open", cursor: str | None = None, limit: int = 50
) -> Page[DeadLetter]:
    """One page of the dead letters of a queue or stream, the last to change state first."""
    key = {
        "open": keys.dead_open,
        "retrying": keys.dead_retrying,
        "closed": keys.dead_closed,
    }.get(state)
    if key is None:
        hint = "open, retrying or closed"
        raise InvalidRequest(f"state={state!r} is not known", field="state", hint=hint)
    pairs, following = await _by_score(
        redis, key(source), "-inf", "+inf", cursor, _limited(limit), newest=True
    )
    batch = Batch(redis)
    raw: dict[str, Any] = {}
    for letter_id, _ in pairs:
        batch.ask(_into(raw, letter_id), "HGETALL", keys.dead_record(source, letter_id))
    await batch.run()
    decoded = [_letter(raw[letter_id]) for letter_id, _ in pairs if raw.get(letter_id)]
    items = [found for found in decoded if found is not None]
    return Page(items=items, cursor=following, scanned=len(pairs))


async def letter(
    redis: Redis, source: str, letter_id: str, *, codec: Codec | None = None
) -> LetterDetail | None:
    """One dead letter with its arguments or raw fields; None when there is none of that id."""
    raw: Any = await redis.hgetall(keys.dead_record(source, letter_id))  # type: ignore[misc]
    found = _letter(raw) if raw else None
    if found is None:
        return None
    arguments, text = await _letter_arguments(redis, source, letter_id, codec)
    if found.kind == "event":
        arguments = Arguments(size_bytes=len(text))
        return LetterDetail(letter=found, arguments=arguments, raw=text, lineage=lineage_of(raw))
    return LetterDetail(letter=found, arguments=arguments, lineage=lineage_of(raw))


def lineage_of(raw: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """The redrives a letter's record tells of, the first first; the newest 100 are kept."""
    found = []
    for name, text in raw.items():
        number = name.removeprefix("redrive:")
        if number != name and number.isdigit():
            with contextlib.suppress(ValueError):
                found.append({"n": int(number), **json.loads(text)})
    return tuple(sorted(found, key=lambda entry: int(entry["n"])))


async def letters_matching(
    shelf: Shelf, wanted: LetterFilter, cursor: str | None = None, limit: int = 50
) -> Page[DeadLetter]:
    """One page of the dead letters that match, newest first; looks at 20,000 letters at most."""
    _check_sweep_cursor(cursor)
    wanted = await from_now(shelf, wanted)
    most, scanned, place = _limited(limit), 0, cursor or ""
    ids: list[str] = []
    while True:
        got = await sweep(
            shelf, wanted, "find", now_ms=None, limit=most - len(ids), cursor=place, newest=True
        )
        ids += got.ids
        scanned += got.done + got.skipped
        place = got.cursor
        if got.finished or len(ids) >= most or scanned >= MAX_SCANNED:
            break
    batch = Batch(shelf.redis)
    raw: dict[str, Any] = {}
    for letter_id in ids:
        batch.ask(_into(raw, letter_id), "HGETALL", keys.dead_record(shelf.source, letter_id))
    await batch.run()
    decoded = [_letter(raw[letter_id]) for letter_id in ids if raw.get(letter_id)]
    items = [found for found in decoded if found is not None]
    return Page(items=items, cursor=None if got.finished else place, scanned=scanned)


def _check_sweep_cursor(cursor: str | None) -> None:
    if cursor and not re.fullmatch(r"-?\d{1,20}(\.\d+)? .{1,200}", cursor, re.DOTALL):
        raise _bad_cursor(cursor)


async def _letter_arguments(
    redis: Redis, source: str, letter_id: str, codec: Codec | None
) -> tuple[Arguments, str]:
    payload = raw_bytes(await redis.get(keys.dead_payload(source, letter_id)))
    return arguments_of(payload, codec), payload.decode("utf-8", "replace")


async def audit_page(
    redis: Redis, cursor: str | None = None, limit: int = 50
) -> Page[dict[str, str]]:
    """One page of what operators did, newest first; ``id`` and the fields as written."""
    return await _entries_page(redis, keys.AUDIT, cursor, limit)


async def events_page(
    redis: Redis, stream: str, cursor: str | None = None, limit: int = 50
) -> Page[dict[str, str]]:
    """One page of the raw entries of *stream*, newest first; ``id``, ``at_ms`` and the fields."""
    return await _entries_page(redis, stream, cursor, limit)


async def _entries_page(
    redis: Redis, key: str, cursor: str | None, limit: int
) -> Page[dict[str, str]]:
    entries = await _stream_page(redis, key, cursor, _limited(limit))
    items = [
        {printable(k): printable(v) for k, v in fields.items()}
        | {"id": entry_id, "at_ms": f"{id_ms(entry_id):.0f}"}
        for entry_id, fields in entries
        if fields is not None
    ]
    last = entries[-1][0] if len(entries) == limit else None
    return Page(items=items, cursor=last, scanned=len(entries))
