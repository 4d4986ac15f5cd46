"""How late this machine wakes whoever sleeps: what a loaded machine adds to any time a test measures."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tests.faults.rig import FULL

STEP_S: Final = 0.02
#: s a sleeper is late on a machine that has nothing else to do
USUAL_S: Final = 0.01


class Lateness:
    """Seconds of lateness met so far, added up; 0 at the sizes of FAULTS.md, where bounds hold as they are."""

    s = 0.0


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Sleep beside the test in short steps, and add up what each took too long.

    The slice of CI runs beside whatever else the machine does. What its bounds claim is about our
    processes, which are as late as this one for want of a core: a bound of 1 s is met by
    ``wait_s - late.s <= 1``.
    """
    met = Lateness()

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(STEP_S)
            met.s += max(0.0, time.monotonic() - before - STEP_S - USUAL_S)

    watching = asyncio.create_task(asyncio.sleep(0) if FULL else watch())
    try:
        yield met
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
