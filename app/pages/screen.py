"""The screen: the one component a page is made of, patched in place in the browser, sending intents.

Its parts are HTML made on the server. The browser changes only what changed and keeps identity by
``data-key``: a refresh closes nothing, moves no focus and clears no selection. Same in a notebook.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import panel as pn
import param

from app.pages import design
from app.pages.markup import Html, join
from app.pages.wire import Wire

Intent = Mapping[str, Any]

#: the parts of a screen, in the order they stand
PARTS: Final = ("head", "rail", "strip", "above", "below", "foot", "dialog", "notices")
#: stands for what a browser shows where that is not known; no part is made of it
UNKNOWN: Final = "\0"

#: its exports are not declared
_custom: Any = pn.custom


class Screen(pn.custom.JSComponent):
    """One live page: HTML parts, and the charts between ``above`` and ``below``."""

    head = param.String(default="")
    rail = param.String(default="")
    strip = param.String(default="")
    above = param.String(default="")
    below = param.String(default="")
    foot = param.String(default="")
    dialog = param.String(default="")
    notices = param.String(default="")
    charts: Any = _custom.Child()
    theme: Any = param.Selector(default="auto", objects=["auto", "light", "dark"])
    place = param.String(default="", doc="Which page is shown: set together with its content.")
    title = param.String(default="", doc="The title of the browser's tab.")
    served = param.Boolean(default=False, doc="Whether the page has an address of its own.")
    edition = param.Integer(default=0, doc="Counts how often the parts were set; hello tells it.")
    boxes = param.Integer(default=0, doc="How many charts a served page is about to be given.")

    _esm: ClassVar[Path] = Path(__file__).parent / "screen.js"
    _stylesheets: ClassVar[list[str]] = [design.stylesheet()]

    def __init__(self, handle: Callable[[Intent], object] | None = None, **more: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            **{"sizing_mode": "stretch_width", "margin": 0, **more}
        )
        self._handle = handle
        #: of a served page; without one parts are properties, as a notebook needs them
        self.wire: Wire | None = None
        self._told: dict[str, str] | None = (
            None  #: what its browser has; None: it has not said hello
        )

    def put(
        self, *, title: str, place: str, charts: Mapping[str, str] | None = None, **parts: object
    ) -> bool:
        """Show *parts*; of what is shown already nothing is sent. *charts* go to a served page only.

        False: its browser has not taken yet what it was told last, and is told nothing.
        """
        made: dict[str, str] = {name: join(content) for name, content in parts.items()}
        made |= {"title": title, "place": place}
        if self._told is None or self.wire is None:
            changed = {name: text for name, text in made.items() if getattr(self, name) != text}
            if changed:
                texts = {name: str(text) for name, text in changed.items()}
                self.param.update(edition=self.edition + 1, **texts)
            return True
        if self.wire.is_busy:
            return False
        told = self._told
        changed = {name: text for name, text in made.items() if told[name] != text}
        told |= changed
        if changed or charts:
            self.wire.send({**changed, **(charts or {})})
        return True

    def greet(self, edition: object = None) -> None:
        """The browser shows the parts of *edition*: from now on it is told what is different.

        What the document is given while the browser says hello does not reach it: of an edition that is not
        the last, or not told, it is told everything.
        """
        if self.wire is not None:
            is_last = edition == self.edition
            names = (*PARTS, "title", "place")
            self._told = {name: getattr(self, name) if is_last else UNKNOWN for name in names}

    @property
    def is_greeted(self) -> bool:
        """Whether there is a browser that can be told something."""
        return self._told is not None

    def tell(self, **said: str) -> None:
        """Tell the browser something that is not shown, such as a theme to remember."""
        if self.wire is None or self._told is None:
            self._send_msg(said)
        else:
            self.wire.send(said)

    def html(self) -> str:
        """All that is shown, one part after the other."""
        return "\n".join(getattr(self, name) for name in PARTS)

    @classmethod
    def _patch_datamodel_ref(cls, props: Any, ref: str) -> None:
        """Mark the model of our data as *ref*'s, for Panel to clean up.

        Panel looks for such models below it, with every update, through every model of every chart; there
        are none: that was half of what an update cost.
        """
        mark = f"__ref:{ref}"
        if mark not in props.tags:
            props.tags.append(mark)

    def _handle_msg(self, data: Any) -> None:
        if self._handle is None or not isinstance(data, dict):
            return
        self._handle({str(name): value for name, value in data.items()})


__all__ = ["PARTS", "Html", "Intent", "Screen"]
