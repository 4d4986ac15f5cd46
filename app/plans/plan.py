"""The plan: what will be sent, what it costs, and what to make of the answers. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

#: bytes one row takes on the wire, about: measured on 2026-11-26 with the demo load
_ROW_BYTES: Final = {
    "runs": 420,
    "dead_letters": 520,
    "jobs": 400,
    "history": 70,
    "operations": 600,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command or request, or several that differ by id (written ``<id>``), ``times`` at most."""

    where: str  #: queue, streams, or http
    command: tuple[Any, ...]
    times: int = 1
    rows: int = 0  #: it answers with at most
    as_bytes: bool = False  #: whether the answer is not made text: JSON is read as it is
    queue: str = ""  #: whose keys it asks for: the server that holds it answers; empty: the home

    @property
    def text(self) -> str:
        """The command as one line."""
        return " ".join(map(str, self.command))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be sent, and what to make of the answers."""

    what: str
    steps: tuple[Step, ...] = ()
    later: tuple[Step, ...] = ()  #: sent after the answers to *steps*
    make: Callable[[Sequence[Any]], pd.DataFrame] | None = None
    #: the second plan, made of the answers to this one
    follow: Callable[[Sequence[Any]], "Plan"] | None = None
    note: str = ""

    @property
    def commands(self) -> list[str]:
        """Every command as one line, ``<id>`` where it depends on an answer."""
        return [step.text for step in (*self.steps, *self.later)]

    @property
    def sent(self) -> int:
        """Commands sent at most."""
        return sum(step.times for step in (*self.steps, *self.later))

    @property
    def round_trips(self) -> int:
        """Times an answer is waited for."""
        http = [s for s in self.steps if s.where == "http"]
        return sum(s.times for s in http) if http else bool(self.steps) + bool(self.later)

    @property
    def rows(self) -> int:
        """Rows read at most."""
        return sum(step.rows for step in self.steps)

    @property
    def cost(self) -> str:
        """The cost in words."""
        if not self.steps:
            return f"nothing is sent: {self.note}"
        size = self.rows * _ROW_BYTES.get(self.what, 300) / 1e6
        trips = "1 round trip" if self.round_trips == 1 else f"{self.round_trips} round trips"
        at_most = "at most " if self.later or any(s.times > 1 for s in self.steps) else ""
        word = "request" if self.steps[0].where == "http" else "command"
        return (
            f"{at_most}{self.sent:,} {word}{'' if self.sent == 1 else 's'}, {trips}, "
            f"at most {self.rows:,} rows (≈ {size:.1f} MB)"
            + (f"; {self.note}" if self.note else "")
        )

    def df(self) -> pd.DataFrame:
        """One row per command: where it goes, how often at most, rows it may answer with."""
        return pd.DataFrame(
            [(s.where, s.text, s.times, s.rows) for s in (*self.steps, *self.later)],
            columns=["where", "command", "times", "rows"],
        )

    def __str__(self) -> str:
        lines = [f"{s.where}: {s.text}{f'  (≤ {s.times:,} times)' if s.times > 1 else ''}"
                 for s in (*self.steps, *self.later)]  # fmt: skip
        return "\n".join([*lines, self.cost])

    __repr__ = __str__
