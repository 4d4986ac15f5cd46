"""All shelves of a deployment as one list: dead letters of every queue and stream, the newest first, a page at a time.

The cursor is a place in time, ``<ms> <source> <letter id>``, and knows nothing of servers: a page merges what
each source has behind it. A source whose server is away is left out, and said.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from app import keys
from app.cursors import Page, bad_cursor, letter_of, limited
from app.errors import RedisUnavailable
from app.letters.filters import INDEX, LetterFilter, from_now, sweep
from app.letters.redrive import Shelf
from app.records import DeadLetter
from app.wire.batch import Batch, into
from app.wire.connections import Connections, explained

#: letters looked at for one page, of all sources together; at least a script call's worth of each
MAX_SCANNED: Final = 20_000
#: sources walked at a time
BESIDE: Final = 8
_CURSOR: Final = re.compile(r"([0-9]{1,16})(?: (\S{1,128}) (.{1,200}))?", re.DOTALL)
_INDEX: Final = {"open": keys.dead_open, "retrying": keys.dead_retrying, "closed": keys.dead_closed}


@dataclass(frozen=True, slots=True)
class Place:
    """A letter's place among all: the later, the further to the front; then by source, then by id."""

    ms: int
    source: str = ""  #: empty: before all of this ms
    id: str = ""

    @classmethod
    def parse(cls, cursor: str) -> "Place":
        """Read a cursor; InvalidRequest for what is none. Only the ms: all of it, and what is older."""
        found = _CURSOR.fullmatch(cursor)
        if not found:
            raise bad_cursor(cursor)
        return cls(int(found[1]), found[2] or "", found[3] or "")

    @property
    def cursor(self) -> str:
        """It as a page tells it."""
        return f"{self.ms} {self.source} {self.id}"

    @property
    def order(self) -> tuple[int, str, tuple[int, ...]]:
        """What places sort by, the front first; ids as Redis walks them, from the last byte string on."""
        inverse = (*(-byte for byte in self.id.encode("utf-8", "surrogateescape")), 1)
        return -self.ms, self.source, inverse if self.id else ()

    def begin(self, source: str) -> str:
        """The cursor *source*'s own walk begins with, so that it goes on behind this place."""
        if source == self.source:
            return f"{self.ms} {self.id}"
        # those of this ms were shown of the sources before, and are to be shown of those behind
        return f"{self.ms - (source < self.source)} "


@dataclass(slots=True)
class Walk:
    """What the walk along one shelf came to."""

    shelf: Shelf
    found: list[Place]
    scanned: int = 0
    end: Place | None = None  #: how far it looked; None: to the end


async def known_shelves(
    connections: Connections,
    queues: Sequence[str],
    streams: Sequence[str],
    wanted: LetterFilter,
    *,
    only: bool = False,
) -> tuple[list[Shelf], list[str]]:
    """The shelves that hold letters in the state *wanted*, and the names of servers that do not answer.

    *queues* and those our processes registered; *only*: *queues* alone.
    """
    index = _INDEX[INDEX[wanted.state]]

    async def of_queues(name: str) -> list[Shelf]:
        redis, held = connections.server(name), connections.placement.held_by
        listed: Any = () if only else await redis.smembers(keys.QUEUES)  # type: ignore[misc]
        names = dict.fromkeys([*held(name, queues), *sorted(held(name, listed))])
        return await filled([Shelf(redis, queue, "job") for queue in names])

    async def filled(shelves: list[Shelf]) -> list[Shelf]:
        if not shelves:
            return []
        counts: dict[str, int] = {}
        batch = Batch(shelves[0].redis)
        for shelf in shelves:
            batch.ask(into(counts, shelf.source), "ZCARD", index(shelf.source))
        await batch.run()
        return [shelf for shelf in shelves if counts.get(shelf.source)]

    servers = [*connections.queue_servers, "streams"]
    answers = await asyncio.gather(
        *(of_queues(name) for name in servers[:-1]),
        filled([Shelf(connections.streams, stream, "event") for stream in streams]),
        return_exceptions=True,
    )
    shelves: list[Shelf] = []
    away: dict[str, Exception] = {}
    for name, answer in zip(servers, answers, strict=True):
        if isinstance(answer, RedisError | OSError | RedisUnavailable):
            away[name] = answer
        elif isinstance(answer, BaseException):
            raise answer
        else:
            shelves += answer
    if len(away) == len(servers):
        first = away[servers[0]]
        raise first if isinstance(first, RedisUnavailable) else explained(first, "redis://queue")
    return shelves, list(away)


async def letters_of_all(
    connections: Connections,
    queues: Sequence[str],
    streams: Sequence[str],
    wanted: LetterFilter,
    cursor: str | None = None,
    limit: int = 50,
    *,
    only: bool = False,
) -> Page[DeadLetter]:
    """One page of the dead letters of every source that match, newest first; *only*: of those named.

    ``partial``: enough was looked at before the page was full. ``window`` names the servers left out.
    """
    most = limited(limit)
    after = Place.parse(cursor) if cursor else None
    shelves, away = await known_shelves(connections, queues, streams, wanted, only=only)
    gate, budget = asyncio.Semaphore(BESIDE), max(1_000, MAX_SCANNED // max(1, len(shelves)))

    async def walked(shelf: Shelf) -> Walk:
        async with gate:
            try:
                return await _walk(shelf, wanted, after, most, budget)
            except (RedisError, OSError, RedisUnavailable):  # it went away just now
                away.append(_server_of(connections, shelf))
                return Walk(shelf, [])

    walks = await asyncio.gather(*(walked(shelf) for shelf in shelves))
    # beyond the nearest end of a walk that is not through, nobody knows what comes first
    ends = [walk.end for walk in walks if walk.end is not None]
    edge = min(ends, key=lambda place: place.order) if ends else None
    places = sorted((place for walk in walks for place in walk.found), key=lambda p: p.order)
    sure = [place for place in places if edge is None or place.order <= edge.order]
    chosen = sure[:most]
    if len(sure) > most or (edge is not None and len(chosen) == most):
        following: Place | None = chosen[-1]
    else:
        following = edge
    return Page(
        items=await _letters(shelves, chosen),
        cursor=following.cursor if following else None,
        scanned=sum(walk.scanned for walk in walks),
        window=f"without {', '.join(sorted(set(away)))}: no answer from there" if away else "",
        partial=following is not None and len(chosen) < most,
    )


def _server_of(connections: Connections, shelf: Shelf) -> str:
    is_stream = shelf.kind == "event"
    return "streams" if is_stream else connections.placement.server_of(shelf.source)


async def _walk(
    shelf: Shelf, wanted: LetterFilter, after: Place | None, most: int, budget: int
) -> Walk:
    """Walk along *shelf* behind *after* until *most* match, or enough was looked at."""
    wanted = await from_now(shelf, wanted)
    walk, place = Walk(shelf, []), after.begin(shelf.source) if after else ""
    ids: list[str] = []
    while True:
        got = await sweep(
            shelf, wanted, "find", now_ms=None, limit=most - len(ids), cursor=place, newest=True
        )
        ids += got.ids
        walk.scanned += got.done + got.skipped
        place = got.cursor
        if got.finished or len(ids) >= most or walk.scanned >= budget:
            break
    scores: dict[str, float] = {}
    batch = Batch(shelf.redis)
    for letter_id in ids:
        batch.ask(
            into(scores, letter_id), "ZSCORE", _INDEX[INDEX[wanted.state]](shelf.source), letter_id
        )
    await batch.run()
    found = [Place(int(scores[i]), shelf.source, i) for i in ids if scores.get(i) is not None]
    # a walk that cannot find the cursor's letter any more begins its ms again
    walk.found = [p for p in found if after is None or p.order > after.order]
    if not got.finished:
        ms, _, letter_id = place.partition(" ")
        walk.end = Place(int(float(ms)), shelf.source, letter_id)
    return walk


async def _letters(shelves: Sequence[Shelf], places: Sequence[Place]) -> list[DeadLetter]:
    by_source = {shelf.source: shelf.redis for shelf in shelves}
    batches = {id(redis): Batch(redis) for redis in by_source.values()}
    raw: dict[str, Any] = {}
    for place in places:
        batch = batches[id(by_source[place.source])]
        batch.ask(into(raw, place.cursor), "HGETALL", keys.dead_record(place.source, place.id))
    await asyncio.gather(*(batch.run() for batch in batches.values()))
    decoded = [letter_of(raw[p.cursor]) for p in places if raw.get(p.cursor)]
    return [letter for letter in decoded if letter is not None]
