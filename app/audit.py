"""The audit: what operators did, append-only and hash-chained. The only module that touches it.

A line is written before its act; when it cannot be written the act does not happen. The chain
shows lines altered, removed or moved. It has no key: who may rewrite the whole stream can forge it,
so keep the newest ``hash`` elsewhere (``AuditReport.head``) where that matters.
"""

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys, logs
from app.errors import BadRecord
from app.payloads.codec import safe_str
from app.wire.connections import explained
from app.wire.scripts import script

#: lines kept; beyond it the oldest go, as retention
LINES_KEPT: Final = 100_000
#: s a line that must be written once is remembered
ONCE_S: Final = 7 * 86_400
MAX_BODY_CHARS: Final = 4_096
#: lines looked through for what was done to one thing
ABOUT_LINES: Final = 2_000
_PAGE: Final = 500
_FIRST: Final = "0" * 40
_WHERE: Final = "redis://queue"
_FIELDS: Final = ("n", "prev", "at", "body", "hash")


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
            "detail": {name: _plain(value) for name, value in detail.items()}
            | ({"requestId": logs.request_id.get()} if logs.request_id.get() else {}),
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
    return [line_of(entry_id, fields) for entry_id, fields in rows]


async def about(
    redis: Redis, targets: Collection[str], until_ms: int
) -> tuple[list[AuditLine], bool]:
    """What was done to *targets* up to a moment, newest first, and whether older lines were not looked at."""
    rows = await redis.xrevrange(keys.AUDIT, max=str(until_ms), min="-", count=ABOUT_LINES)
    lines = [line for line in decoded(rows) if line.target in targets]
    return lines, len(rows) == ABOUT_LINES


def decoded(entries: Iterable[tuple[str, Mapping[str, str]]]) -> list[AuditLine]:
    """Decode raw entries of the audit stream; what is not ours is left out."""
    lines = []
    for entry_id, fields in entries:
        with contextlib.suppress(BadRecord):
            lines.append(line_of(entry_id, fields))
    return lines


async def export(redis: Redis) -> AsyncIterator[str]:
    """Yield every kept line as JSON, oldest first, with what ``verify_export`` needs to check it.

    Raises RedisUnavailable or RedisRefused.
    """
    after = "-"
    while True:
        try:
            rows = await redis.xrange(keys.AUDIT, min=after, max="+", count=_PAGE)
        except (RedisError, OSError) as error:
            raise explained(error, _WHERE) from error
        for entry_id, fields in rows:
            kept = {name: fields.get(name, "") for name in _FIELDS}
            yield json.dumps({"id": entry_id, **kept}, ensure_ascii=True)
        if len(rows) < _PAGE:
            return
        after = f"({rows[-1][0]}"


async def verify(redis: Redis) -> AuditReport:
    """Walk the chain from its oldest kept line; a page of 500 lines per call to Redis.

    Raises RedisUnavailable or RedisRefused.
    """
    chain, after = _Chain(), "-"
    try:
        kept = await redis.xlen(keys.AUDIT)
        while rows := await redis.xrange(keys.AUDIT, min=after, max="+", count=_PAGE):
            for entry_id, fields in rows:
                problem = chain.add(fields, trimmed=kept >= LINES_KEPT)
                if problem:
                    return _broken(chain.lines, chain.head, entry_id, problem)
            after = f"({rows[-1][0]}"
        return await _end_holds(redis, chain.lines, chain.head)
    except (RedisError, OSError) as error:
        raise explained(error, _WHERE) from error


def verify_export(lines: Iterable[str], head: str = "") -> AuditReport:
    """Check exported lines; with *head*, the hash noted elsewhere must be among them.

    The end of an export cannot be proved by itself: lines missing there show only by *head*.
    """
    chain, seen = _Chain(), not head
    for number, line in enumerate(filter(str.strip, lines), 1):
        try:
            fields = json.loads(line)
            where = str(fields["id"])
        except (ValueError, KeyError, TypeError):
            return _broken(chain.lines, chain.head, f"line {number}", "the line is not one of ours")
        problem = chain.add(fields, trimmed=True)
        if problem:
            return _broken(chain.lines, chain.head, where, problem)
        seen = seen or chain.head == head
    if not seen:
        return _broken(chain.lines, chain.head, "end", "the noted hash is not among the lines")
    return AuditReport(ok=True, lines=chain.lines, head=chain.head)


class _Chain:
    """Lines checked so far, one after the other."""

    def __init__(self) -> None:
        self.lines = 0
        self.head = ""
        self._n = 0

    def add(self, fields: Mapping[str, str], *, trimmed: bool) -> str:
        """Check the next line; return what is wrong with it, empty when it holds.

        *trimmed*: retention may have taken lines before the first one.
        """
        try:
            n = int(fields["n"])
            prev, at, body, told = (str(fields[k]) for k in ("prev", "at", "body", "hash"))
        except (KeyError, ValueError):
            return "the line is not one of ours"
        text = f"{prev}\n{n}\n{at}\n{body}".encode("utf-8", "surrogateescape")
        if hashlib.sha1(text, usedforsecurity=False).hexdigest() != told:
            return "the line was altered"
        if not self.lines and ((n == 1 and prev != _FIRST) or (n > 1 and not trimmed)):
            return "lines before it were removed"
        if self.lines and (prev != self.head or n != self._n + 1):
            return "lines before it were removed or moved"
        self.lines, self._n, self.head = self.lines + 1, n, told
        return ""


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


def line_of(entry_id: str, fields: Mapping[str, str]) -> AuditLine:
    """Decode one line of the audit stream; BadRecord when it is not one of ours."""
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


#: made once: ``json.dumps`` with any keyword builds an encoder for every line
_canonical: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:50]]
    return safe_str(value, 400)
