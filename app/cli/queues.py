"""Commands about queues."""

import asyncio

import typer

from app.cli.terminal import Json, reachable_settings, sample, show_frame


def add_to(app: typer.Typer) -> None:
    """Add them to the command itself."""
    app.command()(queues)


def queues(as_json: Json = False) -> None:
    """Show what each queue holds."""
    snapshot = asyncio.run(sample(reachable_settings()))
    names = ["waiting", "deferred", "running", "complete", "failed", "dead_open", "workers"]
    show_frame("Queues", snapshot.queues[["queue", *names]], as_json, {"dead_open": "dead"})
