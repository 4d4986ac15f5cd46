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


def all_written(persistence: Mapping[str, Any]) -> bool:
    """Whether, by ``INFO persistence``, the kernel has everything that was acknowledged."""
    return not int(persistence["aof_pending_bio_fsync"]) and not int(
        persistence["aof_buffer_length"]
    )


async def crash(server: RunningRedis) -> None:
    """SIGKILL *server* as soon as all it acknowledged is written."""
    end = time.monotonic() + LIMIT_S
    with redis.Redis.from_url(server.url, socket_timeout=10) as client:
        # asked without the event loop: nothing comes between the answer and the signal
        while not all_written(client.info("persistence")):
            if time.monotonic() > end:
                raise AssertionError(f"an fsync has not ended within {LIMIT_S} s")
            await asyncio.sleep(0.01)
        server.kill()
