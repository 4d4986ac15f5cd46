"""Which dead letters are meant: a filter, checked once, and the walk over those that match.

The walk is one script (``sweep_letters``) that finds or acts; a call looks at a few hundred letters,
so that Redis is never held for more than a few ms.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from app import keys
from app.errors import InvalidRequest
from app.letters.redrive import Shelf, asked, run_script

#: letters one call acts on, and looks at when the filter needs their records: a few ms of Redis
ACT: Final = 100
LOOK: Final = 1_000
#: letters a count looks at; beyond it the count is a lower bound
COUNTED: Final = 500_000
MAX_TEXT_CHARS: Final = 200

#: index each state lies in
INDEX: Final = {
    "open": "open",
    "new": "open",
    "retrying": "retrying",
    "closed": "closed",
    "resolved": "closed",
    "discarded": "closed",
    "archived": "closed",
}
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|min|h|d|w)?")
_AGE_S: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
NAMES: Final = (
    *("name", "fingerprint", "error_type", "text", "state"),
    *("since", "until", "older_than"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Conditions that all hold; an empty one always does.

    *text* is looked for in the error, the id and the name, ASCII case ignored. *since_ms* and
    *until_ms* bound when a letter died (for closed ones: was closed), inclusive.
    """

    name: str = ""
    fingerprint: str = ""
    error_type: str = ""
    text: str = ""
    state: str = "open"
    since_ms: int | None = None
    until_ms: int | None = None
    older_than_s: float | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, str]) -> "LetterFilter":
        """Read what an operator or a stored operation says; InvalidRequest names the field."""
        for name in raw:
            if name not in NAMES:
                raise InvalidRequest(
                    f"{name!r} is not a condition", field="filter", hint=", ".join(NAMES)
                )
        for name, value in raw.items():
            if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
                raise InvalidRequest(
                    f"{name} is not a text of at most {MAX_TEXT_CHARS} characters", field=name
                )
        state = raw.get("state") or "open"
        if state not in INDEX:
            raise InvalidRequest(
                f"state={state!r} is not known", field="state", hint=", ".join(INDEX)
            )
        return cls(
            name=raw.get("name", ""),
            fingerprint=raw.get("fingerprint", ""),
            error_type=raw.get("error_type", ""),
            text=raw.get("text", "").translate(_ASCII_LOWER),
            state=state,
            since_ms=moment_ms("since", raw.get("since", "")),
            until_ms=moment_ms("until", raw.get("until", "")),
            older_than_s=age_s("older_than", raw.get("older_than", "")),
        )

    def to_fields(self) -> dict[str, str]:
        """Return the conditions that say something, as ``parse`` reads them."""
        age = "" if self.older_than_s is None else f"{self.older_than_s:g}s"
        found = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "error_type": self.error_type,
            "text": self.text,
            "state": "" if self.state == "open" else self.state,
            "since": "" if self.since_ms is None else str(self.since_ms),
            "until": "" if self.until_ms is None else str(self.until_ms),
            "older_than": age,
        }
        return {name: value for name, value in found.items() if value}

    @property
    def needs_records(self) -> bool:
        """Whether the index alone cannot tell what matches."""
        plain = self.state in ("open", "retrying", "closed")
        return bool(self.name or self.fingerprint or self.error_type or self.text) or not plain

    def bounds(self, now_ms: int | None) -> tuple[str, str]:
        """Lowest and highest score of the index; *now_ms*: none after it, and ages count from it."""
        tops = [self.until_ms, now_ms]
        if self.older_than_s is not None and now_ms is not None:
            tops.append(now_ms - int(self.older_than_s * 1000))
        known = [top for top in tops if top is not None]
        return str(self.since_ms or 0), str(min(known)) if known else "9007199254740991"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What one call of the script came to."""

    cursor: str
    done: int
    skipped: int
    failed: int
    finished: bool
    ids: list[str]  #: of a find


async def sweep(
    shelf: Shelf,
    wanted: LetterFilter,
    verb: str,
    *,
    now_ms: int | None,
    limit: int = ACT,
    cursor: str = "",
    newest: bool = False,
    operation: str = "",
    actor: str = "",
    decision: str = "",
    reason: str = "",
    counts: tuple[int, int, int] = (0, 0, 0),
    canary: bool = False,
) -> Sweep:
    """Run the script once: at most *limit* letters acted on (``find``: matched)."""
    source = shelf.source
    low, high = wanted.bounds(now_ms)
    index = {"open": keys.dead_open, "retrying": keys.dead_retrying, "closed": keys.dead_closed}
    looks = LOOK if wanted.needs_records else min(limit + 1, LOOK)
    exact = wanted.state if INDEX[wanted.state] != wanted.state else ""
    reply = await run_script(
        shelf,
        "sweep_letters",
        [
            index[INDEX[wanted.state]](source),
            keys.sweep(source, operation),
            keys.dead_retrying(source),
            keys.dead_closed(source),
            source,
            shelf.totals,
            keys.wake(source),
            keys.QUEUES,
        ],
        [
            verb,
            operation,
            limit,
            looks,
            cursor,
            low,
            high,
            "1" if newest else "0",
            wanted.name,
            wanted.fingerprint,
            wanted.error_type,
            wanted.text,
            exact,
            keys.dead_record(source, ""),
            keys.dead_payload(source, ""),
            keys.ARQ_JOB,
            source,
            actor,
            decision,
            reason,
            *counts,
            "1" if canary else "0",
        ],
    )
    return Sweep(
        cursor=str(reply[0]),
        done=int(reply[1]),
        skipped=int(reply[2]),
        failed=int(reply[3]),
        finished=reply[4] == "1",
        ids=[str(i) for i in reply[5:]],
    )


async def from_now(shelf: Shelf, wanted: LetterFilter) -> LetterFilter:
    """Return *wanted* with its age counted from now, by Redis' clock."""
    if wanted.older_than_s is None:
        return wanted
    seconds, micros = await asked(shelf.redis.time())
    top = int((seconds + micros / 1e6 - wanted.older_than_s) * 1000)
    until_ms = top if wanted.until_ms is None else min(top, wanted.until_ms)
    return replace(wanted, until_ms=until_ms, older_than_s=None)


async def find(
    shelf: Shelf,
    wanted: LetterFilter,
    *,
    now_ms: int | None = None,
    newest: bool = False,
    page: int = ACT,
) -> AsyncIterator[list[str]]:
    """Yield the ids of what matches, a page at a time."""
    cursor = ""
    if now_ms is None:
        wanted = await from_now(shelf, wanted)
    while True:
        got = await sweep(
            shelf, wanted, "find", now_ms=now_ms, limit=page, cursor=cursor, newest=newest
        )
        if got.ids:
            yield got.ids
        if got.finished:
            return
        cursor = got.cursor


async def count(shelf: Shelf, wanted: LetterFilter, *, now_ms: int | None = None) -> int:
    """How many match; a lower bound when more than 500,000 would have to be looked at."""
    if now_ms is None:
        wanted = await from_now(shelf, wanted)
    low, high = wanted.bounds(now_ms)
    if not wanted.needs_records:
        index = {"open": keys.dead_open, "retrying": keys.dead_retrying, "closed": keys.dead_closed}
        key = index[INDEX[wanted.state]](shelf.source)
        return int(await asked(shelf.redis.zcount(key, low, high)))
    found, looked, cursor = 0, 0, ""
    while looked < COUNTED:
        got = await sweep(shelf, wanted, "find", now_ms=now_ms, limit=LOOK, cursor=cursor)
        found += got.done
        looked += got.done + got.skipped
        cursor = got.cursor
        if got.finished:
            break
    return found


def moment_ms(name: str, text: str) -> int | None:
    """Read ``2026-11-23T12:00Z``, epoch ms, or empty (None); InvalidRequest names *name*."""
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 16:
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{name}={text[:40]!r} is not a time", field=name, hint="2026-11-23T12:00Z or epoch ms"
        ) from error
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return round(at.timestamp() * 1000)


def age_s(name: str, text: str) -> float | None:
    """Read ``90s``, ``15min``, ``2h``, ``3d`` (plain numbers: seconds) or empty (None)."""
    if not text:
        return None
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(
            f"{name}={text[:40]!r} is not an age", field=name, hint="90s, 15min, 2h, 3d"
        )
    return float(found[1]) * _AGE_S[found[2] or "s"]
