"""The dead-letter processor as a process: rounds on every queue server, alerts sent, operations driven, one heartbeat.

What is decided about a letter, and how, is in ``workers.letters``.
"""

import asyncio
import logging
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from app import logs, parcels
from app.doctor.preflight import check
from app.errors import ArqscopeError
from app.payloads.codec import safe_str
from app.settings import Settings
from app.wire.connections import Connections, connect, shards_of
from workers.alerts.channels import Deliveries, Sender, channels_of
from workers.cancellation import end
from workers.heartbeat import Heartbeat
from workers.letters.rounds import ROLE, DeadLetterProcessor
from workers.operations import OperationRunner

log = logging.getLogger("arqscope.dead_letters")

CARRY_S: Final = 0.25  #: between two looks for jobs on their way to another queue server


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run one processor with its own connections and heartbeat until *stop*."""
    connections = Connections(
        queue=connect(settings.url("queue"), timeout_s=5.0),
        streams=connect(settings.url("streams"), timeout_s=5.0),
        # alerts can wait, letters cannot: a cache that hangs costs a round little
        cache=connect(settings.url("cache"), timeout_s=1.0),
        shards=shards_of(settings, timeout_s=5.0),
        placement=settings.placement,
    )
    channels = channels_of(settings)
    # one per queue server, each with its own lease there: a server that is away holds up its own only
    processors = [
        DeadLetterProcessor(
            settings,
            redis,
            connections.streams,
            connections.cache,
            channels=channels,
            server=name,
            home=connections.queue,
        )
        for name, redis in connections.queue_servers.items()
    ]
    processor = processors[0]
    sender = Sender(settings.alert_host_list)
    deliveries = Deliveries(connections.cache, channels, sender, lambda: processor.leads)
    beside = [asyncio.create_task(one.watch(), name="alert-watch") for one in processors]
    if connections.shards:
        beside += [
            asyncio.create_task(_carry(connections, one), name=f"carry {one.server}")
            for one in processors
        ]
    if channels:
        beside.append(asyncio.create_task(deliveries.run(), name="alert-deliveries"))
    runner = OperationRunner(connections)

    def describe() -> Mapping[str, Any]:
        facts = {
            **_together(processors),
            "operations": len(runner.driven),
            "alerts_sent": deliveries.sent,
            "alerts_trouble": deliveries.trouble,
        }
        if runner.trouble and not facts["trouble"]:
            facts |= {"state": "degraded", "trouble": runner.trouble}
        return facts

    heartbeat = Heartbeat(
        connections.queue, ROLE, settings.dlq_queue_name,
        describe=describe, beat_file=settings.beat_file,
    )  # fmt: skip
    await heartbeat.start()
    try:
        await asyncio.gather(*(one.run(stop) for one in processors), runner.run(stop))
    finally:
        await end(beside)
        await sender.close()
        await heartbeat.stop()
        await connections.close()


async def _carry(connections: Connections, processor: DeadLetterProcessor) -> None:
    """While *processor* leads on its server, bring that server's parcels to the others, until cancelled."""
    while True:
        try:
            if processor.leads:
                await parcels.carry(connections, processor.server)
        except (ArqscopeError, RedisError, OSError) as error:
            log.warning(
                "parcels not carried",
                extra={"server": processor.server, "error": safe_str(error, 200)},
            )
        await asyncio.sleep(CARRY_S)


def _together(processors: Sequence[DeadLetterProcessor]) -> Mapping[str, Any]:
    """What the heartbeat says of all: the home's words, everybody's troubles and decisions."""
    facts = dict(processors[0].describe())
    for one in processors[1:]:
        told = one.describe()
        if told["trouble"]:
            text = f"{one.server}: {told['trouble']}"
            facts["trouble"] = "; ".join(filter(None, (facts["trouble"], text)))
            facts["state"] = "degraded"
        for name, count in told.items():
            if name.startswith("decided_"):
                facts[name] += count
    return facts


def main(settings: Settings | None = None) -> None:
    """Run the process; SIGTERM and SIGINT end it after the letter in hand, with exit code 0."""
    settings = settings or Settings.load()
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    asyncio.run(_until_signalled(settings))


async def _until_signalled(settings: Settings) -> None:
    await check(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await serve(settings, stop)


if __name__ == "__main__":
    main()
