"""Walk the open dead letters of one source without missing any, a page at a time, by when they died."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from app import keys
from app.letters.redrive import Shelf
from app.records import DeadLetter, LetterState
from app.wire.scripts import script

PAGE: Final = 200
#: what deciding needs of a record; tracebacks and histories stay in Redis
_FIELDS: Final = (
    *("id", "kind", "source", "name", "state", "reason", "error_type", "error", "fingerprint"),
    *("attempts", "redrives", "died_ms", "decision", "correlation_id", "cause_ms"),
)

Row = tuple[str, float]  #: letter id, ms it died


@dataclass(slots=True)
class Place:
    """How far the open letters of one source were looked at, by the ms they died.

    The last ms is looked at again each time: more letters may have died in it.
    """

    cursor: str = "-inf"
    offset: int = 0  #: letters of the cursor's very ms seen already in this pass
    left: float | None = None  #: earliest ms of a letter left for later in this pass

    def leave(self, died_ms: float) -> None:
        """Come back to a letter that died then, once the end was reached."""
        self.left = died_ms if self.left is None else min(self.left, died_ms)

    def move_on(self, rows: Sequence[Row], gone: int) -> bool:
        """Step behind *rows*, of which *gone* are no longer open; False at the end of a pass."""
        if len(rows) == PAGE:
            last = f"{rows[-1][1]:.0f}"
            before = self.offset if last == self.cursor else 0
            is_one_ms = last == self.cursor or rows[0][1] == rows[-1][1]
            self.offset = before + PAGE - gone if is_one_ms else 0
            self.cursor = last
            return True
        end = rows[-1][1] if rows else None
        end = end if self.left is None else self.left
        if end is not None:
            self.cursor = f"{end:.0f}"
        self.offset, self.left = 0, None
        return False


async def open_page(shelf: Shelf, place: Place) -> list[Row]:
    """Up to a page of open letters from *place* on, decided or not."""
    rows: list[Row] = await shelf.redis.zrangebyscore(
        keys.dead_open(shelf.source),
        place.cursor,
        "+inf",
        start=place.offset,
        num=PAGE,
        withscores=True,
    )
    return rows


async def unsettled(shelf: Shelf, rows: Sequence[Row]) -> list[tuple[dict[str, Any], float]]:
    """Return the fields of those of *rows* nobody decided about or whose death is not counted.

    With each, the ms it died.
    """
    if not rows:
        return []
    async with shelf.redis.pipeline(transaction=False) as pipe:
        for letter_id, _ in rows:
            pipe.hmget(keys.dead_record(shelf.source, letter_id), list(_FIELDS))
        records = await pipe.execute()
    found = []
    for (letter_id, died_ms), values in zip(rows, records, strict=True):
        raw = {k: v for k, v in zip(_FIELDS, values, strict=True) if v is not None}
        if raw.get("state") != LetterState.NEW:
            continue
        if not raw.get("decision") or raw.get("cause_ms") != raw.get("died_ms"):
            found.append((raw | {"id": letter_id}, died_ms))
    return found


async def mark_counted(shelf: Shelf, letters: Sequence[DeadLetter]) -> None:
    """Write into the records of *letters* that their deaths are counted; the gone stay gone."""
    if not letters:
        return
    names = [keys.dead_record(shelf.source, letter.id) for letter in letters]
    deaths = [letter.died_ms for letter in letters]
    await script(__file__, "mark_counted").run(shelf.redis, names, deaths)
