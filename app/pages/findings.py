"""What the page of dead letters reads when it is opened: closed and older letters, the past of causes."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from app.courses import Course, courses
from app.errors import ArqscopeError, NotFound
from app.explanation import Explanation, explanation
from app.letters.filters import LetterFilter
from app.letters.shelves import letters_of_all
from app.letters.tallies import read_tallies
from app.pages import cause_periods, one_cause
from app.pages.address import Address
from app.pages.scene import Reach
from app.records import DeadLetter

PAGE_ROWS: Final = 25
#: s the courses and tallies of causes are good for
COURSES_FRESH_S: Final = 4.0
STATES: Final = {"open": "Open", "retrying": "Retrying", "closed": "Closed"}


@dataclass(frozen=True, slots=True)
class Found:
    """What the snapshot lacks: closed and older letters, why a cause strikes, the causes' courses."""

    items: list[DeadLetter] = field(default_factory=list)
    cursor: str | None = None
    explained: Explanation | None = None
    window: str = ""  #: what was left out
    courses: Mapping[str, Course] | None = None  #: None: they cannot be read
    tallies: cause_periods.Tallies | None = None  #: None: they cannot be read, or nobody looks


async def load(reach: Reach, address: Address) -> Found:
    """What the snapshot lacks is read when asked for: of one cause its explanation, of all their past."""
    explained: Explanation | None = None
    told: Mapping[str, Course] | None = None
    counted: cause_periods.Tallies | None = None
    if address.get("cause"):
        counted = await _tallies(reach, [address.get("cause")])
        with contextlib.suppress(NotFound):
            explained = await explanation(
                reach.connections, reach.settings.stream_name, reach.settings.queue_names,
                address.get("cause"),
            )  # fmt: skip
    elif address.get("view") == "periods":
        listed = cause_periods.listed(reach.snapshot)
        counted = await _tallies(reach, [str(name) for name in listed["fingerprint"]])
    else:
        told = await _courses(reach)
    if not is_read(address):
        return Found(explained=explained, courses=told, tallies=counted)
    settings = reach.settings
    start = cause_periods.since(address, reach.snapshot.taken_at)
    wanted = LetterFilter(
        state=chosen_state(address), name=address.get("function"), fingerprint=address.get("cause"),
        since_ms=None if start is None else int(start.timestamp() * 1000),
    )  # fmt: skip
    source, cursor = address.get("source"), address.get("cursor") or None
    names = ((source,), ()) if source else (settings.queue_names, settings.stream_names)
    if source in settings.stream_names:
        names = ((), (source,))
    page = await letters_of_all(
        reach.connections, *names, wanted, cursor, PAGE_ROWS, only=bool(source)
    )
    return Found(page.items, page.cursor, explained, page.window, told, counted)


async def _tallies(reach: Reach, names: list[str]) -> cause_periods.Tallies | None:
    """Deaths by period of the causes called *names*, one look for all viewers."""

    async def read() -> cause_periods.Tallies:
        is_counting = reach.snapshot.is_counting
        return await read_tallies(reach.connections.queue, names, is_counting=is_counting)

    with contextlib.suppress(ArqscopeError):
        return await reach.recall.shared(("tallies", *names), read, COURSES_FRESH_S)
    return None


async def _courses(reach: Reach) -> Mapping[str, Course] | None:
    """The courses of the causes listed, one look for all viewers; None where they cannot be read."""
    names = [str(name) for name in one_cause.listed(reach.snapshot)["fingerprint"]]
    queues = [str(name) for name in reach.snapshot.queues["queue"]]

    async def read() -> Mapping[str, Course]:
        return await courses(reach.connections, reach.settings.stream_name, queues, names)

    with contextlib.suppress(ArqscopeError):  # the list itself is in the snapshot
        return await reach.recall.shared(("courses", *names), read, COURSES_FRESH_S)
    return None


def is_read(address: Address) -> bool:
    """Whether the rows are read for this page: closed letters, and those behind the newest of the snapshot."""
    return chosen_state(address) == "closed" or bool(address.get("cursor"))


def chosen_state(address: Address) -> str:
    """The state an address asks for."""
    return address.get("state") if address.get("state") in STATES else "open"


__all__ = ["PAGE_ROWS", "STATES", "Found", "chosen_state", "is_read", "load"]
