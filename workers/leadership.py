"""Leases of roles: who leads, until when. One script takes, renews and gives back."""

import secrets

from redis.asyncio import Redis

from app import keys
from app.wire.scripts import script


class Lease:
    """The right to play *role*, which one process at a time may have on one Redis."""

    def __init__(self, redis: Redis, role: str, token: str = "") -> None:
        self._redis = redis
        self._key = keys.lease(role)
        self.token = token or secrets.token_hex(8)  #: whose it is

    async def hold(self, ttl_ms: int) -> bool:
        """Take or renew it for *ttl_ms*; False: another holds it. Raises what redis-py raises."""
        reply = await script(__file__, "hold_lease").run(
            self._redis, [self._key], [self.token, ttl_ms]
        )
        return bool(reply)

    async def give_back(self) -> None:
        """Let the next one take it at once; does nothing when another holds it."""
        await self.hold(0)
