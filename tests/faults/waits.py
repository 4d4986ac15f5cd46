"""What a coroutine waits for: commands of the clients it was given, or anything else."""

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from redis.asyncio import Redis

T = TypeVar("T")


class Commands:
    """Counts the commands and pipelines of some clients, and how many are under way."""

    def __init__(self, *clients: Redis) -> None:
        self.sent = 0
        self.under_way = 0
        for client in clients:
            self._count(client, "execute_command")
            client.pipeline = self._counting_pipelines(client.pipeline)  # type: ignore[method-assign]

    def _counting_pipelines(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def pipeline(*args: Any, **more: Any) -> Any:
            pipe = plain(*args, **more)
            self._count(pipe, "execute")
            return pipe

        return pipeline

    def _count(self, holder: Any, name: str) -> None:
        plain = getattr(holder, name)

        async def counted(*args: Any, **more: Any) -> Any:
            self.sent += 1
            self.under_way += 1
            try:
                return await plain(*args, **more)
            finally:
                self.under_way -= 1

        setattr(holder, name, counted)


class Watched(Generic[T]):
    """Awaits a coroutine; ``apart`` is how often it gave the loop away while no command was under way.

    No clock: a wait of a millisecond shows as one of a minute does, on whatever machine.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], commands: Commands) -> None:
        self._coroutine = coroutine
        self._commands = commands
        self.apart = 0

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[[], Any] = lambda: self._coroutine.send(None)  # noqa: E731
        while True:
            try:
                future = step()
            except StopIteration as end:
                result: T = end.value
                return result
            self.apart += not self._commands.under_way
            try:
                yield future
            except BaseException as error:
                step = lambda e=error: self._coroutine.throw(e)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda: self._coroutine.send(None)  # noqa: E731
