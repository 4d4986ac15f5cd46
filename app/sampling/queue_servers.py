"""What the collector knows of several queue servers: an observation of each, and one sample of all.

With one queue server this is its observation and nothing else. A server that does not answer leaves
the numbers of its own queues unknown; the lists keep what it told last.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.placement import HOME
from app.sampling.observation import MAX_FUNCTIONS, Observation
from app.sampling.sample import Rows, Sample
from app.settings import Settings
from app.wire.batch import Batch

#: s a further server may take to tell its runs to a server that follows: its sample is there already
RUNS_S: Final = 0.2
#: running jobs listed, over all servers
_RUNNING_SHOWN: Final = 200
_LISTS: Final = ("workers", "running", "letters", "functions")


class QueueServers(Observation):
    """The home's observation, with those of the further queue servers beside it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.placement = settings.placement
        self._further = {
            name: Observation(settings, server=name, runs=self.runs)
            for name in self.placement.names[1:]
        }
        self._kept: dict[str, dict[str, Rows]] = {name: {} for name in _LISTS}

    @property
    def servers(self) -> tuple[str, ...]:
        """Names of the queue servers, the home first."""
        return self.placement.names

    @property
    def known(self) -> set[str]:
        """Names of all queues and streams that are sampled."""
        return {*self.streams, *(queue for one in self._all.values() for queue in one.queues)}

    @property
    def strangers(self) -> frozenset[str]:
        """Queues of stock arq, of all servers."""
        return frozenset().union(*(one.foreign for one in self._all.values()))

    @property
    def _all(self) -> Mapping[str, Observation]:
        return {HOME: self, **self._further}

    def note_strangers(self, server: str, names: Iterable[str]) -> None:
        """Take up queues of stock arq found on *server*; those placed elsewhere are not read there."""
        held = self.placement.held_by(server, names)
        self._all[server].foreign |= frozenset(held)

    def begin(self, at: pd.Timestamp, *, full: bool) -> None:
        """Start a sample taken at *at*."""
        super().begin(at, full=full)
        for one in self._further.values():
            one.begin(at, full=full)

    async def read_server(
        self, name: str, redis: Redis, also: Callable[[Batch], None] | None = None
    ) -> None:
        """Take one sample of the queue server called *name*."""
        one = self._all[name]
        await one.read_queue(redis, also=also if name == HOME else None)
        if name != HOME:
            self.commands += one.commands

    async def follow(
        self, queues: Iterable[str], servers: Mapping[str, Redis], problems: Mapping[str, str]
    ) -> None:
        """Know of *queues*, and read the new run reports of every server that answers the leader."""
        names = list(queues)
        for server, one in self._all.items():
            one.queues = self.placement.held_by(server, names)
        await self.read_runs(servers[HOME])
        others = [name for name in self._further if name not in problems]
        await asyncio.gather(*(self._runs_of(name, servers[name]) for name in others))

    async def _runs_of(self, name: str, redis: Redis) -> None:
        one = self._further[name]
        try:
            async with asyncio.timeout(RUNS_S):
                await one.read_runs(redis)
        except (RedisError, OSError, TimeoutError):  # the leader tells what is wrong with it
            return
        self.commands += one.commands
        self.has_new_runs = self.has_new_runs or one.has_new_runs
        one.has_new_runs = False

    def sample(self, problems: Mapping[str, str]) -> Sample:
        """Return what was read since ``begin``, of all servers together."""
        found = super().sample(problems)
        if not self._further:
            return found
        parts = {HOME: found}
        for name, one in self._further.items():
            parts[name] = one.sample(problems)
            self.has_new_runs = self.has_new_runs or one.has_new_runs
            one.has_new_runs = False
        for name in _LISTS:
            setattr(found, name, self._together(name, parts))
        further = [parts[name] for name in self._further]
        place = {name: number for number, name in enumerate(self.settings.queue_names)}
        rows = [row for part in parts.values() for row in part.queues]
        found.queues = sorted(rows, key=lambda row: place.get(row["queue"], len(place)))
        found.redis[1:1] = [part.redis[0] for part in further]
        found.queue_answered = any(part.queue_answered for part in parts.values())
        return found

    def _together(self, name: str, parts: Mapping[str, Sample]) -> Rows | None:
        """The rows of all servers, where one has new ones; what a server told last stays."""
        kept, is_new = self._kept[name], False
        for server, part in parts.items():
            rows = getattr(part, name)
            if rows is not None:
                kept[server], is_new = rows, True
        if not is_new:
            return None
        rows = [row for server in parts for row in kept.get(server, ())]
        match name:
            case "workers":
                return sorted(rows, key=itemgetter("role", "source", "id"))
            case "running":
                return sorted(rows, key=_started)[:_RUNNING_SHOWN]
            case "letters":
                return sorted(rows, key=lambda row: -(row["died"] or 0))
            case _:
                return heapq.nlargest(MAX_FUNCTIONS, rows, key=itemgetter("runs"))


def _started(row: Mapping[str, Any]) -> float:
    return row["started"] or float("inf")
