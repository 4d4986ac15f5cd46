"""One job in a list: the row, the filter that may want it, and the frame of a page of them. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from app.frames import JOB_COLUMNS, frame_of
from app.payloads.contents import Arguments
from app.payloads.redaction import redacted
from app.records import JobState

#: characters of a job's arguments in the jobs frame
ARGUMENTS_SHOWN: Final = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are wanted; what is empty does not matter. Times are epoch ms.

    Times are when waiting and deferred jobs are due, running ones started, others ended.
    """

    function: str = ""  #: exactly
    text: str = ""  #: in id or arguments (of ended jobs: id or function), case matters
    error: str = ""  #: in the error of ended jobs
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def looks_inside(self) -> bool:
        """Whether payloads or reports must be read to decide."""
        return bool(self.function or self.text or self.error)


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


def is_wanted(row: JobRow, wanted: JobFilter, at_ms: int) -> bool:
    """Whether *wanted* matches *row*, whose time is *at_ms*."""
    if wanted.function and row.function != wanted.function:
        return False
    if wanted.error and wanted.error not in row.error:
        return False
    if wanted.since_ms is not None and at_ms < wanted.since_ms:
        return False
    if wanted.until_ms is not None and at_ms > wanted.until_ms:
        return False
    inside = (row.id, row.function, repr(row.arguments.args), repr(row.arguments.kwargs))
    return not wanted.text or any(wanted.text in part for part in inside)


def jobs_frame(rows: Iterable[JobRow]) -> pd.DataFrame:
    """The rows of a page as the jobs frame, in their order."""
    return frame_of(
        (
            {
                "job_id": row.id,
                "queue": row.queue,
                "state": row.state.value,
                "function": row.function,
                "arguments": _arguments_text(row.arguments),
                "note": row.arguments.note,
                "due": row.due_ms or None,
                "started": row.started_ms or None,
                "finished": row.finished_ms or None,
                "attempt": row.attempt,
                "worker": row.worker,
                "error": row.error,
            }
            for row in rows
        ),
        JOB_COLUMNS,
    )


def _arguments_text(arguments: Arguments) -> str:
    if not (arguments.args or arguments.kwargs):
        return ""
    told = {"args": list(arguments.args), "kwargs": dict(arguments.kwargs)}
    text = json.dumps(redacted(told), default=str, ensure_ascii=False)
    return text if len(text) <= ARGUMENTS_SHOWN else text[: ARGUMENTS_SHOWN - 1] + "…"
