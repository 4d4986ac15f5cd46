"""The pulse: when one visit refreshes. At its viewer's interval, and once for however many reasons."""

import asyncio
import time
from collections.abc import Callable

from bokeh.document import Document

from app.pages.masthead import REFRESHES


class Pulse:
    """*refresh* is called under the lock of *doc*; without one, in a notebook, at once.

    *is_greeted* tells whether the browser has said hello: then no model of the document is touched.
    """

    def __init__(
        self,
        doc: Document | None,
        refresh: Callable[[], None],
        is_greeted: Callable[[], bool],
        refresh_s: int,
    ) -> None:
        self._doc, self._refresh, self._is_greeted = doc, refresh, is_greeted
        self.refresh_s = refresh_s  #: 0: never by itself
        self.is_seen = True  #: whether the tab is looked at
        self.is_over = False
        self.shown_at = 0.0  #: monotonic s
        self.shown_number = -1
        self._is_due = False

    def is_time(self, number: int, slack_s: float) -> bool:
        """Whether the snapshot called *number* is to be shown now, by the clock and by who looks."""
        is_first = self.shown_number <= 0
        waited = time.monotonic() - self.shown_at
        if not is_first and (not self.refresh_s or waited < self.refresh_s - slack_s):
            return False
        return self.is_seen and number != self.shown_number

    def shows(self, number: int) -> None:
        """The snapshot called *number* is shown."""
        self._is_due = False
        if number != self.shown_number:
            self.shown_at, self.shown_number = time.monotonic(), number

    def later(self) -> None:
        """Refresh under the document's lock."""
        if self.is_over:
            return
        if self._doc is None:
            self._refresh()
        elif not self._is_due:
            self._is_due = True
            if self._is_greeted():
                asyncio.get_running_loop().call_soon(self._refresh)
            else:
                self._doc.add_next_tick_callback(self._refresh)

    def set(self, value: object) -> None:
        """Take the interval a viewer chose; what is none changes nothing."""
        if str(value).isdecimal() and int(str(value)) in REFRESHES:
            self.refresh_s = int(str(value))


__all__ = ["Pulse"]
