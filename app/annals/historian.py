"""Writes history: a row per minute and source, packed by the hour; moments; deploys seen. One leads.

Rows are written once the minute is over, packed once the hour is. Doing any step twice gives the same:
a writer that dies is followed by one that finds what is missing, up to two hours back.
"""

import json
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from app import keys
from app.annals.chunks import HOURS_GROUP, MINUTES_GROUP, pack, unpack
from app.annals.minutes import Minutes, numbers
from app.annals.tiers import TierRow, joined, merged_rows
from app.errors import BadRecord
from app.payloads.codec import raw_bytes
from app.sampling.sample import Sample
from app.wire.batch import Batch, into
from app.wire.connections import GONE

log = logging.getLogger("arqscope.history")

#: s after its end that a minute is written: what ended in it is counted by then
GRACE_S: Final = 3
#: minutes looked back for what nobody wrote; their counters live two hours
BACKFILL: Final = 115
MINUTES_KEPT_MS: Final = 7 * 86_400_000
HOURS_KEPT_MS: Final = 90 * 86_400_000
OPEN_KEPT_MS: Final = 8 * 86_400_000
#: kind → (minutes between two moments, ms one is kept)
MOMENTS: Final[Mapping[str, tuple[int, int]]] = {
    "m": (1, 2 * 3_600_000),
    "q": (60, 7 * 86_400_000),
    "s": (1440, 90 * 86_400_000),
}
#: rows of each list a moment holds
MOMENT_ROWS: Final = 100
MARKS_KEPT: Final = 5_000
_BATCH: Final = 200


#: lists of a sample that a moment holds as they were told last
_LISTS: Final = ("workers", "running", "letters", "causes", "functions", "operations", "alerts")


class Historian:
    """Keeps the minutes of every sample it is shown; writes them when it is told to."""

    def __init__(self) -> None:
        self.minutes = Minutes()
        #: queue → kind → durations of what ended since this server began to lead
        self.durations: dict[str, dict[str, dict[int, int]]] = {}
        self._done = -1  #: the last minute written
        self._owed: dict[
            str, int
        ] = {}  #: queue of a server that is away → first minute not written
        self._barred = False
        self._versions: dict[str, str] | None = None
        self._newest: Sample | None = None
        self._lists: dict[str, list[Any]] = {}

    def see(self, sample: Sample) -> None:
        """Take a sample, ours or the leader's, so that whoever leads next knows this minute."""
        self.minutes.add(sample)
        self._newest = sample
        for name in _LISTS:
            rows = getattr(sample, name)
            if rows is not None:
                self._lists[name] = rows

    def is_due(self, now_ms: float) -> bool:
        """Whether a minute is over that was not written yet."""
        return not self._barred and int((now_ms / 1000 - GRACE_S) // 60) - 1 > self._done

    async def write(
        self, redis: Redis, now_ms: float, holding: Callable[[str], Redis] | None = None
    ) -> int:
        """Write every minute that is over, pack hours and days that are; return the rows written.

        *holding* tells the server that counts a queue's minutes, where that is not *redis*: while it
        does not answer, its queues' minutes are owed, and written once it does.

        Raises what Redis raises; then the same is tried again at the next sample. A Redis that lets
        us write nothing is not asked again.
        """
        last = int((now_ms / 1000 - GRACE_S) // 60) - 1
        try:
            first = last - BACKFILL if self._done < 0 else self._done + 1
            written = await self._write_minutes(
                redis, max(first, last - BACKFILL), last, holding or (lambda _: redis)
            )
            await self._write_moment(redis, last)
            await self._mark_deploys(redis, now_ms)
        except RedisError as error:
            if isinstance(error, NoPermissionError):
                self._barred = True
                log.warning("no history kept", extra={"error": str(error)[:200]})
                return 0
            raise
        self._done = last
        return written

    def _count_durations(self, source: str, row: TierRow) -> None:
        kinds = self.durations.setdefault(source, {})
        for kind, histogram in row.histograms.items():
            total = kinds.setdefault(kind, {})
            for bucket, count in histogram.items():
                total[bucket] = total.get(bucket, 0) + count

    async def _write_minutes(
        self, redis: Redis, newest: int, last: int, holding: Callable[[str], Redis]
    ) -> int:
        sources = sorted(self.minutes.queues | self.minutes.streams)
        written = 0
        for source in sources:
            first = max(self._owed.get(source, newest), last - BACKFILL)
            known = await self._open(redis, source)
            rows: dict[int, TierRow] = {}
            packed = await self._packed(redis, source, first, last) if first < last else set()
            wanted = [
                m
                for m in range(first, last + 1)
                if m == last or not (m in packed or f"m{m}" in known)
            ]
            counted: dict[str, Any] = {}
            if source in self.minutes.queues:
                counting = holding(source)
                try:
                    for start in range(0, len(wanted), _BATCH):
                        batch = Batch(counting)
                        for minute in wanted[start : start + _BATCH]:
                            batch.ask(
                                into(counted, str(minute)), "HGETALL", keys.minute(source, minute)
                            )
                        await batch.run()
                except GONE:
                    if counting is redis:
                        raise
                    self._owed[source] = first
                    continue
            for minute in wanted:
                row = self.minutes.row(source, minute, numbers(counted.get(str(minute)) or {}))
                if row is not None:
                    if self._done >= 0:
                        self._count_durations(source, row)
                    before = known.get(f"m{minute}")
                    rows[minute] = row if before is None else joined(before, row)
            if rows:
                await self._put(redis, source, {f"m{m}": row for m, row in rows.items()})
                known |= {f"m{m}": row for m, row in rows.items()}
            written += len(rows)
            await self._seal(redis, source, known, (last + 1) // 60)
            self._owed.pop(source, None)
        return written

    async def _open(self, redis: Redis, source: str) -> dict[str, TierRow]:
        reply: Any = await redis.hgetall(keys.history_open(source))  # type: ignore[misc]
        rows: dict[str, TierRow] = {}
        for name, text in reply.items():
            try:
                rows[name] = TierRow.from_json(text)
            except BadRecord:
                log.warning("row of history dropped", extra={"source": source, "row": name})
        return rows

    async def _packed(self, redis: Redis, source: str, first: int, last: int) -> set[int]:
        """Minutes between *first* and *last* that are in a chunk already."""
        found: set[int] = set()
        for hour in range(first // 60, last // 60 + 1):
            held = raw_bytes(await redis.get(keys.history_minutes(source, hour)))
            if held:
                try:
                    found |= {hour * 60 + place for place in unpack(held)}
                except BadRecord:
                    continue
        return found

    async def _put(self, redis: Redis, source: str, rows: Mapping[str, TierRow]) -> None:
        pipe = redis.pipeline(transaction=False)
        key = keys.history_open(source)
        pipe.hset(key, mapping={name: row.to_json() for name, row in rows.items()})
        pipe.pexpire(key, OPEN_KEPT_MS)
        await pipe.execute()

    async def _seal(
        self, redis: Redis, source: str, known: dict[str, TierRow], this_hour: int
    ) -> None:
        """Pack the minutes of hours that are over, then the hours of days that are."""
        for hour in sorted({int(n[1:]) // 60 for n in known if n[0] == "m"}):
            if hour >= this_hour:
                continue
            mine = {int(n[1:]) % 60: n for n in known if n[0] == "m" and int(n[1:]) // 60 == hour}
            rows = {place: known[name] for place, name in mine.items()}
            rows = await self._pack(
                redis,
                keys.history_minutes(source, hour),
                rows,
                (hour + 1) * 3_600_000 + MINUTES_KEPT_MS,
                source,
                list(mine.values()),
                MINUTES_GROUP,
            )
            whole = merged_rows(rows[place] for place in sorted(rows))
            await self._put(redis, source, {f"h{hour}": whole})
            known[f"h{hour}"] = whole
        for day in sorted({int(n[1:]) // 24 for n in known if n[0] == "h"}):
            if (day + 1) * 24 > this_hour:
                continue
            mine = {int(n[1:]) % 24: n for n in known if n[0] == "h" and int(n[1:]) // 24 == day}
            await self._pack(
                redis,
                keys.history_hours(source, day),
                {place: known[name] for place, name in mine.items()},
                (day + 1) * 86_400_000 + HOURS_KEPT_MS,
                source,
                list(mine.values()),
                HOURS_GROUP,
            )

    async def _pack(
        self,
        redis: Redis,
        key: str,
        rows: dict[int, TierRow],
        until_ms: int,
        source: str,
        fields: list[str],
        group: int,
    ) -> dict[int, TierRow]:
        """Put *rows* into the chunk *key*, beside those it holds, and drop them from the open hash."""
        held = raw_bytes(await redis.get(key))
        if held:
            try:
                older = unpack(held)
                rows = older | {
                    place: joined(older[place], row) if place in older else row
                    for place, row in rows.items()
                }
            except BadRecord:
                log.warning("chunk of history replaced", extra={"key": key})
        pipe = redis.pipeline(transaction=True)
        pipe.set(key, pack(rows, group), pxat=until_ms)
        pipe.hdel(keys.history_open(source), *fields)
        await pipe.execute()
        return rows

    async def _write_moment(self, redis: Redis, minute: int) -> None:
        newest = self._newest
        if newest is None:
            return
        lists: dict[str, Any] = {n: rows[:MOMENT_ROWS] for n, rows in self._lists.items()}
        whole = replace(newest, **(lists | {"events": None}))  # events are kept in their stream
        raw = zlib.compress(whole.to_json().encode("utf-8", "surrogateescape"), 9)
        for kind, (every, kept_ms) in MOMENTS.items():
            if minute % every == 0:
                await redis.set(keys.moment(kind, minute // every), raw, px=kept_ms)

    async def _mark_deploys(self, redis: Redis, now_ms: float) -> None:
        """Note when the workers of a source run another version than before."""
        if self._versions is None:
            reply: Any = await redis.hgetall(keys.VERSIONS)  # type: ignore[misc]
            self._versions = dict(reply)
        newest: dict[str, dict[str, Any]] = {}
        for row in self._lists.get("workers", []):
            if row["role"] != "worker" or row["since"] is None:
                continue
            if row["since"] > newest.get(row["source"], {"since": 0})["since"]:
                newest[row["source"]] = row
        for source, row in newest.items():
            before, version = self._versions.get(source), row["version"]
            if before == version:
                continue
            pipe = redis.pipeline(transaction=True)
            if before is not None:
                mark = {
                    "kind": "deploy", "source": source, "version": version, "before": before,
                    "worker_since": int(row["since"]),
                }  # fmt: skip
                pipe.zadd(
                    keys.MARKS, {json.dumps(mark, sort_keys=True): int(row["since"])}, nx=True
                )
                pipe.zremrangebyscore(keys.MARKS, "-inf", now_ms - HOURS_KEPT_MS)
                pipe.zremrangebyrank(keys.MARKS, 0, -MARKS_KEPT - 1)
            pipe.hset(keys.VERSIONS, source, version)
            await pipe.execute()
            self._versions[source] = version
