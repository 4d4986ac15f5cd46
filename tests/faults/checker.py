"""The conservation law: what became of every job a producer was told is accepted.

Every acked id is in exactly one of results, queue (waiting or running) and dead letters (the closed
ones of aborted jobs included); a job that
ended well had its effect; and no job had it more often than its runs and takeovers explain.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from app import keys
from app.errors import BadPayload
from app.payloads.codec import Codec
from tests.faults import ledger


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker found; ``holds`` is the law."""

    acked: int
    complete: int
    waiting: int
    running: int
    dead: int
    aborted: int  #: on somebody's wish: closed letters
    lost: tuple[str, ...]  #: acked, and nowhere
    doubled: tuple[str, ...]  #: in two places
    unaccounted: tuple[str, ...]  #: complete without an effect, or counted otherwise than found
    duplicates: int  #: effects beyond the first
    excess: tuple[str, ...]  #: more effects than runs
    stray: tuple[str, ...]  #: queued without payload, payload without queue, mark without lease

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, doubled or done too often."""
        found = (self.lost, self.doubled, self.unaccounted, self.excess, self.stray)
        return not any(found)

    def figures(self) -> dict[str, int]:
        """What a row reports."""
        return {
            "jobs": self.acked,
            "lost": len(self.lost),
            "doubled": len(self.doubled),
            "unaccounted": len(self.unaccounted),
            "duplicates": self.duplicates,
            "excess": len(self.excess),
            "dead": self.dead,
            "aborted": self.aborted,
        }


async def conserved(
    redis: Redis,
    queue: str,
    acked: Collection[str],
    directory: Path,
    *,
    effect: str = "done",
    must_be_empty: bool = True,
) -> Verdict:
    """Check the law for *acked* on *queue* (a client of raw bytes) against the ledger in *directory*."""
    results, queued, running, dead = (
        await _results(redis),
        {_text(i) for i in await redis.zrange(queue, 0, -1)},
        {_text(i) for i in await _any(redis.hkeys(keys.running(queue)))},
        {
            _text(i)
            for key in (keys.dead_open(queue), keys.dead_retrying(queue))
            for i in await redis.zrange(key, 0, -1)
        },
    )
    aborted = await _aborted(redis, queue)
    waiting, ended = queued - running, set(results) - dead - aborted
    places = Counter([*waiting, *(running & queued), *ended, *dead, *aborted])
    ids = set(acked)
    effects = ledger.counts(ledger.read(directory), effect)
    unaccounted = [i for i in ended & ids if results[i].get("s") and not effects[i]]
    totals = {_text(k): int(v) for k, v in (await _any(redis.hgetall(keys.totals(queue)))).items()}
    well = sum(1 for i in ended if results[i].get("s"))
    told = tuple(totals.get(name, 0) for name in ("complete", "dead", "aborted"))
    if told != (well, len(dead), len(aborted)):
        unaccounted.append(
            f"totals of complete, dead, aborted are {told}, found {(well, len(dead), len(aborted))}"
        )
    return Verdict(
        acked=len(ids),
        complete=len(ended),
        waiting=len(waiting),
        running=len(running & queued),
        dead=len(dead),
        aborted=len(aborted),
        lost=tuple(sorted(i for i in ids if not places[i])),
        doubled=tuple(sorted(i for i, n in places.items() if n > 1)),
        unaccounted=tuple(unaccounted),
        duplicates=sum(n - 1 for n in effects.values() if n > 1),
        excess=tuple(
            f"{i}: {n} effects in {results[i].get('t')} runs"
            for i, n in effects.items()
            if i in results and n > int(results[i].get("t") or 1)
        ),
        stray=await _strays(redis, queue, queued, running, must_be_empty=must_be_empty),
    )


async def _aborted(redis: Redis, queue: str) -> set[str]:
    """Closed letters of jobs that were aborted."""
    closed = await redis.zrange(keys.dead_closed(queue), 0, -1)
    names = [_text(i) for i in closed]
    decisions = [await _any(redis.hget(keys.dead_record(queue, i), "decision")) for i in names]
    return {name for name, word in zip(names, decisions, strict=True) if word == b"ABORT"}


async def _results(redis: Redis) -> dict[str, Mapping[str, Any]]:
    codec, found = Codec(), {}
    names = [key async for key in redis.scan_iter(f"{keys.ARQ_RESULT}*", count=1000)]
    for start in range(0, len(names), 500):
        for name, raw in zip(
            names[start : start + 500], await redis.mget(names[start : start + 500]), strict=True
        ):
            if raw is not None:
                try:
                    value: Mapping[str, Any] = codec.decode(raw)
                except BadPayload:
                    value = {}
                found[_text(name).removeprefix(keys.ARQ_RESULT)] = value
    return found


async def _strays(
    redis: Redis, queue: str, queued: set[str], running: set[str], *, must_be_empty: bool
) -> tuple[str, ...]:
    payloads = {
        _text(key).removeprefix(keys.ARQ_JOB)
        async for key in redis.scan_iter(f"{keys.ARQ_JOB}*", count=1000)
    }
    leases = [key async for key in redis.scan_iter(f"{keys.ARQ_IN_PROGRESS}*", count=1000)]
    leased = {_text(key).removeprefix(keys.ARQ_IN_PROGRESS) for key in leases}
    found = [f"queued without payload: {i}" for i in queued - payloads]
    found += [f"payload without queue: {i}" for i in payloads - queued]
    found += [f"running and not queued: {i}" for i in running - queued]
    found += [f"leased and not running: {i}" for i in leased - running]
    if must_be_empty:
        found += [f"still queued: {i}" for i in queued]
        past = {_text(i) for i in await _any(redis.hkeys(keys.attempts(queue)))}
        found += [f"attempts of a finished job: {i}" for i in past - queued]
    return tuple(sorted(found))


def describe(verdict: Verdict) -> str:
    """The first few things wrong, for an assertion."""
    wrong = {
        name: list(getattr(verdict, name))[:5]
        for name in ("lost", "doubled", "unaccounted", "excess", "stray")
        if getattr(verdict, name)
    }
    return json.dumps(wrong)


def _any(value: Any) -> Any:
    return value


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
