"""Events and notifications: publish, browse the handled ones, notify."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app import actions
from app.api.access import Caller, Now, Shared
from app.api.frames import records_json
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute

router = APIRouter(tags=["events"], route_class=StrictRoute)

_CHANNEL = r"^(user|workspace|system):[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$"


class NewEvent(BaseModel):
    """A fact to append to the stream."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"type": "user.created", "userId": "user123", "data": {"email": "user@example.com"}}
            ]
        },
    )

    type: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")
    data: dict[str, Any] = Field(default_factory=dict)
    userId: str = Field(default="", max_length=128)
    workspaceId: str = Field(default="", max_length=128)
    correlationId: str = Field(default="", max_length=128)


class Notification(BaseModel):
    """A message to whoever listens on a channel."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"message": "Welcome"}]}
    )

    message: str | dict[str, Any] = Field(max_length=10_000)
    type: str = Field(default="notification", max_length=64)


@router.post("/events", status_code=201)
async def publish(asked: NewEvent, shared: Shared, caller: Caller) -> Report:
    """Publish an event."""
    done = await actions.publish_event(
        shared.connections,
        shared.settings,
        caller,
        asked.type,
        asked.data,
        user_id=asked.userId,
        workspace_id=asked.workspaceId,
        correlation_id=asked.correlationId,
    )
    return report(done)


@router.get("/events")
async def events(
    now: Now,
    _: Caller,
    event_type: Annotated[str | None, Query(alias="type", max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> Response:
    """List the newest handled events, newest first."""
    found = now.events if event_type is None else now.events[now.events["type"] == event_type]
    return Response(records_json(found.tail(limit).iloc[::-1]), media_type="application/json")


@router.post("/notifications/{channel}")
async def notify(
    channel: Annotated[str, Path(max_length=160, pattern=_CHANNEL)],
    asked: Notification,
    shared: Shared,
    caller: Caller,
) -> Report:
    """Send a notification to ``user:<id>``, ``workspace:<id>`` or ``system:broadcast``."""
    done = await actions.notify(
        shared.connections, shared.settings, caller, channel, asked.message, asked.type
    )
    return report(done)
