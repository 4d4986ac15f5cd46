"""What happens to a source with more open dead letters than the cap: the oldest go to a file, and it is told."""

import json
import logging
from datetime import UTC, datetime
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.payload import safe_str
from app.redrive import Shelf
from app.scripts import script
from app.settings import Settings
from app.spill import spill
from workers.alerts import LIST_KEPT, LIST_TTL_S, WINDOW_S

log = logging.getLogger("arqscope.dead_letters")

#: folder in ARQSCOPE_DATA_DIR
FOLDER: Final = "dead-letters"


async def relieve(shelf: Shelf, settings: Settings, cache: Redis) -> int:
    """Move what is beyond the cap to a file and put an alert on ``dlq:alerts``; returns how many.

    A file that cannot be written is told too: the letters stay in Redis, over the cap.
    """
    folder = settings.data_dir / FOLDER
    try:
        moved = await spill(shelf, folder, settings.dead_letter_cap)
    except OSError as error:
        text = f"dead letters over the cap cannot be moved to {folder}: {safe_str(error, 200)}"
        log.error("dead letters not spilled", extra={"source": shelf.source, "error": text})
        await _tell(cache, shelf, text, "critical")
        return 0
    if moved.letters and moved.file is not None:
        text = (
            f"{moved.letters:,} dead letters beyond the cap of {settings.dead_letter_cap:,} were "
            f"moved to {moved.file.name}; `arqscope dlq import` brings them back"
        )
        log.warning("dead letters spilled", extra={"source": shelf.source, "told": text})
        await _tell(cache, shelf, text, "warning")
    return moved.letters


async def _tell(cache: Redis, shelf: Shelf, text: str, severity: str) -> None:
    notice = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "action": "ALERT",
        "severity": severity,
        "kind": shelf.kind,
        "source": shelf.source,
        "errorType": "DeadLetterCap",
        "error": text,
        "reason": "more open dead letters than ARQSCOPE_DEAD_LETTER_CAP",
        "rule": "cap",
    }
    name = keys.DLQ_ALERTS
    try:
        await script(__file__, "push_alert").run(
            cache,
            [name, f"{name}:seen:cap:{shelf.source}:{severity}"],
            [json.dumps(notice), WINDOW_S * 1000, LIST_KEPT, LIST_TTL_S * 1000],
        )
    except (RedisError, OSError) as error:  # it is in the log
        log.error("alert not put", extra={"source": shelf.source, "error": safe_str(error, 200)})
