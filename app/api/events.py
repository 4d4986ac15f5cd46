"""Events: publish one or many, list the newest handled ones."""

import hashlib
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Header, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app import actions, logs
from app.actions.events import MAX_EVENTS, check_stream
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.strict_json import StrictRoute
from app.errors import InvalidRequest
from app.exports.files import records_json
from app.publisher import Published
from app.streams.events import NewEvent as EventToPublish

router = APIRouter(tags=["events"], route_class=StrictRoute)

_EXAMPLE: Final[dict[str, Any]] = {
    "type": "user.created",
    "userId": "user123",
    "data": {"email": "user@example.com"},
    "eventId": "signup-user123",
}


class NewEvent(BaseModel):
    """A fact to append to a stream; ``eventId``: asking again with it publishes nothing twice."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    type: str = Field(min_length=1, max_length=128)
    data: Any = Field(default_factory=dict)
    userId: str = Field(default="", max_length=256)
    workspaceId: str = Field(default="", max_length=256)
    correlationId: str = Field(
        default="",
        max_length=256,
        description="carried on to jobs, log lines and dead letters; left out: the X-Request-Id",
    )
    eventId: str = Field(default="", max_length=256)
    source: str = Field(default="arqscope", max_length=256)


#: an event or a list of them; told apart first, so that an error names the field of the right one
EventOrEvents = Annotated[
    Annotated[NewEvent, Tag("one")] | Annotated[list[NewEvent], Tag("many")],
    Discriminator(lambda asked: "many" if isinstance(asked, list) else "one"),
]


class PublishedEvent(BaseModel):
    """What became of an event; ``existed``: it was published before, nothing was changed."""

    id: str = Field(examples=["1795442400000-0"], description="id of the stream entry")
    type: str
    stream: str
    existed: bool
    eventId: str = ""


@router.post(
    "/events",
    status_code=201,
    response_model=PublishedEvent | list[PublishedEvent],
    responses={
        200: {
            "model": PublishedEvent | list[PublishedEvent],
            "description": "published before; nothing was changed",
        }
    },
)
async def publish(
    asked: Annotated[
        EventOrEvents,
        Body(
            openapi_examples={
                "one": {"value": _EXAMPLE},
                "many": {
                    "value": [_EXAMPLE, {"type": "workspace.updated", "workspaceId": "ws456"}]
                },
            }
        ),
    ],
    shared: Shared,
    caller: Caller,
    stream: Annotated[str, Query(max_length=128, description="empty: the first one")] = "",
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Response:
    """Publish an event, or up to 1,000 in order. 201: accepted; 200: all were there already."""
    asked_for = asked if isinstance(asked, list) else [asked]
    if not 1 <= len(asked_for) <= MAX_EVENTS:
        raise InvalidRequest(f"{len(asked_for)} events in one request", hint=f"1 to {MAX_EVENTS:,}")
    stream = check_stream(shared.settings, stream)
    events = [
        _event(one, idempotency_key, number, is_list=isinstance(asked, list))
        for number, one in enumerate(asked_for)
    ]
    done = await actions.publish_events(
        shared.connections, shared.settings, caller, events, stream=stream
    )
    answers = [_answer(event, one, stream) for event, one in zip(events, done, strict=True)]
    status = 201 if any(one.created for one in done) else 200
    return JSONResponse(answers if isinstance(asked, list) else answers[0], status)


def _event(asked: NewEvent, key: str | None, number: int, *, is_list: bool) -> EventToPublish:
    event_id = asked.eventId
    if not event_id and key:
        digest = hashlib.sha256(f"{key}\0{number}".encode("utf-8", "replace")).hexdigest()
        event_id = f"idem-{digest[:32]}"
    try:
        return EventToPublish(
            type=asked.type,
            data=asked.data,
            user_id=asked.userId,
            workspace_id=asked.workspaceId,
            correlation_id=asked.correlationId or logs.request_id.get(),
            source=asked.source,
            event_id=event_id,
        )
    except InvalidRequest as error:
        if not is_list:
            raise
        raise InvalidRequest(
            str(error), field=f"{number}.{error.field}", hint=error.hint
        ) from error


def _answer(event: EventToPublish, done: Published, stream: str) -> dict[str, Any]:
    told = {"id": done.id, "type": event.type, "stream": stream, "existed": not done.created}
    return told | {"eventId": event.event_id}


@router.get("/events", response_model=answers.many(answers.EventRow))
async def events(
    now: Now,
    _: Caller,
    event_type: Annotated[str | None, Query(alias="type", max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> Response:
    """List the newest handled events, newest first; ``/streams/{stream}/entries`` has all that are kept."""
    found = now.events if event_type is None else now.events[now.events["type"] == event_type]
    return Response(records_json(found.tail(limit).iloc[::-1]), media_type="application/json")
