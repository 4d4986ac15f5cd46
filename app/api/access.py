"""What every route is given: the process's runtime, and who calls."""

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from app.actions import Actor
from app.server import Runtime
from app.snapshot import Snapshot


def _runtime(request: Request) -> Runtime:
    shared: Runtime = request.app.state.runtime
    return shared


def _actor(request: Request) -> Actor:
    """Return who the guard let in; without a guard before it, the API lets nobody in."""
    actor = request.scope.get("state", {}).get("actor")
    if not isinstance(actor, Actor):
        raise HTTPException(401, "this needs an API key", {"WWW-Authenticate": "Bearer"})
    return actor


def _snapshot(request: Request) -> Snapshot:
    return _runtime(request).collector.snapshot


Shared = Annotated[Runtime, Depends(_runtime)]
Caller = Annotated[Actor, Depends(_actor)]
Now = Annotated[Snapshot, Depends(_snapshot)]
