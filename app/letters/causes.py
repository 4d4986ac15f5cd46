"""Causes: dead letters of one fingerprint as one thing with a life, an owner and counts per period.

Kept on the queue Redis for jobs and events alike. The dead-letter processor counts deaths, people
set the state. new → known · ignored · resolved; a resolved cause that comes again is *regressed*.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.errors import BadRecord
from app.payloads.codec import safe_str
from app.records import DeadLetter, known_fields
from app.wire.connections import Connections, explained
from app.wire.scripts import script

CAUSES_KEPT: Final = 2_000
COUNTED_KEPT: Final = 20_000
HOURS_KEPT: Final = 72
DAYS_KEPT: Final = 30
#: hours from now on whose retries are planned
HOURS_PLANNED: Final = 24
MAX_TEXT_CHARS: Final = 500
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_LISTED: Final = ("functions", "sources")


class CauseState(StrEnum):
    """Life of a cause."""

    NEW = "new"
    KNOWN = "known"  #: somebody has seen it
    IGNORED = "ignored"  #: it raises no alert
    RESOLVED = "resolved"  #: said to be put right
    REGRESSED = "regressed"  #: resolved, and there it is again


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One cause of dead letters. Times are epoch ms."""

    fingerprint: str
    state: CauseState
    owner: str = ""
    note: str = ""
    error_type: str = ""
    error: str = ""
    functions: tuple[str, ...] = ()  #: functions and event types, at most 20
    sources: tuple[str, ...] = ()  #: queues and streams, at most 20
    first_ms: int = 0
    last_ms: int = 0
    count: int = 0  #: deaths since it was first seen
    regressions: int = 0
    changed_ms: int = 0
    actor: str = ""  #: who set the state last

    def to_fields(self) -> dict[str, str]:
        """Encode for HSET."""
        raw = {name: str(value) for name, value in asdict(self).items()}
        return raw | {name: "\n".join(getattr(self, name)) for name in _LISTED}

    @classmethod
    def from_fields(cls, raw: Mapping[str, str]) -> Self:
        """Decode HGETALL; BadRecord when fields are missing or malformed."""
        try:
            values = known_fields(cls, raw)
            for name in _LISTED:
                values[name] = tuple(part for part in raw.get(name, "").split("\n") if part)
            values["state"] = CauseState(raw["state"])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise BadRecord(f"not a cause: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What deciding about a letter needs to know of its cause."""

    state: CauseState = CauseState.NEW
    regressions: int = 0
    hour: int = 0  #: epoch hour the plan begins with
    hour_left_s: float = 3_600.0
    #: automatic retries planned for this hour and those after it
    planned: tuple[int, ...] = field(default=(0,) * HOURS_PLANNED)


def periods(counts: Mapping[str, int], now_ms: float) -> dict[str, int]:
    """Deaths of the last 1 h, 3 h, 24 h, 3 d and 7 d, in clock hours and days (UTC).

    The running hour or day counts as one: ``1h`` is what came since the full hour.
    """
    hour, day = int(now_ms // _HOUR_MS), int(now_ms // _DAY_MS)

    def added(letter: str, now: int, span: int) -> int:
        return sum(counts.get(f"{letter}{now - n}", 0) for n in range(span))

    hours = {"1h": 1, "3h": 3, "24h": 24, "3d": 72}
    return {name: added("h", hour, span) for name, span in hours.items()} | {
        "7d": added("d", day, 7)
    }


async def note_deaths(
    queue: Redis, letters: Sequence[DeadLetter], now_ms: float, *, elsewhere: bool = False
) -> list[tuple[Standing, bool]]:
    """Count each letter's death once, however often it is told; one script call.

    *elsewhere*: the jobs' records lie on another Redis than the causes, as those of events always do.
    Returns, for each letter, how its cause stands and whether its death was new.
    """
    if not letters:
        return []
    args: list[Any] = [
        keys.cause(""),
        keys.cause_counts(""),
        CAUSES_KEPT,
        COUNTED_KEPT,
        HOURS_KEPT,
        DAYS_KEPT,
        int(now_ms // _HOUR_MS),
        HOURS_PLANNED,
    ]
    for letter in letters:
        args += (
            letter.fingerprint or "unknown",
            letter.id,
            letter.source,
            letter.died_ms,
            keys.dead_record(letter.source, letter.id)
            if letter.kind == "job" and not elsewhere
            else "",
            safe_str(letter.name, 128).replace("\n", " "),
            letter.error_type,
            safe_str(letter.error, MAX_TEXT_CHARS),
        )
    reply = await _asked(
        script(__file__, "note_deaths").run(queue, [keys.CAUSES, keys.CAUSES_COUNTED], args)
    )
    hour = int(now_ms // _HOUR_MS)
    left_s = ((hour + 1) * _HOUR_MS - now_ms) / 1000
    plans: dict[str, tuple[int, ...]] = {}
    noted = []
    for letter, row in zip(letters, reply, strict=True):
        if len(row) > 3:
            plans[letter.fingerprint or "unknown"] = tuple(int(n) for n in row[3:])
        standing = Standing(
            state=CauseState(str(row[1])),
            regressions=int(row[2]),
            hour=hour,
            hour_left_s=left_s,
            planned=plans[letter.fingerprint or "unknown"],
        )
        noted.append((standing, bool(row[0])))
    return noted


async def plan_retries(queue: Redis, planned: Mapping[tuple[str, int], int]) -> None:
    """Add automatic retries to the plan: (fingerprint, epoch hour) → how many."""
    if not planned:
        return
    async with queue.pipeline(transaction=False) as pipe:
        for (fingerprint, hour), count in planned.items():
            pipe.hincrby(keys.cause_counts(fingerprint or "unknown"), f"r{hour}", count)
        await _asked(pipe.execute())


async def change(
    queue: Redis,
    fingerprint: str,
    *,
    actor: str,
    state: CauseState | None = None,
    owner: str | None = None,
    note: str | None = None,
) -> str:
    """Set what is not None; returns ``changed``, ``already`` or ``missing``."""
    wanted = {"state": state, "owner": owner, "note": note}
    pairs = [part for name, value in wanted.items() if value is not None for part in (name, value)]
    reply = await _asked(
        script(__file__, "set_cause").run(queue, [keys.cause(fingerprint)], [actor, *pairs])
    )
    return str(reply)


async def read(queue: Redis, fingerprint: str) -> tuple[Cause, dict[str, int]] | None:
    """One cause and its counts (``h<epoch hour>``, ``d<epoch day>`` → deaths), or None."""
    async with queue.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.cause(fingerprint))
        pipe.hgetall(keys.cause_counts(fingerprint))
        raw, counts = await _asked(pipe.execute())
    return (Cause.from_fields(raw), _numbers(counts)) if raw else None


async def several(queue: Redis, fingerprints: Sequence[str]) -> list[Cause | None]:
    """Return the causes called *fingerprints*, None for the unknown; one round trip."""
    if not fingerprints:
        return []
    async with queue.pipeline(transaction=False) as pipe:
        for name in fingerprints:
            pipe.hgetall(keys.cause(name))
        replies = await _asked(pipe.execute())
    return [Cause.from_fields(raw) if raw else None for raw in replies]


def _numbers(raw: Mapping[str, str]) -> dict[str, int]:
    return {name: int(value) for name, value in raw.items() if str(value).isdecimal()}


async def standings(queue: Redis, fingerprints: Iterable[str]) -> dict[str, Standing]:
    """How causes stand, unknown ones as new; nothing is counted. Two round trips."""
    names = list(fingerprints)
    now: Any = await _asked(queue.time())
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    hour = now_ms // _HOUR_MS
    plan = [f"r{hour + n}" for n in range(HOURS_PLANNED)]
    async with queue.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hmget(keys.cause(name or "unknown"), ["state", "regressions"])
            pipe.hmget(keys.cause_counts(name or "unknown"), plan)
        replies = await _asked(pipe.execute()) if names else []
    return {
        name: Standing(
            state=CauseState(state or "new"),
            regressions=int(regressions or 0),
            hour=hour,
            hour_left_s=((hour + 1) * _HOUR_MS - now_ms) / 1000,
            planned=tuple(int(n or 0) for n in planned),
        )
        for name, (state, regressions), planned in zip(
            names, replies[::2], replies[1::2], strict=True
        )
    }


async def known_queues(connections: Connections, declared: Sequence[str]) -> list[str]:
    """Names of the *declared* queues and of those our producers and workers wrote to."""
    found: set[str] = set()
    for name, redis in connections.queue_servers.items():
        registered = await _asked(redis.smembers(keys.QUEUES))
        found |= set(connections.placement.held_by(name, registered))
    return list(dict.fromkeys([*declared, *sorted(found)]))


async def note_starts(queue: Redis, starts: Iterable[tuple[str, str, str, int]]) -> None:
    """Remember when workers started: (id, source, version, ms), the newest 1,000."""
    members = {f"{name}|{source}|{version}": ms for name, source, version, ms in starts}
    if not members:
        return
    async with queue.pipeline(transaction=False) as pipe:
        pipe.zadd(keys.STARTS, members, nx=True)
        pipe.zremrangebyrank(keys.STARTS, 0, -1_001)
        await _asked(pipe.execute())


async def _asked(reply: Any) -> Any:
    try:
        return await reply
    except (RedisError, OSError) as error:
        raise explained(error, "redis://queue") from error
