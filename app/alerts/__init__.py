"""Alerts: what people are told about causes and metrics, until it is over. On the cache Redis.

One alert per cause, or per metric rule and source. ``firing`` until it is resolved; a person may
acknowledge it (no further messages) or silence it for a time.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.errors import BadRecord
from app.records import known_fields
from app.wire.connections import explained
from app.wire.scripts import script

ALERTS_KEPT: Final = 1_000
OUTBOX_KEPT: Final = 500
ALERT_TTL_S: Final = 7 * 86_400
#: an alert that goes on is told again after this long
REMIND_S: Final = 4 * 3_600
MAX_SILENCE_S: Final = 7 * 86_400
LIST_KEPT: Final = 10_000
LIST_TTL_S: Final = 7 * 86_400

Severity = Literal["info", "warning", "critical"]


class AlertState(StrEnum):
    """Life of an alert."""

    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert. Times are epoch ms."""

    id: str
    kind: str  #: ``cause``, ``rule`` or ``cap``
    state: AlertState
    severity: str = "warning"
    title: str = ""
    detail: str = ""
    source: str = ""  #: queue or stream
    name: str = ""  #: fingerprint, or the rule's name
    since_ms: int = 0
    last_ms: int = 0  #: last told by what raises it
    changed_ms: int = 0
    resolved_ms: int = 0
    silenced_until_ms: int = 0
    times: int = 0  #: windows it was raised in
    actor: str = ""  #: who acknowledged or silenced it
    note: str = ""
    delivery: str = ""  #: what became of its last message

    @classmethod
    def from_fields(cls, raw: Mapping[str, str]) -> Self:
        """Decode HGETALL; BadRecord when fields are missing or malformed."""
        try:
            values = known_fields(cls, raw)
            values["state"] = AlertState(raw["state"])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise BadRecord(f"not an alert: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return what the API shows."""
        return asdict(self)


def alert_id(kind: str, *parts: str) -> str:
    """Return the id of the alert about *parts*: one per cause, or per rule and source."""
    text = "\x1f".join(parts).encode("utf-8", "replace")
    return f"{kind}-{hashlib.sha256(text).hexdigest()[:16]}"


async def raise_alert(
    cache: Redis,
    facts: Mapping[str, str],
    *,
    mark: str,
    window_s: float,
    channels: Sequence[str] = (),
    notices: str = "",
    notice: str = "",
) -> bool:
    """Raise or refresh an alert, and put *notice* on the list *notices*; once per mark and window.

    *facts* are fields of Alert (``id`` empty: a notice only). False when the window has had it.
    """
    name = facts.get("id", "")
    reply = await _asked(
        script(__file__, "raise_alert").run(
            cache,
            [
                notices or keys.ALERTS,
                keys.alert_seen(notices or keys.ALERTS, mark),
                keys.alert(name),
                keys.ALERTS,
                keys.ALERTS_OUTBOX,
            ],
            [
                notice,
                int(window_s * 1000),
                LIST_KEPT,
                LIST_TTL_S * 1000,
                name,
                ALERT_TTL_S * 1000,
                ALERTS_KEPT,
                keys.alert(""),
                OUTBOX_KEPT,
                REMIND_S * 1000,
                len(channels),
                *channels,
                *(part for pair in facts.items() for part in pair),
            ],
        )
    )
    return bool(reply)


async def resolve_alert(cache: Redis, name: str, why: str, channels: Sequence[str] = ()) -> bool:
    """End an alert; False when it is unknown or over already."""
    reply = await _asked(
        script(__file__, "resolve_alert").run(
            cache,
            [keys.alert(name), keys.ALERTS, keys.ALERTS_OUTBOX],
            [name, why, ALERT_TTL_S * 1000, *channels],
        )
    )
    return bool(reply)


async def steer_alert(
    cache: Redis, name: str, *, actor: str, note: str, silence_s: float | None = None
) -> str:
    """Acknowledge an alert, or silence it for *silence_s*; returns changed · already · missing."""
    reply = await _asked(
        script(__file__, "steer_alert").run(
            cache,
            [keys.alert(name)],
            [actor, note, "" if silence_s is None else int(silence_s * 1000)],
        )
    )
    return str(reply)


async def newest(cache: Redis, limit: int = 100) -> list[Alert]:
    """Return the alerts changed last, newest first; two round trips."""
    names = await _asked(cache.zrevrange(keys.ALERTS, 0, min(limit, ALERTS_KEPT) - 1))
    return [alert for alert in await read(cache, names) if alert is not None]


async def read(cache: Redis, names: Sequence[str]) -> list[Alert | None]:
    """Return the alerts called *names*, None for what is gone or unreadable."""
    if not names:
        return []
    async with cache.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hgetall(keys.alert(name))
        replies = await _asked(pipe.execute())
    return [_readable(raw) for raw in replies]


def _readable(raw: Mapping[str, str]) -> Alert | None:
    try:
        return Alert.from_fields(raw)
    except BadRecord:
        return None


async def _asked(reply: Any) -> Any:
    try:
        return await reply
    except (RedisError, OSError) as error:
        raise explained(error, "redis://cache") from error
