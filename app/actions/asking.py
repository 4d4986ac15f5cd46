"""Who asks for an action, whether they may, and what they are told. The gate before every action."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from redis.exceptions import RedisError

from app import audit, keys
from app.errors import ActionRefused, ArqscopeError, NotFound
from app.settings import Settings
from app.wire.connections import Connections as Connections
from app.wire.connections import explained

log = logging.getLogger("arqscope.actions")

Role = Literal["viewer", "operator", "admin"]
_RANK: Final[dict[str, int]] = {"viewer": 0, "operator": 1, "admin": 2}
_WHERE: Final = "redis://queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks: a name for the audit and a role."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionReport:
    """What became of an action; *message* is a sentence for people."""

    action: str
    changed: bool
    detail: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


def may_act(settings: Settings, actor: Actor, needs: Role = "operator") -> str:
    """Return why *actor* may not act, as a sentence; empty when they may. For disabling buttons."""
    if settings.read_only:
        return "this server is read-only (ARQSCOPE_READ_ONLY)"
    if _RANK.get(actor.role, -1) < _RANK[needs]:
        return f"this needs the role {needs}; {actor.name!r} has {actor.role}"
    return ""


async def permit(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    action: str,
    target: str,
    detail: Mapping[str, Any] | None = None,
    *,
    needs: Role = "operator",
) -> None:
    """Write the audit line of an action about to happen, or raise ActionRefused.

    A refusal is audited too; it stands even when it cannot be written. A permitted action that
    cannot be written does not happen: RedisUnavailable or RedisRefused.
    """
    refusal = may_act(settings, actor, needs)
    told = dict(detail or {}) | ({"refused": refusal} if refusal else {})
    log.info(action, extra={"actor": actor.name, "target": target, "refused": refusal})
    try:
        await audit.record(connections.queue, actor.name, action, target, told)
    except ArqscopeError:
        if not refusal:
            raise
    if refusal:
        raise ActionRefused(f"{action} refused: {refusal}")


async def check_queue(connections: Connections, settings: Settings, queue: str) -> None:
    """Raise NotFound, with the known names, unless *queue* is declared or was produced to.

    Asked is the server that would hold it; the names are those of that server.
    """
    if queue in settings.queue_names:
        return
    known = await asked(connections.holding(queue).smembers(keys.QUEUES))
    if queue not in known:
        raise NotFound("queue", queue, sorted({*settings.queue_names, *known}))


async def asked(reply: Any) -> Any:
    """Await a reply of Redis; its errors become ours."""
    try:
        return await reply
    except (RedisError, OSError) as error:
        raise explained(error, _WHERE) from error
