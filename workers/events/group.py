"""One consumer of one consumer group: every Redis command the event processor sends about entries.

Reads are bounded and resume by id; what must not come apart is one script (``lua/*event*.lua``).
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app import keys
from app.wire.scripts import script

RECENT_KEPT: Final = 1_000
#: s the dedup of a settled event outlives it: what a group made again may deliver twice
SETTLED_S: Final = 3_600
#: s the dedup of a dead event is kept: its redrive must not repeat what had been done
DEAD_S: Final = 400 * 86_400
PENDING_LOOKED_AT: Final = 1_000
Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry delivered to a consumer and not acknowledged."""

    id: str
    consumer: str
    deliveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of one event, for the acknowledging script."""

    id: str
    identity: str
    type: str
    handlers: str
    outcome: str  #: handled · unmatched · trimmed · dead · again (settled before)
    ms: int
    correlation_id: str = ""
    letter_id: str = ""
    marks: tuple[str, ...] = ()  #: entries the dedup of its effects must have

    @property
    def again(self) -> "Settled":
        """The same event, delivered once more: a dead one has a letter, others have their marks."""
        is_dead = self.outcome == "dead"
        letter_id = (self.letter_id or self.id) if is_dead else ""
        return replace(
            self, outcome="again", letter_id=letter_id, marks=() if is_dead else self.marks
        )


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What became of a batch, apart from what was settled."""

    lost: list[str]  #: somebody else had settled them
    undone: list[str]  #: Redis knows nothing of effects it had answered: to be handled again


def through(handler: str) -> str:
    """The mark of a handler that is through with an event."""
    return f"h:{handler}"


def raw_payload(fields: Fields) -> bytes:
    """Encode raw *fields* as ``bury_event`` keeps them, byte for byte."""
    text = json.dumps({"raw": fields}, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogateescape")


class EventGroup:
    """Speak for *consumer* of *group* on *stream*. *blocking* is a client of its own for reads."""

    async def hang_up(self) -> None:
        """Close idle connections: another server may answer to the name by now."""
        for client in (self._redis, self._blocking):
            with contextlib.suppress(Exception):
                await client.connection_pool.disconnect(inuse_connections=False)

    def __init__(
        self, redis: Redis, blocking: Redis, *, stream: str, group: str, consumer: str
    ) -> None:
        self._redis = redis
        self._blocking = blocking
        self.stream = stream
        self.group = group
        self.consumer = consumer

    async def create(self) -> Literal["", "made", "remade"]:
        """Make the group where it is missing, at the last checkpoint or the start; what it did."""
        known = await cast(Any, self._redis.hget(keys.checkpoints(self.stream), self.group))
        start = _before(known[1:]) if known and known.startswith("(") else known or "0-0"
        if start != "0-0" and _is_newer(start, await self._last_id()):
            start = "0-0"  # the stream was deleted and begun anew
        try:
            await self._redis.xgroup_create(self.stream, self.group, start, mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            return ""
        return "remade" if known else "made"

    async def read(self, count: int, block_ms: int) -> list[tuple[str, Fields]]:
        """Wait up to *block_ms* for new entries; each belongs to this consumer from then on."""
        reply = await self._blocking.xreadgroup(
            self.group, self.consumer, {self.stream: ">"}, count=count, block=block_ms
        )
        return [
            (str(entry_id), fields or {}) for _, rows in reply or () for entry_id, fields in rows
        ]

    async def pending(self, *, own: bool, idle_ms: int, after: str = "") -> list[Pending]:
        """Return a page of entries not acknowledged for *idle_ms*: this consumer's, or all.

        Oldest first, those after id *after*; fewer than ``PENDING_LOOKED_AT`` are the last ones.
        """
        rows = await self._redis.xpending_range(
            self.stream,
            self.group,
            f"({after}" if after else "-",
            "+",
            PENDING_LOOKED_AT,
            consumername=cast(Any, self.consumer if own else None),
            idle=idle_ms or None,
        )
        return [Pending(r["message_id"], r["consumer"], r["times_delivered"]) for r in rows]

    async def adopt(
        self, ids: Sequence[str], *, own: bool, idle_ms: int
    ) -> list[tuple[str, int, Fields | None]]:
        """Take entries over that nobody works on; only this consumer's when *own*.

        Returns id, deliveries before this one, and fields (None when the entry was deleted). Whoever
        goes on with one must ``begin`` it: that is when the delivery is counted.
        """
        if not ids:
            return []
        reply = await script(__file__, "adopt_events").run(
            self._redis,
            [self.stream],
            [
                self.group,
                self.consumer,
                idle_ms,
                self.consumer if own else "",
                *ids,
            ],
        )
        return [
            (
                str(entry_id),
                int(count),
                dict(zip(flat[::2], flat[1::2], strict=True)) if flat else None,
            )
            for entry_id, count, flat in reply
        ]

    async def begin(self, entry_id: str) -> int:
        """Count the delivery of an adopted entry; its number, 0 when the entry is not ours."""
        return int(
            await script(__file__, "begin_event").run(
                self._redis, [self.stream], [self.group, self.consumer, entry_id]
            )
        )

    async def hold(self, ids: Sequence[str]) -> list[str]:
        """Keep *ids* from looking abandoned; return those that are no longer this consumer's."""
        return await self._hold("hold", ids)

    async def release(self, ids: Sequence[str]) -> list[str]:
        """Give *ids* back, as if they had not been delivered."""
        return await self._hold("release", ids)

    async def give_back(self, ids: Sequence[str]) -> list[str]:
        """Give adopted *ids* back whose delivery was not begun."""
        return await self._hold("return", ids)

    async def _hold(self, what: str, ids: Sequence[str]) -> list[str]:
        if not ids:
            return []
        reply = await script(__file__, "hold_events").run(
            self._redis, [self.stream], [self.group, self.consumer, what, *ids]
        )
        return [str(entry_id) for entry_id in reply]

    async def acknowledge(self, plain: Sequence[str], told: Sequence[Settled]) -> Acknowledged:
        """Settle a batch, in one script; return the ids that were not.

        *plain* are ids of events handled at the first try that leave nothing behind; they are
        counted and no more. *told* are shown among the recent ones and resolve their letters; those
        whose marks are gone stay pending.
        """
        rows: list[Any] = []
        for one in told:
            rows += (one.id, one.identity, one.type, one.handlers, one.outcome, one.ms)
            rows += (one.correlation_id, one.letter_id, len(one.marks), *one.marks)
        reply = await script(__file__, "ack_events").run(
            self._redis,
            [
                self.stream,
                keys.event_totals(self.stream),
                keys.recent_events(self.stream),
                keys.event_attempts(self.stream),
                keys.dead_retrying(self.stream),
                keys.dead_closed(self.stream),
                keys.checkpoints(self.stream),
            ],
            [
                self.group,
                RECENT_KEPT,
                keys.dead_record(self.stream, ""),
                keys.handled(self.stream, ""),
                SETTLED_S,
                self.consumer,
                len(plain),
                *plain,
                *rows,
            ],
        )
        lost, undone = reply
        return Acknowledged([str(one) for one in lost], [str(one) for one in undone])

    async def bury(
        self, settled: Settled, reason: str, letter: Mapping[str, str | int], raw: bytes = b""
    ) -> bool:
        """Make a dead letter of an event; False when somebody else settled it.

        The script encodes the raw fields from the stream unless *raw* (``raw_payload``) is given.
        """
        letter_id = settled.letter_id or settled.id
        reply = await script(__file__, "bury_event").run(
            self._redis,
            [
                self.stream,
                keys.event_totals(self.stream),
                keys.recent_events(self.stream),
                keys.event_attempts(self.stream),
                keys.dead_open(self.stream),
                keys.dead_retrying(self.stream),
                keys.dead_closed(self.stream),
                keys.dead_record(self.stream, letter_id),
                keys.dead_payload(self.stream, letter_id),
                keys.handled(self.stream, settled.identity),
            ],
            [
                self.group,
                settled.id,
                letter_id,
                reason,
                json.dumps(letter),
                RECENT_KEPT,
                settled.type,
                settled.handlers,
                settled.ms,
                settled.correlation_id,
                DEAD_S,
                raw,
            ],
        )
        return bool(reply)

    async def past(self, entry_id: str, identity: str) -> tuple[int, set[str]]:
        """Return the failed attempts of an entry and the handlers that are through with the event."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(keys.event_attempts(self.stream), entry_id)
            pipe.hkeys(keys.handled(self.stream, identity))
            failed, done = await pipe.execute()
        return int(failed or 0), {name[2:] for name in done if name.startswith(through(""))}

    async def note_done(self, identity: str, handler: str, kept_s: int) -> None:
        """Remember that *handler* is through with the event, should it be delivered again."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.handled(self.stream, identity), through(handler), "done")
            pipe.expire(keys.handled(self.stream, identity), kept_s)
            await pipe.execute()

    async def note_failure(self, entry_id: str) -> int:
        """Count a failed attempt; return how many there were."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hincrby(keys.event_attempts(self.stream), entry_id, 1)
            pipe.hincrby(keys.event_totals(self.stream), "failed", 1)
            attempts, _ = await pipe.execute()
        return int(attempts)

    async def prune_consumers(self, idle_ms: int, leaving: str = "") -> list[str]:
        """Delete consumers that own nothing and were silent for *idle_ms*, and *leaving*."""
        reply = await script(__file__, "prune_event_consumers").run(
            self._redis, [self.stream], [self.group, idle_ms, leaving]
        )
        return [str(name) for name in reply]

    async def trim(self, kept: int) -> int:
        """Drop the oldest entries beyond *kept* that every group is through with; how many."""
        length = await self.length()
        if length <= kept:
            return 0
        safe: list[str] = []
        for row in await self._redis.xinfo_groups(self.stream):
            summary = await self._redis.xpending(self.stream, row["name"])
            safe.append(summary["min"] if summary["pending"] else row["last-delivered-id"])
        if not safe:
            return 0
        oldest = min(safe, key=_parts)
        return int(
            await self._redis.xtrim(
                self.stream, minid=oldest, approximate=True, limit=length - kept
            )
        )

    async def length(self) -> int:
        """Entries in the stream, handled or not."""
        return int(await self._redis.xlen(self.stream))

    async def _last_id(self) -> str:
        rows = await self._redis.xrevrange(self.stream, count=1)
        return str(rows[0][0]) if rows else "0-0"


def _parts(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)


def _is_newer(left: str, right: str) -> bool:
    return _parts(left) > _parts(right)


def _before(entry_id: str) -> str:
    """Return the greatest id below *entry_id*."""
    ms, number = _parts(entry_id)
    if number:
        return f"{ms}-{number - 1}"
    return f"{ms - 1}-{2**64 - 1}" if ms else "0-0"
