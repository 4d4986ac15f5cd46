"""The gallery: the charts of the page shown, made when it is opened, fed with deltas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pandas as pd
import panel as pn
from bokeh.models import ColumnDataSource

from app.charts import CHARTS
from app.drawing import chart_source, easel
from app.drawing.chart_source import QUEUE_SERIES
from app.drawing.easel import MARK_COLUMNS, Together
from app.pages import design
from app.pages.window import Window
from app.palette import Theme
from app.snapshot import Snapshot

#: points a stored window has at most
MAX_POINTS: Final = 2_000
#: columns of a forecast
AHEAD_COLUMNS: Final = ("at", "low", "middle", "high")


@dataclass(frozen=True, slots=True)
class Plot:
    """What shall be drawn: which charts, of which queues or streams, live or over a stored window."""

    charts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    tones: tuple[int, ...] = ()  #: the colour of each name, by its number
    of_streams: bool = False
    is_only: bool = False  #: whether totals are of these names alone
    window: Window | None = None
    has_forecast: bool = False

    @property
    def series(self) -> tuple[str, ...]:
        """The columns its charts draw."""
        found = [CHARTS[name].series for name in self.charts]
        return found[0] if len(set(found)) == 1 else QUEUE_SERIES

    @property
    def draws_ahead(self) -> bool:
        """Whether the forecast is drawn: over windows in which minutes or hours are seen."""
        return self.has_forecast and self.window is not None and self.window.name in ("60m", "24h")

    @property
    def key(self) -> tuple[object, ...]:
        """What the same figures can go on showing."""
        window = self.window.key if self.window is not None else ()
        return (self.charts, self.names, self.tones, self.is_only, window, self.draws_ahead)


@dataclass(frozen=True, eq=False)
class Stored:
    """What was read of the past for a plot; None: not yet."""

    rows: pd.DataFrame | None = None  #: of the window, or the minutes before the first sample
    marks: pd.DataFrame | None = None
    ahead: Mapping[str, list[float]] | None = None
    minutes: pd.DataFrame | None = None  #: what a forecast rests on
    grows: bool = False  #: whether the forecast says that it will not drain


class Gallery:
    """At most one set of charts at a time, over one shared source."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._plot = Plot()
        self._stored = Stored()
        self._last_at: pd.Timestamp | None = None
        self._theme: Theme = "light"
        self.source: Any = None
        self.marks: Any = None
        self.ahead: Any = None
        self._ends: Any = None
        self.figures: list[Any] = []
        self.column = pn.Column(
            stylesheets=[design.CHARTS],
            css_classes=["charts"],
            sizing_mode="stretch_width",
            margin=0,
        )

    def show(self, plot: Plot, snapshot: Snapshot, theme: Theme, stored: Stored) -> None:
        """Show *plot*; figures that are right already are kept."""
        if not plot.charts or not plot.names:
            plot = Plot()
        if plot.key == self._plot.key:
            self._plot = plot
            return
        self._plot, self._stored, self._last_at = plot, Stored(), None
        self._theme = theme
        if not plot.charts:
            self.figures, self.source, self.column[:] = [], None, []
            return
        wanted: dict[str, Any] = self._columns(snapshot, stored)
        self.source = ColumnDataSource(wanted, name="history")
        self.marks = ColumnDataSource(_marks_of(stored.marks), name="marks")
        self.ahead = None
        together = self._together(snapshot)
        self._ends = together.ends
        self._stored = replace(stored, grows=False)
        self.figures = [self._drawn(name, theme, together, stored) for name in plot.charts]
        self.column[:] = [_boxed(chart, theme) for chart in self.figures]

    def _together(self, snapshot: Snapshot) -> Together:
        window = self._plot.window
        if window is None:
            now_ms = snapshot.taken_at.timestamp() * 1000
            return Together(self._interval_s, now_ms, marks=self.marks, tones=self._plot.tones)
        ends = (window.start_ms, window.end_ms)
        return Together(window.step_s, window=ends, marks=self.marks, tones=self._plot.tones)

    def _drawn(self, name: str, theme: Theme, together: Together, stored: Stored) -> Any:
        more: dict[str, Any] = {"theme": theme, "together": together}
        if name == "backlog" and self._plot.draws_ahead:
            nothing: dict[str, Any] = {column: [] for column in AHEAD_COLUMNS}
            self.ahead = ColumnDataSource(dict(stored.ahead or nothing), name="ahead")
            more["ahead"] = self.ahead
        return CHARTS[name].draw(self.source, list(self._plot.names), **more)

    def _live(self, snapshot: Snapshot) -> pd.DataFrame:
        history = snapshot.stream_history if self._plot.of_streams else snapshot.history
        return self._mine(history)

    def _mine(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows.iloc[:, 1].isin(self._plot.names)] if self._plot.is_only else rows

    def _columns(self, snapshot: Snapshot, stored: Stored) -> dict[str, list[Any]]:
        """All columns, from the beginning."""
        plot = self._plot
        names, series = list(plot.names), plot.series
        if plot.window is not None:
            if stored.rows is None:
                return {name: [] for name in chart_source.source_columns(names, series)}
            rows = self._mine(stored.rows)
            self._last_at = None if rows.empty else rows["at"].iloc[-1]
            return self._stepped(rows, None)
        history = self._live(snapshot)
        self._last_at = None if history.empty else history["at"].iloc[-1]
        made = chart_source.columns_of(history, names, interval_s=self._interval_s, series=series)
        if stored.rows is None:
            return made
        span_s = chart_source.WINDOW * self._interval_s
        return chart_source.before(made, self._mine(stored.rows), names, span_s, series)

    def _stepped(self, rows: pd.DataFrame, after: pd.Timestamp | None) -> dict[str, list[Any]]:
        step_s = float(rows.attrs.get("step_s", 60))
        return chart_source.columns_of(
            rows,
            list(self._plot.names),
            after,
            step_s,
            MAX_POINTS,
            self._plot.series,
            is_stored=True,
        )

    def feed(
        self,
        snapshot: Snapshot,
        stored: Stored,
        once: Callable[[tuple[Any, ...], Callable[[], Any]], Any],
    ) -> bool:
        """Stream what is new since the last time; *once* makes it once for all sessions."""
        if self.source is None:
            return False
        before, self._stored = self._stored, stored
        if stored.marks is not before.marks:
            self.marks.data = _marks_of(stored.marks)
        if self.ahead is not None and stored.ahead != before.ahead and stored.ahead is not None:
            self.ahead.data = dict(stored.ahead)
        if stored.grows != before.grows:
            self._warn(is_on=stored.grows)
        if self._plot.window is not None:
            return stored.rows is not before.rows and self._slide(snapshot, stored)
        if stored.rows is not None and before.rows is None:
            self.source.data = self._columns(snapshot, stored)
            return True
        return self._stream(snapshot, once)

    def _warn(self, *, is_on: bool) -> None:
        """Draw the forecast as trouble, or as the rest."""
        for chart in self.figures:
            for drawn in chart.renderers:
                if drawn.tags[:1] == ["forecast"]:
                    drawn.tags = [*drawn.tags[:3], *(["grows"] if is_on else [])]
            easel.paint(chart, self._theme)

    def _slide(self, snapshot: Snapshot, stored: Stored) -> bool:
        """Show newly read rows: the steps that came since, where the rest stays as it was."""
        window = self._plot.window
        if stored.rows is None or window is None:
            return False
        if self._ends.data["at"] != [window.start_ms, window.end_ms]:
            self._ends.data = {**self._ends.data, "at": [window.start_ms, window.end_ms]}
        rows, after = self._mine(stored.rows), self._last_at
        if after is None or rows.empty or after < rows["at"].iloc[0]:
            self.source.data = self._columns(snapshot, stored)
            return True
        new: dict[str, Any] = self._stepped(rows, after)
        if new["at"]:
            self.source.stream(new, rollover=max(1, len(self.source.data["at"])))
            self._last_at = rows["at"].iloc[-1]
        return bool(new["at"])

    def _stream(
        self, snapshot: Snapshot, once: Callable[[tuple[Any, ...], Callable[[], Any]], Any]
    ) -> bool:
        history = snapshot.stream_history if self._plot.of_streams else snapshot.history
        if history.empty or history["at"].iloc[-1] == self._last_at:
            return False
        plot, after = self._plot, self._last_at
        names, series = list(plot.names), plot.series
        new: dict[str, Any] = once(
            ("columns", after, plot.is_only, *series, *names),
            lambda: chart_source.columns_of(
                self._live(snapshot), names, after, self._interval_s, series=series
            ),
        )
        if not new["at"]:
            return False
        self.source.stream(new, rollover=chart_source.WINDOW)
        self._last_at = history["at"].iloc[-1]
        return True

    def paint(self, theme: Theme) -> None:
        """Give everything the colours of *theme*."""
        self._theme = theme
        for chart in self.figures:
            easel.paint(chart, theme)
        for box in self.column:
            box.stylesheets = [design.chart_panel(theme)]


def _marks_of(found: pd.DataFrame | None) -> dict[str, Any]:
    if found is None or found.empty:
        return {name: [] for name in MARK_COLUMNS}
    kinds = [str(kind) for kind in found["kind"]]
    where = [f"{source}: " if source else "" for source in found["source"]]
    return {
        "at": [at.timestamp() * 1000 for at in found["at"]],
        "sort": [kind if kind in ("deploy", "start") else "act" for kind in kinds],
        "kind": [kind.replace("_", " ") for kind in kinds],
        "text": [f"{w}{text}"[:200] for w, text in zip(where, found["text"], strict=True)],
        "actor": [str(actor)[:80] or "–" for actor in found["actor"]],  # noqa: RUF001
    }


def _boxed(chart: Any, theme: Theme) -> pn.Column:
    pane = pn.pane.Bokeh(  # type: ignore[no-untyped-call]
        chart, sizing_mode="stretch_width", margin=0
    )
    return pn.Column(
        pane, sizing_mode="stretch_width", margin=0, stylesheets=[design.chart_panel(theme)]
    )


__all__ = ["AHEAD_COLUMNS", "Gallery", "Plot", "Stored"]
