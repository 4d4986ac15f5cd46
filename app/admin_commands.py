"""The administrator's commands: ``arqscope keys …`` and ``arqscope audit …``."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from app.settings import Settings

keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
log = typer.Typer(help="Check and export the audit log.", no_args_is_help=True)

_DAY_S: Final = 86_400.0


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Who or what uses it, e.g. grafana.")],
    role: Annotated[
        str, typer.Option("--role", help="viewer looks, operator acts, admin may do all.")
    ] = "viewer",
    days: Annotated[
        float | None, typer.Option("--days", help="Days it is good for; without: until revoked.")
    ] = None,
) -> None:
    """Make a key and print it, this once. Make a second one of the same name to replace the first."""
    from app import actions

    async def make(connections: Any, settings: Settings, actor: Any) -> str:
        made = await actions.create_key(
            connections,
            settings,
            actor,
            name,
            role,
            expires_s=None if days is None else days * _DAY_S,
        )
        sys.stderr.write(
            f"Key {made.key.id} for {name}, role {role}. It is shown this once; servers know it within 2 s.\n"
        )
        return made.text

    _say(_run(make))


@keys.command("list")
def keys_list() -> None:
    """Show the keys, without their secrets."""
    from app import api_keys

    async def read(connections: Any, settings: Settings, actor: Any) -> list[str]:  # noqa: ARG001
        now_ms = datetime.now(UTC).timestamp() * 1000
        return [
            f"{key.id}  {key.role:<8}  {_state(key, now_ms):<22}  {key.name}"
            for key in await api_keys.stored(connections.queue)
        ]

    lines = _run(read)
    _say("\n".join(lines) if lines else "no keys")


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")],
) -> None:
    """Revoke a key: it opens nothing any more, and its logins end, within 2 s."""
    from app import actions

    async def end(connections: Any, settings: Settings, actor: Any) -> str:
        return (await actions.revoke_key(connections, settings, actor, key_id)).message

    _say(_run(end))


@log.command("verify")
def audit_verify(
    file: Annotated[
        Path | None, typer.Option("--file", help="An export to check, in place of Redis.")
    ] = None,
    head: Annotated[
        str, typer.Option("--head", help="A hash noted earlier that must be in the export.")
    ] = "",
) -> None:
    """Check the chain of the audit log; exit code 1 and the place when a line is missing or altered."""
    from app import audit

    async def check(connections: Any, settings: Settings, actor: Any) -> Any:  # noqa: ARG001
        return await audit.verify(connections.queue)

    if file is None:
        report = _run(check)
    else:
        with file.open(encoding="ascii", errors="replace") as lines:
            report = audit.verify_export(lines, head)
    if report.ok:
        _say(f"the chain holds: {report.lines:,} lines, newest hash {report.head or 'none'}")
        return
    _say(
        f"the chain is broken at {report.broken_at} after {report.lines:,} lines: {report.problem}"
    )
    raise typer.Exit(1)


@log.command("export")
def audit_export() -> None:
    """Print every line of the audit log as JSON, oldest first; `verify --file` checks what was kept."""
    from app import audit

    async def write(connections: Any, settings: Settings, actor: Any) -> None:  # noqa: ARG001
        async for line in audit.export(connections.queue):
            sys.stdout.write(line + "\n")

    _run(write)


def _state(key: Any, now_ms: float) -> str:
    if key.revoked_ms:
        return f"revoked {_day(key.revoked_ms)}"
    if not key.expires_ms:
        return f"since {_day(key.created_ms)}"
    return f"{'expired' if key.expires_ms <= now_ms else 'until'} {_day(key.expires_ms)}"


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"


def _run(act: Any) -> Any:
    """Run *act* with connections, settings and whoever is at this terminal, an admin here."""
    from app import actions
    from app.connections import connect
    from app.embedded import VARIABLES, urls_of_running

    settings = Settings.load()
    fields = {role: variable.lower() for role, variable in VARIABLES.items()}
    if not settings.model_fields_set & set(fields.values()):
        urls = urls_of_running(settings.data_dir)
        settings = settings.model_copy(update={fields[role]: url for role, url in urls.items()})

    async def with_connections() -> Any:
        made = {role: connect(settings.url(role)) for role in ("queue", "streams", "cache")}
        actor = actions.Actor(name=os.environ.get("USER") or "cli", role="admin")
        try:
            return await act(actions.Connections(**made), settings, actor)
        finally:
            for client in made.values():
                await client.aclose()

    return asyncio.run(with_connections())


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
