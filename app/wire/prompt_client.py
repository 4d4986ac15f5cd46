"""A Redis client for requests: every command ends in time, and those of one loop turn share a round trip.

Requests that wait for the same Redis at the same moment send their commands together; a command alone goes
as it would. Not for commands that block: they would hold the others up. However many commands a request sends
one after another, it waits for a silent Redis once: see ``Patience``.
"""

import asyncio
import builtins
import functools
import time
from collections.abc import Awaitable, Sequence
from contextvars import Context, ContextVar
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import (
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's name
)

#: commands of one round trip, at most
MOST: Final = 64
#: arguments of a command that goes alone: what is long to send must not hold up what is short
MANY_ARGUMENTS: Final = 64

#: s a command may take at least, though its request began long ago
LEAST_S: Final = 0.4
#: s after which a request is one that takes its time (an export, a task it left behind): told late anyway
OVER_S: Final = 3.0
#: a command with at least this share of the client's time left has no timer of its own
_NEARLY: Final = 0.9
_NOBODY: Final = Context()

Waiting = tuple[tuple[Any, ...], dict[str, Any], "asyncio.Future[Any]"]


class Patience:
    """What one request may wait for a silent Redis: counted from its arrival, spent once."""

    __slots__ = ("_arrived_at", "_is_spent")

    def __init__(self, waited_s: float = 0.0) -> None:
        self._arrived_at = time.monotonic() - min(max(waited_s, 0.0), OVER_S)
        self._is_spent = False

    def left_s(self, most_s: float) -> float:
        """Return what the next command may take of *most_s*; 0: this request ran into silence before."""
        age_s = time.monotonic() - self._arrived_at
        if age_s >= OVER_S:
            return most_s
        return 0.0 if self._is_spent else max(min(LEAST_S, most_s), most_s - age_s)

    def spend(self) -> None:
        """Note that a command was not answered in time."""
        self._is_spent = True


#: of the request that is answered here; none: every command has its full time
patience: Final[ContextVar[Patience | None]] = ContextVar("patience", default=None)


async def in_time(client: Any, made: Awaitable[Any]) -> Any:
    """Await *made*, a round trip of *client*; redis-py's TimeoutError where a prompt one takes too long."""
    limit_s = getattr(client, "answer_within_s", 0.0)
    if not limit_s:
        return await made
    mine = patience.get()
    if mine is not None:
        limit_s = mine.left_s(limit_s)
    try:
        async with asyncio.timeout(limit_s):
            return await made
    except builtins.TimeoutError as error:
        if mine is not None:
            mine.spend()
        raise _late(limit_s) from error


class _Prompt:
    """Mixed into Redis."""

    answer_within_s = 0.0
    _waiting: list[Waiting]
    _under_way: set["asyncio.Task[None]"]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; redis-py's TimeoutError after ``answer_within_s``, sooner where patience is short."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if len(args) > MANY_ARGUMENTS:
            self._send_soon([(args, options, answer)])
        else:
            if not self._waiting:
                # in nobody's context: what is sent together is of several requests
                loop.call_soon(self._send_waiting, context=_NOBODY)
            self._waiting.append((args, options, answer))
        mine = patience.get()
        if mine is None:
            return await answer
        limit_s = mine.left_s(self.answer_within_s)
        timer = None
        if limit_s < self.answer_within_s * _NEARLY:
            timer = loop.call_later(limit_s, _expire, answer, limit_s)
        try:
            return await answer
        except TimeoutError:
            mine.spend()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Return a pipeline that ends in time, too."""
        made = super().pipeline(transaction, shard_hint)  # type: ignore[misc]
        kind: Any = type(made)
        made.__class__ = _prompt(kind)
        made.answer_within_s = self.answer_within_s
        return made

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MOST):
            self._send_soon(waiting[start : start + MOST])

    def _send_soon(self, batch: list[Waiting]) -> None:
        task = asyncio.get_running_loop().create_task(self._send(batch), context=_NOBODY.copy())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _send(self, batch: list[Waiting]) -> None:
        """Send *batch* and give each its reply, or the error that met it."""
        replies: Sequence[Any]
        try:
            async with asyncio.timeout(self.answer_within_s):
                replies = await self._exchange(batch)
        except asyncio.CancelledError:
            for _, _, answer in batch:
                answer.cancel()
            raise
        except builtins.TimeoutError:
            replies = [_late(self.answer_within_s) for _ in batch]
        except Exception as error:
            replies = [error] * len(batch)
        for (_, _, answer), reply in zip(batch, replies, strict=True):
            if answer.done():  # whoever asked has gone
                continue
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

    async def _exchange(self, batch: Sequence[Waiting]) -> list[Any]:
        """One round trip on one connection; twice where the connection was of a server that restarted.

        By itself: redis-py's pipeline costs half of what a small command does.
        """
        client: Any = self
        pool = client.connection_pool
        connection = await pool.get_connection()

        async def again(_: Exception) -> None:
            await connection.disconnect()

        try:
            replies: list[Any] = await connection.retry.call_with_retry(
                lambda: self._talk(connection, batch), again
            )
            return replies
        finally:
            await pool.release(connection)

    async def _talk(self, connection: Any, batch: Sequence[Waiting]) -> list[Any]:
        client: Any = self
        packed = [part for args, _, _ in batch for part in connection.pack_command(*args)]
        await connection.send_packed_command(b"".join(packed))
        replies = []
        for args, options, _ in batch:
            try:
                replies.append(await client.parse_response(connection, args[0], **options))
            except ResponseError as error:
                replies.append(error)
        return replies


class _PromptPipeline:
    """Mixed into Pipeline: the same for its one round trip."""

    answer_within_s = 0.0

    async def execute(self, raise_on_error: bool = True) -> Any:
        """Send the commands; redis-py's TimeoutError after ``answer_within_s``, or sooner."""
        return await in_time(self, super().execute(raise_on_error))  # type: ignore[misc]


def promptly(client: Redis, answer_within_s: float) -> Redis:
    """Make *client* answer or fail within *answer_within_s*, and return it."""
    kind: Any = type(client)
    client.__class__ = _prompt(kind)
    made = cast(Any, client)
    made.answer_within_s = answer_within_s
    made._waiting, made._under_way = [], set()
    return client


def _late(after_s: float) -> TimeoutError:
    if after_s <= 0:
        return TimeoutError("no answer to the command before")
    return TimeoutError(f"no answer within {after_s:.2g} s")


def _expire(answer: "asyncio.Future[Any]", after_s: float) -> None:
    if not answer.done():
        answer.set_exception(_late(after_s))


@functools.cache
def _prompt(kind: Any) -> Any:
    mixin: Any = _PromptPipeline if issubclass(kind, Pipeline) else _Prompt
    return type(f"Prompt{kind.__name__}", (mixin, kind), {})
