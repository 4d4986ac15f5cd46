"""Schedules a worker keeps: told in its heartbeat, and how their last ticks ended, kept in Redis."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from arq.cron import CronJob
from redis.asyncio import Redis

from app import keys
from app.schedules import DAYS, FIELDS, MAX_CHARS, Schedule, Tick, told

#: ms the end of a tick is remembered: the longest history there is
KEPT_MS: Final = 90 * 86_400_000
#: arq's names of days, by their first three letters
_WEEKDAYS: Final = {name.lower()[:3]: number for number, name in enumerate(DAYS)}


class Schedules:
    """The cron jobs of one worker."""

    def __init__(self, cron_jobs: Iterable[CronJob] | None, zone: object = None) -> None:
        self._jobs = list(cron_jobs or ())
        self._zone = str(zone) if zone is not None else "UTC"
        self.names = frozenset(job.name for job in self._jobs)
        self._fresh: dict[str, Tick] = {}

    def describe(self) -> Mapping[str, str]:
        """What a heartbeat says of them."""
        return {"schedules": told(schedule_of(job, self._zone) for job in self._jobs)}

    def ended(self, function: str, tick: Tick) -> None:
        """Remember how a run of *function*, one of ``names``, ended."""
        self._fresh[function] = tick

    async def store(self, redis: Redis, queue: str) -> None:
        """Write what ended since the last time; raises what Redis raises, and then keeps it."""
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, {}
        try:
            async with redis.pipeline(transaction=True) as pipe:
                pipe.hset(
                    keys.ticks(queue),
                    mapping={name: tick.to_json() for name, tick in fresh.items()},
                )
                pipe.pexpire(keys.ticks(queue), KEPT_MS)
                await pipe.execute()
        except BaseException:
            self._fresh = fresh | self._fresh
            raise


def schedule_of(job: CronJob, zone: str) -> Schedule:
    """A cron job of arq's as a record."""
    times = {name: values for name in FIELDS if (values := _values(getattr(job, name))) is not None}
    return Schedule(
        name=job.name[:MAX_CHARS],
        times=times,
        next_ms=int(job.next_run.timestamp() * 1000) if job.next_run else 0,
        zone=zone,
        unique=job.unique,
        attempts=job.max_tries or 1,
    )


def _values(given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    several = given if isinstance(given, set | frozenset | list | tuple) else (given,)
    return tuple(sorted(_number(one) for one in several))


def _number(one: Any) -> int:
    if isinstance(one, str):
        return _WEEKDAYS.get(one.lower()[:3], 0)
    return int(one)
