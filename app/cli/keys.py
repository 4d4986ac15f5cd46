"""Commands about API keys: create, list, revoke."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.terminal import clients, reachable_settings, say, user_name

if TYPE_CHECKING:
    from app.api_keys import ApiKey

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)

_DAY_S: Final = 86_400.0


@app.command("create")
def create(
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

    made = _act(actions.create_key, name, role, expires_s=None if days is None else days * _DAY_S)
    sys.stderr.write(
        f"Key {made.key.id} for {name}, role {role}. It is shown this once; servers know it within 2 s.\n"
    )
    say(made.text)


@app.command("list")
def listed() -> None:
    """Show the keys, without their secrets."""
    from app import api_keys

    async def read() -> "list[ApiKey]":
        async with clients(reachable_settings()) as made:
            return await api_keys.stored(made["queue"])

    now_ms = datetime.now(UTC).timestamp() * 1000
    found = asyncio.run(read())
    for key in found:
        say(f"{key.id}  {key.role:<8}  {_state(key, now_ms):<20}  {key.name}")
    if not found:
        say("no keys")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")],
) -> None:
    """Revoke a key: it opens nothing any more, and its logins end, within 2 s."""
    from app import actions

    say(_act(actions.revoke_key, key_id).message)


def _act(action: Callable[..., Awaitable[Any]], *wanted: Any, **more: Any) -> Any:
    """Carry out an action as this terminal's user, who is an administrator: they can reach Redis."""
    from app import actions

    settings = reachable_settings()

    async def do() -> Any:
        async with clients(settings) as made:
            actor = actions.Actor(name=user_name(), role="admin")
            return await action(actions.Connections(**made), settings, actor, *wanted, **more)

    return asyncio.run(do())


def _state(key: "ApiKey", now_ms: float) -> str:
    if key.revoked_ms:
        return f"revoked {_day(key.revoked_ms)}"
    if not key.expires_ms:
        return f"since {_day(key.created_ms)}"
    return f"{'expired' if key.expires_ms <= now_ms else 'until'} {_day(key.expires_ms)}"


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"
