"""Commands about operations: list, follow, pause, resume, abort."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.terminal import (
    Json,
    act,
    clients,
    reachable_settings,
    say,
    say_json,
    show_table,
)

if TYPE_CHECKING:
    from app.operations import Operation

app = typer.Typer(help="Follow and steer bulk actions.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="Id of the operation, e.g. op-1a2b3c4d5e6f.")]


@app.command("list")
def listed(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that are open.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000)] = 20,
    as_json: Json = False,
) -> None:
    """Show the newest operations."""
    from app import operations

    settings = reachable_settings()

    async def read() -> "list[Operation]":
        async with clients(settings) as made:
            if open_only:
                return (await operations.still_open(made["queue"]))[:limit]
            return await operations.recent(made["queue"], limit)

    found = asyncio.run(read())
    if as_json:
        say_json([asdict(operation) for operation in found])
        return
    names = ["id", "kind", "source", "state", "matched", "done", "failed", "actor", "note"]
    rows = [[getattr(operation, name) for name in names] for operation in found]
    show_table("Operations", names, rows, {"matched", "done", "failed"})


@app.command("show")
def show(operation_id: Id, as_json: Json = False) -> None:
    """Show one operation: what it is about, how far it is, why it stands there."""
    from app import operations

    settings = reachable_settings()

    async def read() -> "Operation":
        async with clients(settings) as made:
            return await operations.read(made["queue"], operation_id)

    found = asdict(asyncio.run(read()))
    if as_json:
        say_json(found)
        return
    for name, value in found.items():
        if value not in ("", None):
            say(f"{name:<18} {value}")


@app.command("pause")
def pause(operation_id: Id, as_json: Json = False) -> None:
    """Let an operation do nothing until it is resumed."""
    from app import actions

    act(actions.pause_operation, operation_id, as_json=as_json)


@app.command("resume")
def resume(operation_id: Id, as_json: Json = False) -> None:
    """Let a paused operation go on; one its canary rule stopped goes on without it."""
    from app import actions

    act(actions.resume_operation, operation_id, as_json=as_json)


@app.command("abort")
def abort(operation_id: Id, as_json: Json = False) -> None:
    """End an operation; what it did stays done."""
    from app import actions

    act(actions.abort_operation, operation_id, as_json=as_json)
