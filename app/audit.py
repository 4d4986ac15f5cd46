"""The audit: what operators did, append-only and hash-chained. The only module that touches it.

A line is written before its act; when it cannot be written the act does not happen. The chain
shows lines altered, removed or moved. It has no key: who may rewrite the whole stream can forge it,
so keep the newest ``hash`` elsewhere (``AuditReport.head``) where that matters.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.connections import explained
from app.errors import BadRecord
from app.payload import safe_str
from app.scripts import script

#: lines kept; beyond it the oldest go, as retention
LINES_KEPT: Final = 100_000
#: s a line that must be written once is remembered
ONCE_S: Final = 7 * 86_400
MAX_BODY_CHARS: Final = 4_096
_PAGE: Final = 500
_FIRST: Final = "0" * 40
_WHERE: Final = "redis://queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One act: who did what to what, when."""

    id: str
    n: int
    at_ms: int
    actor: str
    action: str
    target: str
    detail: Mapping[str, Any]
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """Whether the chain holds; the first place where it does not."""

    ok: bool
    lines: int
    head: str  #: hash of the newest line
    broken_at: str = ""  #: entry id
    problem: str = ""


async def record(
    redis: Redis,
    actor: str,
    action: str,
    target: str,
    detail: Mapping[str, Any],
    *,
    once: str = "",
) -> str:
    """Append one line and return its entry id; raises RedisUnavailable or RedisRefused.

    With *once*, a name, the line is written once in 7 days: later calls return an empty id.
    """
    body = _canonical(
        {
            "actor": actor[:200],
            "action": action,
            "target": target[:400],
            "detail": {name: _plain(value) for name, value in detail.items()},
        }
    )
    if len(body) > MAX_BODY_CHARS:
        short = {"actor": actor[:200], "action": action, "target": target[:400]}
        body = _canonical(short | {"detail": {"cut": len(body)}})
    try:
        names = [keys.AUDIT, *([keys.audited(once)] if once else [])]
        reply = await script(__file__, "audit").run(redis, names, [body, LINES_KEPT, ONCE_S])
    except (RedisError, OSError) as error:
        raise explained(error, _WHERE) from error
    return str(reply[0])


async def recent(redis: Redis, limit: int = 100, before: str = "+") -> list[AuditLine]:
    """Return the newest lines, newest first; pass ``(<id>`` as *before* for the next page."""
    rows = await redis.xrevrange(keys.AUDIT, max=before, min="-", count=limit)
    return [_line(entry_id, fields) for entry_id, fields in rows]


def decoded(entries: Iterable[tuple[str, Mapping[str, str]]]) -> list[AuditLine]:
    """Decode raw entries of the audit stream; what is not ours is left out."""
    lines = []
    for entry_id, fields in entries:
        with contextlib.suppress(BadRecord):
            lines.append(_line(entry_id, fields))
    return lines


async def verify(redis: Redis) -> AuditReport:
    """Walk the chain from its oldest kept line; a page of 500 lines per call to Redis."""
    lines, previous, head, after = 0, 0, "", "-"
    while rows := await redis.xrange(keys.AUDIT, min=after, max="+", count=_PAGE):
        for entry_id, fields in rows:
            try:
                n = int(fields["n"])
                prev, at, body, told = (fields[k] for k in ("prev", "at", "body", "hash"))
            except (KeyError, ValueError):
                return _broken(lines, head, entry_id, "the line is not one of ours")
            text = f"{prev}\n{n}\n{at}\n{body}".encode("utf-8", "surrogateescape")
            if hashlib.sha1(text, usedforsecurity=False).hexdigest() != told:
                return _broken(lines, head, entry_id, "the line was altered")
            if lines == 0 and n == 1 and prev != _FIRST:
                return _broken(lines, head, entry_id, "lines before it were removed")
            if lines and (prev != head or n != previous + 1):
                return _broken(lines, head, entry_id, "lines before it were removed or moved")
            if lines == 0 and n > 1 and await redis.xlen(keys.AUDIT) < LINES_KEPT:
                return _broken(lines, head, entry_id, "lines before it were removed")
            lines, previous, head = lines + 1, n, told
        after = f"({rows[-1][0]}"
    return await _end_holds(redis, lines, head)


async def _end_holds(redis: Redis, lines: int, head: str) -> AuditReport:
    if not await redis.exists(keys.AUDIT):
        return AuditReport(ok=True, lines=0, head="")
    info = cast(dict[str, Any], await cast(Any, redis.xinfo_stream(keys.AUDIT)))
    last = await redis.xrevrange(keys.AUDIT, count=1)
    if not last or last[0][0] != info["last-generated-id"]:
        return _broken(lines, head, str(info["last-generated-id"]), "the newest lines were removed")
    return AuditReport(ok=True, lines=lines, head=head)


def _broken(lines: int, head: str, entry_id: str, problem: str) -> AuditReport:
    return AuditReport(ok=False, lines=lines, head=head, broken_at=entry_id, problem=problem)


def _line(entry_id: str, fields: Mapping[str, str]) -> AuditLine:
    try:
        body = json.loads(fields["body"])
        return AuditLine(
            id=entry_id,
            n=int(fields["n"]),
            at_ms=int(fields["at"]),
            actor=str(body["actor"]),
            action=str(body["action"]),
            target=str(body["target"]),
            detail=dict(body["detail"]),
            hash=fields["hash"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise BadRecord(f"audit line {entry_id} is not one of ours: {error}") from error


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:50]]
    return safe_str(value, 400)
