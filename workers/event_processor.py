"""The event processor: reads streams in consumer groups, runs handlers, loses and doubles nothing.

Own pending entries come first, then orphans of processors that went away, then new ones. Entries of
one partition (workspace, else user) are handled in order, partitions beside each other. All streams
share the slots of the process, so that an entry suspected of killing it runs alone in it.
"""

import asyncio
import gc
import logging
import random
import signal
from collections.abc import Mapping
from typing import Any, Final

from redis.exceptions import RedisError

from app import logs
from app.doctor.preflight import check
from app.settings import Settings
from app.streams.triggers import load_rules
from app.wire.connections import Connections, connect, shards_of
from workers.cancellation import end
from workers.event_router import Registry, load_handlers
from workers.events import triggers
from workers.events.attempt import SUSPECT_DELIVERIES
from workers.events.lanes import Lanes
from workers.events.source import EventSource, Held
from workers.heartbeat import Heartbeat

try:
    import uvloop
except ImportError:  # no wheel for this platform: asyncio's own loop serves
    uvloop = None  # type: ignore[assignment]

log = logging.getLogger("arqscope.events")

HOUSEKEEPING_S: Final = 30.0
#: s a stopping processor spends on giving back what it holds, when Redis is away
GOODBYE_S: Final = 3.0
#: objects made before the youngest are looked through for garbage
GC_THRESHOLD: Final = 10_000


class EventProcessor:
    """Handle the events of ``settings.streams`` until stopped; several may run side by side."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        policies = settings.streams
        # A repeated XREADGROUP would skip the entries of a lost reply, so this client never repeats.
        self._blocking = connect(
            settings.url("streams"),
            timeout_s=settings.block_time / 1000 + 5,
            retries=0,
            max_connections=len(policies) + 1,
        )
        self._connections = Connections(
            queue=connect(settings.url("queue")),
            streams=connect(settings.url("streams"), timeout_s=5, retries=2),
            cache=connect(settings.url("cache")),
            shards=shards_of(settings),
            placement=settings.placement,
        )
        self._stopping = asyncio.Event()
        self._drain_s = settings.drain_s
        self._lanes: Lanes[Held] = Lanes(
            lambda held: held[0].settle(held[1]),
            settings.concurrency,
            is_alone=lambda held: held[1].deliveries >= SUSPECT_DELIVERIES,
        )
        self._sources = [
            EventSource(
                settings,
                policy,
                registry,
                self._lanes,
                self._connections,
                self._blocking,
                is_stopping=self._stopping.is_set,
            )
            for policy in policies
        ]
        names = ",".join(policy.name for policy in policies)
        self._heartbeat = Heartbeat(
            self._connections.queue, "events", names,
            describe=self.describe, beat_file=settings.beat_file,
        )  # fmt: skip
        for source in self._sources:
            source.worker_id = self._heartbeat.id

    def stop(self) -> None:
        """Take no new entry and drain; called again, do not wait for running handlers."""
        if self._stopping.is_set():
            self._drain_s = 0.0
        self._stopping.set()
        self._lanes.stop()

    async def run(self) -> None:
        """Process until ``stop``; returns when everything held is settled or given back."""
        await self._heartbeat.start()
        fault = self._lanes.fault = asyncio.get_running_loop().create_future()
        keeping = [asyncio.create_task(self._keep_house(), name="keep-house")]
        reading = []
        for source in self._sources:
            name = source.policy.name
            keeping += [
                asyncio.create_task(source.acknowledge(), name=f"acknowledge {name}"),
                asyncio.create_task(source.intake.keep_held(), name=f"keep {name}"),
            ]
            reading.append(asyncio.create_task(source.intake.read(), name=f"read {name}"))
        stopped = asyncio.create_task(self._stopping.wait(), name="stopped")
        log.info(
            "event processor started",
            extra={
                "stream": ",".join(source.policy.name for source in self._sources),
                "consumer": self._settings.consumer_name,
            },
        )
        try:
            ended, _ = await asyncio.wait(
                {*keeping, *reading, stopped, fault}, return_when=asyncio.FIRST_COMPLETED
            )
            self._stopping.set()
            for one in ended:  # anything but a stop is a fault of ours: die loudly
                one.result()
            await end(reading)
            await self._lanes.drain(self._drain_s)
        finally:
            fault.cancel()
            await end([*keeping, *reading, stopped])
            await self._leave()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE_S):
                await asyncio.gather(*(source.leave(self._gone_ms) for source in self._sources))
        except TimeoutError:
            log.warning("entries not given back", extra={"error": "Redis is too slow or away"})
        await self._heartbeat.stop()
        await self._blocking.aclose(close_connection_pool=True)
        await self._connections.close()
        log.info("event processor stopped", extra={"held": self._held})

    def describe(self) -> Mapping[str, Any]:
        """What the heartbeat says of this process."""
        state = "draining" if self._stopping.is_set() else "running"
        trouble = "; ".join(
            dict.fromkeys(
                text
                for source in self._sources
                for text in (source.intake.trouble, source.outage)
                if text
            )
        )
        return {
            "slots": self._settings.concurrency,
            "busy": self._lanes.busy,
            "state": "degraded" if trouble else state,
            "trouble": trouble,
            "functions": ",".join(self._registry.patterns),
            "held": self._held,
        }

    @property
    def _held(self) -> int:
        return sum(len(source.intake.held) for source in self._sources)

    async def _keep_house(self) -> None:
        wait_s = min(self._settings.lease_s, HOUSEKEEPING_S)
        while True:
            await asyncio.sleep(wait_s * (0.75 + random.random() / 2))  # noqa: S311
            wait_s = HOUSEKEEPING_S
            for source in self._sources:
                try:
                    await source.keep_house(self._gone_ms)
                except (RedisError, OSError) as error:
                    await source.intake.suffer(error)

    @property
    def _gone_ms(self) -> int:
        """Silence after which a consumer is taken as gone: twice what any live one ever keeps."""
        return max(int(2000 * self._settings.lease_s), 4 * self._settings.block_time)


async def _serve(settings: Settings) -> None:
    await check(settings)
    registry = load_handlers(settings)
    triggers.register(registry, load_rules(settings))
    processor = EventProcessor(settings, registry)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, processor.stop)
    await processor.run()


def main(settings: Settings | None = None) -> None:
    """Run the processor until SIGTERM or SIGINT, drain, return."""
    settings = settings or Settings.load()
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    # A held entry is a handful of objects without cycles; collecting at each 700th costs a tenth.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    factory = None if uvloop is None else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(settings))


if __name__ == "__main__":
    main()
