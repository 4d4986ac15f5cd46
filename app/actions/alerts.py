"""Actions on alerts: acknowledge one, or silence it for a time."""

from app import alerts
from app.actions.asking import ActionReport, Actor, Connections, permit
from app.alerts import MAX_SILENCE_S
from app.errors import InvalidRequest, NotFound
from app.settings import Settings


async def acknowledge_alert(
    connections: Connections, settings: Settings, actor: Actor, alert_id: str, note: str = ""
) -> ActionReport:
    """Say that somebody deals with an alert: it is sent no more until it is over. Raises NotFound."""
    return await _steer(connections, settings, actor, "acknowledge_alert", alert_id, note, None)


async def silence_alert(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    alert_id: str,
    seconds: float,
    note: str = "",
) -> ActionReport:
    """Send nothing about an alert for *seconds* (at most 7 days; 0 ends a silence). Raises NotFound."""
    if not 0 <= seconds <= MAX_SILENCE_S:
        raise InvalidRequest(
            f"seconds={seconds!r} is out of range", field="seconds", hint=f"0 to {MAX_SILENCE_S}"
        )
    return await _steer(connections, settings, actor, "silence_alert", alert_id, note, seconds)


async def _steer(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    action: str,
    alert_id: str,
    note: str,
    seconds: float | None,
) -> ActionReport:
    told = {"note": note[:200]} | ({} if seconds is None else {"seconds": seconds})
    await permit(connections, settings, actor, action, alert_id, told)
    word = await alerts.steer_alert(
        connections.cache, alert_id, actor=actor.name, note=note[:500], silence_s=seconds
    )
    if word == "missing":
        raise NotFound("alert", alert_id)
    done = "acknowledged" if seconds is None else f"silenced for {seconds:g} s"
    if word == "already":
        done = "acknowledged or over already"
    return ActionReport(
        action=action,
        changed=word == "changed",
        detail={"alert": alert_id, **told},
        message=f"{alert_id} is {done}",
    )
