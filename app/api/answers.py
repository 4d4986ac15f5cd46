"""The shape of every JSON answer, for the OpenAPI document and the clients made from it.

Routes answer with bytes that are JSON already, so FastAPI neither checks nor converts them; that they keep
to these shapes is what ``make schema`` tries.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

from app import frames
from app.alerts.backtest import FIRING_COLUMNS
from app.analyses import conservation, utilisation
from app.analyses.explain import CHANGE_COLUMNS, ELSEWHERE_COLUMNS, ODDS_COLUMNS, SHARED_COLUMNS
from app.analyses.verdicts import Hold
from app.annals import past, tiers
from app.columns import TIME, Column, Schema
from app.doctor.findings import Finding
from app.letters.causes import Cause
from app.sampling.foreign import FOREIGN_COLUMNS

T = TypeVar("T")


def many(row: Any) -> Any:
    """Return the shape of a list of *row*."""
    return list[row]


_TYPES: Final[Mapping[str, Any]] = {
    "float64": float | None,
    "int64": int,
    "bool": bool,
    TIME: datetime | None,
}


def _row(name: str, columns: Mapping[str, Any], about: str) -> Any:
    """Return the model of one row of a frame: its columns, null where nobody could know."""
    told: Mapping[str, Column] = columns.about if isinstance(columns, Schema) else {}
    kinds: dict[str, Any] = {
        column: (_TYPES.get(str(dtype), str | None), Field(description=_told(told.get(column))))
        for column, dtype in columns.items()
    }
    return create_model(name, __doc__=about, **kinds)


def _told(column: Column | None) -> str | None:
    if column is None:
        return None
    return f"{column.meaning} ({column.unit})" if column.unit else column.meaning


QueueRow: Any = _row("QueueRow", frames.QUEUE_COLUMNS, "One queue: depths now, counters, rates.")
WorkerRow: Any = _row("WorkerRow", frames.WORKER_COLUMNS, "One live process.")
JobFrameRow: Any = _row("JobFrameRow", frames.JOB_COLUMNS, "One job of a queue.")
RunRow: Any = _row("RunRow", frames.RUN_COLUMNS, "One finished run.")
RunningRow: Any = _row("RunningRow", frames.RUNNING_COLUMNS, "One running job.")
LetterRow: Any = _row(
    "LetterRow", frames.DEAD_LETTER_COLUMNS, "One dead letter, without its payload."
)
CauseRow: Any = _row("CauseRow", frames.CAUSE_COLUMNS, "One cause among the dead letters.")
TallyRow: Any = _row("TallyRow", frames.TALLY_COLUMNS, "Deaths of one cause in one period.")
StreamRow: Any = _row("StreamRow", frames.STREAM_COLUMNS, "One stream.")
GroupRow: Any = _row("GroupRow", frames.GROUP_COLUMNS, "One consumer group.")
EventRow: Any = _row("EventRow", frames.EVENT_COLUMNS, "One handled event.")
FiringRow: Any = _row("FiringRow", FIRING_COLUMNS, "One time a rule would have fired.")
HistoryRow: Any = _row(
    "HistoryRow", tiers.TIER_COLUMNS, "One step of history; null: nobody looked."
)
AnnotationRow: Any = _row(
    "AnnotationRow", past.ANNOTATION_COLUMNS, "Something that explains a change."
)
ForeignRow: Any = _row("ForeignRow", FOREIGN_COLUMNS, "One queue of stock arq.")
ConservationRow: Any = _row(
    "ConservationRow", conservation.CONSERVATION_COLUMNS, "Whether every accepted job is known."
)
UtilisationRow: Any = _row(
    "UtilisationRow", utilisation.UTILISATION_COLUMNS, "How a queue's slots are used."
)
AgeRow: Any = _row("AgeRow", utilisation.AGE_COLUMNS, "How long a queue's oldest job has waited.")
SharedRow: Any = _row("SharedRow", SHARED_COLUMNS, "An argument that sets failures apart.")
OddsRow: Any = _row("OddsRow", ODDS_COLUMNS, "How retries of a cause ended.")
ElsewhereRow: Any = _row("ElsewhereRow", ELSEWHERE_COLUMNS, "Where else a cause is known.")
ChangeRow: Any = _row("ChangeRow", CHANGE_COLUMNS, "What changed before a cause was first seen.")


class PageOf(BaseModel, Generic[T]):
    """Some items; ``cursor`` asks for the next ones, null: these were the last."""

    items: list[T]
    cursor: str | None
    scanned: int = Field(description="records looked at for this page")
    window: str = Field(description="what was looked at, when it was not everything")
    partial: bool = Field(description="the window ended before the page was full: go on")


class QueueStats(BaseModel):
    """Counts of one queue, null where unknown; the queue of dead letters has the first five."""

    waiting: int | None
    active: int | None
    completed: int | None
    failed: int | None
    delayed: int | None
    aborted: int | None = None
    failedRuns: int | None = None
    retried: int | None = None
    accepted: int | None = None
    workers: int | None = None
    paused: bool | None = None


class Health(BaseModel):
    """Whether everything needed answers and takes writes."""

    status: Literal["healthy", "unhealthy"]
    timestamp: datetime
    queues: list[str]
    environment: str
    checks: dict[str, str] = Field(
        examples=[{"redis": "ok", "redis-streams": "ok", "redis-queue": "ok", "workers": "ok"}]
    )
    queue_servers: dict[str, list[str]] = Field(
        description="which of the queues each queue server holds, by its name in checks",
        examples=[{"redis-queue": ["async-processing"], "redis-queue-2": ["reports"]}],
    )


class AuditLine(BaseModel):
    """One action as it was recorded before it happened; ``body`` is JSON text, chained by ``hash``."""

    model_config = ConfigDict(extra="allow")

    id: str
    at_ms: str


class Reason(BaseModel):
    """Why a job is not running."""

    hold: Hold
    sentence: str
    nextStep: str
    untilMs: int | None = Field(description="when it ends by itself")


class Forecast(BaseModel):
    """When a queue will be empty, with a band of 80 %."""

    sentence: str
    drains: bool | None
    emptyInS: float | None
    lowS: float | None
    highS: float | None
    arrivalsPerS: float | None
    servicePerS: float | None
    workers: float | None
    minutes: int


class Comparison(BaseModel):
    """One metric before and after a deploy."""

    metric: str
    before: float | None
    after: float | None
    p: float | None
    low: float | None
    high: float | None
    verdict: str


class Look(BaseModel):
    """What a look for queues of stock arq found, and what it looked at."""

    window: str
    complete: bool
    results: int | None
    queues: list[ForeignRow]


class Count(BaseModel):
    """Deaths of one hour or day."""

    at_ms: int
    count: int


class CauseDetail(BaseModel):
    """One cause with its deaths per period, hour and day."""

    fingerprint: str
    state: str
    owner: str
    note: str
    error_type: str
    error: str
    functions: list[str]
    sources: list[str]
    first_ms: int
    last_ms: int
    count: int
    regressions: int
    changed_ms: int
    actor: str
    periods: dict[str, int]
    hours: list[Count]
    days: list[Count]


class Explained(BaseModel):
    """What is known about why a cause strikes."""

    cause: Cause
    periods: dict[str, int]
    function: str
    source: str
    failures: int
    successes: int
    sharedArguments: list[SharedRow]
    sharedNote: str
    retryOdds: list[OddsRow]
    elsewhere: list[ElsewhereRow]
    since: datetime
    changes: list[ChangeRow]
    lookedAt: int


class MetricRules(BaseModel):
    """The metric rules in force, and what each metric means."""

    rules: list[dict[str, Any]]
    metrics: dict[str, Any]


class Entry(BaseModel):
    """One stream entry; ``data`` is left out where it is long, ``malformed`` says why it is no event."""

    id: str
    at_ms: int
    type: str
    timestamp: str
    source: str
    userId: str
    workspaceId: str
    correlationId: str
    eventId: str | None = None
    redrivenFrom: str | None = None
    replayedFrom: str | None = None
    data_chars: int
    data: Any = None
    note: str | None = None
    malformed: str | None = None


class Held(BaseModel):
    """An entry a consumer was given and has not acknowledged."""

    id: str
    group: str
    consumer: str
    idle_ms: int
    deliveries: int


class HeldEntry(Held):
    """The same with the entry; null: it was deleted."""

    entry: Entry | None


class EntryDetail(Entry):
    """One entry in full."""

    fields: dict[str, str]
    dead_letter: str | None
    handlers_done: list[str]
    pending: list[Held]


class EntriesOf(BaseModel, Generic[T]):
    """Some entries; at most ``window`` were looked at."""

    items: list[T]
    cursor: str | None
    scanned: int
    window: int


class Consumer(BaseModel):
    """One consumer of a group."""

    name: str
    pending: int
    idle_ms: int


class Status(BaseModel):
    """What events last said about one thing."""

    model_config = ConfigDict(extra="allow")

    kind: str
    subject: str


class TriggerRule(BaseModel):
    """Which events make which job."""

    name: str
    type: str
    queue: str
    function: str
    when: dict[str, list[Any]]
    delay_s: float
    options: dict[str, Any]


class FrameColumn(BaseModel):
    """What one column of a frame holds."""

    dtype: str
    unit: str
    meaning: str


class FrameSchema(BaseModel):
    """What a frame's rows and columns are."""

    row: str
    columns: dict[str, FrameColumn]


class Diagnosed(BaseModel):
    """What the doctor found, with evidence and remedy; ``unknown`` could not be looked at."""

    healthy: bool
    takenMs: int
    examined: list[str]
    unknown: list[str]
    findings: list[Finding]
