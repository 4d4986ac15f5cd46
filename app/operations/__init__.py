"""Operations: bulk actions that outlive whoever asked for them. The record, its states, its store.

What one does is a *kind* (``operations.kinds``), who drives it ``operations.drive``. The record is
permanent and lies on the queue Redis; the newest 1,000 are kept.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, Protocol, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.errors import ActionRefused, BadRecord, InvalidRequest, NotFound
from app.records import utc
from app.wire.connections import Connections, explained
from app.wire.scripts import script

#: operations remembered; those that are open are never forgotten
KEPT: Final = 1_000
MAX_OPEN: Final = 100
MAX_CANARY: Final = 200
MAX_RATE: Final = 100_000.0

_EPOCH: Final = utc(0)

Role = Literal["queue", "streams"]


class OperationState(StrEnum):
    """Life of an operation."""

    WAITING = "waiting"  #: asked for, nobody took it up yet
    CANARY = "canary"  #: the first few are under way, their outcomes are awaited
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    ABORTED = "aborted"
    STOPPED = "stopped"  #: by its canary rule

    @property
    def is_open(self) -> bool:
        """Whether it may still do something."""
        return self in OPEN_STATES


OPEN_STATES: Final = frozenset(
    {
        OperationState.WAITING,
        OperationState.CANARY,
        OperationState.RUNNING,
        OperationState.PAUSED,
    }
)
_AT_WORK: Final = OPEN_STATES - {OperationState.PAUSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One bulk action: what, why, how fast, how far. *done* and *failed* count what was acted on,
    *skipped* what was looked at and did not match."""

    id: str
    kind: str
    source: str  #: queue or stream
    role: Role = "queue"  #: the Redis the source lives on
    filter: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    actor: str = ""
    rate_per_s: float | None = None  #: None: as fast as it goes
    canary: int = 0  #: so many first; 0: no canary
    canary_max_failed: float = 0.0  #: share of the canaries that may fail, 0 to 1
    canary_wait_s: float = 300.0  #: for the outcomes of the canaries
    state: OperationState = OperationState.WAITING
    cursor: str = ""  #: the kind's own
    matched: int = 0  #: how many it was about when it was asked for
    done: int = 0
    skipped: int = 0
    failed: int = 0
    created_at: datetime = _EPOCH
    started_at: datetime | None = None
    canary_at: datetime | None = None  #: when the last canary was sent
    finished_at: datetime | None = None
    note: str = ""  #: why it stands where it stands

    @property
    def created_ms(self) -> int:
        """Epoch ms of its creation, by Redis' clock."""
        return round(self.created_at.timestamp() * 1000)

    def signature(self) -> str:
        """What makes two open operations the same: kind, source and filter."""
        text = json.dumps([self.kind, self.source, self.filter], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_fields(self) -> dict[str, str]:
        """Encode for HSET."""
        raw: dict[str, str] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if name == "filter":
                raw[name] = json.dumps(dict(value), sort_keys=True)
            elif isinstance(value, datetime):
                raw[name] = f"{value.timestamp() * 1000:.0f}"
            else:
                raw[name] = "" if value is None else str(value)
        return raw

    @classmethod
    def from_fields(cls, raw: Mapping[str, str]) -> Self:
        """Decode HGETALL; BadRecord when it is not one of ours."""
        try:
            values: dict[str, Any] = {}
            for name in cls.__slots__:
                if name not in raw:
                    continue
                text = raw[name]
                if name == "filter":
                    values[name] = {str(k): str(v) for k, v in json.loads(text).items()}
                elif name.endswith("_at"):
                    values[name] = utc(float(text)) if text else None
                elif name in ("canary", "matched", "done", "skipped", "failed"):
                    values[name] = int(text)
                elif name in ("canary_max_failed", "canary_wait_s"):
                    values[name] = float(text)
                else:
                    values[name] = text
            values["rate_per_s"] = float(raw["rate_per_s"]) if raw.get("rate_per_s") else None
            values["state"] = OperationState(raw["state"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRecord(f"not an operation: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What came of one step, beyond what the operation's record counts already."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    cursor: str = ""
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What became of the canaries."""

    waiting: int
    well: int
    failed: int


class Kind(Protocol):
    """What an operation does. Stateless; each step is idempotent: repeated, it acts once."""

    @property
    def name(self) -> str:
        """What an operation calls it."""
        ...

    @property
    def has_canary(self) -> bool:
        """Whether what it does has an outcome one can wait for."""
        ...

    def check(self, role: Role, filter: Mapping[str, str]) -> dict[str, str]:  # noqa: A002
        """Return the filter as it is stored; InvalidRequest names what is wrong."""
        ...

    async def count(self, connections: Connections, operation: Operation) -> int:
        """How many it is about (dry run)."""
        ...

    async def sample(
        self, connections: Connections, operation: Operation, limit: int
    ) -> list[dict[str, Any]]:
        """Return a few of what it is about, as plain values for people."""
        ...

    async def step(self, connections: Connections, operation: Operation, limit: int) -> Step:
        """Act on up to *limit*, from ``operation.cursor`` on."""
        ...

    async def outcomes(self, connections: Connections, operation: Operation) -> Outcomes:
        """What became of those acted on as canaries."""
        ...


def check_pace(
    rate_per_s: float | None, canary: int, canary_max_failed: float, canary_wait_s: float
) -> None:
    """Raise InvalidRequest for a pace that makes no sense."""
    for name, value, low, high in (
        ("rate_per_s", rate_per_s, 0.001, MAX_RATE),
        ("canary", canary, 0, MAX_CANARY),
        ("canary_max_failed", canary_max_failed, 0, 1),
        ("canary_wait_s", canary_wait_s, 0.1, 86_400),
    ):
        if value is not None and not low <= value <= high:
            raise InvalidRequest(
                f"{name}={value!r} is out of range", field=name, hint=f"{low:g} to {high:,g}"
            )


def parse_rate(text: str) -> float | None:
    """``5/s``, ``300/min``, ``1000/h`` or a number per second; empty: None. InvalidRequest else."""
    if not text:
        return None
    number, _, unit = text.strip().partition("/")
    per_s = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600}.get(unit.strip())
    try:
        return float(number) / float(per_s or 0)
    except (ValueError, ZeroDivisionError) as error:
        raise InvalidRequest(
            f"rate={text[:40]!r} is not a rate", field="rate", hint="5/s, 300/min or 1000/h"
        ) from error


# -- the store --------------------------------------------------------------------------------------


def new_id() -> str:
    """Make the id of an operation."""
    return f"op-{secrets.token_hex(6)}"


async def create(redis: Redis, operation: Operation) -> tuple[Operation, bool]:
    """Store *operation*, or return the open one that does the same; the flag says which.

    ActionRefused when 100 are open.
    """
    fields = operation.to_fields()
    flat = [part for pair in fields.items() for part in pair]
    reply = await _run(
        redis,
        "create_operation",
        [keys.OPERATIONS, keys.OPEN_OPERATIONS, keys.operation(operation.id)],
        [
            operation.id,
            operation.signature(),
            KEPT,
            MAX_OPEN,
            keys.operation(""),
            *flat,
        ],
    )
    if reply[0] == "full":
        raise ActionRefused(f"{MAX_OPEN} operations are open; wait for one, or abort one")
    return await read(redis, str(reply[1])), reply[0] == "created"


async def read(redis: Redis, operation_id: str) -> Operation:
    """One operation; NotFound."""
    raw = await _asked(redis.hgetall(keys.operation(operation_id)))
    if not raw:
        raise NotFound("operation", operation_id)
    return Operation.from_fields(raw)


async def recent(redis: Redis, limit: int = 100) -> list[Operation]:
    """Return the newest operations, newest first."""
    return await several(redis, await _asked(redis.zrevrange(keys.OPERATIONS, 0, limit - 1)))


async def before(redis: Redis, at_ms: float, limit: int = 100) -> list[Operation]:
    """Return the operations that were asked for by then, newest first."""
    found = redis.zrevrangebyscore(keys.OPERATIONS, at_ms, "-inf", start=0, num=limit)
    return await several(redis, await _asked(found))


async def still_open(redis: Redis) -> list[Operation]:
    """Return the operations that may still do something, oldest first."""
    found = await several(redis, await _asked(redis.hvals(keys.OPEN_OPERATIONS)))
    return sorted((o for o in found if o.state.is_open), key=lambda o: (o.created_at, o.id))


async def save(
    redis: Redis,
    operation: Operation,
    fields: Mapping[str, str],
    *,
    state: OperationState | None = None,
    token: str = "",
) -> Operation:
    """Store *fields*; *state* too unless somebody changed the state meanwhile. Returns what is now.

    With a *token* nothing is stored unless it holds the operation's lease; ActionRefused then.
    """
    word = await change(
        redis, operation.id, (operation.state,), state, fields, token=token, is_progress=True
    )
    if word == "fenced":
        raise ActionRefused(f"{operation.id} is driven by another process")
    return await read(redis, operation.id)


async def change(
    redis: Redis,
    operation_id: str,
    expected: Sequence[OperationState],
    state: OperationState | None,
    fields: Mapping[str, str],
    *,
    token: str = "",
    is_progress: bool = False,
) -> str:
    """Store *fields* and go to *state* when it is in one of *expected*.

    Progress is stored whatever the state. Returns done · state:<state> · missing · fenced · taken
    (it was stopped, and an equal operation is open meanwhile).
    """
    return str(
        await _run(
            redis,
            "change_operation",
            [
                keys.operation(operation_id),
                keys.OPEN_OPERATIONS,
                keys.lease(f"operation:{operation_id}"),
            ],
            [
                operation_id,
                token,
                f",{','.join(expected)},",
                str(state or ""),
                f",{','.join(OPEN_STATES)},",
                "1" if is_progress else "0",
                *[part for pair in fields.items() for part in pair],
            ],
        )
    )


async def pause(redis: Redis, operation_id: str) -> str:
    """Let it do nothing until it is resumed; the word of ``change``."""
    return await change(redis, operation_id, tuple(_AT_WORK), OperationState.PAUSED, {})


async def resume(redis: Redis, operation_id: str) -> str:
    """Let a paused one go on where it was; one that its canary rule stopped goes on without it."""
    now = await read(redis, operation_id)
    if now.state is OperationState.STOPPED:
        to = OperationState.RUNNING
    elif now.started_at is None:
        to = OperationState.WAITING
    elif now.canary and now.note not in (CANARY_PASSED, CANARY_OVERRULED):
        to = OperationState.CANARY
    else:
        to = OperationState.RUNNING
    note = CANARY_OVERRULED if now.state is OperationState.STOPPED else now.note
    states = (OperationState.PAUSED, OperationState.STOPPED)
    return await change(redis, operation_id, states, to, {"note": note})


async def abort(redis: Redis, operation_id: str, note: str) -> str:
    """End it; what it did stays done."""
    return await change(
        redis, operation_id, tuple(OPEN_STATES), OperationState.ABORTED, {"note": note}
    )


#: the note of an operation whose canaries ended well
CANARY_PASSED: Final = "the canaries ended well"
#: the note of one that somebody resumed although they did not
CANARY_OVERRULED: Final = "the canary rule was overruled"


async def several(redis: Redis, ids: Sequence[str]) -> list[Operation]:
    """The operations of *ids* that are still kept, in that order."""
    if not ids:
        return []
    pipe = redis.pipeline(transaction=False)
    for operation_id in ids:
        pipe.hgetall(keys.operation(operation_id))
    return [Operation.from_fields(raw) for raw in await _asked(pipe.execute()) if raw]


async def _run(redis: Redis, name: str, names: list[str], args: list[Any]) -> Any:
    return await _asked(script(__file__, name).run(redis, names, args))


async def _asked(reply: Any) -> Any:
    try:
        return await reply
    except (RedisError, OSError) as error:
        raise explained(error, "redis://queue") from error
