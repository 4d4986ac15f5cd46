"""The command that tries a deployment: the specification's test script."""

import asyncio
import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from app.cli.terminal import Json, reachable_settings, say, say_json
from app.embedded import VARIABLES, port_of_running
from app.origins import is_loopback
from app.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add it to the command itself."""
    app.command()(verify)


def verify(
    url: Annotated[
        str, typer.Argument(help="Address of the dashboard; without: the one that runs here.")
    ] = "",
    key: Annotated[
        str, typer.Option("--key", envvar="API_KEY", help="API key, of role operator.")
    ] = "",
    restart_command: Annotated[
        str,
        typer.Option(
            "--restart-command",
            help="Restarts a Redis; {service} becomes redis-queue, redis-queue-2 …, redis-streams; {role} queue, …",
        ),
    ] = "",
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A check by name; may be given again.")
    ] = None,
    patience: Annotated[
        float, typer.Option("--patience", min=1, max=3600, help="s work may take to be done.")
    ] = 30.0,
    load: Annotated[int, typer.Option("--load", min=1, max=1000, help="Jobs of the load.")] = 100,
    as_json: Json = False,
) -> None:
    """Try a deployment: Redis, pages, jobs, dead letters, events, pub/sub, a restart, a small load.

    Ends with 0 when all passed, 1 when something failed, 3 when something could not be checked.
    """
    from app.verify.deployment import Deployment, by_command, by_shutdown
    from app.verify.proofs import Proof, Shown, exit_code
    from app.verify.script import verify as checks

    settings = Settings.load()
    port = port_of_running(settings.data_dir) or settings.queue_ui_port
    own = f"http://127.0.0.1:{port}{settings.prefix}"
    is_ours = _is_same(url or own, own)
    if is_ours:  # the stack that `up` runs here is meant, where one runs
        settings = reachable_settings()
    known = {role: settings.url(role) for role in sorted(_known_roles(settings))}
    restart = by_command(restart_command) if restart_command else None
    if restart is None and not _told(Settings.load()) and {"queue", "streams"} <= known.keys():
        restart = by_shutdown(dict(known))  # an embedded stack starts a Redis again that stops
    if "queue" in known:
        known |= {server.name: settings.url(server.name) for server in settings.placement.servers}
    if not key and is_ours and settings.api_key is not None:
        key = settings.api_key.get_secret_value()
    deployment = Deployment(
        url=(url or own).rstrip("/"),
        key=key,
        urls=known,
        restart=restart,
        patience_s=patience,
        load=load,
    )
    marks = {
        Shown.PASSED: "passed     ",
        Shown.FAILED: "FAILED     ",
        Shown.UNCHECKED: "not checked",
    }

    async def run() -> list[Proof]:
        proofs = []
        try:
            async for proof in checks(deployment, only or ()):
                proofs.append(proof)
                if not as_json:
                    say(
                        f"{marks[proof.shown]} {proof.check:<14} {proof.seconds:5.1f} s  {proof.evidence}"
                    )
                    if proof.remedy:
                        say(f"{'':<12}{'':<15}{'':<9}→ {proof.remedy}")
        finally:
            await deployment.close()
        return proofs

    proofs = asyncio.run(run())
    code = exit_code(proofs)
    if as_json:
        say_json(
            {
                "url": deployment.url,
                "passed": code == 0,
                "exitCode": code,
                "checks": [proof.as_dict() for proof in proofs],
            }
        )
    else:
        counts = {shown: sum(proof.shown is shown for proof in proofs) for shown in Shown}
        say(", ".join(f"{number} {shown.value}" for shown, number in counts.items() if number))
    if code:
        sys.exit(code)


def _is_same(url: str, own: str) -> bool:
    """Whether *url* is the address of the dashboard that runs here, or that the settings tell."""
    asked, ours = urlsplit(url), urlsplit(own)
    return is_loopback(asked.hostname or "") and asked.port == ours.port


def _told(settings: Settings) -> set[str]:
    """The roles whose Redis URL somebody told."""
    return {role for role, name in VARIABLES.items() if name.lower() in settings.model_fields_set}


def _known_roles(settings: Settings) -> set[str]:
    """The roles whose Redis we know: told, or of the stack that runs here; a default is a guess."""
    fields = {role: name.lower() for role, name in VARIABLES.items()}
    return _told(settings) | {
        role
        for role, field in fields.items()
        if getattr(settings, field) != Settings.model_fields[field].default
    }
