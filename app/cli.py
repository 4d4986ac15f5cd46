"""The ``arqscope`` command: starts the processes, shows and steers queues from a terminal.

Heavy modules are imported inside the commands: a worker must not load pandas because the command
beside it shows a table.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import __version__, admin_commands
from app.child import die_with_parent
from app.errors import ArqscopeError, InvalidRequest, NotFound
from app.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from app.snapshot import Snapshot

app = typer.Typer(
    help="Run, see and steer background work on Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
jobs = typer.Typer(help="Put jobs on queues.", no_args_is_help=True)
dlq = typer.Typer(help="Look at dead letters and retry them.", no_args_is_help=True)
app.add_typer(jobs, name="jobs")
app.add_typer(dlq, name="dlq")
app.add_typer(admin_commands.keys, name="keys")
app.add_typer(admin_commands.log, name="audit")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command()
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


@app.command()
def serve(
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Path a proxy serves it below, /tools/arqscope.")
    ] = None,
) -> None:
    """Serve the dashboard and the HTTP API (QUEUE_UI_HOST, QUEUE_UI_PORT)."""
    from app.server import serve as serve_pages

    settings = Settings.load()
    if prefix is not None:
        settings = Settings.model_validate(settings.model_dump() | {"prefix": prefix})
    serve_pages(settings)


@app.command()
def worker(
    queue: Annotated[str, typer.Argument(help="Name of the queue, e.g. async-processing.")],
    burst: Annotated[bool, typer.Option("--burst", help="Stop when the queue is empty.")] = False,
) -> None:
    """Run the jobs of one queue until SIGTERM or Ctrl-C."""
    Settings.load().queue(queue)  # a wrong name is told before anything starts
    _process("workers.settings").run(queue, burst=burst)


@app.command()
def events() -> None:
    """Run the event processor: reads the stream, calls the handlers."""
    _process("workers.event_processor").main(Settings.load())


@app.command("dead-letters")
def dead_letters() -> None:
    """Run the dead-letter processor: decides what becomes of dead letters."""
    _process("workers.dead_letter_processor").main(Settings.load())


@app.command()
def queues(as_json: Json = False) -> None:
    """Show what each queue holds."""
    snapshot = asyncio.run(_sample(_reachable_settings()))
    names = ["waiting", "deferred", "running", "complete", "failed", "dead_open", "workers"]
    _show("Queues", snapshot.queues[["queue", *names]], as_json, {"dead_open": "dead"})


@app.command()
def version() -> None:
    """Print the version."""
    _say(__version__)


@jobs.command("enqueue")
def jobs_enqueue(
    queue: Annotated[str, typer.Argument(help="Name of the queue.")],
    name: Annotated[str, typer.Argument(help="Name of the job function, e.g. data-sync.")],
    data: Annotated[str, typer.Option("--data", help="The job's argument, a JSON object.")] = "{}",
    job_id: Annotated[
        str, typer.Option("--id", help="Id; asking twice with one id makes one job.")
    ] = "",
    delay_s: Annotated[float, typer.Option("--delay", help="Seconds to wait first.")] = 0.0,
) -> None:
    """Put one job on a queue and print its id."""
    from app.enqueue import JobRequest, codec_of, enqueue

    settings = _reachable_settings()
    settings.queue(queue)
    request = JobRequest(name=name, args=(_object(data),), id=job_id, delay_s=delay_s)

    async def put() -> str:
        async with _clients(settings) as clients:
            done = await enqueue(clients["queue"], queue, request, codec=codec_of(settings))
        return done.id if done.created else f"{done.id} exists already; nothing was changed"

    _say(asyncio.run(put()))


@dlq.command("list")
def dlq_list(as_json: Json = False) -> None:
    """Show the dead letters that wait for a decision or are being retried, newest first."""
    frame = asyncio.run(_sample(_reachable_settings())).dead_letters
    names = ["id", "source", "name", "state", "attempts", "redrives", "error_type", "error", "died"]
    _show("Dead letters", frame[names], as_json)


@dlq.command("retry")
def dlq_retry(
    source: Annotated[str, typer.Argument(help="Queue or stream it died on.")],
    letter_id: Annotated[str, typer.Argument(help="Id of the dead letter.")],
    delay_s: Annotated[float, typer.Option("--delay", help="Seconds to wait first.")] = 0.0,
) -> None:
    """Put one dead letter back where it came from; doing it twice makes one retry."""
    from app import actions

    settings = _reachable_settings()

    async def retry() -> str:
        async with _clients(settings) as clients:
            connections = actions.Connections(**clients)
            actor = actions.Actor(name=_user_name(), role="operator")
            report = await actions.retry_letter(
                connections, settings, actor, source, letter_id, delay_s=delay_s
            )
        return str(report.message)

    _say(asyncio.run(retry()))


def main() -> None:
    """Run the command; what we raise on purpose is one sentence on stderr and exit code 1."""
    # The user's own modules (ARQSCOPE_FUNCTIONS) are found in the current directory, but never
    # instead of ours: it comes last.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except ArqscopeError as error:
        hint = f" ({error.hint})" if isinstance(error, InvalidRequest) and error.hint else ""
        if isinstance(error, NotFound) and error.known:
            hint = f"; there are: {', '.join(error.known)}"
        sys.stderr.write(f"arqscope: {error}{hint}\n")
        sys.exit(1)


class _clients:  # noqa: N801, RUF100 - reads as the call it is
    """The three Redis clients by role, closed at the end of an ``async with``."""

    def __init__(self, settings: Settings) -> None:
        from app.connections import connect

        self._made = {role: connect(settings.url(role)) for role in ("queue", "streams", "cache")}

    async def __aenter__(self) -> dict[str, Any]:
        return self._made

    async def __aexit__(self, *error: object) -> None:
        for client in self._made.values():
            await client.aclose()


async def _sample(settings: Settings) -> "Snapshot":
    from app.collector import Collector
    from app.errors import RedisUnavailable

    logging.getLogger("arqscope").addHandler(logging.NullHandler())  # problems are told below, once
    collector = Collector(settings)
    try:
        snapshot = await collector.sample()
    finally:
        await collector.stop()
    if "queue" in snapshot.problems:
        raise RedisUnavailable(f"the queue Redis does not answer: {snapshot.problems['queue']}")
    return snapshot


def _reachable_settings() -> Settings:
    """Settings for looking and steering: without REDIS_*, the stack that `up` runs here is meant."""
    from app.embedded import VARIABLES, urls_of_running

    settings = Settings.load()
    fields = {role: variable.lower() for role, variable in VARIABLES.items()}
    if settings.model_fields_set & set(fields.values()):
        return settings
    urls = urls_of_running(settings.data_dir)
    return settings.model_copy(update={fields[role]: url for role, url in urls.items()})


def _process(module: str) -> Any:
    """Import a worker process by name: ``app`` does not depend on ``workers``, it starts them."""
    return import_module(module)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"--data is not JSON: {error}", field="data") from error
    if not isinstance(value, dict):
        raise InvalidRequest(
            "--data is not a JSON object", field="data", hint='e.g. {"records": 5}'
        )
    return value


def _show(
    title: str, frame: "pd.DataFrame", as_json: bool, words: Mapping[str, str] | None = None
) -> None:
    if as_json:
        _say(frame.to_json(orient="records", date_format="iso"))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title if len(frame) else f"{title}: none")
    for column in frame.columns:
        number = frame[column].dtype.kind in "fi"
        table.add_column(
            (words or {}).get(str(column), str(column)),
            justify="right" if number else "left",
            no_wrap=str(column) in ("id", "queue"),
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in row))
    Console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "\u2013" if value != value else f"{value:,.0f}"  # NaN: unknown, never 0
    text = f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _user_name() -> str:
    return os.environ.get("USER") or "cli"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
