"""A section of a page: HTML made on the server, patched in place in the browser, sending intents.

The browser changes only what changed and keeps identity by ``data-key``: a refresh closes nothing,
moves no focus and clears no selection. Works the same in a notebook.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import panel as pn
import param

from app.pages import design
from app.pages.markup import Html, join

Intent = Mapping[str, Any]

#: characters of one message from a browser that are looked at
MAX_FIELD: Final = 1_000_000


class Section(pn.custom.JSComponent):
    """One live piece of a page."""

    html = param.String(default="", doc="What is shown; only Html gets here, through put().")
    theme: Any = param.Selector(default="auto", objects=["auto", "light", "dark"])
    announce = param.Boolean(default=False, doc="Whether the browser tells its theme at first.")

    _esm: ClassVar[Path] = Path(__file__).parent / "section.js"
    _stylesheets: ClassVar[list[str]] = [design.stylesheet()]

    def __init__(self, handle: Callable[[Intent], object] | None = None, **more: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            **{"sizing_mode": "stretch_width", "margin": 0, **more}
        )
        self._handle = handle

    def put(self, *content: object) -> None:
        """Show *content*; nothing is sent when it is what is shown already."""
        html = join(*content)
        if html != self.html:
            self.html = html

    def remember_theme(self, theme: str) -> None:
        """Ask the browser to keep *theme* for its next visit."""
        self._send_msg({"theme": theme})

    def _handle_msg(self, data: Any) -> None:
        if self._handle is None or not isinstance(data, dict):
            return
        self._handle({str(name): value for name, value in data.items()})


__all__ = ["Html", "Intent", "Section"]
