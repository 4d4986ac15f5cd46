"""What every command needs of the terminal: settings, clients, who asks, and how answers look."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.embedded import reachable_settings as reachable_settings
from app.errors import InvalidRequest
from app.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from app.actions import ActionReport
    from app.snapshot import Snapshot

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@asynccontextmanager
async def clients(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """What ``Connections`` are made of, the clients by role among it; closed at the end."""
    from app.wire.connections import Connections

    made = Connections.of(settings)
    try:
        yield {field.name: getattr(made, field.name) for field in fields(made)}
    finally:
        await made.close()


def act(
    action: "Callable[..., Awaitable[ActionReport]]", *wanted: Any, as_json: bool, **more: Any
) -> None:
    """Carry out one action as the user of this terminal, and print what became of it."""
    from app import actions

    settings = reachable_settings()

    async def do() -> "ActionReport":
        async with clients(settings) as made:
            actor = actions.Actor(name=user_name(), role="operator")
            return await action(actions.Connections(**made), settings, actor, *wanted, **more)

    tell(asyncio.run(do()), as_json)


def tell(report: "ActionReport", as_json: bool) -> None:
    """Print what an action did."""
    if as_json:
        facts = {"action": report.action, "changed": report.changed, "message": report.message}
        say_json(facts | {"detail": dict(report.detail)})
        return
    say(report.message)
    for row in report.detail.get("sample", ()):
        say("  " + "  ".join(f"{name}={_cell(value)}" for name, value in row.items() if value))


async def sample(settings: Settings) -> "Snapshot":
    """Take one sample of everything; RedisUnavailable when the queue Redis does not answer."""
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


def json_value(text: str, option: str, field: str) -> Any:
    """Read JSON given on the command line; InvalidRequest names the option."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{option} is not JSON: {error}", field=field) from error


def json_object(text: str, option: str, field: str) -> dict[str, Any]:
    """Read a JSON object given on the command line; InvalidRequest names the option."""
    value = json_value(text, option, field)
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"{option} is not a JSON object", field=field, hint='e.g. {"records": 5}'
        )
    return value


def show_frame(
    title: str, frame: "pd.DataFrame", as_json: bool, words: Mapping[str, str] | None = None
) -> None:
    """Print a frame as a table, or as JSON rows."""
    if as_json:
        say(frame.to_json(orient="records", date_format="iso"))
        return
    numbers = {str(name) for name in frame.columns if frame[name].dtype.kind in "fi"}
    names = [str(name) for name in frame.columns]
    show_table(title, names, list(frame.itertuples(index=False)), numbers, words)


def show_table(
    title: str,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numbers: "set[str] | frozenset[str]" = frozenset(),
    words: Mapping[str, str] | None = None,
) -> None:
    """Print a table; *numbers* are aligned to the right, *words* name columns otherwise."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title if len(rows) else f"{title}: none")
    for name in names:
        table.add_column(
            (words or {}).get(name, name),
            justify="right" if name in numbers else "left",
            no_wrap=name in ("id", "queue"),
        )
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    Console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "\u2013" if value != value else f"{value:,.0f}"  # NaN: unknown, never 0
    text = f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def user_name() -> str:
    """Who is at the terminal, for the audit."""
    return os.environ.get("USER") or "cli"


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    """Print a value as JSON; times as ISO, what JSON cannot hold as text."""
    say(json.dumps(value, default=_jsonable))


def _jsonable(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
