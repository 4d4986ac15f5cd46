"""The board: the sentences a viewer was told, with what they may press; each comes down by itself."""

import time
from dataclasses import dataclass
from typing import Final

from app.pages.intents import Notice
from app.pages.markup import Html, button, icon, link, tag
from app.palette import JOB_LOOK
from app.records import JobState

MAX_NOTICES: Final = 4


@dataclass(frozen=True)
class _Posted:
    notice: Notice
    number: int
    until: float  #: monotonic s


class Board:
    """At most four notices, newest last."""

    def __init__(self) -> None:
        self._posted: list[_Posted] = []
        self._number = 0

    def post(self, notice: Notice, replaces: object = None) -> None:
        """Put *notice* up, in the place of the one numbered *replaces*."""
        self.take_down(replaces)
        self._number += 1
        posted = _Posted(notice, self._number, time.monotonic() + notice.lasts_s)
        self._posted = [*self._posted, posted][-MAX_NOTICES:]

    def take_down(self, number: object) -> None:
        """Remove the notice of that number."""
        self._posted = [p for p in self._posted if str(p.number) != str(number)]

    def show(self) -> Html:
        """What is up now."""
        now = time.monotonic()
        self._posted = [posted for posted in self._posted if posted.until > now]
        shown = [_notice(posted) for posted in self._posted]
        return tag("div", shown, class_="notices", role="status", aria_live="polite")


def _notice(posted: _Posted) -> Html:
    notice = posted.notice
    look = JOB_LOOK[JobState.COMPLETE if notice.ok else JobState.FAILED]
    offers: list[Html] = [
        button(label, intent, kind="quiet once", number=posted.number, **data)
        for label, intent, data in notice.offers
    ]
    offers += [link(where, label, class_="button") for label, where in notice.links]
    close = button("Dismiss", "dismiss", number=posted.number)
    css = "complete" if notice.ok else "failed"
    return tag(
        "div",
        tag("span", icon(look.icon, 14), class_=f"c-{css}"),
        tag("span", notice.text),
        offers,
        close,
        class_="notice",
        data_key=f"notice-{posted.number}",
    )


__all__ = ["Board"]
