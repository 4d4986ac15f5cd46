"""Actions on API keys: create one, revoke one. For administrators."""

import time
from dataclasses import dataclass

from app import api_keys
from app.actions.asking import ActionReport, Actor, Connections, permit
from app.api_keys import ApiKey
from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """A new key and its text, which is told this once and stored nowhere."""

    key: ApiKey
    text: str


async def create_key(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    name: str,
    role: str,
    *,
    expires_s: float | None = None,
) -> CreatedKey:
    """Make a key called *name*; several of one name may live, so that one can replace another.

    Raises InvalidRequest for a name, role or lifetime that cannot be, ActionRefused for who may not.
    """
    now_ms = int(time.time() * 1000)
    key, text = api_keys.new_key(
        name, role, created_by=actor.name, now_ms=now_ms, expires_s=expires_s
    )
    told = {"name": name, "role": role, "expires_ms": key.expires_ms}
    await permit(connections, settings, actor, "create_key", key.id, told, needs="admin")
    await api_keys.store(connections.queue, key)
    return CreatedKey(key=key, text=text)


async def revoke_key(
    connections: Connections, settings: Settings, actor: Actor, key_id: str
) -> ActionReport:
    """Revoke the key *key_id*: servers refuse it, and end its logins, within 2 s."""
    await permit(connections, settings, actor, "revoke_key", key_id[:40], needs="admin")
    changed = await api_keys.revoke(connections.queue, key_id, int(time.time() * 1000))
    said = "is revoked" if changed else "was revoked already"
    return ActionReport(
        action="revoke_key", changed=changed, detail={"id": key_id}, message=f"key {key_id} {said}"
    )
