"""The operation that replays a range of a stream: copies at its end, marked ``replayedFrom``.

A copy is a new event: handlers run again, and their effects happen again. Copies themselves, of
replays and of dead letters, are not copied, and entries no handler could read are passed over.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app import keys
from app.errors import BadRecord, InvalidRequest
from app.operations import Operation, Outcomes, Role, Step
from app.streams.entries import EntryFilter, asked, entry_row, position
from app.streams.events import Event
from app.wire.connections import Connections
from app.wire.scripts import script

#: filter → field of EntryFilter
_FILTERS: Final = {
    "type": "type",
    "user": "user_id",
    "workspace": "workspace_id",
    "correlation": "correlation_id",
}
#: entries per read, looked at per step, and looked at for a count
_CHUNK: Final = 100
_PER_STEP: Final = 5_000
MAX_COUNTED: Final = 500_000
#: bytes per script call: a step must not hold up Redis' other clients
_CALL_BYTES: Final = 1_048_576
#: s the mark of an operation is kept: longer than any stays open
MARK_S: Final = 30 * 86_400


@dataclass(frozen=True, slots=True)
class EventReplay:
    """See ``operations.Kind``."""

    name: str = "replay_events"
    has_canary: bool = False

    def check(self, role: Role, filter: Mapping[str, str]) -> dict[str, str]:  # noqa: A002
        """Return the filter as it is stored: ``from``, ``to``, ``type user workspace correlation``.

        Without ``to`` the range ends now, so that a replay does not follow its own copies.
        """
        if role != "streams":
            raise InvalidRequest(
                "only a stream can be replayed", field="source", hint="name a stream"
            )
        for name in filter:
            if name not in (*_FILTERS, "from", "to"):
                known = ", ".join((*_FILTERS, "from", "to"))
                raise InvalidRequest(f"filter {name[:60]!r} is not known", field=name, hint=known)
        stored = {name: str(value) for name, value in filter.items() if value}
        _wanted(stored)
        stored["from"] = position(stored["from"], "from") if "from" in stored else "0-0"
        stored["to"] = position(stored.get("to") or str(int(time.time() * 1000)), "to")
        return stored

    async def count(self, connections: Connections, operation: Operation) -> int:
        """How many entries would be copied; a lower bound beyond 500,000 looked at."""
        matched, scanned, at = 0, 0, ""
        while scanned < MAX_COUNTED:
            rows = await _read(connections, operation, at, 2 * _CHUNK)
            matched += sum(_is_wanted(operation, *row) for row in rows)
            scanned += len(rows)
            if len(rows) < 2 * _CHUNK:
                break
            at = rows[-1][0]
        return matched

    async def sample(
        self, connections: Connections, operation: Operation, limit: int
    ) -> list[dict[str, Any]]:
        """Return the first few entries that would be copied."""
        rows = await _read(connections, operation, "", _PER_STEP)
        wanted = [row for row in rows if _is_wanted(operation, *row)][:limit]
        return [entry_row(entry_id, raw, preview=256) for entry_id, raw in wanted]

    async def step(self, connections: Connections, operation: Operation, limit: int) -> Step:
        """Copy up to *limit* entries, from the cursor on."""
        wanted: list[tuple[str, Mapping[str, str]]] = []
        scanned, at, finished, room = 0, operation.cursor, False, _CALL_BYTES
        while len(wanted) < limit and scanned < _PER_STEP and room > 0 and not finished:
            rows = await _read(connections, operation, at, _CHUNK)
            finished = len(rows) < _CHUNK
            for entry_id, raw in rows:
                if len(wanted) == limit or room <= 0:
                    finished = False
                    break
                scanned, at = scanned + 1, entry_id
                if _is_wanted(operation, entry_id, raw):
                    wanted.append((entry_id, raw))
                    room -= sum(map(len, raw.values()))
        if wanted:
            await _copy(connections, operation, wanted)
        skipped = scanned - len(wanted)
        return Step(done=len(wanted), skipped=skipped, cursor=at, finished=finished)

    async def outcomes(self, connections: Connections, operation: Operation) -> Outcomes:  # noqa: ARG002
        """Return nothing: copies are events like all others, there is nothing to wait for."""
        return Outcomes(waiting=0, well=0, failed=0)


async def _copy(
    connections: Connections, operation: Operation, wanted: list[tuple[str, Mapping[str, str]]]
) -> None:
    flat: list[Any] = []
    for entry_id, raw in wanted:
        fields = {**raw, "replayedFrom": entry_id}
        flat += (entry_id, 2 * len(fields))
        for pair in fields.items():
            flat += pair
    await asked(
        script(__file__, "replay_events").run(
            connections.streams,
            [operation.source, keys.replay_mark(operation.source, operation.id)],
            [MARK_S, *flat],
        )
    )


async def _read(
    connections: Connections, operation: Operation, at: str, count: int
) -> list[tuple[str, Mapping[str, str]]]:
    start = f"({at}" if at else operation.filter["from"]
    rows = await asked(
        connections.streams.xrange(operation.source, start, operation.filter["to"], count=count)
    )
    return [(str(entry_id), raw) for entry_id, raw in rows]


def _is_wanted(operation: Operation, entry_id: str, raw: Mapping[str, str]) -> bool:
    if not _wanted(operation.filter).wants(raw):
        return False
    try:
        event = Event.from_entry(entry_id, raw)
    except BadRecord:
        return False
    return not (event.replayed_from or event.redriven_from)


def _wanted(stored: Mapping[str, str]) -> EntryFilter:
    return EntryFilter(
        **{field: stored[name] for name, field in _FILTERS.items() if stored.get(name)}
    )
