"""Causes of dead letters: list, look at one, say what is known about it, explain it."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app import actions
from app.api import answers
from app.api.access import Caller, Now, Shared
from app.api.encoded import encoded
from app.api.reports import Report, report
from app.api.strict_json import StrictRoute
from app.errors import NotFound
from app.explanation import explanation
from app.exports.files import records_json
from app.letters import causes
from app.letters.causes import Cause, periods

router = APIRouter(tags=["causes"], route_class=StrictRoute)

Fingerprint = Annotated[str, Path(pattern=r"[0-9a-z]{1,64}")]


class CauseChange(BaseModel):
    """What to say about a cause; what is left out stays."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"state": "known", "owner": "ann", "note": "fixed in 2.4, not deployed"}]
        },
    )

    state: Literal["new", "known", "ignored", "resolved"] | None = None
    owner: str | None = Field(default=None, max_length=100)
    note: str | None = Field(default=None, max_length=2_000)


@router.get("/dead-letters/causes", response_model=answers.many(answers.CauseRow))
async def listed(
    now: Now,
    _: Caller,
    state: Annotated[
        Literal["new", "known", "ignored", "resolved", "regressed"] | None, Query()
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Group the open dead letters by cause, most frequent first, with the causes seen lately."""
    found = now.causes if state is None else now.causes[now.causes["state"] == state]
    return Response(records_json(found.head(limit)), media_type="application/json")


@router.get("/dead-letters/causes/{fingerprint}", response_model=answers.CauseDetail)
async def one(fingerprint: Fingerprint, shared: Shared, _: Caller) -> Response:
    """Return one cause, its deaths per clock hour and day, and those of the last periods."""
    found = await causes.read(shared.connections.queue, fingerprint)
    if found is None:
        raise NotFound("cause", fingerprint)
    now: Any = await shared.connections.queue.time()
    return encoded(_shown(*found, int(now[0]) * 1000))


@router.get("/dead-letters/causes/{fingerprint}/explain", response_model=answers.Explained)
async def explained(fingerprint: Fingerprint, shared: Shared, _: Caller) -> Response:
    """Explain a cause: shared arguments, retry odds, other queues, what changed before it."""
    where, settings = shared.connections, shared.settings
    names = await causes.known_queues(where, settings.queue_names)
    found = await explanation(where, settings.stream_name, names, fingerprint)
    return encoded(found.to_json())


@router.post("/dead-letters/causes/{fingerprint}")
async def change(
    fingerprint: Fingerprint, asked: CauseChange, shared: Shared, caller: Caller
) -> Report:
    """Say that a cause is known, ignored or resolved, who looks after it, and a note."""
    done = await actions.change_cause(
        shared.connections,
        shared.settings,
        caller,
        fingerprint,
        state=asked.state,
        owner=asked.owner,
        note=asked.note,
    )
    return report(done)


def _shown(cause: Cause, counts: dict[str, int], now_ms: int) -> dict[str, Any]:
    by_hour = {int(k[1:]): n for k, n in counts.items() if k.startswith("h")}
    by_day = {int(k[1:]): n for k, n in counts.items() if k.startswith("d")}
    return asdict(cause) | {
        "periods": periods(counts, now_ms),
        "hours": [{"at_ms": h * 3_600_000, "count": by_hour[h]} for h in sorted(by_hour)],
        "days": [{"at_ms": d * 86_400_000, "count": by_day[d]} for d in sorted(by_day)],
    }
