"""Which of many servers samples: one leads by a lease, the others read what it stores.

Losing the lease costs nothing but a second sampler for a moment: whoever finds no fresh sample reads
Redis itself. The leader stores samples only while somebody wants them.
"""

import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from app import keys
from app.errors import BadRecord
from app.sampling.sample import Sample
from app.wire.batch import Batch

log = logging.getLogger("arqscope.collector")

#: a leader that does not sample for this long is replaced
LEASE_MS: Final = 5_000
#: samples are stored this long after the last follower asked
WANTED_MS: Final = 10_000
KEPT_MS: Final = 60_000
#: s without a new sample of the leader after which a follower reads Redis itself
FRESH_S: Final = 3.5
#: parts of a sample that are stored apart, because they change seldom
_PARTS: Final = (
    "workers", "running", "letters", "events", "causes", "functions", "operations", "alerts",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A sample somebody else took, with what it said about the sources."""

    sample: Sample
    problems: Mapping[str, str]
    stale_ms: Mapping[str, float]  #: source → epoch ms of its last good answer


class Sharing:
    """One server's part in sampling: ``alone``, ``leader`` or ``follower``."""

    def __init__(self, *, may_write: bool = True) -> None:
        self.id = secrets.token_hex(8)
        self.role = "alone"
        self._holder: str | None = None
        self._wanted = False
        self._barred = not may_write  #: Redis lets us write nothing: we sample for ourselves
        self._parts: dict[str, Any] = {}
        self._versions: dict[str, int] = {}
        self._stored: dict[str, int] = {}
        self._number = 0
        self._heard: tuple[Any, float] = (None, 0.0)  #: the last sample, and when it was new
        self._known: dict[str, int] = {}

    @property
    def leads(self) -> bool:
        """Whether this server holds the lease."""
        return self.role == "leader"

    # -- the one that samples --------------------------------------------------------------------

    def ask(self, batch: Batch) -> None:
        """Add to a sample's round trip: who leads, does anybody listen; renew when we lead."""
        if self._barred:
            return
        names = (keys.lease("collector"), keys.SAMPLE_WANTED)
        batch.ask(self._take, "MGET", *names)
        if self.leads:
            # extends another's lease at worst once, when ours ran out unnoticed
            batch.ask(_nothing, "PEXPIRE", keys.lease("collector"), LEASE_MS)

    def _take(self, reply: list[str | None]) -> None:
        self._holder, self._wanted = reply[0], reply[1] is not None

    async def settle(self, redis: Redis) -> None:
        """Take the lease when nobody holds it; find out whether to follow from now on."""
        if self._barred:
            return
        if self._holder is None:
            try:
                taken = await redis.set(keys.lease("collector"), self.id, nx=True, px=LEASE_MS)
            except (RedisError, OSError) as error:
                self._barred = isinstance(error, NoPermissionError)
                self.role = "alone"
                return
            self._holder = self.id if taken else None
        before = self.role
        self.role = "leader" if self._holder == self.id else "follower"
        if self.role != before:
            self._stored = {}
            log.info("sampling", extra={"role": self.role})

    async def store(self, redis: Redis, shared: Shared) -> int:
        """Store *shared* for the others when there are any; return the commands it took."""
        for name in _PARTS:
            part = getattr(shared.sample, name)
            if part is not None and part != self._parts.get(name):
                self._parts[name] = part
                self._versions[name] = self._versions.get(name, 0) + 1
        if not (self.leads and self._wanted):
            self._stored = {}
            return 0
        self._number += 1
        apart: dict[str, Any] = dict.fromkeys(_PARTS)
        tick = {
            "by": self.id,
            "number": self._number,
            "problems": dict(shared.problems),
            "stale": dict(shared.stale_ms),
            "versions": self._versions,
            "sample": replace(shared.sample, **apart).to_json(),
        }
        fields = {"tick": json.dumps(tick)}
        for name, version in self._versions.items():
            if self._stored.get(name) != version:
                fields[name] = json.dumps(self._parts[name])
        batch = Batch(redis)
        flat = [item for pair in fields.items() for item in pair]
        batch.ask(_nothing, "HSET", keys.SAMPLE, *flat)
        batch.ask(_nothing, "PEXPIRE", keys.SAMPLE, KEPT_MS)
        commands = await batch.run()
        self._stored = dict(self._versions)
        return commands

    # -- the one that follows --------------------------------------------------------------------

    async def fetch(self, redis: Redis) -> tuple[Shared | None, int]:
        """Read the leader's newest sample; None when there is no fresh one. And the commands sent."""
        got: dict[str, Any] = {}
        batch = Batch(redis)
        batch.ask(lambda reply: got.update(tick=reply), "HGET", keys.SAMPLE, "tick")
        batch.ask_raw(lambda reply: got.update(time=reply), "TIME")
        batch.ask(_nothing, "SET", keys.SAMPLE_WANTED, self.id, "PX", WANTED_MS)
        commands = await batch.run()
        try:
            tick = json.loads(got.get("tick") or "null")
            number = (str(tick["by"]), int(tick["number"]))
            sample = Sample.from_json(tick["sample"])
            versions: dict[str, int] = dict(tick["versions"])
        except (TypeError, ValueError, KeyError, BadRecord):
            return None, commands
        if int(got["time"][0]) - sample.now_ms / 1000 > FRESH_S:  # of a leader that is gone
            return None, commands
        now_s = time.monotonic()
        if number != self._heard[0]:
            if self._heard[0] is not None and number[0] != self._heard[0][0]:
                self._known = {}  # another leader counts its own versions
            self._heard = (number, now_s)
        elif now_s - self._heard[1] > FRESH_S:
            return None, commands
        wanted = [name for name in _PARTS if versions.get(name) != self._known.get(name)]
        if wanted:
            parts: list[str | None] = []
            batch = Batch(redis)
            batch.ask(parts.extend, "HMGET", keys.SAMPLE, *wanted)
            commands += await batch.run()
            for name, text in zip(wanted, parts, strict=True):
                if text is not None:
                    setattr(sample, name, json.loads(text))
                    self._known[name] = versions[name]
        return (
            Shared(sample=sample, problems=tick["problems"], stale_ms=tick["stale"]),
            commands,
        )

    async def resign(self, redis: Redis) -> None:
        """Give the lease back, so that another need not wait for its end; errors are its end too."""
        if not self.leads:
            return
        self.role = "alone"
        try:
            if await redis.get(keys.lease("collector")) == self.id:
                await redis.delete(keys.lease("collector"), keys.SAMPLE)
        except (RedisError, OSError):
            return

    def forget(self) -> None:
        """Follow nobody: the next sample is our own."""
        self.role = "alone"
        self._known = {}


def _nothing(reply: Any) -> None:
    """Take a reply nobody needs."""
