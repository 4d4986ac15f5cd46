"""What a processor takes in: reads new entries, adopts abandoned ones, survives a Redis that is away.

Holds every entry until it is let go, so that nothing is handled twice here nor taken as orphaned by
others, and asks again (``insist``) until Redis has what must be written.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from app import keys
from app.notifications import now_iso
from app.payload import safe_str
from app.settings import Settings
from workers.event_attempt import SUSPECT_DELIVERIES, Delivery
from workers.event_group import EventGroup

log = logging.getLogger("arqscope.events")
R = TypeVar("R")

#: entries held, those in their backoff included, per entry of a batch
HELD_PER_BATCH: Final = 4
#: ids per script call that renews what is held
HOLD_BATCH: Final = 200
#: ids remembered after they were settled, for the day the group must be made again
SETTLED_KNOWN: Final = 10_000
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
        self._has_room = asyncio.Event()
        self._must_look_back = True  #: own entries may be pending that are not held
        self._settled: dict[str, None] = {}  #: ids let go, the newest
        self._again: list[str] = []  #: ids delivered again although settled
        self.held: dict[str, Delivery] = {}
        self.trouble = ""  #: what is wrong with Redis at the moment

    def let_go(self, entry_id: str) -> None:
        """Forget an entry that is settled."""
        self.held.pop(entry_id, None)
        self._settled[entry_id] = None
        if len(self._settled) > SETTLED_KNOWN:
            del self._settled[next(iter(self._settled))]
        self._has_room.set()

    def make_room(self) -> None:
        """Look again whether there is room: an entry went into its backoff."""
        self._has_room.set()

    async def read(self) -> None:
        """Hand entries to the lanes for ever; an error of Redis is waited out."""
        batch = self._settings.batch_size
        next_orphans = 0.0
        is_created = False
        while True:
            self._has_room.clear()
            try:
                if not is_created:
                    await self._group.create()
                    is_created = True
                if self._must_look_back:
                    self._must_look_back = await self._adopt(own=True)
                if not self._must_look_back and time.monotonic() >= next_orphans:
                    more = await self._adopt(own=False)
                    wait_s = 0.0 if more else min(5.0, self._settings.lease_s / 4)
                    next_orphans = time.monotonic() + wait_s
                room = self._room()
                if self._must_look_back or room < max(1, batch // 4):
                    await self._wait_for_room()
                    continue
                block_ms = self._settings.block_time
                if next_orphans <= time.monotonic():
                    block_ms = min(block_ms, 20)
                self._accept_new(await self._group.read(min(room, batch), block_ms))
                await self._skip_settled()
                self.trouble = ""
            except (RedisError, OSError) as error:
                self._must_look_back = True  # the reply with our entries may be what was lost
                if isinstance(error, ResponseError) and _is_group_lost(error):
                    await self.regain_group()
                else:
                    await self.suffer(error)

    def _room(self) -> int:
        batch = self._settings.batch_size
        waiting = sum(one.is_waiting for one in self.held.values())
        held = len(self.held)
        return min(batch - (held - waiting), batch * HELD_PER_BATCH - held)

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._has_room.wait()
        except TimeoutError:
            return

    def _accept_new(self, entries: list[tuple[str, dict[str, str]]]) -> None:
        for entry_id, fields in entries:
            if entry_id in self._settled:  # a group made again delivers from its checkpoint
                self._again.append(entry_id)
            elif entry_id not in self.held:
                self._accept(Delivery(entry_id, fields, 1))

    async def _skip_settled(self) -> None:
        if self._again:
            await self._group.skip(self._again)
            self._again.clear()

    def _accept(self, delivery: Delivery) -> None:
        self.held[delivery.id] = delivery
        self._take(delivery)

    async def _adopt(self, *, own: bool) -> bool:
        """Take over entries nobody works on, as many as can start now; whether more are left.

        A suspect is claimed only when no other adopted entry is held: claiming counts a delivery,
        and an innocent entry must not be counted into the grave beside it.
        """
        idle_ms = 0 if own else self._lease_ms
        held = [one for one in self.held.values() if one.is_adopted]
        adopted, has_suspect = len(held), any(one.is_suspect for one in held)
        for entry in await self._group.pending(own=own, idle_ms=idle_ms):
            if entry.id in self.held:
                continue
            suspect = entry.deliveries + 1 >= SUSPECT_DELIVERIES
            if has_suspect or adopted >= (1 if suspect else self._settings.concurrency):
                return True
            fields = await self._group.claim(entry.id, idle_ms)
            if fields is None:
                continue
            if not fields:
                self._on_trimmed(entry.id)
                log.error("pending entry was deleted", extra={"entry": entry.id})
                continue
            adopted, has_suspect = adopted + 1, suspect
            self._accept(Delivery(entry.id, fields, entry.deliveries + 1, is_adopted=True))
        return False

    async def regain_group(self) -> bool:
        """Make a lost group again at its checkpoint and raise an alert; False when Redis is away."""
        try:
            made = await self._group.create()
        except (RedisError, OSError) as error:
            await self.suffer(error)
            return False
        if made:
            text = f"group {self._group.group} of {self._group.stream} was gone and is made again"
            log.error(
                "group lost", extra={"stream": self._group.stream, "group": self._group.group}
            )
            alert = {"type": "event-group-lost", "timestamp": now_iso(), "message": text}
            try:
                async with self._cache.pipeline(transaction=True) as pipe:
                    pipe.lpush(keys.DLQ_ALERTS, json.dumps(alert))
                    pipe.ltrim(keys.DLQ_ALERTS, 0, 9_999)
                    pipe.expire(keys.DLQ_ALERTS, ALERTS_KEPT_S)
                    await pipe.execute()
            except (RedisError, OSError):
                log.warning("alert not stored", extra={"alert": text})
        return True

    async def keep_held(self) -> None:
        """Keep what is held from being taken as orphaned, for ever."""
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            try:
                ids = list(self.held)
                for start in range(0, len(ids), HOLD_BATCH):
                    await self._group.hold(ids[start : start + HOLD_BATCH])
            except (RedisError, OSError) as error:
                await self.suffer(error)

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
        await asyncio.sleep(0.1 + random.random() * 0.9)  # noqa: S311


def _is_group_lost(error: ResponseError) -> bool:
    """Whether the group or its stream went away, under a blocked read or before it."""
    text = str(error)
    return any(word in text for word in ("NOGROUP", "UNBLOCKED", "no such key"))
