"""Notices of the dead-letter processor: JSON on four lists of the cache Redis, once per cause and window."""

import json
from datetime import UTC, datetime
from typing import Final

from redis.asyncio import Redis

from app import keys
from app.records import DeadLetter
from app.scripts import script
from workers.policies import Action, Decision

#: one alert per cause in this time: a storm of 10,000 failures is one notice
WINDOW_S: Final = 600
LIST_KEPT: Final = 10_000
LIST_TTL_S: Final = 7 * 86_400

LISTS: Final = {
    Action.ALERT: keys.DLQ_ALERTS,
    Action.ESCALATE: keys.DLQ_ESCALATIONS,
    Action.DISCARD: keys.DLQ_DISCARDED,
    Action.ARCHIVE: keys.DLQ_ARCHIVE,
}


async def push_notice(cache: Redis, letter: DeadLetter, decision: Decision) -> bool:
    """Put a notice on the list of the action; False when the window has one already.

    Alerts and escalations are one per cause, discards and archives one per letter. Raises what
    Redis raises.
    """
    name = LISTS[decision.action]
    is_cause = decision.action in (Action.ALERT, Action.ESCALATE) and letter.fingerprint
    mark = letter.fingerprint if is_cause else f"{letter.source}/{letter.id}/{letter.died_ms}"
    notice = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "action": str(decision.action),
        "severity": "critical" if decision.action is Action.ESCALATE else "warning",
        "id": letter.id,
        "kind": letter.kind,
        "source": letter.source,
        "name": letter.name,
        "errorType": letter.error_type,
        "error": letter.error[:500],
        "fingerprint": letter.fingerprint,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "reason": decision.reason,
        "rule": decision.rule,
        "correlationId": letter.correlation_id,
    }
    put = await script(__file__, "push_alert").run(
        cache,
        [name, f"{name}:seen:{mark}"],
        [json.dumps(notice), WINDOW_S * 1000, LIST_KEPT, LIST_TTL_S * 1000],
    )
    return bool(put)
