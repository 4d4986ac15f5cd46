"""The counter: the question one viewer has open, and what they ask to be done, until they are told."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from app.pages import bulk, dialogs
from app.pages.board import Board
from app.pages.errands import Errands
from app.pages.intents import ACTS, Desk, Notice
from app.pages.journey import REFUSED
from app.pages.scene import Scene
from app.pages.selection import Selection


class Counter:
    """*later* asks for a refresh; *done* is called with what a viewer was told."""

    def __init__(
        self,
        desk: Desk,
        selection: Selection,
        errands: Errands,
        later: Callable[[], None],
        done: Callable[[Notice], None],
    ) -> None:
        self._desk, self._selection, self._errands = desk, selection, errands
        self._later, self._done = later, done
        self.board = Board()
        self.asked: dialogs.Asked | None = None

    def take(
        self, intent: str, data: Mapping[str, Any], scene: Callable[[], Scene], *, is_past: bool
    ) -> None:
        """Do what a message asks for; *is_past*: of a moment that was, where nothing can be done."""
        fields = data.get("fields")
        match intent:
            case "help":
                self.asked = dialogs.Asked("help")
            case "ask":
                self.asked = dialogs.Asked.of(data, scene())
                if self.asked is not None and self.asked.what in bulk.KINDS:
                    self._errands.run(self._count(self.asked))
            case "close":
                self.asked = None
            case "confirm" if self.asked is not None and isinstance(fields, dict) and not is_past:
                self._errands.run(self._confirm(self.asked, dict(fields)))
            case "dismiss":
                self.board.take_down(data.get("number"))
            case _ if intent in ACTS and is_past:
                self.board.post(REFUSED)
            case _ if intent in ACTS:
                given = {**data, **(fields if isinstance(fields, dict) else {})}
                self._errands.run(self._perform(intent, given))

    async def _perform(self, intent: str, data: Mapping[str, Any]) -> None:
        if intent.endswith("-chosen"):
            chosen = sorted(self._selection.rows)
            self._selection.let_go()
            notice = await self._desk.perform_each(intent.removesuffix("-chosen"), chosen)
        else:
            notice = await self._desk.perform(intent, data)
        self._tell(notice, data.get("number"))

    async def _count(self, asked: dialogs.Asked) -> None:
        counted = await self._desk.count(asked)
        if self.asked is asked:
            self.asked = counted
        self._later()

    async def _confirm(self, asked: dialogs.Asked, fields: dict[str, Any]) -> None:
        notice = await self._desk.confirm(asked, fields)
        if notice.keeps_dialog:
            if self.asked is asked:
                self.asked = replace(asked, said=notice, fields=fields)
            self._later()
            return
        if self.asked is asked:
            self.asked = None
        self._selection.let_go()
        self._tell(notice)

    def _tell(self, notice: Notice, replaces: object = None) -> None:
        self.board.post(notice, replaces)
        self._done(notice)


__all__ = ["Counter"]
