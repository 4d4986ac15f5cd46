"""The next jobs of a job that completed, encoded for the script that records its end."""

import json
import time
from collections.abc import Sequence
from typing import Any, Final

from app import keys
from app.enqueue import PAYLOAD_TTL_MS
from app.errors import ArqscopeError, PermanentError
from app.next_jobs import RESULT, NextJob, next_id, root_of
from app.payloads.codec import MAX_CID_CHARS, Codec, JobPayload
from app.placement import AT_HOME, Placement

_LEFT: Final = "the job's work is done; its next job cannot be made"


def encoded(
    job_id: str,
    queue: str,
    job: JobPayload,
    added: Sequence[NextJob],
    result: Any,
    codec: Codec | None,
    placement: Placement = AT_HOME,
) -> str:
    """Return the ``then`` of a completed job, and what it *added* itself, for ``finish.lua``.

    Raises PermanentError when one cannot be stored: the job becomes a dead letter that people see,
    for running it again would do its work twice.
    """
    try:
        nexts = [*(NextJob.from_wire(raw) for raw in job.options.get("then", ())), *added]
        made = [
            _row(job_id, number, queue, job, one, result, codec or Codec(), placement)
            for number, one in enumerate(nexts, 1)
        ]
    except (ArqscopeError, TypeError) as error:
        raise PermanentError(f"{_LEFT}: {error}") from error
    return json.dumps(made)


def _row(
    job_id: str,
    number: int,
    queue: str,
    job: JobPayload,
    one: NextJob,
    result: Any,
    codec: Codec,
    placement: Placement,
) -> dict[str, Any]:
    name = one.queue or queue
    options: dict[str, Any] = {
        "cid": str(job.options.get("cid", "")) or root_of(job_id)[:MAX_CID_CHARS],
        "after": job_id,
    }
    if one.then:
        options["then"] = [later.to_wire() for later in one.then]
    payload = codec.encode_job(
        one.name,
        (result if one.data is RESULT else one.data,),
        {},
        enqueued_ms=int(time.time() * 1000),
        options=options,
    )
    is_away = placement.server_of(name) != placement.server_of(queue)
    return {
        # a queue of another server: the script writes a parcel instead of the job
        **({"parcel": keys.PARCELS} if is_away else {}),
        "id": next_id(job_id, number),
        "queue": name,
        "payload": payload.decode("ascii"),
        "delay": int(one.delay_s * 1000),
        "ttl": PAYLOAD_TTL_MS,
        "wake": keys.wake(name),
        "totals": keys.totals(name),
        "queues": keys.QUEUES,
    }
