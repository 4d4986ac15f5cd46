"""Our event processor under measurement: `python -m bench.ours_events '{"port": …}'`.

The product's own process entry, with a no-op handler and one that stamps latencies; everything else
at its defaults.
"""

import cProfile
import json
import sys
import time
from pathlib import Path
from typing import Any

from app.settings import Settings
from app.streams.events import Event
from workers import event_processor
from workers.event_router import on
from workers.events.context import EventContext

_late: list[float] = []


@on("bench.noop")
async def noop(event: Event, context: EventContext) -> None:
    """Do nothing."""


@on("bench.mark")
async def mark(event: Event, context: EventContext) -> None:
    """Remember how late the event is."""
    _late.append((time.time() - event.data["sent_at"]) * 1000)


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    url = f"redis://127.0.0.1:{options['port']}/0"
    settings = Settings(
        redis_url=url,
        redis_streams_url=url,
        redis_queue_url=url,
        stream_name=options["stream"],
        stream_consumer_group=options["group"],
        log_level="WARNING",
    )
    profile = cProfile.Profile()
    if options.get("profile"):
        profile.enable()
    try:
        event_processor.main(settings)
    finally:
        if options.get("profile"):
            profile.disable()
            profile.dump_stats(options["profile"])
        Path(options["out"]).write_text("".join(f"{ms:.3f}\n" for ms in _late), "ascii")


if __name__ == "__main__":
    main()
