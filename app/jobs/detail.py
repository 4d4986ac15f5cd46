"""Everything known about one job, in two round trips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis

from app import keys
from app.cursors import claim_of, letter_of, run_of
from app.jobs.chain import ended_state, has_failed, link_of, waiting_state
from app.next_jobs import root_of
from app.payloads.codec import Codec, raw_bytes
from app.payloads.contents import Arguments, arguments_of, outcome_of
from app.records import DeadLetter, JobRun, JobState, Outcome
from app.wire.batch import Batch, into
from app.wire.connections import Connections

#: run reports looked at for one job's runs
RUNS_WINDOW: Final = 2000


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
    letter: DeadLetter | None = None  #: of its chain
    retried_as: str = ""  #: id of the last retry of that letter, when it came after this job
    correlation_id: str = ""


async def job(
    redis: Redis, job_id: str, *, queues: Sequence[str] = (), codec: Codec | None = None
) -> JobDetail | None:
    """Everything about *job_id*, looked for in *queues* and in the registry; None: nobody knows it.

    Two round trips; runs are those among the last 2,000 of its queue.
    """
    names = list(dict.fromkeys((*queues, *sorted(await _members(redis, keys.QUEUES)))))[:200]
    link = link_of(job_id)
    batch = Batch(redis)
    got: dict[str, Any] = {"score": {}, "claim": {}, "attempts": {}, "letter": {}}
    batch.ask(lambda r: got.__setitem__("payload", r), "GET", keys.arq_job(job_id))
    batch.ask(lambda r: got.__setitem__("result", r), "GET", keys.arq_result(job_id))
    batch.ask(lambda r: got.__setitem__("now", r), "TIME")
    for name in names:
        for kind, *command in (
            ("score", "ZSCORE", name, job_id),
            ("claim", "HGET", keys.running(name), job_id),
            ("attempts", "HGET", keys.attempts(name), job_id),
            ("letter", "HGETALL", keys.dead_record(name, link.root)),
        ):
            batch.ask(into(got[kind], name), *command)
    await batch.run()
    letters = {
        name: letter
        for name, raw in got["letter"].items()
        if raw and ((letter := letter_of(raw)) is None or link.is_in(letter.redrives))
    }
    holders = [n for n in names if got["score"].get(n) is not None or got["claim"].get(n)]
    queue = next(iter([*holders, *letters]), "")
    payload, result = raw_bytes(got.get("payload")), raw_bytes(got.get("result"))
    outcome = outcome_of(result, codec)
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
    elif not payload and queue in letters:
        arguments = arguments_of(
            raw_bytes(await redis.get(keys.dead_payload(queue, link.root))), codec
        )
    claim = claim_of(got["claim"].get(queue) or "")
    now_ms = int(got["now"][0]) * 1000 + int(got["now"][1]) // 1000
    letter = letters.get(queue)
    last = runs[0] if runs else None
    score = got["score"].get(queue)
    failed = has_failed(got["attempts"].get(queue) or "") or (
        last is not None and last.outcome is Outcome.RETRY
    )
    if claim["started_ms"]:
        state = JobState.RUNNING
    elif score is not None:
        state = waiting_state(float(score), now_ms, has_failed=failed)
    else:
        state = ended_state(job_id, last, outcome, letter)
    return JobDetail(
        id=job_id,
        queue=queue,
        state=state,
        function=arguments.function or (last.function if last else "") or getattr(letter, "name", ""),
        arguments=arguments,
        enqueued_ms=arguments.enqueued_ms or (last.enqueued_ms if last else 0),
        due_ms=claim["due_ms"] or int(score or 0) or (last.due_ms if last else 0),
        started_ms=claim["started_ms"] or (last.started_ms if last else 0),
        finished_ms=0 if claim["started_ms"] or last is None else last.finished_ms,
        attempt=claim["attempt"] or (last.attempt if last else 0),
        worker=claim["worker"] or (last.worker if last else ""),
        result=outcome.get("r"),
        result_note=str(outcome.get("note", "")),
        progress=progress,
        runs=runs,
        letter=letter,
        retried_as=link.retried_as(letter.redrives) if letter is not None else "",
        correlation_id=str(arguments.options.get("cid", "")) or getattr(letter, "correlation_id", ""),
    )  # fmt: skip


async def find_job(
    connections: Connections, job_id: str, *, queues: Sequence[str] = (), codec: Codec | None = None
) -> JobDetail | None:
    """The job, asked of the server that holds the first of *queues*, then of the others in turn."""
    placement = connections.placement
    first = (placement.server_of(queue) for queue in queues)
    for name in dict.fromkeys((*first, *placement.names)):
        held = placement.held_by(name, queues)
        found = await job(connections.server(name), job_id, queues=held, codec=codec)
        if found is not None:
            return found
    return None


async def _members(redis: Redis, key: str) -> set[str]:
    found: Any = await redis.smembers(key)  # type: ignore[misc]
    return set(found)


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
                run = run_of(text)
                if run is not None and run.job_id == job_id:
                    found.append(run)

    batch.ask(take, "XREVRANGE", keys.runs(queue), "+", "-", "COUNT", RUNS_WINDOW)
    batch.ask(progress.update, "HGETALL", keys.progress(queue, root_of(job_id)))
    await batch.run()
    return tuple(found), progress
