"""A Redis that crashes on a healthy disk: killed at a moment when all it acknowledged is written.

While an fsync runs, ``everysec`` answers before it has written, for up to 2 s. What a kill takes then is
the server's own RPO, row R2; rows that claim "nothing is lost" are about the rest.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import redis

from tests.conftest import RunningRedis

LIMIT_S: Final = 20
#: the part of a second in which it is killed: Redis of these versions begins an fsync at its turn, and
#: what is answered while that runs may not be written yet
CALM_S: Final = (0.2, 0.8)


def all_written(persistence: Mapping[str, Any]) -> bool:
    """Whether, by ``INFO persistence``, the kernel has everything that was acknowledged."""
    return not int(persistence["aof_pending_bio_fsync"]) and not int(
        persistence["aof_buffer_length"]
    )


async def crash(server: RunningRedis) -> None:
    """SIGKILL *server* as soon as all it acknowledged is written."""
    end = time.monotonic() + LIMIT_S
    with redis.Redis.from_url(server.url, socket_timeout=10) as client:
        # asked without the event loop: nothing but the scheduler comes between the answer and the signal
        while not is_calm(client):
            if time.monotonic() > end:
                raise AssertionError(f"an fsync has not ended within {LIMIT_S} s")
            await asyncio.sleep(0.01)
        server.kill()


def is_calm(client: redis.Redis, spare_s: float = 0.0) -> bool:
    """Whether all is written and nothing can have begun since, nor will within *spare_s*."""
    second, part = divmod(time.time(), 1)
    end = CALM_S[1] - spare_s
    if not CALM_S[0] < part < end or not all_written(client.info("persistence")):
        return False
    return time.time() < second + end
