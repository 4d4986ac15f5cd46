"""The selection: the rows one viewer chose. While there are some, what is listed is held."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.snapshot import Snapshot

#: rows a viewer may select; more is an operation over a filter
MAX_CHOSEN: Final = 100


class Selection:
    """Keys of rows, and what was shown when the first was chosen."""

    def __init__(self) -> None:
        self.rows: set[str] = set()
        self.held: tuple[Snapshot, Any] | None = None  #: snapshot and what was read

    def choose(
        self, intent: str, data: Mapping[str, Any], keys: Sequence[str], shown: tuple[Snapshot, Any]
    ) -> None:
        """Take a row of *keys*, or all of them, in or out, as a browser asks; *shown* is held with the first."""
        if intent == "clear":
            self.let_go()
            return
        on = data.get("checked") is True
        wanted = keys if intent == "choose-all" else [str(data.get("row", ""))]
        for key in wanted:
            if not on:
                self.rows.discard(key)
            elif key in keys and len(self.rows) < MAX_CHOSEN:
                if not self.rows:
                    self.held = shown
                self.rows.add(key)
        if not self.rows:
            self.held = None

    def let_go(self) -> None:
        """Choose none."""
        self.rows.clear()
        self.held = None


__all__ = ["MAX_CHOSEN", "Selection"]
