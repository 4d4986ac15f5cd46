"""A Redis client for requests: every command ends in time, and those of one loop turn share a round trip.

Requests that wait for the same Redis at the same moment send their commands together; a command alone goes
as it would. Not for commands that block: they would hold the others up.
"""

import asyncio
import builtins
import functools
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import TimeoutError  # noqa: A004 - redis-py's name

#: commands of one round trip, at most
MOST: Final = 64
#: arguments of a command that goes alone: what is long to send must not hold up what is short
MANY_ARGUMENTS: Final = 64

Waiting = tuple[tuple[Any, ...], dict[str, Any], "asyncio.Future[Any]"]


class _Prompt:
    """Mixed into Redis."""

    answer_within_s = 0.0
    _waiting: list[Waiting]
    _under_way: set["asyncio.Task[None]"]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; redis-py's TimeoutError after ``answer_within_s``."""
        if len(args) > MANY_ARGUMENTS:
            return await self._alone(args, options)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send_waiting)
        self._waiting.append((args, options, answer))
        return await answer

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
            task = asyncio.get_running_loop().create_task(self._send(waiting[start : start + MOST]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _send(self, batch: list[Waiting]) -> None:
        """Send *batch* and give each its reply, or the error that met it."""
        try:
            if len(batch) == 1:
                replies = [await self._alone(batch[0][0], batch[0][1])]
            else:
                pipe = self.pipeline(transaction=False)
                for args, options, _ in batch:
                    pipe.execute_command(*args, **options)
                replies = await pipe.execute(raise_on_error=False)
        except asyncio.CancelledError:
            for _, _, answer in batch:
                answer.cancel()
            raise
        except Exception as error:
            replies = [error] * len(batch)
        for (_, _, answer), reply in zip(batch, replies, strict=True):
            if answer.done():  # whoever asked has gone
                continue
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

    async def _alone(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self.answer_within_s):
                return await super().execute_command(*args, **options)  # type: ignore[misc]
        except builtins.TimeoutError as error:
            raise _late(self.answer_within_s) from error


class _PromptPipeline:
    """Mixed into Pipeline: the same for its one round trip."""

    answer_within_s = 0.0

    async def execute(self, raise_on_error: bool = True) -> Any:
        """Send the commands; redis-py's TimeoutError after ``answer_within_s``."""
        try:
            async with asyncio.timeout(self.answer_within_s):
                return await super().execute(raise_on_error)  # type: ignore[misc]
        except builtins.TimeoutError as error:
            raise _late(self.answer_within_s) from error


def promptly(client: Redis, answer_within_s: float) -> Redis:
    """Make *client* answer or fail within *answer_within_s*, and return it."""
    kind: Any = type(client)
    client.__class__ = _prompt(kind)
    made = cast(Any, client)
    made.answer_within_s = answer_within_s
    made._waiting, made._under_way = [], set()
    return client


def _late(after_s: float) -> TimeoutError:
    return TimeoutError(f"no answer within {after_s:g} s")


@functools.cache
def _prompt(kind: Any) -> Any:
    mixin: Any = _PromptPipeline if issubclass(kind, Pipeline) else _Prompt
    return type(f"Prompt{kind.__name__}", (mixin, kind), {})
