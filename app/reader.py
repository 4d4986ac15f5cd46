"""Read dead letters, events and the audit log from Redis, a page at a time; jobs come from beside.

With ``readings`` and its neighbours ``jobs.lists``, ``jobs.detail`` and ``jobs.facts`` the only code that
decodes what Redis holds. Never writes, never unpickles. Every read is bounded and resumes by a cursor.
"""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from redis.asyncio import Redis

from app import keys
from app.cursors import Page
from app.cursors import bad_cursor as _bad_cursor
from app.cursors import by_score as _by_score
from app.cursors import letter_of as _letter
from app.cursors import limited as _limited
from app.cursors import stream_page as _stream_page
from app.errors import InvalidRequest
from app.frames import printable
from app.jobs.detail import JobDetail, find_job, job
from app.jobs.facts import job_facts
from app.jobs.lists import JobsOf, jobs_page
from app.jobs.rows import JobFilter, JobRow, jobs_frame
from app.letters.filters import LetterFilter, from_now, sweep
from app.letters.redrive import Shelf
from app.payloads.codec import Codec, raw_bytes
from app.payloads.contents import PICKLED, Arguments, arguments_of
from app.records import DeadLetter
from app.sampling.stream_readings import id_ms
from app.wire.batch import Batch
from app.wire.batch import into as _into

__all__ = [
    "PICKLED",
    "Arguments",
    "JobDetail",
    "JobFilter",
    "JobRow",
    "JobsOf",
    "LetterDetail",
    "LettersOf",
    "Page",
    "arguments_of",
    "audit_page",
    "events_page",
    "find_job",
    "job",
    "job_facts",
    "jobs_frame",
    "jobs_page",
    "letter",
    "letters_matching",
    "letters_page",
    "lineage_of",
    "raw_bytes",
]

LettersOf = Literal["open", "retrying", "closed"]
#: letters looked at for one page of those that match
MAX_SCANNED: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterDetail:
    """One dead letter with what it carried."""

    letter: DeadLetter
    arguments: Arguments
    raw: str = ""  #: the fields of a dead event, as JSON text
    lineage: tuple[Mapping[str, Any], ...] = ()  #: each redrive: n, at_ms, actor, edited, operation


async def letters_page(
    redis: Redis, source: str, state: LettersOf = "open", cursor: str | None = None, limit: int = 50
) -> Page[DeadLetter]:
    """One page of the dead letters of a queue or stream, the last to change state first."""
    key = {
        "open": keys.dead_open,
        "retrying": keys.dead_retrying,
        "closed": keys.dead_closed,
    }.get(state)
    if key is None:
        hint = "open, retrying or closed"
        raise InvalidRequest(f"state={state!r} is not known", field="state", hint=hint)
    pairs, following = await _by_score(
        redis, key(source), "-inf", "+inf", cursor, _limited(limit), newest=True
    )
    batch = Batch(redis)
    raw: dict[str, Any] = {}
    for letter_id, _ in pairs:
        batch.ask(_into(raw, letter_id), "HGETALL", keys.dead_record(source, letter_id))
    await batch.run()
    decoded = [_letter(raw[letter_id]) for letter_id, _ in pairs if raw.get(letter_id)]
    items = [found for found in decoded if found is not None]
    return Page(items=items, cursor=following, scanned=len(pairs))


async def letter(
    redis: Redis, source: str, letter_id: str, *, codec: Codec | None = None
) -> LetterDetail | None:
    """One dead letter with its arguments or raw fields; None when there is none of that id."""
    raw: Any = await redis.hgetall(keys.dead_record(source, letter_id))  # type: ignore[misc]
    found = _letter(raw) if raw else None
    if found is None:
        return None
    arguments, text = await _letter_arguments(redis, source, letter_id, codec)
    if found.kind == "event":
        arguments = Arguments(size_bytes=len(text))
        return LetterDetail(letter=found, arguments=arguments, raw=text, lineage=lineage_of(raw))
    return LetterDetail(letter=found, arguments=arguments, lineage=lineage_of(raw))


def lineage_of(raw: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """The redrives a letter's record tells of, the first first; the newest 100 are kept."""
    found = []
    for name, text in raw.items():
        number = name.removeprefix("redrive:")
        if number != name and number.isdecimal():
            with contextlib.suppress(ValueError):
                found.append({"n": int(number), **json.loads(text)})
    return tuple(sorted(found, key=lambda entry: int(entry["n"])))


async def letters_matching(
    shelf: Shelf, wanted: LetterFilter, cursor: str | None = None, limit: int = 50
) -> Page[DeadLetter]:
    """One page of the dead letters that match, newest first; looks at 20,000 letters at most."""
    _check_sweep_cursor(cursor)
    wanted = await from_now(shelf, wanted)
    most, scanned, place = _limited(limit), 0, cursor or ""
    ids: list[str] = []
    while True:
        got = await sweep(
            shelf, wanted, "find", now_ms=None, limit=most - len(ids), cursor=place, newest=True
        )
        ids += got.ids
        scanned += got.done + got.skipped
        place = got.cursor
        if got.finished or len(ids) >= most or scanned >= MAX_SCANNED:
            break
    batch = Batch(shelf.redis)
    raw: dict[str, Any] = {}
    for letter_id in ids:
        batch.ask(_into(raw, letter_id), "HGETALL", keys.dead_record(shelf.source, letter_id))
    await batch.run()
    decoded = [_letter(raw[letter_id]) for letter_id in ids if raw.get(letter_id)]
    items = [found for found in decoded if found is not None]
    return Page(items=items, cursor=None if got.finished else place, scanned=scanned)


def _check_sweep_cursor(cursor: str | None) -> None:
    if cursor and not re.fullmatch(r"-?\d{1,20}(\.\d+)? .{1,200}", cursor, re.DOTALL):
        raise _bad_cursor(cursor)


async def _letter_arguments(
    redis: Redis, source: str, letter_id: str, codec: Codec | None
) -> tuple[Arguments, str]:
    payload = raw_bytes(await redis.get(keys.dead_payload(source, letter_id)))
    return arguments_of(payload, codec), payload.decode("utf-8", "replace")


async def audit_page(
    redis: Redis, cursor: str | None = None, limit: int = 50
) -> Page[dict[str, str]]:
    """One page of what operators did, newest first; ``id`` and the fields as written."""
    return await _entries_page(redis, keys.AUDIT, cursor, limit)


async def events_page(
    redis: Redis, stream: str, cursor: str | None = None, limit: int = 50
) -> Page[dict[str, str]]:
    """One page of the raw entries of *stream*, newest first; ``id``, ``at_ms`` and the fields."""
    return await _entries_page(redis, stream, cursor, limit)


async def _entries_page(
    redis: Redis, key: str, cursor: str | None, limit: int
) -> Page[dict[str, str]]:
    entries = await _stream_page(redis, key, cursor, _limited(limit))
    items = [
        {printable(k): printable(v) for k, v in fields.items()}
        | {"id": entry_id, "at_ms": f"{id_ms(entry_id):.0f}"}
        for entry_id, fields in entries
        if fields is not None
    ]
    last = entries[-1][0] if len(entries) == limit else None
    return Page(items=items, cursor=last, scanned=len(entries))
