"""Frozen records: what a worker writes is what the dashboard reads.

One record per concept of the vocabulary, with its two pure conversions beside it. No Redis here.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

from app.errors import BadRecord

MAX_ERROR_BYTES: Final = 16_384

#: counters of ``keys.totals``; each only grows, but for what an undo takes back
TOTALS: Final = (
    "accepted",  # jobs our producers enqueued, redrives included
    "complete",  # jobs that ended well
    "failed",  # runs that raised or timed out, whatever came of it
    "retried",  # runs that were scheduled again
    "dead",  # jobs that became dead letters
    "aborted",  # jobs an operator or producer aborted; "unaborted" of them were taken back
    "shutdown",  # runs interrupted by a stopping worker, run again for free
    "crashed",  # runs whose worker vanished
    "redriven",  # dead letters put back on the queue
    "resolved",  # dead letters whose retry ended well
    "discarded",  # dead letters given up on purpose, less those taken back
    "archived",  # dead letters put aside as dealt with, less those taken back
    "undone",  # discards and archives taken back
    "spilled",  # dead letters that lie in an archive file
)


class JobState(StrEnum):
    """Where a job is; colours and words live in ``palette``."""

    QUEUED = "queued"
    DEFERRED = "deferred"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETE = "complete"
    FAILED = "failed"
    DEAD = "dead"
    ABORTED = "aborted"


class Outcome(StrEnum):
    """How one run ended."""

    COMPLETE = "complete"
    RETRY = "retry"  #: failed or asked for it, will run again
    DEAD = "dead"
    ABORTED = "aborted"
    SHUTDOWN = "shutdown"  #: interrupted by a stopping worker, costs no attempt


class LetterState(StrEnum):
    """Life of a dead letter."""

    NEW = "new"
    RETRYING = "retrying"
    RESOLVED = "resolved"
    DISCARDED = "discarded"
    ARCHIVED = "archived"
    SPILLED = "spilled"  #: on its way to an archive file, for a moment


def utc(ms: float) -> datetime:
    """Epoch milliseconds to an aware UTC datetime."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def known_fields(record: type, raw: Mapping[str, str]) -> dict[str, Any]:
    """Those of *raw* that are fields of the dataclass *record*, integers where it has ``int``.

    Fields of other releases are passed over. Raises ValueError for an integer that is none.
    """
    known = {f.name: f.type for f in fields(record)}
    return {k: int(v) if known[k] is int else v for k, v in raw.items() if k in known}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """One attempt of one job, as the worker that ran it reported it. Times are epoch ms."""

    job_id: str
    queue: str
    function: str
    outcome: Outcome
    attempt: int  #: 1 on the first run
    worker: str
    enqueued_ms: int
    due_ms: int
    started_ms: int
    finished_ms: int
    error: str = ""  #: ``Type: message``, at most 300 characters
    correlation_id: str = ""

    def to_json(self) -> str:
        """Encode for the ``r`` field of a run report."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Decode the ``r`` field; BadRecord when it is not one of ours."""
        try:
            raw = json.loads(text)
            known = cls.__dataclass_fields__
            return cls(
                **{k: v for k, v in raw.items() if k in known}
                | {"outcome": Outcome(raw["outcome"])}
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRecord(f"not a run report: {error}") from error

    @property
    def wait_s(self) -> float:
        """Seconds between being due and being started."""
        return max(0.0, (self.started_ms - self.due_ms) / 1000)

    @property
    def runtime_s(self) -> float:
        """Seconds the run took."""
        return max(0.0, (self.finished_ms - self.started_ms) / 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A job or event that ran out of attempts, kept until somebody decides. Times are epoch ms."""

    id: str  #: the root id: retries of it are ``id~r1``, ``id~r2`` …
    kind: str  #: ``job`` or ``event``
    source: str  #: queue or stream
    name: str  #: function or event type
    state: LetterState
    #: attempts · permanent · timeout · crash · expired · malformed · unknown-function · aborted
    reason: str
    error_type: str = ""
    error: str = ""
    traceback: str = ""
    fingerprint: str = ""
    attempts: int = 0
    worker: str = ""
    enqueued_ms: int = 0
    died_ms: int = 0
    changed_ms: int = 0
    redrives: int = 0
    decision: str = ""
    decision_reason: str = ""
    actor: str = ""
    correlation_id: str = ""
    history: str = "[]"  #: JSON list of {attempt, started_ms, finished_ms, error}
    arguments: str = "{}"  #: flat texts as JSON (``arguments``), ≤ 2 KB, without secrets

    def to_fields(self) -> dict[str, str]:
        """Encode for HSET."""
        return {name: str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_fields(cls, raw: Mapping[str, str]) -> Self:
        """Decode HGETALL; BadRecord when fields are missing or malformed."""
        try:
            values = known_fields(cls, raw)
            values["state"] = LetterState(raw["state"])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise BadRecord(f"not a dead letter: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One live process, as its last heartbeat told. Times are epoch ms, sizes bytes."""

    id: str
    role: str  #: ``worker``, ``events`` or ``dead-letters``
    host: str
    pid: int
    source: str  #: queue or stream it serves
    version: str
    since_ms: int
    beat_ms: int
    slots: int = 0
    busy: int = 0
    state: str = "running"  #: running · quiet · draining · degraded
    trouble: str = ""  #: why it is degraded
    rss_bytes: int = 0
    cpu_s: float = 0.0
    loop_lag_ms: float = 0.0
    functions: str = ""  #: names, comma separated
    jobs: str = "[]"  #: JSON list of {id, function, started_ms, attempt}
    schedules: str = ""  #: its cron jobs (``schedules.told``); empty: none
    extra: dict[str, str] = field(default_factory=dict)

    def to_fields(self) -> dict[str, str]:
        """Encode for HSET."""
        raw = {k: str(v) for k, v in asdict(self).items() if k != "extra"}
        return {**self.extra, **raw}

    @classmethod
    def from_fields(cls, raw: Mapping[str, str]) -> Self:
        """Decode HGETALL; BadRecord when fields are missing or malformed."""
        casts: dict[Any, Any] = {int: int, float: float, str: str}
        names = {f.name: f.type for f in fields(cls) if f.name != "extra"}
        try:
            values = {k: casts[names[k]](v) for k, v in raw.items() if k in names}
            return cls(**values, extra={k: v for k, v in raw.items() if k not in names})
        except (ValueError, TypeError, KeyError) as error:
            raise BadRecord(f"not a worker record: {error}") from error


# Log buckets of relative accuracy alpha = (gamma - 1) / (gamma + 1): a value v >= 1 ms falls into
# bucket ceil(log_gamma v) and is estimated by 2 gamma^i / (gamma + 1), off by at most alpha.
# Method: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with
# relative-error guarantees", VLDB 2019, section 2.1.
BUCKET_GAMMA: Final = 1.1
BUCKET_ERROR: Final = (BUCKET_GAMMA - 1) / (BUCKET_GAMMA + 1)
_LOG_GAMMA: Final = math.log(BUCKET_GAMMA)


def bucket_of(ms: float) -> int:
    """Index of the log bucket of a duration in ms; 0 holds everything up to 1 ms."""
    return 0 if ms <= 1 else math.ceil(math.log(ms) / _LOG_GAMMA)


def bucket_value(index: int) -> float:
    """Duration in ms that stands for bucket *index*, within BUCKET_ERROR of all it holds."""
    return 2 * BUCKET_GAMMA**index / (BUCKET_GAMMA + 1)
