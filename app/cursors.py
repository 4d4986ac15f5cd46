"""Pages, and the cursors that continue them; the small decoders that every page needs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from redis.asyncio import Redis

from app.errors import BadRecord, InvalidRequest
from app.records import DeadLetter, JobRun

MAX_PAGE: Final = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some items, and where to go on; *scanned* tells how many records were looked at for them."""

    items: list[T]
    cursor: str | None  #: None: this was the last page
    scanned: int
    now_ms: int = 0
    window: str = ""  #: what was looked at, in words, when it was not everything
    partial: bool = False  #: the window ended before the page was full: go on with the cursor


def limited(limit: int) -> int:
    """Return *limit* when a page may be that long; InvalidRequest else."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(
            f"limit={limit} is out of range", field="limit", hint=f"between 1 and {MAX_PAGE}"
        )
    return limit


def bad_cursor(cursor: str) -> InvalidRequest:
    """The error of a cursor that is none of ours."""
    hint = "pass the cursor of the page before, unchanged"
    return InvalidRequest(f"cursor={cursor[:60]!r} is not valid", field="cursor", hint=hint)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a sorted set: behind *member* of *score*, or behind *seen* members of that score.

    By the member, since those before it may go while somebody pages: counted from the front, as many
    would be left out. By their number only where a member's name is none a cursor can carry.
    """

    score: float
    member: str = ""
    seen: int = 0

    @classmethod
    def parse(cls, cursor: str) -> "Place":
        """Read ``score member`` or ``score:seen``; InvalidRequest for anything else."""
        told = _PLACE.fullmatch(cursor)
        if told is None:
            raise bad_cursor(cursor)
        return cls(float(told["score"]), told["member"] or "", int(told["seen"] or 0))

    def cursor(self) -> str:
        """The text that continues here."""
        score = f"{self.score:.0f}" if self.score.is_integer() else repr(self.score)
        member = self.member
        plain = member.isascii() and member.isprintable() and len(member) <= _MAX_MEMBER
        return f"{score} {member}" if member and plain else f"{score}:{self.seen}"

    async def passed(self, redis: Redis, key: str, *, newest: bool = False) -> int:
        """How many members of *key* have its score and were passed, as the set is now."""
        if not self.member:
            return self.seen
        below = int(await redis.zcount(key, "-inf", f"({self.score!r}"))
        there = int(await redis.zcount(key, self.score, self.score))
        rank = await self._rank(redis, key, below, there, beyond=not newest)
        return below + there - rank if newest else rank - below

    async def _rank(self, redis: Redis, key: str, below: int, there: int, *, beyond: bool) -> int:
        """The rank where members of its score after (*beyond*) it begin, else where it begins or would."""
        found: Any = await redis.zrank(key, self.member)
        if found is not None and below <= int(found) < below + there:
            return int(found) + beyond
        # it is gone: members of one score lie in the order of their bytes
        low, high, mine = below, below + there, self.member.encode()
        while low < high:
            middle = (low + high) // 2
            other: Any = await redis.zrange(key, middle, middle)
            if other and str(other[0]).encode("utf-8", "surrogateescape") <= mine:
                low = middle + 1
            else:
                high = middle
        return low


_MAX_MEMBER: Final = 200
_PLACE: Final = re.compile(
    rf"(?P<score>-?[0-9]{{1,17}}(?:\.[0-9]{{1,20}})?)"
    rf"(?: (?P<member>[ -~]{{1,{_MAX_MEMBER}}})|:(?P<seen>[0-9]{{1,9}}))"
)


async def by_score(
    redis: Redis,
    key: str,
    low: str,
    high: str,
    cursor: str | None,
    limit: int,
    *,
    newest: bool = False,
) -> tuple[list[tuple[str, float]], str | None]:
    """Members by score, and the cursor that continues behind the last of them."""
    skip, begun = 0, Place.parse(cursor) if cursor is not None else None
    if begun is not None:
        skip = await begun.passed(redis, key, newest=newest)
        low, high = (low, repr(begun.score)) if newest else (repr(begun.score), high)
    read: Any = redis.zrevrangebyscore if newest else redis.zrangebyscore
    first, last = (high, low) if newest else (low, high)
    found: Any = await read(key, first, last, start=skip, num=limit, withscores=True)
    pairs = [(str(member), float(score)) for member, score in found]
    if len(pairs) < limit:
        return pairs, None
    last, edge = pairs[-1]
    seen = sum(score == edge for _, score in pairs)
    if begun is not None and begun.score == edge:
        seen += skip
    return pairs, Place(edge, last, seen).cursor()


async def stream_page(
    redis: Redis, key: str, cursor: str | None, count: int, *, newest: str = "+", oldest: str = "-"
) -> list[Any]:
    """Entries of a stream, newest first, after *cursor*; InvalidRequest for one that is none."""
    if cursor is not None and not re.fullmatch(r"\d{1,20}-\d{1,20}", cursor):
        raise bad_cursor(cursor)
    found: Any = await redis.xrevrange(key, f"({cursor}" if cursor else newest, oldest, count=count)
    return list(found)


def letter_of(raw: Mapping[str, str]) -> DeadLetter | None:
    """The letter a hash holds; None when it is not readable."""
    try:
        return DeadLetter.from_fields(raw)
    except BadRecord:
        return None


def run_of(text: str) -> JobRun | None:
    """The run a report holds; None when it is not readable."""
    try:
        return JobRun.from_json(text)
    except BadRecord:
        return None


def claim_of(text: str) -> dict[str, Any]:
    """What a claim in the running hash says; zeros when it says nothing."""
    parts = text.split(":", 3)
    if len(parts) < 4 or not all(part.isdecimal() for part in parts[:3]):
        return {"started_ms": 0, "due_ms": 0, "attempt": 0, "worker": ""}
    started, due, attempt = (int(part) for part in parts[:3])
    return {"started_ms": started, "due_ms": due, "attempt": attempt, "worker": parts[3]}
