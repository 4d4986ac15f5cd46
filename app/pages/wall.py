"""The wall: the charts of one visit, its own or those all share, and what of them its browser has."""

from collections.abc import Mapping

from app.pages.exhibit import Exhibit, Exhibits, Looker
from app.pages.gallery import Gallery, Plot
from app.pages.made import once_of
from app.pages.plots import Plots
from app.palette import Theme
from app.snapshot import Snapshot


class Wall:
    """Without *exhibits*, as in a notebook, the *gallery* and *plots* given are shown and there is no news."""

    def __init__(
        self, looker: Looker, gallery: Gallery, plots: Plots, exhibits: Exhibits | None
    ) -> None:
        self._looker, self._gallery, self._own, self._exhibits = looker, gallery, plots, exhibits
        self._exhibit: Exhibit | None = None
        self._had: tuple[Exhibit, int] | None = None  #: what the browser has, and how many changes

    @property
    def plots(self) -> Plots:
        """What reads and foretells for what is shown."""
        return self._exhibit.plots if self._exhibit is not None else self._own

    @property
    def is_shared(self) -> bool:
        """Whether a browser is told of exhibits."""
        return self._exhibits is not None

    def show(
        self, plot: Plot, snapshot: Snapshot, theme: Theme, at: str, workers: float | None
    ) -> int:
        """Bring the charts of *plot* to *snapshot*, the moment *at*; return how many a browser will get."""
        if self._exhibits is None:
            self._own.show(plot, snapshot, theme, workers, once_of(snapshot))
            return 0
        found = None
        if plot.charts and plot.names:
            found = self._exhibits.of(plot, at, workers)
            found.show(plot, snapshot, once_of(snapshot))
        if found is not self._exhibit:
            self.leave()
            if found is not None:
                found.join(self._looker)
            self._exhibit = found
        return len(plot.charts) if found is not None else 0

    def paint(self, theme: Theme) -> None:
        """Give its own charts the colours of *theme*; those of exhibits are given by the browser."""
        if self._exhibits is None:
            self._gallery.paint(theme)

    def forget(self) -> None:
        """The browser has no charts: it has just come."""
        self._had = None

    def news(self) -> Mapping[str, str]:
        """What the browser does not have yet: all charts of an exhibit, or their last changes."""
        exhibit, had = self._exhibit, self._had
        if exhibit is None:
            return {"charts": ""} if had is not None else {}
        is_known = had is not None and had[0] is exhibit
        if had is not None and is_known:
            changes = exhibit.since(had[1])
            if changes is not None:
                return {"changes": changes} if changes != "[]" else {}
        text, changes = exhibit.whole()
        again = {"again": "1"} if is_known else {}  # what somebody looks at there, stays
        return {"charts": text, "changes": changes, **again}

    def told(self) -> None:
        """The browser has been told the news."""
        self._had = (self._exhibit, self._exhibit.count) if self._exhibit is not None else None

    def leave(self) -> None:
        """Look at no exhibit any more."""
        if self._exhibit is not None:
            self._exhibit.leave(self._looker)
            self._exhibit = None


__all__ = ["Wall"]
