"""Results of jobs as arq's ``Job.result()`` reads them: encoded, bounded, kept as long as asked for."""

import contextlib
import pickle  # results of pickled jobs go back to the stock producer that asked
import time
from typing import TYPE_CHECKING, Any, Final

from arq.worker import Function

from app.errors import ArqscopeError
from app.payloads.codec import MAX_PAYLOAD_BYTES, safe_str
from workers.runs.run import Run

if TYPE_CHECKING:
    from workers.engine.worker import Worker

#: s the result of a cron tick is kept at least: it stops a late worker from running the tick again
TICK_KEPT_S: Final = 3600
_LEFT_OUT: Final = "unable to serialize result"


def ttl_ms(worker: "Worker", run: Run) -> int:
    """How long the result of *run* is kept: 0 not at all, -1 for ever."""
    function = run.function
    forever, seconds = worker.keep_result_forever, worker.keep_result_s
    if isinstance(function, Function):
        forever = forever if function.keep_result_forever is None else function.keep_result_forever
        seconds = seconds if function.keep_result_s is None else function.keep_result_s
    elif function is not None:
        seconds = seconds if function.keep_result_s is None else function.keep_result_s
        if run.claim.id.rpartition(":")[2].isdecimal():  # one tick of a unique cron
            seconds = max(seconds or 0, TICK_KEPT_S)
    if forever:
        return -1
    return int((seconds or 0) * 1000)


def encoded(worker: "Worker", run: Run, attempt: int, success: bool, value: Any) -> bytes:
    """Return the result of *run*; what cannot be stored is replaced by a text that says so."""
    if ttl_ms(worker, run) == 0:
        return b""
    job, claim = run.job, run.claim
    data = {
        "t": attempt,
        "f": job.function,
        "a": job.args,
        "k": job.kwargs,
        "et": job.enqueued_ms,
        "s": success,
        "r": value,
        "st": run.started_ms,
        "ft": int(run.started_ms + (time.monotonic() - run.started_at) * 1000),
        "q": worker.queue_name,
        "id": claim.id,
    }
    encode: Any = worker.job_serializer
    if encode is None:
        codec = worker.codec
        plain = codec is None or (job.pickled and codec.allow_pickle)
        encode = pickle.dumps if plain or codec is None else codec.encode
    for replacement in (value, f"{_LEFT_OUT}: {safe_str(value, 500)}"):
        data["r"] = replacement
        with contextlib.suppress(Exception):
            raw: bytes = encode(data)
            if len(raw) <= 2 * MAX_PAYLOAD_BYTES:
                return raw
    data.update(a=(), k={}, r=_LEFT_OUT)
    with contextlib.suppress(ArqscopeError, TypeError, ValueError):
        last: bytes = encode(data)
        return last
    return b""
