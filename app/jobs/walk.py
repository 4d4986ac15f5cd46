"""A walk along a queue by rank: a stretch of ids, or of those whose payload holds a text. Bounded."""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis

from app import keys
from app.cursors import Place
from app.payloads.codec import raw_bytes
from app.wire.scripts import script

#: payload bytes read per job; a larger one shows its function only
PREVIEW_BYTES: Final = 4096


class Stretch:
    """A walk along a queue by rank, which costs the same wherever it begins."""

    def __init__(self, redis: Redis, queue: str, rank: int, high: float) -> None:
        self.redis, self.queue = redis, queue
        self.looked = 0
        self.ended = False
        self._rank, self._high = rank, high
        self._last: tuple[str, float] | None = None

    @classmethod
    async def begin(
        cls, redis: Redis, queue: str, low: int | None, high: int | None, cursor: str | None
    ) -> "Stretch":
        """Begin after *cursor*, or after the score *low*; the walk ends with the score *high*."""
        if cursor is not None:
            rank = await _rank_behind(redis, queue, Place.parse(cursor))
        else:
            rank = 0 if low is None else int(await redis.zcount(queue, "-inf", f"({low}"))
        return cls(redis, queue, rank, float("inf") if high is None else float(high))

    async def next(self, count: int) -> list[tuple[str, float]]:
        """The next *count* ids with their scores."""
        await self._find_again()
        found: Any = await self.redis.zrange(
            self.queue, self._rank, self._rank + count - 1, withscores=True
        )
        pairs = [(str(i), float(s)) for i, s in found if float(s) <= self._high]
        self._passed(len(pairs), pairs[-1] if pairs else None, ended=len(pairs) < count)
        return pairs

    async def search(
        self, count: int, matches: int, needles: Sequence[str]
    ) -> list[tuple[str, float, bytes]]:
        """Of the next *count* jobs those that hold the *needles*, with the head of their payload."""
        await self._find_again()
        high = "1e18" if self._high == float("inf") else f"{self._high:.0f}"
        arguments = [self._rank, count, high, keys.ARQ_JOB, PREVIEW_BYTES, matches, *needles]
        reply = await script(__file__, "jobs_window").run(self.redis, [self.queue], arguments)
        looked, last, score, ended, *flat = reply
        self._passed(int(looked), (str(last), float(score)) if score else None, ended=ended == "1")
        return [
            (str(flat[i]), float(flat[i + 1]), raw_bytes(flat[i + 2]))
            for i in range(0, len(flat), 3)
        ]

    async def _find_again(self) -> None:
        """Take up behind the last job looked at: those before it may be gone since."""
        if self._last is not None:
            job_id, score = self._last
            below = int(await self.redis.zcount(self.queue, "-inf", f"({score!r}"))
            seen = max(0, self._rank - below)
            self._rank = await _rank_behind(self.redis, self.queue, Place(score, job_id, seen))

    def _passed(self, count: int, last: tuple[str, float] | None, *, ended: bool) -> None:
        self.looked += count
        self._rank += count
        self._last = last if last is not None else self._last
        self.ended = ended

    async def cursor(self) -> str | None:
        """Where the next page goes on; None at the end."""
        if self.ended or self._last is None:
            return None
        job_id, score = self._last
        below = int(await self.redis.zcount(self.queue, "-inf", f"({score!r}"))
        return Place(score, job_id, max(0, self._rank - below)).cursor()


async def _rank_behind(redis: Redis, queue: str, place: Place) -> int:
    below = int(await redis.zcount(queue, "-inf", f"({place.score!r}"))
    return below + await place.passed(redis, queue)
