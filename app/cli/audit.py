"""Commands about the audit log: check its chain, export it."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.terminal import clients, reachable_settings, say

if TYPE_CHECKING:
    from app.audit import AuditReport

app = typer.Typer(help="Check and export the audit log.", no_args_is_help=True)


@app.command("verify")
def verify(
    file: Annotated[
        Path | None, typer.Option("--file", help="An export to check, in place of Redis.")
    ] = None,
    head: Annotated[
        str, typer.Option("--head", help="A hash noted earlier that must be in the export.")
    ] = "",
) -> None:
    """Check the chain of the audit log; exit code 1 and the place when a line is missing or altered."""
    from app import audit

    async def check() -> "AuditReport":
        async with clients(reachable_settings()) as made:
            return await audit.verify(made["queue"])

    if file is None:
        report = asyncio.run(check())
    else:
        with file.open(encoding="ascii", errors="replace") as lines:
            report = audit.verify_export(lines, head)
    if report.ok:
        say(f"the chain holds: {report.lines:,} lines, newest hash {report.head or 'none'}")
        return
    say(f"the chain is broken at {report.broken_at} after {report.lines:,} lines: {report.problem}")
    raise typer.Exit(1)


@app.command("export")
def export() -> None:
    """Print every line of the audit log as JSON, oldest first; `verify --file` checks what was kept."""
    from app import audit

    async def write() -> None:
        async with clients(reachable_settings()) as made:
            async for line in audit.export(made["queue"]):
                say(line)

    asyncio.run(write())
