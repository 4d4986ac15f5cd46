"""The command that looks for hazards."""

import asyncio
import sys
from pathlib import Path
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
    aof: Annotated[
        Path | None,
        typer.Option("--aof", help="Look at the append-only files of a stopped Redis instead."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="With --aof: copy the directory, then mend the files.")
    ] = False,
) -> None:
    """Look for every known hazard of Redis, arq and the settings: evidence and remedy of each.

    Ends with 0 when there are notices at most, 1 with something critical, 2 with warnings.
    """
    from app.actions import Connections
    from app.doctor.examination import examine
    from app.doctor.findings import Diagnosis, Severity, in_words, together

    if aof is not None:
        _files(aof, fix=fix)
        return
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


def _files(directory: Path, *, fix: bool) -> None:
    """Say what a Redis that starts on *directory* would meet; mend it when asked to."""
    from app.doctor import append_only
    from app.doctor.findings import Severity

    found = list(append_only.hazards_of(directory))
    for finding in found:
        say(f"{finding.severity.value:<8} {finding.where}: {finding.sentence} ({finding.hazard})")
        say(f"         {finding.evidence}")
        say(f"         → {finding.remedy}")
    if not found:
        say("every command of every file is whole")
    elif fix:
        copy, done = append_only.fix(directory)
        say(f"copied to {copy}")
        for line in done:
            say(line)
    elif any(finding.severity is Severity.CRITICAL for finding in found):
        sys.exit(1)
    else:
        sys.exit(2)
