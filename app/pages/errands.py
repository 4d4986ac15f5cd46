"""Errands: what one visit has under way beside its answers; all of it ends with the visit."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Errands:
    """Tasks on the loop that runs, each kept until it has ended."""

    def __init__(self) -> None:
        self.under_way: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin *work*."""
        task = asyncio.get_running_loop().create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    def stop(self) -> None:
        """Let none go on."""
        for task in self.under_way:
            task.cancel()


__all__ = ["Errands"]
