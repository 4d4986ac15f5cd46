"""Put jobs on a queue: the producer's side. Idempotent by job id, bounded, and clear when refused."""

import asyncio
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.declarations import NAME_PATTERN
from app.errors import InvalidRequest
from app.next_jobs import NextJob, check_chain
from app.payloads.codec import MAX_CID_CHARS, Codec
from app.settings import Settings
from app.wire.connections import explained
from app.wire.scripts import script

#: Payloads outlive their due time by a year: arq's 24 h silently destroys a backlog (ARQ.md G2).
PAYLOAD_TTL_MS: Final = 365 * 86_400_000
MAX_DELAY_S: Final = 365 * 86_400.0
#: jobs, and bytes of payloads, per script call: a batch must not block Redis for more than a few ms
BATCH: Final = 500
BATCH_BYTES: Final = 4_194_304
#: s one script call may take, retries of the connection included: a caller is told within 2 s
ANSWER_S: Final = 1.6
#: Redis' name in errors; the URL is the caller's
_WHERE: Final = "redis://queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job somebody wants run; checked on construction, InvalidRequest names the field.

    ``id`` empty: a random one is made. Ask again with the same id after an unknown outcome: it
    makes one job. ``attempts``, ``backoff_s`` and ``timeout_s`` replace the queue's policy.
    """

    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    delay_s: float = 0.0
    due: datetime | None = None
    expires_s: float | None = None
    timeout_s: float | None = None
    attempts: int | None = None
    backoff_s: float | None = None
    correlation_id: str = ""
    then: Sequence[NextJob] = ()  #: made when this job completes, with its result or their own data

    def __post_init__(self) -> None:
        _check_id("name", self.name)
        if self.id:
            _check_id("jobId", self.id)
        _check_range("delay", self.delay_s, 0, MAX_DELAY_S)
        _check_range("timeout", self.timeout_s, 0.001, 86_400)
        _check_range("backoff", self.backoff_s, 0, 3_600)
        _check_range("expires", self.expires_s, 0.001, MAX_DELAY_S)
        _check_range("attempts", self.attempts, 1, 1_000)
        if not isinstance(self.correlation_id, str) or len(self.correlation_id) > MAX_CID_CHARS:
            raise InvalidRequest(
                f"correlationId={str(self.correlation_id)[:60]!r} is not valid",
                field="correlationId",
                hint=f"a text of at most {MAX_CID_CHARS} characters",
            )
        if self.due is not None and self.due.tzinfo is None:
            raise InvalidRequest(
                f"due={self.due.isoformat()} has no time zone", field="due", hint="add one: +00:00"
            )

    def options(self) -> dict[str, Any]:
        """Return what the payload carries beside arq's own fields."""
        asked = {
            "timeout": self.timeout_s,
            "attempts": self.attempts,
            "backoff": self.backoff_s,
            "cid": self.correlation_id or None,
            "then": [one.to_wire() for one in check_chain(self.then)] or None,
        }
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of one request."""

    id: str
    created: bool  #: False: a job or result of that id exists, nothing was changed


@dataclass(frozen=True, slots=True)
class Row:
    """One job as the script takes it."""

    id: str
    when: str  #: ms to wait, or ``@`` and the epoch ms it is due
    ttl_ms: int  #: its payload lives beyond that
    payload: bytes

    def due_ms(self, now_ms: int) -> int:
        """Epoch ms it is due, when it is told at *now_ms*."""
        return int(float(self.when[1:])) if self.when[0] == "@" else now_ms + int(float(self.when))


async def enqueue(
    redis: Redis, queue: str, request: JobRequest, *, codec: Codec | None = None
) -> Enqueued:
    """Put one job on *queue*.

    Raises InvalidRequest or PayloadTooLarge for what cannot be stored, RedisUnavailable or
    RedisRefused within about 2 s when Redis is down; then the outcome is unknown, and asking again
    with the same id is safe.
    """
    return (await enqueue_many(redis, queue, [request], codec=codec))[0]


async def enqueue_many(
    redis: Redis, queue: str, requests: Iterable[JobRequest], *, codec: Codec | None = None
) -> list[Enqueued]:
    """Put jobs on *queue*, a script call per 500 or 4 MB; all are checked before the first is sent."""
    return await place(redis, queue, rows_of(queue, requests, codec))


def rows_of(queue: str, requests: Iterable[JobRequest], codec: Codec | None = None) -> list[Row]:
    """Return *requests* as rows, ids made and payloads encoded; InvalidRequest for what cannot be."""
    _check_id("queue", queue)
    codec = codec or Codec()
    now_ms = int(time.time() * 1000)
    rows: list[Row] = []
    for request in requests:
        job_id = request.id or secrets.token_hex(16)
        payload = codec.encode_job(
            request.name,
            tuple(request.args),
            request.kwargs,
            enqueued_ms=now_ms,
            options=request.options(),
        )
        when = (
            f"@{request.due.timestamp() * 1000:.0f}"
            if request.due
            else f"{request.delay_s * 1000:.0f}"
        )
        ttl = PAYLOAD_TTL_MS if request.expires_s is None else int(request.expires_s * 1000)
        rows.append(Row(job_id, when, ttl, payload))
    return rows


async def place(redis: Redis, queue: str, rows: Sequence[Row]) -> list[Enqueued]:
    """Put *rows* on *queue*; the same again makes no second job."""
    names = [keys.totals(queue), keys.QUEUES, keys.minute_prefix(queue)]
    replies: list[int] = []
    for batch in _batches(rows):
        flat = [item for row in batch for item in (row.id, row.when, row.ttl_ms, row.payload)]
        try:
            async with asyncio.timeout(ANSWER_S):
                replies += await script(__file__, "enqueue").run(
                    redis,
                    [queue, keys.wake(queue), *names],
                    [
                        queue,
                        keys.ARQ_RESULT,
                        keys.ARQ_JOB,
                        keys.vault(queue, ""),
                        PAYLOAD_TTL_MS,
                        keys.VAULT_MS,
                        *flat,
                    ],
                )
        except TimeoutError as error:
            late = TimeoutError(f"no answer within {ANSWER_S:g} s; asking again is safe")
            raise explained(late, _WHERE) from error
        except (RedisError, OSError) as error:
            raise explained(error, _WHERE) from error
    return [Enqueued(row.id, bool(reply)) for row, reply in zip(rows, replies, strict=True)]


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Cut *rows* into what one script call may carry."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        if batch and (len(batch) >= BATCH or size + len(row.payload) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.payload)
    if batch:
        yield batch


def codec_of(settings: Settings, *, worker: bool = False) -> Codec:
    """Return the codec the settings ask for; only a worker's may read pickle."""
    key = settings.payload_key.get_secret_value().encode() if settings.payload_key else None
    return Codec(key=key, allow_pickle=worker and settings.allow_pickle)


def _check_id(name: str, value: str) -> None:
    if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
        raise InvalidRequest(
            f"{name}={str(value)[:140]!r} is not valid",
            field=name,
            hint="letters, digits and _.:-~ only, starting with a letter or digit, at most 128",
        )


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # NaN fails both comparisons
        raise InvalidRequest(
            f"{name}={value!r} is out of range", field=name, hint=f"between {low:g} and {high:g}"
        )
