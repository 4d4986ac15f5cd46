"""Ending tasks for certain: a cancellation that a library swallows is asked for again.

redis-py waits under ``async_timeout``; where the reply and the cancellation come in one turn of the
loop, the cancellation is taken for the time-out's own and lost, and the task runs on (seen once in
some fifty stops with redis-py 5.3 on Python 3.11).
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

AGAIN_S: Final = 0.2
#: s a cancelled job may clean up before it is cancelled again
JOB_AGAIN_S: Final = 3.0
#: s the jobs a stopping worker cancelled may clean up, all in all; then they are laid back as they are.
#: The worker has left 2 s after its drain time, its own goodbyes included
STOP_GRACE_S: Final = 1.5
#: s after which a stopping worker cancels again those that swallowed it: within the grace
STOP_AGAIN_S: Final = 0.75


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* until every one has ended; what they raise is dropped."""
    all_of_them = list(tasks)
    while left := {task for task in all_of_them if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*all_of_them, return_exceptions=True)
