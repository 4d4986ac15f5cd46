"""Dead letters: list, look at one, retry, discard, undo, archive."""

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis

from app import actions, reader
from app.actions.asking import check_queue
from app.api.access import Caller, Now, Shared
from app.api.encoded import encoded, paged
from app.api.frames import records_json
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute
from app.enqueue import codec_of
from app.errors import NotFound
from app.reader import LettersOf
from app.server import Runtime
from app.settings import NAME_PATTERN

router = APIRouter(tags=["dead letters"], route_class=StrictRoute)

SourceName = Annotated[str, Path(min_length=1, max_length=128, pattern=NAME_PATTERN.pattern)]
LetterId = Annotated[str, Path(min_length=1, max_length=160)]


class Decision(BaseModel):
    """How to act on a dead letter."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"delay": 5000}]})

    delay: float = Field(default=0, ge=0, le=365 * 86_400_000, description="ms before a retry")
    reason: str = Field(default="", max_length=500, description="why it is given up or put away")


@router.get("/dead-letters")
async def letters(
    now: Now,
    _: Caller,
    source: Annotated[str | None, Query(max_length=128)] = None,
    state: Annotated[Literal["new", "retrying"] | None, Query()] = None,
    fingerprint: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List what waits for a decision or is being retried, newest first."""
    found = now.dead_letters
    wanted = (("source", source), ("state", state), ("fingerprint", fingerprint))
    for column, value in wanted:
        if value is not None:
            found = found[found[column] == value]
    return Response(records_json(found.head(limit)), media_type="application/json")


@router.get("/dead-letters/causes")
async def causes(now: Now, _: Caller) -> Response:
    """Group the open dead letters by cause, most frequent first."""
    return Response(records_json(now.causes), media_type="application/json")


@router.get("/dead-letters/{source}")
async def letters_of(
    source: SourceName,
    shared: Shared,
    _: Caller,
    state: Annotated[LettersOf, Query()] = "open",
    cursor: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """List the dead letters of one queue or stream, a page at a time."""
    redis = await _redis_of(shared, source)
    return paged(await reader.letters_page(redis, source, state, cursor, limit))


@router.get("/dead-letters/{source}/{letter_id}")
async def letter(source: SourceName, letter_id: LetterId, shared: Shared, _: Caller) -> Response:
    """Return one dead letter with its traceback, its attempts and what it carried."""
    redis = await _redis_of(shared, source)
    found = await reader.letter(redis, source, letter_id, codec=codec_of(shared.settings))
    if found is None:
        raise NotFound("dead letter", letter_id)
    return encoded(asdict(found))


@router.post("/dead-letters/{source}/{letter_id}/{verb}")
async def decide(
    source: SourceName,
    letter_id: LetterId,
    verb: Literal["retry", "discard", "undo", "archive"],
    shared: Shared,
    caller: Caller,
    asked: Annotated[Decision | None, Body()] = None,
) -> Report:
    """Retry a dead letter, give it up, take that back, or put it away; twice does it once."""
    where = (shared.connections, shared.settings, caller, source, letter_id)
    wanted = asked or Decision()
    match verb:
        case "retry":
            done = await actions.retry_letter(*where, delay_s=wanted.delay / 1000)
        case "discard":
            done = await actions.discard_letter(*where, reason=wanted.reason)
        case "undo":
            done = await actions.undo_discard(*where)
        case "archive":
            done = await actions.archive_letter(*where, reason=wanted.reason)
    return report(done)


async def _redis_of(shared: Runtime, source: str) -> Redis:
    if source in shared.settings.stream_names:
        return shared.connections.streams
    await check_queue(shared.connections, shared.settings, source)
    return shared.connections.queue
