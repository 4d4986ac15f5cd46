"""The runner of operations: takes up what is open, one lease each, and drives it until it ends.

Part of the dead-letter process; several share the operations among them. A runner that is killed
loses its leases within ``LEASE_MS``, and another goes on behind what was done.
"""

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from typing import Final

from redis.exceptions import RedisError

from app import operations
from app.errors import ActionRefused
from app.operations import OperationState
from app.operations.drive import drive
from app.payloads.codec import safe_str
from app.wire.connections import Connections
from workers.leadership import Lease

log = logging.getLogger("arqscope.operations")

ROUND_S: Final = 0.5
LEASE_MS: Final = 10_000
#: operations one process drives at a time
AT_ONCE: Final = 10


class OperationRunner:
    """Looks for open operations round by round and drives each in a task of its own."""

    def __init__(self, connections: Connections, *, lease_ms: int = LEASE_MS) -> None:
        self._connections = connections
        self._lease_ms = lease_ms
        self._token = secrets.token_hex(8)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self.trouble = ""

    @property
    def driven(self) -> list[str]:
        """Ids of the operations this process drives now."""
        return sorted(self._tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop*; then give the leases back, so that another goes on at once."""
        while not stop.is_set():
            try:
                await self.round()
                self.trouble = ""
            except Exception as error:  # redis-py also raises AttributeError, RuntimeError …
                self._on_trouble(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await stop.wait()
        self._stop.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def round(self) -> None:
        """Take up what nobody drives."""
        for operation in await operations.still_open(self._connections.queue):
            if len(self._tasks) >= AT_ONCE:
                return
            if operation.id in self._tasks or operation.state is OperationState.PAUSED:
                continue
            if await self._lease(operation.id).hold(self._lease_ms):
                task = asyncio.create_task(self._drive(operation.id))
                self._tasks[operation.id] = task
                task.add_done_callback(functools.partial(self._ended, operation.id))

    def _lease(self, operation_id: str) -> Lease:
        return Lease(self._connections.queue, f"operation:{operation_id}", self._token)

    def _ended(self, operation_id: str, _: object) -> None:
        self._tasks.pop(operation_id, None)

    async def _drive(self, operation_id: str) -> None:
        lease = self._lease(operation_id)
        held_until = time.monotonic() + self._lease_ms / 1000

        async def renew() -> None:
            nonlocal held_until
            while True:
                await asyncio.sleep(self._lease_ms / 4000)
                with contextlib.suppress(Exception):
                    began = time.monotonic()
                    held = await lease.hold(self._lease_ms)
                    held_until = began + self._lease_ms / 1000 if held else 0.0

        renewing = asyncio.create_task(renew())
        try:
            ended = await drive(
                self._connections,
                operation_id,
                token=self._token,
                stop=self._stop,
                hold=lambda: time.monotonic() < held_until,
            )
            log.info(
                "operation driven",
                extra={
                    "operation": operation_id,
                    "kind": ended.kind,
                    "state": str(ended.state),
                    "done": ended.done,
                    "matched": ended.matched,
                    "note": ended.note,
                },
            )
        except ActionRefused:
            log.info("operation is driven elsewhere", extra={"operation": operation_id})
        except Exception as error:  # the next round takes it up again
            self._on_trouble(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stop.wait()
        finally:
            renewing.cancel()
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await lease.give_back()

    def _on_trouble(self, error: Exception) -> None:
        text = safe_str(error, 400)
        if text != self.trouble:
            log.error("operations in trouble", extra={"trouble": text}, exc_info=error)
        self.trouble = text
