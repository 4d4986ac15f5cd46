"""The command that looks for hazards."""

import asyncio
import sys
from typing import Annotated

import typer

from app.cli.terminal import Json, clients, reachable_settings, say, say_json


def add_to(app: typer.Typer) -> None:
    """Add it to the command itself."""
    app.command()(doctor)


def doctor(
    as_json: Json = False,
    with_notices: Annotated[
        bool, typer.Option("--all", help="Notices too; without: warnings and worse.")
    ] = False,
) -> None:
    """Look for every known hazard of Redis, arq and the settings: evidence and remedy of each.

    Ends with 0 when there are notices at most, 1 with something critical, 2 with warnings.
    """
    from app.actions import Connections
    from app.doctor.examination import examine
    from app.doctor.findings import Diagnosis, Severity, in_words, together

    settings = reachable_settings()

    async def run() -> Diagnosis:
        async with clients(settings) as made:
            return await examine(Connections(**made), settings)

    diagnosis = asyncio.run(run())
    if as_json:
        say_json(diagnosis.as_dict() | {"exitCode": diagnosis.exit_code})
    else:
        for finding in together(diagnosis.findings):
            if finding.severity is Severity.NOTICE and not with_notices:
                continue
            say(
                f"{finding.severity.value:<8} {finding.where}: {finding.sentence} ({finding.hazard})"
            )
            say(f"         {finding.evidence}")
            say(f"         → {finding.remedy}")
        for reason in diagnosis.unknown:
            say(f"unknown  {reason}")
        told = in_words(diagnosis.findings) or "no hazard"
        say(f"{len(diagnosis.examined)} things examined: {told}")
    if diagnosis.exit_code:
        sys.exit(diagnosis.exit_code)
