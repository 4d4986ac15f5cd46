"""What commands cost Redis by its own clock: kinds used, and the median of each. For tests."""

from collections.abc import Mapping
from typing import Any, Final

from redis.asyncio import Redis

#: what walks over all there is, or runs for as long as somebody wrote
WALKS: Final = frozenset(["keys", "scan", "hscan", "sscan", "zscan", "eval", "evalsha", "fcall"])
#: what a measurement itself sends
_OURS: Final = frozenset({"config", "latency", "info"})


async def begin(redis: Redis) -> None:
    """Forget what was counted so far."""
    await redis.config_resetstat()


async def medians_us(redis: Redis) -> Mapping[str, int]:
    """Median µs of each command since ``begin``; a bucket's upper end, each twice the one before."""
    reply: Any = await redis.execute_command("LATENCY", "HISTOGRAM")  # type: ignore[no-untyped-call]
    found = {}
    for name, told in zip(reply[::2], reply[1::2], strict=True):
        kind = str(name).partition("|")[0]
        if kind in _OURS:
            continue
        facts = dict(zip(told[::2], told[1::2], strict=True))
        buckets = facts["histogram_usec"]
        half = facts["calls"] / 2
        found[str(name)] = next(
            int(upper)
            for upper, cumulated in zip(buckets[::2], buckets[1::2], strict=True)
            if cumulated >= half
        )
    return found


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Commands whose median grew by more than two buckets and to more than 64 µs: not by chance."""
    return {
        name: (before.get(name, 0), us)
        for name, us in after.items()
        if us > 64 and us > 4 * before.get(name, us)
    }
