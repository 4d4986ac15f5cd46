"""What one sample reads of the streams Redis: lengths, groups, counters, handled events. Decodes only.

Like ``readings``: one round trip, its commands independent of how much is stored.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis

from app import keys
from app.sampling.listings import Letters, ask_letters, number
from app.wire.batch import Batch, info_of, seconds_of

EVENTS_PER_TICK: Final = 200


@dataclass(slots=True, kw_only=True)
class StreamReading:
    """What the streams Redis answered; absent keys are unknown."""

    streams: dict[str, dict[str, Any]] = field(default_factory=dict)  #: XINFO STREAM
    groups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  #: XINFO GROUPS
    totals: dict[str, dict[str, int]] = field(default_factory=dict)
    #: (stream, group) -> id of an entry the group had not been given at the sample before
    undelivered: dict[tuple[str, str], str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    after: dict[str, str] = field(default_factory=dict)
    letters: dict[str, Letters] = field(default_factory=dict)
    info: Mapping[str, str] | None = None
    time_s: float | None = None  #: epoch seconds by Redis' clock
    commands: int = 0
    bad: int = 0
    trouble: list[str] = field(default_factory=list)


async def stream_reading(
    redis: Redis,
    streams: Sequence[str],
    *,
    after: Mapping[str, str],
    delivered: Mapping[tuple[str, str], str],
    letters: Iterable[str] = (),
    info: bool = True,
    sort: str = "SORT",
) -> StreamReading:
    """Read everything about *streams* in one round trip.

    *delivered*: last id each lagging group had been given at the sample before; the entry after it
    tells how long the group is behind.
    """
    reading = StreamReading()
    batch = Batch(redis)
    bad: list[int] = []
    batch.ask_raw(lambda reply: setattr(reading, "time_s", seconds_of(reply)), "TIME")
    for stream in streams:
        _ask_stream(batch, stream, reading, after.get(stream))
    for (stream, group), entry_id in delivered.items():
        taker = _undelivered_taker(reading, stream, group)
        batch.ask(taker, "XRANGE", stream, f"({entry_id}", "+", "COUNT", 1)
    for stream in letters:
        ask_letters(batch, stream, reading.letters, bad, sort)
    if info:
        batch.ask_raw(lambda reply: setattr(reading, "info", info_of(reply)), "INFO")
    reading.commands = await batch.run()
    reading.bad = sum(bad)
    reading.trouble = batch.trouble
    return reading


def _ask_stream(batch: Batch, stream: str, reading: StreamReading, after: str | None) -> None:
    recent = keys.recent_events(stream)

    def take_totals(reply: Mapping[str, str]) -> None:
        reading.totals[stream] = {name: number(n) for name, n in reply.items()}

    def take_events(entries: Sequence[Any]) -> None:
        reading.events += [event_row(entry_id, fields) for entry_id, fields in entries if fields]
        reading.after[stream] = entries[-1][0] if entries else (after or "0-0")

    reading.streams[stream] = {}  # a stream nobody wrote to yet: "no such key", length 0
    reading.groups[stream] = []
    batch.ask(lambda r: reading.streams.__setitem__(stream, r), "XINFO STREAM", stream)
    batch.ask(lambda r: reading.groups.__setitem__(stream, r), "XINFO GROUPS", stream)
    batch.ask(take_totals, "HGETALL", keys.event_totals(stream))
    newest = ("XREVRANGE", recent, "+", f"({after}" if after else "-", "COUNT", EVENTS_PER_TICK)
    batch.ask(lambda reply: take_events(list(reversed(reply))), *newest)


def _undelivered_taker(reading: StreamReading, stream: str, group: str) -> Callable[[Any], None]:
    def take(entries: Sequence[Any]) -> None:
        if entries:
            reading.undelivered[stream, group] = entries[0][0]

    return take


def id_ms(entry_id: str) -> float:
    """Milliseconds of a stream id; 0 when it is not one."""
    head = str(entry_id).partition("-")[0]
    return float(head) if head.isdecimal() else 0.0


def event_row(entry_id: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """One handled event as a row of the events frame."""
    original = fields.get("id", entry_id)
    try:
        ms = float(fields.get("ms", "nan"))
    except ValueError:
        ms = float("nan")
    return {
        "id": original,
        "at": id_ms(original) or id_ms(entry_id) or None,
        "type": fields.get("type", ""),
        "handlers": fields.get("handlers", ""),
        "outcome": fields.get("outcome", ""),
        "ms": ms,
        "correlation_id": fields.get("correlationId", ""),
    }
