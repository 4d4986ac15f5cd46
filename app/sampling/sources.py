"""The sources a collector reads: a client of each, its problem, how long it may take, the pace of all.

A source that is down costs its own numbers only, and no time: it is probed beside the samples.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis

from app.settings import Settings, masked_url
from app.wire.batch import Batch
from app.wire.connections import connect

log = logging.getLogger("arqscope.collector")

#: a healthy Redis gets this long to answer a sample
TIMEOUT_S: Final = 1.5
#: one with a problem gets less, so that the others keep their pace
PROBE_S: Final = 0.3
#: and is asked beside the samples, each time for this long
PROBE_PATIENCE_S: Final = 5.0


class Sources:
    """Clients of what is sampled, and what is known of how each answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.pace = Pace(settings.sample_interval_s)
        self.clients: dict[str, Redis] = {}
        self.problems: dict[str, str] = {}  #: source → why it did not answer, in words
        self.stale_since: dict[str, pd.Timestamp] = {}  #: source → its last answer
        self._good_at: dict[str, pd.Timestamp] = {}
        self._probes: dict[str, asyncio.Task[float]] = {}

    def client(self, source: str) -> Redis:
        """Return the one client of *source*."""
        if source not in self.clients:
            # the collector times a whole sample; a time-out per reply would cost more than the reply
            self.clients[source] = connect(
                self._settings.url(source),
                timeout_s=TIMEOUT_S,
                retries=0,
                max_connections=4,
                protocol=2,
                socket_timeout=None,
            )
        return self.clients[source]

    def take(self, problems: Mapping[str, str], stale_ms: Mapping[str, float]) -> None:
        """Know of the sources what another server found out."""
        self.problems = dict(problems)
        self.stale_since = {
            source: pd.Timestamp(int(ms * 1000), unit="us", tz="UTC")
            for source, ms in stale_ms.items()
        }

    async def close(self) -> None:
        """Close the clients; they are made again when asked for."""
        clients, self.clients = self.clients, {}
        await asyncio.gather(
            *(client.aclose(close_connection_pool=True) for client in clients.values()),
            return_exceptions=True,
        )

    def forget_probes(self) -> list[asyncio.Task[float]]:
        """Hand over the probes that may still run: the caller ends them."""
        probes, self._probes = list(self._probes.values()), {}
        return probes

    async def read(
        self, source: str, read: Callable[[Redis], Any], at: pd.Timestamp, *, is_timed: bool
    ) -> float:
        """Read one source; return the seconds it took, 0 when it did not answer."""
        url = self._settings.url(source)
        client = self.client(source)
        began = time.monotonic()
        patience = self._patience(source, is_timed=is_timed)
        try:
            if not patience:
                raise TimeoutError(self._silence(source, at))
            async with asyncio.timeout(patience):
                await read(client)
        except Exception as error:
            if source not in self.problems:
                self.stale_since[source] = self._good_at.get(source, at)
                log.warning(
                    "source lost",
                    extra={"source": source, "url": masked_url(url), "error": str(error)[:200]},
                )
            if patience:
                text = str(error)[:200] or f"no answer within {patience:g} s"
                self.problems[source] = f"{masked_url(url)}: {type(error).__name__}: {text}"
            return 0.0
        self._good_at[source] = at
        if self.problems.pop(source, None):
            log.info("source back", extra={"source": source})
        self.stale_since.pop(source, None)
        self._probes.pop(source, None)
        return time.monotonic() - began

    def _patience(self, source: str, *, is_timed: bool) -> float:
        """Seconds a source gets for this sample; 0: it is known not to answer, do not wait for it.

        A timed sample does not wait for a source with a problem: a probe beside it finds out when,
        and how fast, it answers again, so that the others keep their pace.
        """
        if not is_timed:
            return PROBE_S if source in self.problems else TIMEOUT_S
        if source not in self.problems:
            return min(TIMEOUT_S, max(0.5, 0.8 * self.pace.interval_s))
        probe = self._probes.get(source)
        if probe is None or (probe.done() and not _answered(probe)):
            self._probes[source] = asyncio.get_running_loop().create_task(
                self._probe(self.client(source)), name=f"arqscope-probe-{source}"
            )
            return 0.0
        if not probe.done():
            return 0.0
        self.pace.note(probe.result())
        return min(TIMEOUT_S, max(PROBE_S, 3 * probe.result()))

    async def _probe(self, redis: Redis) -> float:
        """Return the seconds Redis takes to answer; what redis-py raises when it does not."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_PATIENCE_S):
                batch = Batch(redis)
                batch.ask(_heard, "PING")
                await batch.run()
        except BaseException:
            await redis.connection_pool.disconnect(inuse_connections=False)
            raise
        return time.monotonic() - began

    def _silence(self, source: str, at: pd.Timestamp) -> str:
        since = self.stale_since.get(source, at)
        return f"no answer for {(at - since).total_seconds():.0f} s"


def _heard(reply: object) -> None:
    """Take the answer to a PING."""


def _answered(probe: "asyncio.Task[float]") -> bool:
    return not probe.cancelled() and probe.exception() is None


class Pace:
    """How long to wait between samples: longer, up to three times, while Redis is slow.

    Three times, because charts call more than 3.5 intervals without a sample a gap.
    """

    def __init__(self, interval_s: float) -> None:
        self._base_s = interval_s
        self._factor = 1.0

    @property
    def interval_s(self) -> float:
        """Seconds between two samples now."""
        return self._base_s * self._factor

    def note(self, took_s: float) -> None:
        """Take the seconds the slowest source took for a sample."""
        if took_s > 0.4 * self.interval_s:
            self._factor = min(3.0, self._factor * 1.5)
        elif took_s < 0.1 * self.interval_s:
            self._factor = max(1.0, self._factor / 1.2)
