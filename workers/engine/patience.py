"""How long a worker waits for a Redis that does not let it work: for ever, in burst mode for a while.

A worker that stays says at once what is wrong and tries on: the password may be rotated under it. A burst is
waited for by a script, which must learn that it will come to nothing.
"""

import time
from typing import TYPE_CHECKING, Final

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from app.errors import ArqscopeError, RedisRefused, RedisUnavailable
from app.payloads.codec import safe_str
from app.settings import masked_url
from app.wire.connections import explained
from app.wire.misfits import Misfit, guess_of, misfit_of

if TYPE_CHECKING:
    from workers.engine.options import EngineOptions

#: s a burst waits at its start for a server that is away: it may be starting beside us
START_S: Final = 10.0


class Patience:
    """One worker's, with the Redis of *pool*."""

    def __init__(self, options: "EngineOptions", pool: ConnectionPool, *, burst: bool) -> None:
        self._options = options
        self._url = options.url or _address_of(pool)
        self._limit_s = options.lease_s  #: past that, others take what we hold
        self._burst = burst
        self._failing_since: float | None = time.monotonic()  #: until it answers

    def told(self, error: BaseException) -> str:
        """*error* for people: the setting, its value and the remedy where they are known."""
        misfit = self._misfit(error)
        return str(misfit) if misfit else safe_str(error, 200)

    def at_start(self, error: BaseException) -> None:
        """Take down that Redis was not reached; raise RedisRefused or RedisUnavailable to give up."""
        if not self._burst:
            return
        if misfit := self._misfit(error):
            raise RedisRefused(str(misfit)) from error
        if self._failed_s() >= START_S:
            setting = self._options.setting
            guess = guess_of(error, self._url, address=setting)
            raise RedisUnavailable(f"{setting}: {self._explained(error)}; {guess}") from error

    def at_work(self, error: BaseException) -> None:
        """Take down that Redis gave no work; raise when a burst has waited as long as a lease lasts."""
        if self._burst and self._failed_s() >= self._limit_s:
            if isinstance(error, (RedisError, OSError)):
                raise self._explained(error) from error
            raise error

    def at_rest(self, silent_s: float) -> None:
        """Take down that nothing may be claimed, leases renewed *silent_s* ago; raise as ``at_work``."""
        if self._burst and silent_s >= self._limit_s:
            where = masked_url(self._url)
            raise RedisUnavailable(
                f"{self._options.setting}: Redis at {where} has renewed no lease for {silent_s:.1f} s; "
                "look whether it runs, then start the burst again: no job is lost"
            )

    def renew(self) -> None:
        """Redis answered."""
        self._failing_since = None

    def _misfit(self, error: BaseException) -> Misfit | None:
        options = self._options
        return misfit_of(error, self._url, address=options.setting, password=options.login_setting)

    def _failed_s(self) -> float:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since

    def _explained(self, error: BaseException) -> ArqscopeError:
        told = explained(error, self._url) if isinstance(error, Exception) else error
        return told if isinstance(told, ArqscopeError) else RedisUnavailable(safe_str(error, 200))


def _address_of(pool: ConnectionPool) -> str:
    given = pool.connection_kwargs
    where = given.get("path") or f"{given.get('host', 'localhost')}:{given.get('port', 6379)}"
    return f"redis://{where}/{given.get('db', 0)}"
