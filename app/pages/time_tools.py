"""Tools above charts: which stretch of time they show, and each chart by itself. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from app.charts import CHARTS
from app.pages.address import Address, href
from app.pages.markup import Html, link, tag
from app.pages.window import RANGES

LIVE: Final = ("", "10 min, live")


def segments(entries: Iterable[tuple[str, str, bool]], *, label: str) -> Html:
    """A row of choices that are addresses; *entries* are (address, word, is chosen)."""
    made = [
        link(where, word, aria_current="true" if chosen else None, data_key=word)
        for where, word, chosen in entries
    ]
    return tag("nav", made, class_="segments", aria_label=label)


def ranges(address: Address, names: Sequence[str], *, usual: str = "", live: bool = True) -> Html:
    """The choice of a range; with *live*, of the samples of the last minutes as well."""
    is_custom = bool(address.get("start"))
    offered = [*([LIVE] if live else []), *((name, RANGES[name].word) for name in names)]
    asked = address.get("range")
    chosen = None if is_custom else asked if asked in RANGES else usual
    return segments(
        [
            (address.but(range=name if name != usual else "", start="", end="").href, word, name == chosen)
            for name, word in offered
        ],
        label="Range of the charts",
    )  # fmt: skip


def by_itself(charts: Sequence[str], address: Address) -> Html:
    """Links to each chart alone, as another page would hold it."""
    query = {name: address.get(name) for name in ("name", "range", "start", "end")}
    listed = [
        tag("a", CHARTS[name].title, href=href("chart", chart=name, **query), target="_blank",
            rel="noopener", data_key=name)
        for name in charts
    ]  # fmt: skip
    summary = tag("summary", "Open a chart by itself", class_="button plain")
    return tag("details", summary, tag("div", listed, class_="list"), class_="pop end")


def tools(*parts: object) -> Html:
    """One line of them."""
    return tag("div", parts, class_="ranges", data_key="ranges")


__all__ = ["by_itself", "ranges", "segments", "tools"]
