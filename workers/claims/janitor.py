"""Keep what would silently vanish: payloads of waiting jobs that are about to expire.

Stock arq producers give a payload 24 h beyond its due time; a longer backlog destroys it unseen. A
job about to lose its payload gets a copy in the vault, which becomes the dead letter's payload. A
copy, not an extension: the producer may have meant ``_expires``. Our own producers put the copy there
themselves; a stock job that expires before a round of the janitor has seen it leaves no bytes.
"""

import logging
from typing import Any, Final, cast

from redis.asyncio import Redis

from app import keys

log = logging.getLogger("arqscope.worker")

#: ids looked at per round: bounds the work, a queue of 1,000,000 is walked in about 17 hours at 30 s
PAGE: Final = 500
#: a payload with less left to live than this is copied
SOON_MS: Final = 6 * 3_600_000
#: stale entries of arq's abort set, which arq itself never removes
ABORT_KEPT_MS: Final = 3_600_000


class Janitor:
    """Walks one queue, a page per round, from its longest waiting jobs on."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._offset = 0

    async def round(self, redis: Redis, now_ms: int) -> int:
        """Look at one page; returns how many payloads were copied. redis-py's errors pass through."""
        queue = self._queue
        await redis.zremrangebyscore(keys.ARQ_ABORT, 2, now_ms - ABORT_KEPT_MS)
        ids: list[bytes] = await cast(
            Any, redis.zrange(queue, self._offset, self._offset + PAGE - 1)
        )
        self._offset = self._offset + PAGE if len(ids) == PAGE else 0
        names = [raw.decode("utf-8", "surrogateescape") for raw in ids]
        async with redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.pttl(keys.arq_job(name))
            left_ms = await pipe.execute() if names else []
        ending = [n for n, ms in zip(names, left_ms, strict=True) if 0 <= ms < SOON_MS]
        if not ending:
            return 0
        async with redis.pipeline(transaction=True) as pipe:
            for name in ending:
                pipe.copy(keys.arq_job(name), keys.vault(queue, name), replace=True)
                pipe.pexpire(keys.vault(queue, name), keys.VAULT_MS)
            await pipe.execute()
        log.warning("payloads vaulted", extra={"queue": queue, "count": len(ending)})
        return len(ending)
