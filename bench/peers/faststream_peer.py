"""faststream on a Redis stream with a group: `faststream_peer.py '{"port": …, "count": 0}'`.

``count`` 0: one message at a time; else batches of that many. It decodes the entry, runs the handler
and acknowledges; its own broker, started without its command.
"""

import asyncio
import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from faststream.redis import RedisBroker, StreamSub

logging.disable(logging.INFO)
options: dict[str, Any] = json.loads(sys.argv[1])
late: list[float] = []
broker = RedisBroker(f"redis://127.0.0.1:{options['port']}", logger=None)
many = {"batch": True, "max_records": options["count"]} if options["count"] else {}
sub = StreamSub(options["stream"], group=options["group"], consumer="me", **many)


def note(fields: dict[str, Any]) -> None:
    data = fields.get("data", fields)  # a single message is its data, decoded
    data = json.loads(data) if isinstance(data, str) else data
    if "sent_at" in data:
        late.append((time.time() - data["sent_at"]) * 1000)


if options["count"]:

    @broker.subscriber(stream=sub)
    async def handle_many(rows: list[Any]) -> None:
        for row in rows:
            note(row)

else:

    @broker.subscriber(stream=sub)
    async def handle(row: Any) -> None:
        note(row)


async def main() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await broker.start()
    await stopped.wait()


uvloop.run(main())
Path(options["out"]).write_text("".join(f"{ms:.3f}\n" for ms in late), "ascii")
