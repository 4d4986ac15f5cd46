"""What every route is given: the process's runtime, and who calls."""

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from app.actions import Actor
from app.server import Runtime
from app.snapshot import Snapshot


# Coroutines, though they await nothing: FastAPI sends plain functions to a thread, request by request.
async def _runtime(request: Request) -> Runtime:
    shared: Runtime = request.app.state.runtime
    return shared


async def _actor(request: Request) -> Actor:
    """Return who the guard let in; without a guard before it, the API lets nobody in."""
    actor = request.scope.get("state", {}).get("actor")
    if not isinstance(actor, Actor):
        raise HTTPException(401, "this needs an API key", {"WWW-Authenticate": "Bearer"})
    return actor


async def _snapshot(request: Request) -> Snapshot:
    shared: Runtime = request.app.state.runtime
    return shared.collector.snapshot


Shared = Annotated[Runtime, Depends(_runtime)]
Caller = Annotated[Actor, Depends(_actor)]
Now = Annotated[Snapshot, Depends(_snapshot)]
