"""Dead letters of jobs, as ``finish.lua`` takes them: what is known about a job that died."""

import json
import traceback
from typing import Final

from app.letters.fingerprint import fingerprint
from app.payloads.arguments import encoded, flat
from app.payloads.codec import JobPayload, safe_str
from app.records import MAX_ERROR_BYTES
from workers.claims.claimer import Attempts
from workers.runs.run import Run

#: characters of a function's name in letters and reports; payloads of others may hold any
NAME_CHARS: Final = 128


def letter_of(
    run: Run,
    *,
    queue: str,
    worker_id: str,
    reason: str,
    kind: str,
    text: str,
    trace: str,
    attempts: Attempts,
) -> str:
    """Return the fields of the dead letter of *run*: a JSON object of strings."""
    job = run.job
    letter = {
        "kind": "job",
        "source": queue,
        "name": safe_str(job.function, NAME_CHARS),
        "reason": reason,
        "error_type": kind,
        "error": text,
        "traceback": trace,
        "fingerprint": fingerprint(kind, text, trace),
        "attempts": str(max(attempts.runs, 1)),
        "worker": worker_id,
        "enqueued_ms": str(job.enqueued_ms),
        "correlation_id": str(job.options.get("cid", "")),
        "history": json.dumps(attempts.failures),
        "arguments": _arguments(job),
    }
    # Lua's JSON decoder refuses escaped lone surrogates, which errors about file names may hold
    return json.dumps(letter, ensure_ascii=False).encode("utf-8", "replace").decode()


def traceback_of(error: BaseException) -> str:
    """Format at most 16 KB of traceback; survives exceptions that cannot be printed."""
    try:
        text = "".join(
            traceback.TracebackException.from_exception(error, limit=-30, compact=True).format()
        )
    except BaseException:  # noqa: BLE001, RUF100 - __str__ of anything in the chain may raise
        frames = "".join(traceback.format_tb(error.__traceback__, limit=-30))
        text = f"{frames}{type(error).__name__}: {safe_str(error, 500)}"
    if len(text) > MAX_ERROR_BYTES:
        half = MAX_ERROR_BYTES // 2 - 20
        text = f"{text[:half]}\n… cut …\n{text[-half:]}"
    return text


def _arguments(job: JobPayload) -> str:
    """Return a dead job's arguments as flat texts: they are read where nothing may unpickle."""
    try:
        return encoded(flat(job.args, job.kwargs))
    except Exception:  # __str__ of a user's argument may raise anything
        return "{}"
