"""What happens to a source with more open dead letters than the cap: the oldest go to a file, and it is told."""

import logging
from typing import Final

from redis.exceptions import RedisError

from app.errors import ArqscopeError
from app.letters.redrive import Shelf
from app.letters.spill import spill
from app.payloads.codec import safe_str
from app.settings import Settings
from workers.alerts.notices import Alerts

log = logging.getLogger("arqscope.dead_letters")

#: folder in ARQSCOPE_DATA_DIR
FOLDER: Final = "dead-letters"


async def relieve(shelf: Shelf, settings: Settings, alerts: Alerts) -> int:
    """Move what is beyond the cap to a file and put an alert on ``dlq:alerts``; returns how many.

    A file that cannot be written is told too: the letters stay in Redis, over the cap.
    """
    folder = settings.data_dir / FOLDER
    try:
        moved = await spill(shelf, folder, settings.dead_letter_cap)
    except OSError as error:
        text = f"dead letters over the cap cannot be moved to {folder}: {safe_str(error, 200)}"
        log.error("dead letters not spilled", extra={"source": shelf.source, "error": text})
        await _tell(alerts, shelf, text, "critical")
        return 0
    if moved.letters and moved.file is not None:
        text = (
            f"{moved.letters:,} dead letters beyond the cap of {settings.dead_letter_cap:,} were "
            f"moved to {moved.file.name}; `arqscope dlq import` brings them back"
        )
        log.warning("dead letters spilled", extra={"source": shelf.source, "told": text})
        await _tell(alerts, shelf, text, "warning")
    return moved.letters


async def _tell(alerts: Alerts, shelf: Shelf, text: str, severity: str) -> None:
    try:
        await alerts.of_cap(shelf, text, severity)
    except (ArqscopeError, RedisError, OSError) as error:  # it is in the log
        log.error("alert not put", extra={"source": shelf.source, "error": safe_str(error, 200)})
