"""Departures: page sessions whose viewer left end at once, and what they held goes back to the system."""

import asyncio
import ctypes
import gc
import logging
from collections.abc import Callable
from typing import Any, Final

from bokeh.application.handlers import Handler
from bokeh.server.tornado import BokehTornado

log = logging.getLogger("arqscope.departures")

#: ms between two looks for sessions that ended; Bokeh's own is 17 s
LOOK_MS: Final = 2_000
#: s without another departure until memory is given back
CALM_S: Final = 3.0
#: s it waits at most while viewers go on leaving
PATIENCE_S: Final = 30.0


def _trimmer() -> Callable[[int], int] | None:
    """Return glibc's malloc_trim; None where the C library has none (musl, macOS, Windows)."""
    try:
        found: Any = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    return found  # type: ignore[no-any-return]


class Departures(Handler):
    """Told by Bokeh of every session that ended; once they have, collects and trims.

    A session is models that point at each other: it stays until the oldest generation is collected, and what
    was freed stays with the allocator until it is asked to return whole pages.
    """

    def __init__(self, calm_s: float = CALM_S, patience_s: float = PATIENCE_S) -> None:
        super().__init__()
        self.departed = 0  #: sessions, since memory was given back last
        self.tidied = 0  #: times memory was given back
        self._calm_s = calm_s
        self._patience_s = patience_s
        self._trim = _trimmer()
        self._due: asyncio.TimerHandle | None = None
        self._since = 0.0

    def modify_document(self, doc: Any) -> None:
        """Leave it: the page is another handler's."""

    async def on_session_destroyed(self, session_context: Any) -> None:  # noqa: ARG002 - Bokeh's signature
        """Count it, and put the tidying off while others leave too."""
        self.put_off(asyncio.get_running_loop())

    def put_off(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tidy when nobody has left for a while, at the latest ``patience_s`` after the first who did."""
        if not self.departed:
            self._since = loop.time()
        self.departed += 1
        if self._due is not None:
            self._due.cancel()
        wait = min(self._calm_s, max(0.0, self._since + self._patience_s - loop.time()))
        self._due = loop.call_later(wait, self._tidy)

    def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        departed, self.departed, self._due = self.departed, 0, None
        began = loop.time()
        gc.collect()
        collected = loop.time()
        if self._trim is not None:
            self._trim(0)
        self.tidied += 1
        log.debug(
            "memory given back",
            extra={
                "sessions": departed,
                "collect_ms": round((collected - began) * 1000, 1),
                "trim_ms": round((loop.time() - collected) * 1000, 1),
            },
        )


def watch(application: BokehTornado) -> None:
    """Look often for ended sessions of *application*, and give back what they held."""
    job: Any = application._cleanup_job
    job.callback_time = LOOK_MS
    if job.is_running():  # its first look is 17 s away
        job.stop()
        job.start()
    departures = Departures()
    for context in application.applications.values():
        context.application.add(departures)
