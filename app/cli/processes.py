"""Commands that start processes: the stack, the server, workers, processors."""

import asyncio
import signal
import socket
from collections.abc import Sequence
from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError

from app import __version__
from app.child import die_with_parent
from app.cli.terminal import reachable_settings, say
from app.errors import ArqscopeError
from app.liveness import living
from app.placement import HOME
from app.records import WorkerInfo
from app.settings import Settings
from app.wire.connections import connect, explained


class Role(StrEnum):
    """What a process beats as."""

    WORKER = "worker"
    EVENTS = "events"
    DEAD_LETTERS = "dead-letters"


def add_to(app: typer.Typer) -> None:
    """Add them to the command itself."""
    for command in (up, serve, worker, events, alive, version):
        app.command()(command)
    app.command("dead-letters")(dead_letters)


def up(
    demo: Annotated[
        bool, typer.Option("--demo", help="Add a realistic load, failures included.")
    ] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65_535, help="Port of the dashboard.")
    ] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Start everything here: Redis (unless REDIS_* name yours), workers, processors, dashboard."""
    from rich.console import Console

    from app.stack import Stack

    if with_parent:  # `make demo` killed hard must not leave us behind
        die_with_parent(signal.SIGTERM)
    settings = Settings.load()
    if port is not None:
        settings = settings.model_copy(update={"queue_ui_port": port})
    console = Console(highlight=False, soft_wrap=True)
    Stack(settings, demo=demo, say=console.print).run()


def serve(
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Path a proxy serves it below: /tools/arqscope.")
    ] = None,
    num_procs: Annotated[
        int,
        typer.Option("--num-procs", min=1, max=64, help="Server processes behind the one port."),
    ] = 1,
    channel: Annotated[int | None, typer.Option("--channel", hidden=True)] = None,
    place: Annotated[int, typer.Option("--place", hidden=True)] = 0,
) -> None:
    """Serve the dashboard and the HTTP API (QUEUE_UI_HOST, QUEUE_UI_PORT)."""
    settings = Settings.load()
    if prefix is not None:
        settings = Settings.model_validate(settings.model_dump() | {"prefix": prefix})
    if num_procs > 1:
        from app.door.switchboard import serve as serve_with

        raise typer.Exit(serve_with(settings, num_procs))
    from app.server import Seat
    from app.server import serve as serve_pages

    seat = None if channel is None else Seat(socket.socket(fileno=channel), place)
    serve_pages(settings, seat)


def worker(
    queue: Annotated[str, typer.Argument(help="Name of the queue, e.g. async-processing.")],
    burst: Annotated[bool, typer.Option("--burst", help="Stop when the queue is empty.")] = False,
) -> None:
    """Run the jobs of one queue until SIGTERM or Ctrl-C."""
    Settings.load().queue(queue)  # a wrong name is told before anything starts
    _process("workers.settings").run(queue, burst=burst)


def events() -> None:
    """Run the event processor: reads the stream, calls the handlers."""
    _process("workers.event_processor").main(Settings.load())


def dead_letters() -> None:
    """Run the dead-letter processor: decides what becomes of dead letters, drives operations."""
    _process("workers.dead_letter_processor").main(Settings.load())


def alive(
    role: Annotated[Role, typer.Argument(help="What should run on this machine.")],
    source: Annotated[str, typer.Argument(help="Its queue; nothing: any.")] = "",
    forgive_redis: Annotated[
        bool,
        typer.Option(
            "--forgive-redis", help="Exit 0 when Redis is away: a restart would not help."
        ),
    ] = False,
) -> None:
    """Tell whether a process of this machine beats: exit 0 or 1, for health checks of containers."""
    try:
        found = asyncio.run(_living(role.value, source))
    except ArqscopeError as error:
        say(str(error))
        raise typer.Exit(0 if forgive_redis else 1) from None
    for info in found:
        told = f": {info.trouble}" if info.trouble else ""
        say(f"{info.role} {info.source} {info.state} pid {info.pid}{told}")
    if not found:
        say(
            f"no {role.value} {source}".rstrip() + " of this machine has told in 20 s that it lives"
        )
        raise typer.Exit(1)


async def _living(role: str, source: str) -> list[WorkerInfo]:
    settings = reachable_settings()
    names: Sequence[str] = (HOME,)  # events and dead-letters beat at home
    if role == Role.WORKER.value:
        placement = settings.placement
        names = (placement.server_of(source),) if source else placement.names
    found: list[WorkerInfo] = []
    for url in map(settings.url, names):
        redis = connect(url, retries=0)
        try:
            found += await living(redis, role, source)
        except (RedisError, OSError) as error:
            raise explained(error, url) from error
        finally:
            await redis.aclose()
    return found


def version() -> None:
    """Print the version."""
    say(__version__)


def _process(module: str) -> Any:
    """Import a worker process by name: ``app`` does not depend on ``workers``, it starts them."""
    return import_module(module)
