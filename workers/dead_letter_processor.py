"""The dead-letter processor: decide about open dead letters, retry, close, tell. One leads, others wait.

Every change is one script compared with the letter's state (``app.letters.redrive``), so a processor that is
killed anywhere leaves each letter in exactly one place; what was not decided is looked at again.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys, logs, parcels
from app.alerts.rules import AlertRule, load_alert_rules
from app.doctor.preflight import check
from app.errors import ArqscopeError, BadRecord
from app.letters import causes, redrive
from app.letters.causes import Standing
from app.letters.redrive import POLICY, Shelf, Verdict
from app.payloads.codec import safe_str
from app.placement import HOME
from app.records import DeadLetter, LetterState
from app.settings import Settings
from app.wire.connections import Connections, connect, shards_of
from app.wire.scripts import script
from workers.alerts.channels import Channel, Deliveries, Sender, channels_of
from workers.alerts.notices import Alerts, without_alert
from workers.alerts.watch import INTERVAL_S, AlertWatch, live_workers
from workers.cancellation import end
from workers.heartbeat import Heartbeat
from workers.letters import overflow
from workers.letters.open_letters import Place, mark_counted, open_page, unsettled
from workers.operations import OperationRunner
from workers.policies import UNKNOWN, Action, Decision, Rule, decide_all, load_rules

log = logging.getLogger("arqscope.dead_letters")

ROLE: Final = "dead-letters"
ROUND_S: Final = 1.0
CARRY_S: Final = 0.25  #: between two looks for jobs on their way to another queue server
LEASE_MS: Final = 10_000  #: ten rounds: a slow Redis must not change the leader
PAGES_A_ROUND: Final = 50  #: per source, so that a storm on one does not keep the others waiting
CHORES_S: Final = 10.0  #: between two looks for lost retries and for letters past retention
RESCAN_S: Final = (
    600.0  #: between two looks at all open letters, should Redis' clock have gone back
)
#: a retry that is neither queued nor running for so long is lost; finishing takes milliseconds
LOST_S: Final = 60.0

_CLOSED: Final = {Action.DISCARD: LetterState.DISCARDED, Action.ARCHIVE: LetterState.ARCHIVED}


class LeaseLost(Exception):
    """Another process leads now."""


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
        self._token = secrets.token_hex(8)
        self._places: dict[str, Place] = {}
        self._lost_after: dict[str, str] = {}
        self._alerts_down = False
        self._next_chores = 0.0
        self._next_rescan = 0.0
        self.leads = False
        self.trouble = ""
        self.decided: dict[str, int] = dict.fromkeys(Action, 0)

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
                await self._hold(0)

    async def round(self) -> int:
        """Decide about what is open, when this process leads; returns how many letters."""
        self.leads = await self._hold(LEASE_MS)
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
        self._alerts_down = False
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
        if self._alerts_down:
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
            **{f"decided_{action.lower()}": n for action, n in self.decided.items()},
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
            if page and not await self._hold(LEASE_MS):
                raise LeaseLost
            rows = await open_page(shelf, place)
            letters = _decoded(await unsettled(shelf, rows))
            gone = 0
            for letter, standing, decision in await self._decide(shelf, letters):
                done = await self._settle(shelf, letter, decision, standing)
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
        decisions, plan = decide_all(waiting, self._rules, self._settings, _is_due)
        # planned before it is done: a kill in between spends a little of a budget, never more than it
        await causes.plan_retries(self._home, plan)
        return [(*pair, decision) for pair, decision in zip(waiting, decisions, strict=True)]

    async def _settle(
        self, shelf: Shelf, letter: DeadLetter, decision: Decision, standing: Standing = UNKNOWN
    ) -> int | None:
        """Carry out what is decided. 1: no longer open, 0: open and decided, None: left for later."""
        if decision.action is Action.RETRY:
            if not _is_due(letter, decision):
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
        if self._alerts_down:
            return False
        try:
            await self._alerts.of_letter(letter, decision, standing)
        except (ArqscopeError, RedisError, OSError):
            self._alerts_down = True
            return False
        return True

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

    async def _hold(self, ttl_ms: int) -> bool:
        reply = await script(__file__, "hold_lease").run(
            self._queue, [keys.lease(ROLE)], [self._token, ttl_ms]
        )
        return bool(reply)

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

    def _on_trouble(self, error: Exception | str) -> None:
        text = safe_str(error, 400)
        if text != self.trouble:  # loud, but not a flood
            log.error(
                "dead-letter processor in trouble",
                extra={"trouble": text},
                exc_info=error if isinstance(error, Exception) else None,
            )
        self.trouble = text


def _is_due(letter: DeadLetter, decision: Decision) -> bool:
    """Whether a retry can be started now: a job's waits on its queue, an event's with its letter."""
    return letter.kind == "job" or time.time() >= letter.died_ms / 1000 + decision.delay_s


def _decoded(rows: Sequence[tuple[dict[str, Any], float]]) -> list[DeadLetter]:
    letters = []
    for raw, _ in rows:
        try:
            letters.append(DeadLetter.from_fields(raw))
        except BadRecord as error:
            log.warning("dead letter unreadable", extra={"letter": raw["id"], "error": str(error)})
    return letters


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run one processor with its own connections and heartbeat until *stop*."""
    connections = Connections(
        queue=connect(settings.url("queue"), timeout_s=5.0),
        streams=connect(settings.url("streams"), timeout_s=5.0),
        # alerts can wait, letters cannot: a cache that hangs costs a round little
        cache=connect(settings.url("cache"), timeout_s=1.0),
        shards=shards_of(settings, timeout_s=5.0),
        placement=settings.placement,
    )
    channels = channels_of(settings)
    # one per queue server, each with its own lease there: a server that is away holds up its own only
    processors = [
        DeadLetterProcessor(
            settings,
            redis,
            connections.streams,
            connections.cache,
            channels=channels,
            server=name,
            home=connections.queue,
        )
        for name, redis in connections.queue_servers.items()
    ]
    processor = processors[0]
    sender = Sender(settings.alert_host_list)
    deliveries = Deliveries(connections.cache, channels, sender, lambda: processor.leads)
    beside = [asyncio.create_task(one.watch(), name="alert-watch") for one in processors]
    if connections.shards:
        beside += [
            asyncio.create_task(_carry(connections, one), name=f"carry {one.server}")
            for one in processors
        ]
    if channels:
        beside.append(asyncio.create_task(deliveries.run(), name="alert-deliveries"))
    runner = OperationRunner(connections)

    def describe() -> Mapping[str, Any]:
        facts = {
            **_together(processors),
            "operations": len(runner.driven),
            "alerts_sent": deliveries.sent,
            "alerts_trouble": deliveries.trouble,
        }
        if runner.trouble and not facts["trouble"]:
            facts |= {"state": "degraded", "trouble": runner.trouble}
        return facts

    heartbeat = Heartbeat(connections.queue, ROLE, settings.dlq_queue_name, describe=describe)
    await heartbeat.start()
    try:
        await asyncio.gather(*(one.run(stop) for one in processors), runner.run(stop))
    finally:
        await end(beside)
        await sender.close()
        await heartbeat.stop()
        await connections.close()


async def _carry(connections: Connections, processor: DeadLetterProcessor) -> None:
    """While *processor* leads on its server, bring that server's parcels to the others, until cancelled."""
    while True:
        try:
            if processor.leads:
                await parcels.carry(connections, processor.server)
        except (ArqscopeError, RedisError, OSError) as error:
            log.warning(
                "parcels not carried",
                extra={"server": processor.server, "error": safe_str(error, 200)},
            )
        await asyncio.sleep(CARRY_S)


def _together(processors: Sequence[DeadLetterProcessor]) -> Mapping[str, Any]:
    """What the heartbeat says of all: the home's words, everybody's troubles and decisions."""
    facts = dict(processors[0].describe())
    for one in processors[1:]:
        told = one.describe()
        if told["trouble"]:
            text = f"{one.server}: {told['trouble']}"
            facts["trouble"] = "; ".join(filter(None, (facts["trouble"], text)))
            facts["state"] = "degraded"
        for name, count in told.items():
            if name.startswith("decided_"):
                facts[name] += count
    return facts


def main(settings: Settings | None = None) -> None:
    """Run the process; SIGTERM and SIGINT end it after the letter in hand, with exit code 0."""
    settings = settings or Settings.load()
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    asyncio.run(_until_signalled(settings))


async def _until_signalled(settings: Settings) -> None:
    await check(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await serve(settings, stop)


if __name__ == "__main__":
    main()
