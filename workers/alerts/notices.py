"""What the dead-letter processor tells people: notices on the specification's four lists, and alerts."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from redis.asyncio import Redis

from app import alerts, keys
from app.alerts import AlertState, alert_id
from app.alerts.rules import AlertRule
from app.letters import causes
from app.letters.causes import CauseState, Standing
from app.letters.redrive import Shelf
from app.records import DeadLetter
from workers.policies import UNKNOWN, Action, Decision

#: one alert per cause in this time: a storm of 10,000 failures is one notice
WINDOW_S: Final = 600
#: s a mark is known to be there without asking: in a storm a letter costs one round trip less
TOLD_S: Final = 5.0
TOLD_KEPT: Final = 1_000
#: a cause that did not come again for so long is over
QUIET_S: Final = 3_600
#: alerts looked at for whether they are over
LOOKED_AT: Final = 200

LISTS: Final = {
    Action.ALERT: keys.DLQ_ALERTS,
    Action.ESCALATE: keys.DLQ_ESCALATIONS,
    Action.DISCARD: keys.DLQ_DISCARDED,
    Action.ARCHIVE: keys.DLQ_ARCHIVE,
}


class Alerts:
    """Raises and ends alerts on the cache Redis; *channels* are the names of those to be told."""

    def __init__(self, cache: Redis, channels: Sequence[str] = ()) -> None:
        self.cache = cache
        self._channels = tuple(channels)
        self._told: dict[str, float] = {}

    async def of_letter(
        self, letter: DeadLetter, decision: Decision, standing: Standing = UNKNOWN
    ) -> bool:
        """Put a notice on the list of the action; False when the window has one already.

        Alerts and escalations are one per cause, discards and archives one per letter. Raises
        RedisUnavailable or RedisRefused.
        """
        is_cause = decision.action in (Action.ALERT, Action.ESCALATE)
        is_back = standing.state is CauseState.REGRESSED
        mark = f"{letter.source}/{letter.id}/{letter.died_ms}"
        if is_cause and letter.fingerprint:  # a cause that came back is told in the same window
            mark = letter.fingerprint + (f":{standing.regressions}" if is_back else "")
        if is_cause and self._told.get(mark, 0.0) > time.monotonic():
            return False
        severity = "critical" if decision.action is Action.ESCALATE or is_back else "warning"
        facts: dict[str, str] = {}
        if is_cause:
            again = "again, after it was resolved: " if is_back else ""
            facts = {
                "id": cause_alert(letter),
                "kind": "cause",
                "severity": severity,
                "title": f"{again}{letter.error_type or letter.reason} in {letter.name}"[:200],
                "detail": f"{letter.error[:500]} ({decision.reason})",
                "source": letter.source,
                "name": letter.fingerprint,
            }
        put = await alerts.raise_alert(
            self.cache,
            facts,
            mark=mark,
            window_s=WINDOW_S,
            channels=self._channels if is_cause else (),
            notices=LISTS[decision.action],
            notice=_notice(letter, decision, severity, standing),
        )
        if is_cause:
            if len(self._told) >= TOLD_KEPT:
                self._told.clear()
            self._told[mark] = time.monotonic() + TOLD_S
        return put

    async def of_cap(self, shelf: Shelf, text: str, severity: str) -> bool:
        """Tell that a source has more open dead letters than the cap, and what was done."""
        reason = "more open dead letters than ARQSCOPE_DEAD_LETTER_CAP"
        notice = {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "action": "ALERT",
            "severity": severity,
            "kind": shelf.kind,
            "source": shelf.source,
            "errorType": "DeadLetterCap",
            "error": text,
            "reason": reason,
            "rule": "cap",
        }
        facts = {
            "id": alert_id("cap", shelf.source, severity),
            "kind": "cap",
            "severity": severity,
            "title": f"too many dead letters: {shelf.source}",
            "detail": text,
            "source": shelf.source,
            "name": "cap",
        }
        return await alerts.raise_alert(
            self.cache,
            facts,
            mark=f"cap:{shelf.source}:{severity}",
            window_s=WINDOW_S,
            channels=self._channels,
            notices=keys.DLQ_ALERTS,
            notice=json.dumps(notice),
        )

    async def of_rule(self, rule: AlertRule, source: str, value: float) -> None:
        """Raise the alert of a metric rule, or keep it alive."""
        name = alert_id("rule", rule.name, source)
        await alerts.raise_alert(
            self.cache,
            {
                "id": name,
                "kind": "rule",
                "severity": rule.severity,
                "title": f"{rule.name}: {source}"[:200],
                "detail": rule.told(value),
                "source": source,
                "name": rule.name,
            },
            mark=name,
            window_s=WINDOW_S / 10,
            channels=self._channels,
        )

    async def end_of_rule(self, rule: AlertRule, source: str, value: float) -> None:
        """End the alert of a metric rule."""
        why = f"well again: {rule.metric} is {value:,.4g}"
        await alerts.resolve_alert(
            self.cache, alert_id("rule", rule.name, source), why, self._channels
        )

    async def end_quiet(self, queue: Redis, now_ms: float) -> int:
        """End what is over: causes that were resolved, ignored, or not seen for an hour."""
        ended = 0
        found = await alerts.newest(self.cache, LOOKED_AT)
        open_ones = [a for a in found if a.kind != "rule" and a.state is not AlertState.RESOLVED]
        about = await causes.several(queue, [alert.name for alert in open_ones])
        for alert, cause in zip(open_ones, about, strict=True):
            last_ms = alert.last_ms if cause is None else cause.last_ms
            why = ""
            if cause is not None and cause.state in (CauseState.RESOLVED, CauseState.IGNORED):
                why = f"{cause.state} by {cause.actor or 'somebody'}"
            elif now_ms - last_ms > QUIET_S * 1000:
                why = "not seen for an hour"
            if why:
                ended += await alerts.resolve_alert(self.cache, alert.id, why, self._channels)
        return ended


def cause_alert(letter: DeadLetter) -> str:
    """Return the id of the alert about the cause of *letter*."""
    return alert_id("cause", letter.fingerprint or f"{letter.source}/{letter.id}")


def without_alert(decision: Decision, standing: Standing) -> Decision | None:
    """*decision* with the remark that nobody is told, or None when somebody shall be."""
    if standing.state is not CauseState.IGNORED:
        return None
    if decision.action not in (Action.ALERT, Action.ESCALATE):
        return None
    return replace(decision, reason=f"{decision.reason}; no alert, the cause is ignored")


def _notice(letter: DeadLetter, decision: Decision, severity: str, standing: Standing) -> str:
    return json.dumps(
        {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "action": str(decision.action),
            "severity": severity,
            "id": letter.id,
            "kind": letter.kind,
            "source": letter.source,
            "name": letter.name,
            "errorType": letter.error_type,
            "error": letter.error[:500],
            "fingerprint": letter.fingerprint,
            "causeState": str(standing.state),
            "attempts": letter.attempts,
            "redrives": letter.redrives,
            "reason": decision.reason,
            "rule": decision.rule,
            "correlationId": letter.correlation_id,
        }
    )
