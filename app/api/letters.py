"""Dead letters: list, export, look at one, retry (edited or not), discard, undo, archive."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app import actions, reader
from app.actions.letters import shelf_of
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.encoded import encoded, paged
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute
from app.declarations import NAME_PATTERN
from app.enqueue import codec_of
from app.errors import InvalidRequest, NotFound
from app.exports.files import records_json
from app.exports.letters import MEDIA, export_letters
from app.letters.edit import LetterEdit
from app.letters.filters import LetterFilter
from app.letters.shelves import letters_of_all
from app.reader import LetterDetail, LettersOf
from app.records import DeadLetter

router = APIRouter(tags=["dead letters"], route_class=StrictRoute)

EVERY_SOURCE: Final = "-"
SourceName = Annotated[str, Path(min_length=1, max_length=128, pattern=NAME_PATTERN.pattern)]
#: a queue or stream, or - for all of them
AnySource = Annotated[
    str,
    Path(
        min_length=1,
        max_length=128,
        pattern=f"-|{NAME_PATTERN.pattern}",
        description="a queue or stream; - for all of them, on all servers",
    ),
]
ClosedAs = Literal["resolved", "discarded", "archived"]
LetterId = Annotated[str, Path(min_length=1, max_length=160)]


class Edit(BaseModel):
    """What a retry carries in place of what died; what is left out stays as it was."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, max_length=128, description="function or event type")
    data: Any = Field(default=None, description="a job's one argument, or an event's data")
    args: list[Any] | None = Field(default=None, max_length=100)
    kwargs: dict[str, Any] | None = None
    fields: dict[str, str] | None = Field(
        default=None, description="of an event: userId, workspaceId, correlationId"
    )

    def for_kind(self, is_event: bool) -> LetterEdit:
        """Return it as the action takes it."""
        given = self.model_fields_set
        changes: dict[str, Any] = {"name": self.name, "args": self.args, "kwargs": self.kwargs}
        if "data" in given and is_event:
            changes["data"] = self.data
        elif "data" in given:
            if self.args is not None or self.kwargs is not None:
                raise InvalidRequest("give data, or args and kwargs, not both", field="edit")
            changes |= {"args": [self.data], "kwargs": {}}
        return LetterEdit(fields=self.fields, **changes)


class Decision(BaseModel):
    """How to act on a dead letter."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"delay": 5000},
                {"edit": {"data": {"baseId": "appXXXXXX", "records": 10}}},
                {"reason": "a test that went astray"},
            ]
        },
    )

    delay: float = Field(default=0, ge=0, le=365 * 86_400_000, description="ms before a retry")
    reason: str = Field(default="", max_length=400, description="why it is given up or put away")
    edit: Edit | None = Field(default=None, description="retry with these arguments instead")


@router.get("/dead-letters", response_model=answers.many(answers.LetterRow))
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


@router.get("/dead-letters/{source}", response_model=answers.PageOf[DeadLetter])
async def letters_of(
    source: AnySource,
    shared: Shared,
    _: Caller,
    state: Annotated[LettersOf | ClosedAs, Query()] = "open",
    name: Annotated[str, Query(max_length=128, description="function or event type")] = "",
    fingerprint: Annotated[str, Query(max_length=64)] = "",
    error_type: Annotated[str, Query(max_length=200)] = "",
    text: Annotated[str, Query(max_length=200, description="in error, id or name")] = "",
    since: Annotated[str, Query(max_length=40, description="2026-11-23T12:00Z or epoch ms")] = "",
    until: Annotated[str, Query(max_length=40)] = "",
    older_than: Annotated[str, Query(max_length=20, description="90s, 15min, 2h, 3d")] = "",
    cursor: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    format: Annotated[  # noqa: A002 - the word callers expect
        Literal["json", "jsonl", "csv", "parquet"],
        Query(description="json: a page; the others: everything that matches, as a file"),
    ] = "json",
) -> Response:
    """List the dead letters of one queue or stream that match, newest first; or export them.

    Of all of them with ``-`` in place of the name: ``window`` says when a server was left out.
    """
    conditions = {
        "state": state,
        "name": name,
        "fingerprint": fingerprint,
        "error_type": error_type,
        "text": text,
        "since": since,
        "until": until,
        "older_than": older_than,
    }
    wanted = LetterFilter.parse(conditions)
    if source == EVERY_SOURCE:
        if format != "json":
            raise InvalidRequest(
                f"format={format!r}: one queue or stream is exported at a time",
                field="format",
                hint="json, or the name of a source in place of -",
            )
        settings = shared.settings
        names = (settings.queue_names, settings.stream_names)
        return paged(await letters_of_all(shared.connections, *names, wanted, cursor, limit))
    shelf = await shelf_of(shared.connections, shared.settings, source)
    if format == "json":
        return paged(await reader.letters_matching(shelf, wanted, cursor, limit))
    pieces = export_letters(shelf, wanted, format, codec=codec_of(shared.settings))
    first = await anext(pieces, b"")  # what is wrong shows before the answer begins

    async def all_pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(
        all_pieces(),
        media_type=MEDIA[format],
        headers={
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="dead-letters-{source}.{format}"',
        },
    )


@router.get("/dead-letters/{source}/{letter_id}", response_model=LetterDetail)
async def letter(source: SourceName, letter_id: LetterId, shared: Shared, _: Caller) -> Response:
    """Return one dead letter with its traceback, its attempts and what it carried."""
    shelf = await shelf_of(shared.connections, shared.settings, source)
    found = await reader.letter(shelf.redis, source, letter_id, codec=codec_of(shared.settings))
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
            edit = None
            if wanted.edit is not None:
                shelf = await shelf_of(shared.connections, shared.settings, source)
                edit = wanted.edit.for_kind(shelf.kind == "event")
            done = await actions.retry_letter(*where, delay_s=wanted.delay / 1000, edit=edit)
        case "discard":
            done = await actions.discard_letter(*where, reason=wanted.reason)
        case "undo":
            done = await actions.undo_discard(*where)
        case "archive":
            done = await actions.archive_letter(*where, reason=wanted.reason)
    return report(done)
