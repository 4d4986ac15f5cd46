"""Commands about alerts: list, acknowledge, silence."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.terminal import Json, act, clients, reachable_settings, say_json, show_table

if TYPE_CHECKING:
    from app.alerts import Alert

app = typer.Typer(help="Look at alerts, acknowledge and silence them.", no_args_is_help=True)

AlertId = Annotated[str, typer.Argument(help="Id of the alert; see `alerts list`.")]
Note = Annotated[str, typer.Option("--note", help="Why, for the audit and the alert.")]


@app.command("list")
def listed(
    everything: Annotated[
        bool, typer.Option("--all", help="Those that are over too, of the last 7 days.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the alerts, changed last first."""
    from app import alerts
    from app.alerts import AlertState
    from app.records import utc

    settings = reachable_settings()

    async def read() -> "list[Alert]":
        async with clients(settings) as made:
            return await alerts.newest(made["cache"], 1_000)

    found = asyncio.run(read())
    if not everything:
        found = [alert for alert in found if alert.state is not AlertState.RESOLVED]
    if as_json:
        say_json([alert.to_json() for alert in found])
        return
    names = ["id", "state", "severity", "title", "source", "since", "delivery"]
    rows = [
        [a.id, str(a.state), a.severity, a.title, a.source, utc(a.since_ms), a.delivery]
        for a in found
    ]
    show_table("Alerts", names, rows)


@app.command()
def ack(alert_id: AlertId, note: Note = "", as_json: Json = False) -> None:
    """Say that somebody deals with an alert: it is sent no more until it is over."""
    from app import actions

    act(actions.acknowledge_alert, alert_id, as_json=as_json, note=note)


@app.command()
def silence(
    alert_id: AlertId,
    seconds: Annotated[float, typer.Option("--for", min=0, help="Seconds; 0 ends it.")] = 3_600,
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Send nothing about an alert for a time."""
    from app import actions

    act(actions.silence_alert, alert_id, seconds, as_json=as_json, note=note)
