"""The gallery: the charts of the page shown, made when it is opened, fed with deltas."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import pandas as pd
import panel as pn

from app import charts
from app.charts import MAX_LINES, QUEUE_SERIES, STREAM_SERIES, Together
from app.pages import design
from app.palette import Theme
from app.snapshot import Snapshot

#: name of a chart → what draws it, and whether it is about streams
_CHARTS: Final[dict[str, Callable[..., Any]]] = {
    "throughput": charts.throughput_chart,
    "backlog": charts.backlog_chart,
    "wait": charts.latency_chart,
    "run": lambda *given, **more: charts.latency_chart(*given, of="run", **more),
    "lag": charts.lag_chart,
    "events": charts.event_rate_chart,
}
_OF_STREAMS: Final = frozenset({"lag", "events"})


class Gallery:
    """At most one set of charts at a time, over one shared source."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._shown: tuple[object, ...] = ()
        self._names: list[str] = []
        self._last_at: pd.Timestamp | None = None
        self._is_of_streams = False
        self._only = ""
        self.source: Any = None
        self.figures: list[Any] = []
        self.column = pn.Column(
            stylesheets=[design.CHARTS],
            css_classes=["charts"],
            sizing_mode="stretch_width",
            margin=0,
        )

    def show(self, snapshot: Snapshot, wanted: Sequence[str], theme: Theme, only: str = "") -> None:
        """Show the charts *wanted*, of all queues or *only* of one; keeps those that are right."""
        is_of_streams = bool(_OF_STREAMS & set(wanted))
        frame = snapshot.streams["stream"] if is_of_streams else snapshot.queues["queue"]
        names = [only] if only else [str(name) for name in frame][:MAX_LINES]
        if not wanted or not names:
            wanted, names = (), []
        key = (*wanted, only, *names)
        if key == self._shown:
            return
        self._shown, self._names = key, names
        self._is_of_streams, self._only = is_of_streams, only
        if not wanted:
            self.figures, self.source, self.column[:] = [], None, []
            return
        history = self._history(snapshot)
        self.source = charts.make_source(history, names, self._interval_s, self._series)
        self._last_at = None if history.empty else history["at"].iloc[-1]
        together = Together(self._interval_s, snapshot.taken_at.timestamp() * 1000)
        more = {"theme": theme, "together": together}
        self.figures = [
            _CHARTS[name](self.source, names, **more,
                          **({"interval_s": self._interval_s} if name == "throughput" else {}))
            for name in wanted
        ]  # fmt: skip
        self.column[:] = [_boxed(chart, theme) for chart in self.figures]

    @property
    def _series(self) -> tuple[str, ...]:
        return STREAM_SERIES if self._is_of_streams else QUEUE_SERIES

    def _history(self, snapshot: Snapshot) -> pd.DataFrame:
        history = snapshot.stream_history if self._is_of_streams else snapshot.history
        return history[history["queue"] == self._only] if self._only else history

    def feed(
        self, snapshot: Snapshot, once: Callable[[tuple[Any, ...], Callable[[], Any]], Any]
    ) -> bool:
        """Stream what is new since the last time; *once* makes it once for all sessions."""
        if self.source is None:
            return False
        history = snapshot.stream_history if self._is_of_streams else snapshot.history
        if history.empty or history["at"].iloc[-1] == self._last_at:
            return False
        names, after, series = self._names, self._last_at, self._series
        new: dict[str, Any] = once(
            ("columns", after, self._only, *series, *names),
            lambda: charts.columns_of(
                self._history(snapshot), names, after, self._interval_s, series=series
            ),
        )
        if not new["at"]:
            return False
        self.source.stream(new, rollover=charts.WINDOW)
        self._last_at = history["at"].iloc[-1]
        return True

    def paint(self, theme: Theme) -> None:
        """Give everything the colours of *theme*."""
        for chart in self.figures:
            charts.paint(chart, theme)
        for box in self.column:
            box.stylesheets = [design.chart_panel(theme)]


def _boxed(chart: Any, theme: Theme) -> pn.Column:
    pane = pn.pane.Bokeh(  # type: ignore[no-untyped-call]
        chart, sizing_mode="stretch_width", margin=0
    )
    return pn.Column(
        pane, sizing_mode="stretch_width", margin=0, stylesheets=[design.chart_panel(theme)]
    )


__all__ = ["Gallery"]
