"""What a processor takes in: reads new entries, adopts abandoned ones, survives a Redis that is away.

Holds every entry until it is let go, so that nothing is handled twice here nor taken as orphaned by
others, and asks again (``insist``) until Redis has what must be written.
"""

import asyncio
import json
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from app import keys
from app.payloads.codec import safe_str
from app.settings import Settings
from app.streams.notifications import now_iso
from app.wire.connections import is_refusal
from workers.events.attempt import SUSPECT_DELIVERIES, Delivery
from workers.events.group import PENDING_LOOKED_AT, SETTLED_S, EventGroup, Pending, Settled

log = logging.getLogger("arqscope.events")
R = TypeVar("R")

#: entries held, those in their backoff included, per entry of a batch
HELD_PER_BATCH: Final = 4
#: entries a processor takes before it knows how fast they are handled
FIRST_WINDOW: Final = 100
#: s of work a processor holds: more would keep entries from idle processors beside it
WINDOW_S: Final = 0.1
#: entries adopted at a time; who dies of one of them makes suspects of the others
ADOPTED: Final = 50
#: ids per script call that renews what is held
HOLD_BATCH: Final = 200
#: ids remembered (up to twice as many) after they were settled, for a group that is made again
SETTLED_KNOWN: Final = 10_000
#: s after which nobody asks whether Redis has forgotten effects: their marks may have expired
FORGETS_S: Final = SETTLED_S / 2
ALERTS_KEPT_S: Final = 7 * 86_400


class Intake:
    """Read for *group* and hand every entry to *take*; *on_trimmed* hears of deleted ones."""

    def __init__(
        self,
        group: EventGroup,
        cache: Redis,
        settings: Settings,
        *,
        take: Callable[[Delivery], None],
        on_trimmed: Callable[[str], None],
    ) -> None:
        self._group = group
        self._cache = cache
        self._settings = settings
        self._take = take
        self._on_trimmed = on_trimmed
        self._lease_ms = int(settings.lease_s * 1000)
        self._sure_s = settings.lease_s * 0.8
        self._confirming = asyncio.Lock()
        self._has_room = asyncio.Event()
        self._must_look_back = True  #: own entries may be pending that are not held
        #: let go, the newest: what they left behind, and when (monotonic)
        self._settled: dict[str, tuple[Settled, float] | None] = {}
        self._settled_before: dict[str, tuple[Settled, float] | None] = {}  #: and those before them
        self._again: dict[str, dict[str, str]] = {}  #: entries delivered again although settled
        self._is_fresh = True  #: own entries may be of a process that died under this name
        self._abandoned: deque[Pending] = deque()  #: seen pending, to be adopted
        self._is_walked = False  #: whether that were all
        self._walked_to = ""  #: id the next page of them begins after
        self._next_orphans = 0.0  #: when to look for them again
        self._window = self._first_window = min(settings.batch_size, FIRST_WINDOW)
        self._let_go = 0  #: entries settled since *_measured*
        self._measured = time.monotonic()
        self._kept_at = time.monotonic()  #: when what was held then was last known to be ours
        self._adopted: set[str] = set()
        self.held: dict[str, Delivery] = {}
        self.waiting = 0  #: held entries in their backoff
        self.trouble = ""  #: what is wrong with Redis at the moment

    # -- holding -------------------------------------------------------------------------------

    def let_go(self, entry_id: str, told: Settled | None = None) -> None:
        """Forget an entry that is settled; *told* when it left something behind."""
        self.held.pop(entry_id, None)
        self._adopted.discard(entry_id)
        self._settled[entry_id] = None if told is None else (told, time.monotonic())
        if len(self._settled) >= SETTLED_KNOWN:
            self._settled_before, self._settled = self._settled, {}
        self._let_go += 1
        self._has_room.set()

    def forget(self, delivery: Delivery) -> None:
        """Forget an entry that somebody else has taken over."""
        if self.held.get(delivery.id) is delivery:
            del self.held[delivery.id]
        self._adopted.discard(delivery.id)
        self._has_room.set()

    def make_room(self, waiting: int) -> None:
        """Count *waiting* entries more into their backoff (or out of it)."""
        self.waiting += waiting
        self._has_room.set()

    def is_sure_of(self, delivery: Delivery, now: float) -> bool:
        """Whether nobody can have taken the entry over: it was ours less than a lease ago."""
        return now - delivery.taken_at < self._sure_s or now - self._kept_at < self._sure_s

    async def make_sure_of(self, delivery: Delivery) -> None:
        """Ask whether the entry is still ours, for all that is held at once."""
        async with self._confirming:
            if not self.is_sure_of(delivery, time.monotonic()):
                await self.confirm()

    async def keep_held(self) -> None:
        """Keep what is held from being taken as orphaned, for ever."""
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            try:
                await self.confirm()
            except (RedisError, OSError) as error:
                await self.suffer(error)

    async def confirm(self) -> None:
        """Renew what is held; what somebody else has taken over is marked and forgotten."""
        before = time.monotonic()
        held = dict(self.held)
        ids = list(held)
        for start in range(0, len(ids), HOLD_BATCH):
            for lost in await self._group.hold(ids[start : start + HOLD_BATCH]):
                if self.held.get(lost) is held[lost]:
                    log.warning("entry was taken over", extra={"entry": lost})
                    held[lost].lose()
                    self.forget(held[lost])
        self._kept_at = before

    # -- reading -------------------------------------------------------------------------------

    async def read(self) -> None:
        """Hand entries to the lanes for ever; an error of Redis is waited out."""
        is_created = False
        while True:
            self._has_room.clear()
            try:
                if not is_created:
                    if await self._group.create() == "remade":
                        await self._report_loss()
                    is_created = True
                has_more = await self._adopt()
                room = self._room()
                if has_more or room < max(1, self._window // 4):
                    await self._wait_for_room()
                    continue
                block_ms = self._settings.block_time
                if self._next_orphans <= time.monotonic():
                    block_ms = min(block_ms, 20)
                self._accept_new(await self._group.read(room, block_ms))
                await self._skip_settled()
                self.trouble = ""
            except (RedisError, OSError) as error:
                self._must_look_back = True  # the reply with our entries may be what was lost
                self._walk_anew()
                if isinstance(error, ResponseError) and _is_group_lost(error):
                    await self.regain_group()
                else:
                    await self.suffer(error)

    def _room(self) -> int:
        """How many entries may be read now: what is handled in a moment, and no more than a batch."""
        batch = self._settings.batch_size
        elapsed = time.monotonic() - self._measured
        if elapsed >= WINDOW_S / 2:
            handled = int(self._let_go * WINDOW_S / elapsed)
            self._window = min(2 * batch, max(self._first_window, 2 * handled))
            self._let_go, self._measured = 0, time.monotonic()
        held = len(self.held)
        room = min(self._window - (held - self.waiting), batch * HELD_PER_BATCH - held)
        return min(room, batch)

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._has_room.wait()
        except TimeoutError:
            return

    def _accept_new(self, entries: list[tuple[str, dict[str, str]]]) -> None:
        now = time.monotonic()
        for entry_id, fields in entries:
            if entry_id in self._settled or entry_id in self._settled_before:
                self._again[entry_id] = fields  # a group made again delivers from its checkpoint
            elif entry_id not in self.held:
                self._accept(Delivery(entry_id, fields, 1, taken_at=now))

    async def _skip_settled(self) -> None:
        """Acknowledge what was settled before; what Redis has forgotten of that is handled again."""
        if not self._again:
            return
        told = [self._settled_before_as(one) for one in self._again]
        reply = await self._group.acknowledge([], told)
        again, self._again = self._again, {}
        for one in reply.undone:
            self._settled.pop(one, None)
            self._settled_before.pop(one, None)
            if one not in self.held:
                self._accept(Delivery(one, again[one], 1, taken_at=time.monotonic()))

    def _settled_before_as(self, entry_id: str) -> Settled:
        """What an entry delivered once more is acknowledged as."""
        past = self._settled.get(entry_id) or self._settled_before.get(entry_id)
        if past is not None and time.monotonic() - past[1] < FORGETS_S:
            return past[0].again
        return Settled(id=entry_id, identity=entry_id, type="", handlers="", outcome="again", ms=0)

    def _accept(self, delivery: Delivery) -> None:
        self.held[delivery.id] = delivery
        self._take(delivery)

    # -- adopting ------------------------------------------------------------------------------

    async def _adopt(self) -> bool:
        """Take over what nobody works on: own entries first, orphans when it is time to look.

        Returns whether reading must wait: own entries are left, or a suspect is held, beside which
        nothing new is taken so that nothing is orphaned with it.
        """
        if self._must_look_back:
            if not await self._adopt_from(own=True):
                return True
            self._must_look_back, self._is_fresh = False, False
        if self._next_orphans <= time.monotonic() and await self._adopt_from(own=False):
            self._next_orphans = time.monotonic() + min(5.0, self._settings.lease_s / 4)
        return self._has_suspect

    async def _adopt_from(self, *, own: bool) -> bool:
        """Adopt as many as can start now; whether all were.

        A suspect is claimed only when no other adopted entry is held, so that it does not wait here
        for its turn. What a lost reply leaves behind was not handled here: that counts nothing.
        """
        idle_ms = 0 if own else self._lease_ms
        while not self._has_suspect:
            if not self._abandoned and not await self._look_for(own=own, idle_ms=idle_ms):
                return True
            chosen = self._choose()
            if not chosen:
                return False
            is_counted = self._is_fresh or not own
            for entry_id, before, fields in await self._group.adopt(
                chosen, own=own, idle_ms=idle_ms
            ):
                if fields is None:
                    self._on_trimmed(entry_id)
                    log.error("pending entry was deleted", extra={"entry": entry_id})
                elif entry_id not in self.held:
                    self._adopted.add(entry_id)
                    deliveries = before + 1 if is_counted else max(1, before)
                    now = time.monotonic()
                    self._accept(Delivery(entry_id, fields, deliveries, is_counted, taken_at=now))
        return False

    async def _look_for(self, *, own: bool, idle_ms: int) -> bool:
        """Walk on through the pending entries; False at the end, the next walk begins anew."""
        while not self._abandoned and not self._is_walked:
            page = await self._group.pending(own=own, idle_ms=idle_ms, after=self._walked_to)
            self._abandoned.extend(one for one in page if one.id not in self.held)
            self._is_walked = len(page) < PENDING_LOOKED_AT
            self._walked_to = page[-1].id if page else ""
        if self._abandoned:
            return True
        self._walk_anew()
        return False

    def _walk_anew(self) -> None:
        self._abandoned.clear()
        self._is_walked, self._walked_to = False, ""

    def _choose(self) -> list[str]:
        """Take ids of entries that may be adopted now from those found abandoned."""
        chosen: list[str] = []
        while self._abandoned and len(self._adopted) + len(chosen) < ADOPTED:
            suspect = self._abandoned[0].deliveries + 1 >= SUSPECT_DELIVERIES
            if suspect and (chosen or self._adopted):
                break
            chosen.append(self._abandoned.popleft().id)
            if suspect:
                break
        return chosen

    @property
    def _has_suspect(self) -> bool:
        return any(self.held[one].is_suspect for one in self._adopted)

    # -- surviving -----------------------------------------------------------------------------

    async def regain_group(self) -> bool:
        """Make a lost group again at its checkpoint and raise an alert; False when Redis is away."""
        try:
            made = await self._group.create()
        except (RedisError, OSError) as error:
            await self.suffer(error)
            return False
        if made:
            await self._report_loss()
        return True

    async def _report_loss(self) -> None:
        text = f"group {self._group.group} of {self._group.stream} was gone and is made again"
        log.error("group lost", extra={"stream": self._group.stream, "group": self._group.group})
        await self.alert("event-group-lost", text)

    async def alert(self, kind: str, text: str) -> None:
        """Put an alert on the operators' list, if the cache Redis is there."""
        alert = {"type": kind, "timestamp": now_iso(), "message": text}
        try:
            async with self._cache.pipeline(transaction=True) as pipe:
                pipe.lpush(keys.DLQ_ALERTS, json.dumps(alert))
                pipe.ltrim(keys.DLQ_ALERTS, 0, 9_999)
                pipe.expire(keys.DLQ_ALERTS, ALERTS_KEPT_S)
                await pipe.execute()
        except (RedisError, OSError):
            log.warning("alert not stored", extra={"alert": text})

    async def insist(self, ask: Callable[[], Awaitable[R]]) -> R:
        """Ask until Redis answers; what was done must be written before anything else happens."""
        while True:
            try:
                return await ask()
            except (RedisError, OSError) as error:
                if isinstance(error, ResponseError) and _is_group_lost(error):
                    await self.regain_group()
                await self.suffer(error)

    async def suffer(self, error: BaseException) -> None:
        """Show the trouble and wait a moment, jittered so that processors do not return as one."""
        text = f"{type(error).__name__}: {safe_str(error, 200)}"
        if text != self.trouble:
            log.warning("trouble", extra={"error": text})
        self.trouble = text
        if is_refusal(error):
            await self._group.hang_up()
        await asyncio.sleep(0.1 + random.random() * 0.9)  # noqa: S311


def _is_group_lost(error: ResponseError) -> bool:
    """Whether the group or its stream went away, under a blocked read or before it."""
    text = str(error)
    return any(word in text for word in ("NOGROUP", "UNBLOCKED", "no such key"))
