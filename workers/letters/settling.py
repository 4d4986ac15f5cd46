"""Settling: what was decided about one dead letter is carried out, told, and counted."""

import logging
import time
from typing import Final

from redis.exceptions import RedisError

from app.errors import ArqscopeError, BadRecord
from app.letters import redrive
from app.letters.causes import Standing
from app.letters.redrive import POLICY, Shelf, Verdict
from app.payloads.codec import safe_str
from app.records import DeadLetter, LetterState
from workers.alerts.notices import Alerts, without_alert
from workers.policies import UNKNOWN, Action, Decision

log = logging.getLogger("arqscope.dead_letters")

_CLOSED: Final = {Action.DISCARD: LetterState.DISCARDED, Action.ARCHIVE: LetterState.ARCHIVED}


class LeaseLost(Exception):
    """Another process leads now."""


class Settling:
    """Carries decisions out, each by one script that the lease fences."""

    def __init__(self, alerts: Alerts, token: str) -> None:
        """*token*: of the lease whoever decides holds."""
        self._alerts = alerts
        self._token = token
        self.alerts_down = False  #: since when the round began; the cache Redis took no alert
        self.decided: dict[str, int] = dict.fromkeys(Action, 0)

    async def settle(
        self, shelf: Shelf, letter: DeadLetter, decision: Decision, standing: Standing = UNKNOWN
    ) -> int | None:
        """Carry out what is decided. 1: no longer open, 0: open and decided, None: left for later."""
        if decision.action is Action.RETRY:
            if not is_due(letter, decision):
                return None  # a stream has no future: the copy is appended when its time has come
            why_not = "its payload is gone"
            try:
                verdict = self._verdict(shelf, letter, decision)
                done = await redrive.redrive(shelf, letter.id, verdict, delay_s=decision.delay_s)
            except BadRecord as error:  # one that cannot be read must not hold up those behind it
                why_not = safe_str(error, 200)
            else:
                if done.word == "fenced":
                    raise LeaseLost
                if done.word != "no-payload":
                    self._tell(letter, decision, done.word)
                    return 1
            decision = Decision(
                action=Action.ALERT,
                delay_s=0.0,
                reason=f"cannot be retried: {why_not}",
                rule=decision.rule,
            )
        silent = without_alert(decision, standing)
        if silent is not None:
            decision = silent
        elif not await self._notify(letter, decision, standing):
            return None
        verdict = self._verdict(shelf, letter, decision)
        state = _CLOSED.get(decision.action)
        if state is None:
            word = await redrive.note_decision(shelf, letter.id, verdict)
        else:
            word = await redrive.close(shelf, letter.id, state, verdict)
        if word == "fenced":
            raise LeaseLost
        self._tell(letter, decision, word)
        return 0 if state is None else 1

    def _verdict(self, shelf: Shelf, letter: DeadLetter, decision: Decision) -> Verdict:
        return Verdict(
            actor=POLICY,
            decision=str(decision.action),
            reason=decision.reason,
            token=self._token if shelf.kind == "job" else "",  # the lease lies on the queue Redis
            seen_redrives=letter.redrives,
        )

    async def _notify(self, letter: DeadLetter, decision: Decision, standing: Standing) -> bool:
        """Put a notice on the action's list, once per cause and window; False when it cannot be put."""
        if self.alerts_down:
            return False
        try:
            await self._alerts.of_letter(letter, decision, standing)
        except (ArqscopeError, RedisError, OSError):
            self.alerts_down = True
            return False
        return True

    def _tell(self, letter: DeadLetter, decision: Decision, word: str) -> None:
        self.decided[decision.action] += 1
        log.info(
            "dead letter decided",
            extra={
                "letter": letter.id,
                "source": letter.source,
                "action": str(decision.action),
                "reason": decision.reason,
                "outcome": word,
            },
        )


def is_due(letter: DeadLetter, decision: Decision) -> bool:
    """Whether a retry can be started now: a job's waits on its queue, an event's with its letter."""
    return letter.kind == "job" or time.time() >= letter.died_ms / 1000 + decision.delay_s
