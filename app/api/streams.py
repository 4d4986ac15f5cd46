"""Streams: browse entries, groups with what they hold and how far behind they are, what is pending."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app import actions
from app.actions.events import check_stream
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.encoded import encoded
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute
from app.declarations import NAME_PATTERN
from app.errors import BadRecord, InvalidRequest
from app.exports.files import records_json
from app.streams import entries
from app.streams.entries import EntriesPage, EntryFilter
from app.streams.events import Event
from app.streams.triggers import Firing, dry_run, load_rules

router = APIRouter(tags=["streams"], route_class=StrictRoute)

StreamName = Annotated[
    str,
    Path(max_length=128, pattern=NAME_PATTERN.pattern, examples=["pyairtable-events"]),
]
GroupName = Annotated[
    str, Path(max_length=128, pattern=NAME_PATTERN.pattern, examples=["event-processors"])
]
EntryId = Annotated[str, Path(max_length=48, examples=["1795442400000-0"])]
Cursor = Annotated[str, Query(max_length=48, description="of the page before, unchanged")]
Limit = Annotated[int, Query(ge=1, le=500)]


class PendingChange(BaseModel):
    """How to change a pending entry."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"consumer": "worker-host-17"}]}
    )

    consumer: str = Field(
        default="", max_length=128, description="who gets a claimed entry; empty: who has it"
    )


class EventToTest(BaseModel):
    """An event as the stream would hold it; ``id`` may be made up."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"type": "airtable.base.created", "data": {"baseId": "appXXXXXX"}}]
        },
    )

    type: str = Field(max_length=128)
    data: Any = Field(default_factory=dict)
    id: str = Field(default="0-1", pattern=r"^\d{1,20}-\d{1,20}$")
    userId: str = Field(default="", max_length=256)
    workspaceId: str = Field(default="", max_length=256)
    correlationId: str = Field(default="", max_length=256)
    eventId: str = Field(default="", max_length=256)
    source: str = Field(default="", max_length=256)


@router.get("/streams", response_model=answers.many(answers.StreamRow))
async def streams(now: Now, _: Caller) -> Response:
    """List the streams with their numbers, from the newest sample."""
    return Response(records_json(now.streams), media_type="application/json")


@router.get("/streams/{stream}", response_model=answers.StreamRow)
async def stream_numbers(stream: StreamName, now: Now, shared: Shared, _: Caller) -> Response:
    """Return one stream's numbers."""
    check_stream(shared.settings, stream)
    found = now.streams[now.streams["stream"] == stream]
    return Response(records_json(found)[1:-1] or "{}", media_type="application/json")


@router.get("/streams/{stream}/groups", response_model=answers.many(answers.GroupRow))
async def groups(stream: StreamName, now: Now, shared: Shared, _: Caller) -> Response:
    """List a stream's groups: pending, lag in events and in seconds.

    Redis 6.2 does not tell a group's lag, and none does after entries were deleted: then
    ``lag_is_estimate`` is true and the number is to be read as ``≈``.
    """
    check_stream(shared.settings, stream)
    found = now.groups[now.groups["stream"] == stream]
    return Response(records_json(found), media_type="application/json")


@router.get("/streams/{stream}/groups/{group}/consumers", response_model=list[answers.Consumer])
async def consumers(stream: StreamName, group: GroupName, shared: Shared, _: Caller) -> Response:
    """List a group's consumers: what each holds, and ms since it was heard of."""
    check_stream(shared.settings, stream)
    return encoded(await entries.consumers_of(shared.connections.streams, stream, group))


@router.get("/streams/{stream}/entries", response_model=answers.EntriesOf[answers.Entry])
async def browse(
    stream: StreamName,
    shared: Shared,
    _: Caller,
    event_type: Annotated[
        str, Query(alias="type", max_length=128, description="exact, or a prefix: user.*")
    ] = "",
    user: Annotated[str, Query(max_length=256)] = "",
    workspace: Annotated[str, Query(max_length=256)] = "",
    correlation: Annotated[str, Query(max_length=256)] = "",
    start: Annotated[
        str, Query(alias="from", max_length=48, description="entry id, epoch ms or ISO 8601 time")
    ] = "",
    end: Annotated[str, Query(alias="to", max_length=48)] = "",
    order: Annotated[Literal["newest", "oldest"], Query()] = "newest",
    cursor: Cursor = "",
    limit: Limit = 50,
) -> Response:
    """Browse the entries a stream keeps, a page at a time; pass ``cursor`` on for the next.

    One page looks at no more than ``window`` (5,000) entries; with a rare filter it may be empty and
    still have a cursor. ``scanned`` tells how many it looked at.
    """
    check_stream(shared.settings, stream)
    wanted = EntryFilter(
        type=event_type, user_id=user, workspace_id=workspace, correlation_id=correlation
    )
    page = await entries.entries_page(
        shared.connections.streams,
        stream,
        wanted,
        start=entries.position(start, "from") if start else "-",
        end=entries.position(end, "to") if end else "+",
        cursor=cursor,
        limit=limit,
        newest_first=order == "newest",
    )
    return _paged(page)


@router.get("/streams/{stream}/entries/{entry_id}", response_model=answers.EntryDetail)
async def entry(stream: StreamName, entry_id: EntryId, shared: Shared, _: Caller) -> Response:
    """Return one entry as it was written, where it is pending, and whether it is a dead letter."""
    check_stream(shared.settings, stream)
    return encoded(await entries.entry(shared.connections.streams, stream, entry_id))


@router.get(
    "/streams/{stream}/groups/{group}/pending",
    response_model=answers.EntriesOf[answers.HeldEntry],
)
async def pending(
    stream: StreamName,
    group: GroupName,
    shared: Shared,
    _: Caller,
    consumer: Annotated[str, Query(max_length=128)] = "",
    min_idle: Annotated[int, Query(alias="minIdle", ge=0, le=10**12, description="ms")] = 0,
    cursor: Cursor = "",
    limit: Limit = 50,
) -> Response:
    """List what a group was given and has not acknowledged, oldest first."""
    check_stream(shared.settings, stream)
    page = await entries.pending_page(
        shared.connections.streams,
        stream,
        group,
        consumer=consumer,
        min_idle_ms=min_idle,
        cursor=cursor,
        limit=limit,
    )
    return _paged(page)


@router.post("/streams/{stream}/groups/{group}/pending/{entry_id}/{verb}")
async def change(
    stream: StreamName,
    group: GroupName,
    entry_id: EntryId,
    verb: Literal["claim", "ack", "delete"],
    shared: Shared,
    caller: Caller,
    asked: Annotated[PendingChange | None, Body()] = None,
) -> Report:
    """Change a pending entry, audited.

    ``claim`` lets the next processor take it at once, ``ack`` skips it unhandled, ``delete`` removes it
    from the stream for every group (role admin).
    """
    done = await actions.change_pending(
        shared.connections,
        shared.settings,
        caller,
        stream,
        group,
        entry_id,
        verb,
        consumer=(asked or PendingChange()).consumer,
    )
    return report(done)


@router.get("/streams/{stream}/statuses/{kind}", response_model=list[answers.Status])
async def statuses(
    stream: StreamName,
    kind: Annotated[str, Path(max_length=32, pattern=r"^[a-z]+$", examples=["sync"])],
    shared: Shared,
    _: Caller,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """List what events last said about things of one kind (``sync job user workspace auth``)."""
    check_stream(shared.settings, stream)
    found = await entries.statuses(shared.connections.streams, stream, kind, limit)
    return encoded(found)


@router.get("/triggers", response_model=list[answers.TriggerRule])
async def triggers(shared: Shared, _: Caller) -> Response:
    """List the trigger rules of ``arqscope.toml``: which events make which jobs."""
    rules = load_rules(shared.settings)
    told = [
        {
            "name": rule.name,
            "type": rule.type,
            "queue": rule.queue,
            "function": rule.function,
            "when": {".".join(path): list(wanted) for path, wanted in rule.when.items()},
            "delay_s": rule.delay_s,
            "options": dict(rule.options),
        }
        for rule in rules
    ]
    return encoded(told)


@router.post("/triggers/test", response_model=list[Firing])
async def try_triggers(asked: EventToTest, shared: Shared, _: Caller) -> Response:
    """Say for every rule what it would do with an event; nothing is enqueued."""
    raw = {name: value for name, value in asked.model_dump().items() if name not in ("id", "data")}
    try:
        Event.from_entry(asked.id, {**raw, "data": "{}"})
    except BadRecord as error:
        raise InvalidRequest(str(error)) from error
    event = Event(
        id=asked.id,
        type=asked.type,
        data=asked.data,
        source=asked.source,
        user_id=asked.userId,
        workspace_id=asked.workspaceId,
        correlation_id=asked.correlationId,
        event_id=asked.eventId,
    )
    return encoded([asdict(one) for one in dry_run(load_rules(shared.settings), event)])


def _paged(page: EntriesPage) -> Response:
    return encoded(asdict(page))
