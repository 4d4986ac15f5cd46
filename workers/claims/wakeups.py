"""How an idle worker learns that there is work: wake tokens, keyspace events, due times, a slow poll.

Our producers push a token onto the wake list. Stock arq producers do not; where the server sends
keyspace events they are heard at once, elsewhere the poll sees them. Control messages arrive here too.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final, cast

from redis.asyncio import ConnectionPool, Redis

from app import keys
from app.payloads.codec import safe_str
from app.wire.connections import pool_arguments
from workers.cancellation import end

log = logging.getLogger("arqscope.worker")

#: s between two looks of an idle worker at the head of its queue: what stock producers may wait
#: where the server sends no keyspace events
POLL_S: Final = 0.5
POLL_WITH_EVENTS_S: Final = 5.0
#: s one blocking read lasts; polls go on beside it
BLOCK_S: Final = 10.0


class Wakeups:
    """The ears of one worker. ``stir`` wakes it from inside: a slot is free, it must stop."""

    def __init__(
        self,
        redis: Redis,
        queue: str,
        *,
        poll_s: float,
        on_trouble: Callable[[str], None],
        on_control: Callable[[bytes], None],
    ) -> None:
        self._redis = redis
        self._queue = queue
        self._poll_s = min(POLL_S, poll_s)
        self._on_trouble = on_trouble
        self._on_control = on_control
        self._has_events = False
        self._blocking: Redis | None = None
        self._pop: asyncio.Task[Any] | None = None  #: the blocking read, kept over several polls
        self._stirred = asyncio.Event()
        self.clock_offset_ms = 0.0  #: Redis' clock minus ours, as the last claim told

    @property
    def is_listening(self) -> bool:
        """Whether the blocking connection exists: the worker has been idle before."""
        return self._blocking is not None

    def stir(self) -> None:
        """Wake the worker."""
        self._stirred.set()

    def forget(self) -> None:
        """Forget past stirs; called before a claim is sent, so that none during it is missed."""
        self._stirred.clear()

    async def stirred(self, limit_s: float) -> bool:
        """Wait until ``stir`` or *limit_s*; whether it was stirred."""
        try:
            async with asyncio.timeout(limit_s):
                await self._stirred.wait()
        except TimeoutError:
            return False
        return True

    async def idle(self, next_due_ms: int | None, *, paused: bool) -> None:
        """Sleep until there may be work for the free slots; when *paused* until stirred or the poll."""
        poll_s = POLL_WITH_EVENTS_S if self._has_events else self._poll_s
        while True:
            limit_s, due_s = poll_s, float("inf")
            if next_due_ms is not None:
                due_s = max(0.0, (next_due_ms - self._now_ms()) / 1000)
                limit_s = min(limit_s, due_s)
            if limit_s <= 0.001:
                await asyncio.sleep(limit_s)
                return
            if paused:
                await self.hang_up()
                await self.stirred(min(limit_s, POLL_S))
                return
            if await self._signalled(limit_s) or due_s <= limit_s or await self._head_is_due():
                return

    async def hang_up(self) -> None:
        """End the blocking read: a worker that can take no job must not take a token either."""
        pop, self._pop = self._pop, None
        if pop is None or self._blocking is None:
            return
        await end([pop])
        with contextlib.suppress(Exception):  # the cancelled read could still take one
            await self._blocking.connection_pool.disconnect()

    async def listen(self) -> None:
        """Hear control messages and the queue's keyspace events until cancelled."""
        database = int(self._redis.connection_pool.connection_kwargs.get("db", 0))
        control = keys.control(self._queue, database)
        space = f"__keyspace@{database}__:{self._queue}"
        while True:
            self._has_events = await self._server_sends_events()
            client = Redis.from_pool(ConnectionPool(**self._connection_arguments(None)))
            try:
                async with client.pubsub() as channel:
                    await channel.subscribe(control, space)
                    while True:
                        message = await channel.get_message(
                            ignore_subscribe_messages=True, timeout=30
                        )
                        if message is None:
                            continue
                        if message["channel"].decode() == control:
                            self._on_control(message["data"])
                        elif message["data"] in (b"zadd", b"zincr"):
                            self._stirred.set()
            except Exception as error:  # redis-py also raises AttributeError, RuntimeError …
                self._has_events = False
                self._on_trouble(f"control channel lost: {safe_str(error, 200)}")
                await asyncio.sleep(0.2 + random.random() * 0.8)  # noqa: S311
            finally:
                with contextlib.suppress(Exception):  # closing what is broken must not end the ears
                    await client.aclose(close_connection_pool=True)

    async def close(self) -> None:
        """Close the blocking connection."""
        await self.hang_up()
        if self._blocking is not None:
            await self._blocking.aclose(close_connection_pool=True)

    def _now_ms(self) -> float:
        return time.time() * 1000 + self.clock_offset_ms

    async def _signalled(self, limit_s: float) -> bool:
        """Wait for a token, a stir or *limit_s*; whether to claim now. The read outlives the wait."""
        client = self._blocking
        if client is None:
            arguments = self._connection_arguments(BLOCK_S + 10)
            client = self._blocking = Redis.from_pool(ConnectionPool(**arguments))
        if self._pop is None:
            blocked = cast(Any, client).blpop([keys.wake(self._queue)], timeout=BLOCK_S)
            self._pop = asyncio.get_running_loop().create_task(blocked)
        stir = asyncio.ensure_future(self._stirred.wait())
        try:
            await asyncio.wait(
                {self._pop, stir}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stir.cancel()
        if not self._pop.done():
            return self._stirred.is_set()
        pop, self._pop = self._pop, None
        try:
            return pop.result() is not None
        except Exception as error:  # redis-py also raises AttributeError, RuntimeError …
            self._on_trouble(f"cannot wait for jobs: {safe_str(error, 200)}")
            await self.stirred(0.2)
            return True

    async def _head_is_due(self) -> bool:
        try:
            head = await cast(Any, self._redis.zrange(self._queue, 0, 0, withscores=True))
        except Exception:  # redis-py also raises AttributeError, RuntimeError …
            return True  # the claim will meet the same error, and reports it
        return bool(head) and head[0][1] <= self._now_ms()

    async def _server_sends_events(self) -> bool:
        try:
            flags = await self._redis.config_get("notify-keyspace-events")
        except Exception:  # an ACL that hides CONFIG; redis-py also raises RuntimeError …
            return False
        enabled = str(flags.get("notify-keyspace-events", ""))
        return "K" in enabled and ("z" in enabled or "A" in enabled)

    def _connection_arguments(self, timeout_s: float | None) -> dict[str, Any]:
        """Arguments of a pool to the same server for reads that block."""
        source = self._redis.connection_pool
        arguments = dict(source.connection_kwargs)
        arguments["connection_class"] = source.connection_class
        arguments.update(pool_arguments(timeout_s=timeout_s or 60.0, retries=0))
        arguments["socket_timeout"] = timeout_s
        arguments["socket_connect_timeout"] = 2.0
        if "path" in arguments:
            arguments.pop("socket_keepalive")
            arguments.pop("socket_keepalive_options")
        return arguments
