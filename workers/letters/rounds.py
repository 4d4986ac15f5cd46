"""Rounds over open dead letters: decide, retry, close, tell, while leading. One leads, others wait.

Every change is one script compared with the letter's state (``app.letters.redrive``), so a processor that is
killed anywhere leaves each letter in exactly one place; what was not decided is looked at again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.alerts.rules import AlertRule, load_alert_rules
from app.errors import ArqscopeError, BadRecord
from app.letters import causes, redrive
from app.letters.causes import Standing
from app.letters.redrive import Shelf
from app.payloads.codec import safe_str
from app.placement import HOME
from app.records import DeadLetter
from app.settings import Settings
from workers.alerts.channels import Channel
from workers.alerts.notices import Alerts
from workers.alerts.watch import INTERVAL_S, AlertWatch, live_workers
from workers.leadership import Lease
from workers.letters import overflow
from workers.letters.open_letters import Place, mark_counted, open_page, unsettled
from workers.letters.settling import LeaseLost, Settling, is_due
from workers.policies import Decision, Rule, decide_all, load_rules

log = logging.getLogger("arqscope.dead_letters")

ROLE: Final = "dead-letters"
ROUND_S: Final = 1.0
LEASE_MS: Final = 10_000  #: ten rounds: a slow Redis must not change the leader
PAGES_A_ROUND: Final = 50  #: per source, so that a storm on one does not keep the others waiting
CHORES_S: Final = 10.0  #: between two looks for lost retries and for letters past retention
RESCAN_S: Final = (
    600.0  #: between two looks at all open letters, should Redis' clock have gone back
)
#: a retry that is neither queued nor running for so long is lost; finishing takes milliseconds
LOST_S: Final = 60.0


class DeadLetterProcessor:
    """Look at open letters round by round while holding the lease."""

    def __init__(
        self,
        settings: Settings,
        queue: Redis,
        streams: Redis,
        cache: Redis,
        rules: Sequence[Rule] | None = None,
        channels: Sequence[Channel] = (),
        *,
        server: str = HOME,
        home: Redis | None = None,
    ) -> None:
        """*server*: the queue server *queue* leads to; *home*: where causes lie, when it is not that one."""
        self._settings = settings
        self.server = server
        self._queue = queue
        self._home = queue if home is None else home
        self._streams = streams
        self._alerts = Alerts(cache, [channel.name for channel in channels])
        watched: tuple[AlertRule, ...] = load_alert_rules(settings.config_file)
        self._watch = AlertWatch(queue, streams, self._alerts, watched)
        self._rules = load_rules(settings.config_file) if rules is None else tuple(rules)
        self._lease = Lease(queue, ROLE)
        self._settling = Settling(self._alerts, self._lease.token)
        self._places: dict[str, Place] = {}
        self._lost_after: dict[str, str] = {}
        self._next_chores = 0.0
        self._next_rescan = 0.0
        self.leads = False
        self.trouble = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop*; gives the lease back. No error ends it, every error shows."""
        while not stop.is_set():
            try:
                await self.round()
            except Exception as error:
                self._on_trouble(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await stop.wait()
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(2):
                await self._lease.give_back()

    async def round(self) -> int:
        """Decide about what is open, when this process leads; returns how many letters."""
        self.leads = await self._lease.hold(LEASE_MS)
        if not self.leads:
            self.trouble = ""
            self._places.clear()  # whoever led meanwhile may have left something
            return 0
        now = time.monotonic()
        if now >= self._next_rescan:
            self._next_rescan = now + RESCAN_S
            self._places.clear()
        is_chores = now >= self._next_chores
        if is_chores:
            self._next_chores = now + CHORES_S
        self._settling.alerts_down = False
        count, troubles = 0, []
        for shelf in await self._shelves():
            try:
                count += await self._look_at(shelf)
                if is_chores:
                    await self._do_chores(shelf)
            except LeaseLost:
                self.leads = False
                break
            except (ArqscopeError, RedisError, OSError) as error:
                troubles.append(f"{shelf.source}: {safe_str(error, 200)}")
        if self._settling.alerts_down:
            troubles.append("the cache Redis takes no alerts; they wait")
        if troubles:
            self._on_trouble("; ".join(troubles))
        else:
            self.trouble = ""
        return count

    async def watch(self) -> None:
        """Watch metrics and alerts beside the rounds, which it never holds up, until cancelled."""
        is_failing = False
        while True:
            try:
                if self.leads:
                    await self.watch_once()
                else:
                    self._watch.forget()
                is_failing = False
            except Exception as error:
                if not is_failing:
                    log.warning("metrics not watched", extra={"error": safe_str(error, 200)})
                is_failing = True
            await asyncio.sleep(INTERVAL_S)

    async def watch_once(self) -> None:
        """Step the metric rules, end alerts that are over, remember which workers started."""
        queues = [shelf.source for shelf in await self._shelves() if shelf.kind == "job"]
        streams = self._settings.stream_names if self.server == HOME else ()
        await self._watch.look(queues, streams)
        await causes.note_starts(self._home, await live_workers(self._queue))
        if self.server == HOME:
            await self._alerts.end_quiet(self._queue, time.time() * 1000)

    def describe(self) -> Mapping[str, Any]:
        """What the heartbeat says of this process."""
        state = "running" if self.leads else "quiet"
        return {
            "slots": 1,
            "busy": 0,
            "state": "degraded" if self.trouble else state,
            "trouble": self.trouble,
            **{f"decided_{action.lower()}": n for action, n in self._settling.decided.items()},
        }

    # -- one round -----------------------------------------------------------------------------

    async def _shelves(self) -> list[Shelf]:
        found: Any = self._queue.smembers(keys.QUEUES)
        names = dict.fromkeys([*self._settings.queue_names, *sorted(await found)])
        held = self._settings.placement.held_by(self.server, names)
        shelves = [Shelf(self._queue, name, "job") for name in held]
        if self.server != HOME:
            return shelves
        streams = (Shelf(self._streams, name, "event") for name in self._settings.stream_names)
        return [*shelves, *streams]

    async def _look_at(self, shelf: Shelf) -> int:
        """Decide about the open letters after the place this source was left at."""
        place = self._places.setdefault(shelf.source, Place())
        count = 0
        for page in range(PAGES_A_ROUND):
            if page and not await self._lease.hold(LEASE_MS):
                raise LeaseLost
            rows = await open_page(shelf, place)
            letters = _decoded(await unsettled(shelf, rows))
            gone = 0
            for letter, standing, decision in await self._decide(shelf, letters):
                done = await self._settling.settle(shelf, letter, decision, standing)
                if done is None:
                    place.leave(letter.died_ms)
                else:
                    count += 1
                    gone += done
            if not place.move_on(rows, gone):
                break
        return count

    async def _decide(
        self, shelf: Shelf, letters: Sequence[DeadLetter]
    ) -> list[tuple[DeadLetter, Standing, Decision]]:
        """Count the deaths with their causes, then decide about the letters nobody decided about."""
        elsewhere = (
            shelf.redis is not self._home
        )  # their records lie on another Redis than the causes
        noted = await causes.note_deaths(
            self._home, letters, time.time() * 1000, elsewhere=elsewhere
        )
        if shelf.kind == "event" or elsewhere:
            await mark_counted(shelf, letters)
        waiting = [
            (letter, standing)
            for letter, (standing, _) in zip(letters, noted, strict=True)
            if not letter.decision
        ]
        decisions, plan = decide_all(waiting, self._rules, self._settings, is_due)
        # planned before it is done: a kill in between spends a little of a budget, never more than it
        await causes.plan_retries(self._home, plan)
        return [(*pair, decision) for pair, decision in zip(waiting, decisions, strict=True)]

    async def _do_chores(self, shelf: Shelf) -> None:
        """Reopen letters whose retry is nowhere, forget closed ones past retention, relieve the cap."""
        if shelf.kind == "job":
            after, reopened = await redrive.reopen_lost(
                shelf, self._lost_after.get(shelf.source, ""), LOST_S
            )
            self._lost_after[shelf.source] = after
            if reopened:
                log.error("retries lost", extra={"source": shelf.source, "letters": reopened[:20]})
        await redrive.trim_closed(shelf, self._settings.failed_job_ttl)
        await overflow.relieve(shelf, self._settings, self._alerts)

    # -- odds and ends -------------------------------------------------------------------------

    def _on_trouble(self, error: Exception | str) -> None:
        text = safe_str(error, 400)
        if text != self.trouble:  # loud, but not a flood
            log.error(
                "dead-letter processor in trouble",
                extra={"trouble": text},
                exc_info=error if isinstance(error, Exception) else None,
            )
        self.trouble = text


def _decoded(rows: Sequence[tuple[dict[str, Any], float]]) -> list[DeadLetter]:
    letters = []
    for raw, _ in rows:
        try:
            letters.append(DeadLetter.from_fields(raw))
        except BadRecord as error:
            log.warning("dead letter unreadable", extra={"letter": raw["id"], "error": str(error)})
    return letters
