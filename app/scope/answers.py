"""Answers of the HTTP API, back to the records, frames and errors they were made of. Pure."""

import http.client
import io
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from app import frames
from app.analyses.explain import CHANGE_COLUMNS, ELSEWHERE_COLUMNS, ODDS_COLUMNS, SHARED_COLUMNS
from app.analyses.forecast import Forecast
from app.columns import TIME
from app.enqueue import JobRequest
from app.errors import (
    ActionRefused,
    ArqscopeError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RedisUnavailable,
)  # fmt: skip
from app.explanation import Explanation
from app.jobs.rows import JobRow
from app.letters.causes import Cause, CauseState
from app.operations import Operation, OperationState
from app.payloads.contents import Arguments
from app.reader import JobDetail
from app.records import DeadLetter, JobRun, JobState, LetterState, Outcome


def error_of(error: urllib.error.HTTPError, where: str) -> ArqscopeError:
    """The error an answer tells of, as the same call on Redis would have raised it."""
    try:
        said = json.loads(error.read(100_000))["error"]
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        said = {}
    if not isinstance(said, dict):  # a proxy's own
        said = {}
    message = str(said.get("message") or f"{where} answered {error.code}")
    hint = said.get("hint")
    match error.code:
        case 401:
            return ActionRefused(f"{where}: {message}; give connect(url, key=…) a valid API key")
        case 403 | 409 | 429:
            return ActionRefused(f"{message}{f' ({hint})' if hint else ''}")
        case 404:
            found = NotFound("such thing", message)
            found.args = (f"{message}{f' ({hint})' if hint else ''}",)
            return found
        case 413 | 422 | 400:
            return InvalidRequest(message, field=said.get("field"), hint=hint)
        case 503 if said.get("code") == "overloaded":
            return Overloaded(message)
        case 301 | 302 | 303 | 307 | 308:
            return InvalidRequest(
                f"{where} redirects to {error.headers.get('Location', '?')[:200]}", field="url",
                hint="give the address of the server itself, with its prefix",
            )  # fmt: skip
        case _:
            return RedisUnavailable(f"{where}: {message}")


def table(body: bytes, where: str) -> pd.DataFrame:
    """The frame an answer carries; RedisUnavailable where it carries none."""
    try:
        return pd.read_parquet(io.BytesIO(body))
    except (ValueError, OSError) as error:
        raise RedisUnavailable(
            f"{where} does not answer with a frame: is this an arqscope server?"
        ) from error


def json_of(body: bytes) -> Any:
    """The JSON an answer carries; RedisUnavailable where it carries none."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise RedisUnavailable("the answer is not JSON: is this an arqscope server?") from error


def iso(ms: float | None) -> str | None:
    """A moment as requests have it."""
    return None if ms is None else pd.Timestamp(int(ms), unit="ms", tz="UTC").isoformat()


def fields_of(kind: Any, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What *raw* has of the fields of *kind*; what a newer server says besides is left out."""
    names = {field.name for field in fields(kind)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in names}


def framed(rows: Sequence[Mapping[str, Any]], columns: frames.Columns) -> pd.DataFrame:
    """Rows of an answer as a frame; ISO times become times."""
    times = [name for name, kind in columns.items() if kind == TIME]
    plain = [
        {**row, **{t: epoch_ms(row.get(t)) for t in times}} for row in rows
    ]  # fmt: skip
    return frames.frame_of(plain, columns)


def epoch_ms(said: Any) -> float | None:
    """A moment of an answer as epoch ms."""
    return None if said in (None, "") else pd.Timestamp(said).timestamp() * 1000


def joined(parts: list[pd.DataFrame], columns: frames.Columns) -> pd.DataFrame:
    """Pages as one frame."""
    return pd.concat(parts, ignore_index=True) if parts else frames.empty_frame(columns)


def arguments_of(raw: Mapping[str, Any]) -> Arguments:
    """The arguments of a job, as people see them."""
    return Arguments(**fields_of(Arguments, raw))


def job_row_of(raw: Mapping[str, Any]) -> JobRow:
    """One job of a list."""
    known = fields_of(JobRow, raw)
    return JobRow(
        **known | {"state": JobState(raw["state"]), "arguments": arguments_of(raw["arguments"])}
    )


def letter_of(raw: Mapping[str, Any]) -> DeadLetter:
    """One dead letter."""
    return DeadLetter(**fields_of(DeadLetter, raw) | {"state": LetterState(raw["state"])})


def operation_of(raw: Mapping[str, Any]) -> Operation:
    """One operation."""
    known = fields_of(Operation, raw) | {"state": OperationState(raw["state"])}
    for name in ("created_at", "started_at", "canary_at", "finished_at"):
        known[name] = pd.Timestamp(raw[name]).to_pydatetime() if raw.get(name) else None
    return Operation(**known)


def new_job(request: JobRequest) -> dict[str, Any]:
    """A job as ``POST /jobs`` takes it; InvalidRequest for what it does not."""
    if request.due is not None or request.expires_s is not None or request.then:
        raise InvalidRequest(
            "due, expires and then are not part of a remote enqueue",
            field="options",
            hint="use delay_s",
        )
    options = {
        "delay": request.delay_s * 1000 or None, "jobId": request.id or None,
        "timeout": None if request.timeout_s is None else request.timeout_s * 1000,
        "attempts": request.attempts, "correlationId": request.correlation_id or None,
        "backoff": None if request.backoff_s is None else request.backoff_s * 1000,
    }  # fmt: skip
    return {
        "name": request.name, "args": list(request.args), "kwargs": dict(request.kwargs),
        "options": {k: v for k, v in options.items() if v is not None},
    }  # fmt: skip


def explanation_of(raw: Mapping[str, Any]) -> Explanation:
    """Make the explanation of a cause of the server's answer."""
    cause = fields_of(Cause, raw["cause"]) | {"state": CauseState(raw["cause"]["state"])}
    return Explanation(
        cause=Cause(**cause), periods=raw["periods"], function=raw["function"],
        source=raw["source"], failures=raw["failures"], successes=raw["successes"],
        shared=framed(raw["sharedArguments"], SHARED_COLUMNS), shared_note=raw["sharedNote"],
        odds=framed(raw["retryOdds"], ODDS_COLUMNS),
        elsewhere=framed(raw["elsewhere"], ELSEWHERE_COLUMNS),
        since=pd.Timestamp(raw["since"]), changes=framed(raw["changes"], CHANGE_COLUMNS),
        looked_at=raw["lookedAt"],
    )  # fmt: skip


def forecast_of(raw: Mapping[str, Any], backlog: float) -> Forecast:
    """Make a forecast of the server's answer; *backlog*: jobs waiting and running, which it does not tell."""
    inf, nan = float("inf"), float("nan")

    def number(name: str, unknown: float = nan) -> float:
        return unknown if raw.get(name) is None else float(raw[name])

    never = inf if raw["drains"] is False else nan
    return Forecast(
        backlog=backlog, arrivals_per_s=number("arrivalsPerS"),
        service_per_s=number("servicePerS"), workers=number("workers"), drains=raw["drains"],
        empty_in_s=number("emptyInS", never), low_s=number("lowS", never),
        high_s=number("highS", inf if raw["drains"] is not None else nan),
        minutes=int(raw["minutes"]), reason=str(raw["sentence"]).partition(": ")[2],
    )  # fmt: skip


def job_of(raw: dict[str, Any]) -> JobDetail:
    """Make everything about one job of the server's answer."""
    raw["arguments"] = arguments_of(raw.get("arguments") or {})
    raw["state"] = JobState(raw["state"])
    raw["runs"] = tuple(
        JobRun(**{**run, "outcome": Outcome(run["outcome"])}) for run in raw.get("runs") or ()
    )
    raw["letter"] = letter_of(raw["letter"]) if raw.get("letter") else None
    return JobDetail(**fields_of(JobDetail, raw))
