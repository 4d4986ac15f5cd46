"""The kinds of operations on dead letters: retry, discard or archive all that match a filter.

An operation takes the letters that were open when it was asked for: one that dies again later is
not taken twice. Progress is kept by the script that acts, beside the letters.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app import keys
from app.errors import InvalidRequest
from app.letters import filters
from app.letters.filters import ACT, LetterFilter
from app.letters.redrive import Shelf, asked
from app.operations import Operation, Outcomes, Role, Step
from app.records import LetterState
from app.wire.connections import Connections

#: calls under way at once: while one runs in Redis the next is on its way
AT_ONCE: Final = 2
_SHOWN: Final = ("id", "name", "error_type", "error", "died_ms", "redrives")


def shelf_of(connections: Connections, operation: Operation) -> Shelf:
    """Where the letters of *operation* lie."""
    if operation.role == "streams":
        return Shelf(connections.streams, operation.source, "event")
    return Shelf(connections.holding(operation.source), operation.source, "job")


@dataclass(frozen=True, slots=True)
class LetterKind:
    """One of the three; see ``operations.Kind``."""

    name: str
    verb: str  #: the state the letters go to, or ``retry``
    decision: str

    @property
    def has_canary(self) -> bool:
        """Whether it has an outcome one can wait for."""
        return self.verb == "retry"

    def check(self, role: Role, filter: Mapping[str, str]) -> dict[str, str]:  # noqa: A002, ARG002
        """Return the filter as it is stored; only open letters can be acted on."""
        wanted = LetterFilter.parse(filter)
        if wanted.state not in ("open", "new"):
            raise InvalidRequest(
                f"state={wanted.state!r} cannot be acted on", field="state", hint="open"
            )
        return {k: v for k, v in wanted.to_fields().items() if k != "state"}

    async def count(self, connections: Connections, operation: Operation) -> int:
        """How many open letters match; a lower bound beyond 500,000 looked at."""
        return await filters.count(
            shelf_of(connections, operation),
            LetterFilter.parse(operation.filter),
            now_ms=_now_ms(operation),
        )

    async def sample(
        self, connections: Connections, operation: Operation, limit: int
    ) -> list[dict[str, Any]]:
        """Return the newest letters that match."""
        shelf = shelf_of(connections, operation)
        wanted = LetterFilter.parse(operation.filter)
        ids: list[str] = []
        async for page in filters.find(
            shelf, wanted, now_ms=_now_ms(operation), newest=True, page=limit
        ):
            ids += page
            if len(ids) >= limit:
                break
        pipe = shelf.redis.pipeline(transaction=False)
        for letter_id in ids[:limit]:
            pipe.hmget(keys.dead_record(shelf.source, letter_id), list(_SHOWN))
        rows = await asked(pipe.execute()) if ids else []
        return [
            {name: (value or "")[:300] for name, value in zip(_SHOWN, row, strict=True)}
            for row in rows
        ]

    async def step(self, connections: Connections, operation: Operation, limit: int) -> Step:
        """Act on up to *limit* letters, in calls of 100, two under way at once."""
        shelf = shelf_of(connections, operation)
        canary = operation.state == "canary"
        got = await self._sweep(shelf, operation, min(limit, ACT), canary=canary)
        left = limit - (got.done + got.failed - operation.done - operation.failed)

        async def go_on() -> None:
            nonlocal got, left
            while left > 0 and not got.finished:
                before = got.done + got.failed
                size = min(ACT, left)
                left -= size
                one = await self._sweep(shelf, operation, size, canary=False)
                got = max(got, one, key=lambda s: (s.done + s.failed + s.skipped, s.finished))
                if got.done + got.failed == before:
                    return  # nothing matched in a few thousand: let the progress be stored

        if not canary:
            await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))
        return Step(
            done=got.done - operation.done,
            skipped=got.skipped - operation.skipped,
            failed=got.failed - operation.failed,
            cursor=got.cursor,
            finished=got.finished,
        )

    async def outcomes(self, connections: Connections, operation: Operation) -> Outcomes:
        """Return what became of the canaries' retries; one retried again by others has failed."""
        shelf = shelf_of(connections, operation)
        kept = await asked(shelf.redis.hgetall(keys.sweep(shelf.source, operation.id)))
        sent = {
            name.removeprefix("canary:"): retry
            for name, retry in kept.items()
            if name.startswith("canary:")
        }
        pipe = shelf.redis.pipeline(transaction=False)
        for letter_id in sent:
            record = keys.dead_record(shelf.source, letter_id)
            pipe.hmget(record, ["state", "redrives", "retry_id", "operation"])
        rows = await asked(pipe.execute()) if sent else []
        waiting = well = 0
        for (letter_id, retry), (state, redrives, retry_id, by) in zip(
            sent.items(), rows, strict=True
        ):
            current = retry_id if shelf.kind == "event" else f"{letter_id}~r{redrives}"
            is_ours = current == retry and by == operation.id
            if state is None or (state == LetterState.RESOLVED and is_ours):
                well += 1  # only closed letters are forgotten
            elif state == LetterState.RETRYING and is_ours:
                waiting += 1
        return Outcomes(waiting=waiting, well=well, failed=len(sent) - waiting - well)

    async def _sweep(
        self, shelf: Shelf, operation: Operation, limit: int, *, canary: bool
    ) -> filters.Sweep:
        reason = f": {operation.reason}" if operation.reason else ""
        return await filters.sweep(
            shelf,
            LetterFilter.parse(operation.filter),
            f"retry_{shelf.kind}" if self.verb == "retry" else self.verb,
            now_ms=operation.created_ms,
            limit=limit,
            cursor=operation.cursor,
            operation=operation.id,
            actor=operation.actor,
            decision=self.decision,
            reason=f"operation {operation.id}{reason}",
            counts=(operation.done, operation.skipped, operation.failed),
            canary=canary,
        )


def _now_ms(operation: Operation) -> int | None:
    return operation.created_ms or None


LETTER_KINDS: Final = (
    LetterKind("retry_letters", "retry", "RETRY"),
    LetterKind("discard_letters", "discarded", "DISCARD"),
    LetterKind("archive_letters", "archived", "ARCHIVE"),
)
