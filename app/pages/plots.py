"""Plots: what the charts of a visit show, and what is read of the past for them, for all visits once."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from app import frames
from app.analyses.deploys import told_once
from app.analyses.forecast import MINUTES, Forecast, drain_forecast
from app.annals.past import ANNOTATION_COLUMNS
from app.annals.recall import Recall
from app.charts import CHARTS, MAX_LINES
from app.drawing import chart_source
from app.pages.address import Address
from app.pages.gallery import Gallery, Plot, Stored
from app.pages.markup import records
from app.pages.scene import Page
from app.pages.window import window_of
from app.palette import Theme
from app.snapshot import Snapshot

log = logging.getLogger("arqscope.plots")

#: queues read for totals over all of them
MAX_SOURCES: Final = 40
#: s between two looks for new marks
MARKS_S: Final = 15.0
#: s of the future a forecast is drawn for, as a share of the window before it
AHEAD_SHARE: Final = 0.5
AHEAD_POINTS: Final = 30


def plot_of(page: Page, address: Address, snapshot: Snapshot, then_ms: float | None) -> Plot:
    """What *page* draws at *address*."""
    wanted = page.charts(address, snapshot) if callable(page.charts) else page.charts
    if not wanted:
        return Plot()
    streams = [str(name) for name in snapshot.streams["stream"]]
    queues = [str(name) for name in snapshot.queues["queue"]]
    of_streams = CHARTS[wanted[0]].of_streams
    only = address.get("name") if page.is_about_one else ""
    if not CHARTS[wanted[0]].is_live or only in streams:
        of_streams = only in streams
    known = streams if of_streams else queues
    names = (only,) if only else tuple(known[:MAX_LINES])
    now_ms = snapshot.taken_at.timestamp() * 1000
    window = window_of(address, now_ms, then_ms=then_ms, usual=page.usual_range)
    if window is None and not all(CHARTS[name].is_live for name in wanted):
        window = window_of(address.but(range="60m"), now_ms)
    forecasts = page.has_forecast and then_ms is None
    tones = tuple(known.index(name) if name in known else n for n, name in enumerate(names))
    return Plot(tuple(wanted), names, tones, of_streams, bool(only), window, forecasts)


class Plots:
    """Draws what the page shown wants, and reads for it; *later* asks for a refresh."""

    def __init__(
        self,
        gallery: Gallery,
        recall: Recall,
        run: Callable[[Coroutine[Any, Any, None]], None],
        later: Callable[[], None],
    ) -> None:
        self._gallery, self._recall = gallery, recall
        self._run, self._later = run, later
        self._stored: dict[tuple[object, ...], Stored] = {}
        self._asked: dict[tuple[object, ...], tuple[object, float]] = {}
        self._is_reading = False
        self.forecast: Forecast | None = None  #: of the queue shown
        self.trouble = ""

    def show(
        self,
        plot: Plot,
        snapshot: Snapshot,
        theme: Theme,
        workers: float | None,
        once: Callable[[tuple[Any, ...], Callable[[], Any]], Any],
    ) -> None:
        """Draw *plot* with what is known; what is missing is read, and comes with the next refresh."""
        if not plot.charts:
            self._stored, self.forecast = {}, None
            self._gallery.show(plot, snapshot, theme, Stored())
            return
        stored = self._stored.get(plot.key, Stored())
        self._read(plot, snapshot, stored)
        self._predict(plot, snapshot, stored, workers)
        if plot.draws_ahead:
            stored = replace(
                stored,
                ahead=ahead_of(self.forecast, plot, snapshot),
                grows=self.forecast is not None and self.forecast.drains is False,
            )
        self._gallery.show(plot, snapshot, theme, stored)
        self._gallery.feed(snapshot, stored, once)

    # -- reading ---------------------------------------------------------------------------------

    def _read(self, plot: Plot, snapshot: Snapshot, stored: Stored) -> None:
        span = self._span(plot, snapshot)
        now = time.monotonic()
        asked, at = self._asked.get(plot.key, (None, 0.0))
        is_new = span != asked and (plot.window is not None or stored.rows is None)
        if self._is_reading or not (is_new or now - at > MARKS_S):
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # made outside a loop (a test, an export): nothing can be read
            return
        self._is_reading = True
        self._asked = {plot.key: (span, now)}
        self._run(self._fill(plot, snapshot, stored, span if is_new else None))

    def _span(self, plot: Plot, snapshot: Snapshot) -> tuple[float, float, int] | None:
        """What of the past *plot* needs: its window, or the minutes before the first sample."""
        if plot.window is not None:
            return plot.window.start_ms, plot.window.end_ms, plot.window.step_s
        history = snapshot.stream_history if plot.of_streams else snapshot.history
        now_ms = snapshot.taken_at.timestamp() * 1000
        start_ms = now_ms - chart_source.WINDOW * snapshot.interval_s * 1000
        first_ms = now_ms if history.empty else history["at"].iloc[0].timestamp() * 1000
        if first_ms - start_ms < 60_000:
            return None
        return start_ms // 60_000 * 60_000, -(-first_ms // 60_000) * 60_000, 60

    async def _fill(
        self, plot: Plot, snapshot: Snapshot, stored: Stored, span: tuple[float, float, int] | None
    ) -> None:
        """Read rows of *span* (None: those there are stay) and marks; a failure leaves a gap."""
        rows, minutes, self.trouble = stored.rows, stored.minutes, ""
        now_ms = snapshot.taken_at.timestamp() * 1000 // 60_000 * 60_000
        try:
            if span is not None:
                start_ms, end_ms, step_s = span
                rows = await self._recall.rows(
                    self._sources(plot, snapshot), start_ms, end_ms, step_s
                )
            if plot.has_forecast:
                minutes = await self._recall.rows(
                    plot.names, now_ms - (MINUTES + 1) * 60_000, now_ms, 60
                )
            marks = await self._recall.marks(*self._whole(plot, snapshot))
            marks = _about(marks, plot, snapshot)
        except Exception as error:  # charts without a past go on
            self.trouble = str(error)[:200]
            log.warning("past not read", extra={"error": self.trouble})
            marks = (
                stored.marks if stored.marks is not None else frames.empty_frame(ANNOTATION_COLUMNS)
            )
        finally:
            self._is_reading = False
        before = stored.marks
        if before is not None and before.equals(marks):
            marks = before
        if rows is not stored.rows or marks is not before or minutes is not stored.minutes:
            self._stored = {plot.key: Stored(rows, marks, minutes=minutes)}
            self._later()

    def _sources(self, plot: Plot, snapshot: Snapshot) -> tuple[str, ...]:
        if plot.is_only:
            return plot.names
        frame = snapshot.streams["stream"] if plot.of_streams else snapshot.queues["queue"]
        return tuple(str(name) for name in frame)[:MAX_SOURCES]

    def _whole(self, plot: Plot, snapshot: Snapshot) -> tuple[float, float]:
        if plot.window is not None:
            return plot.window.start_ms, plot.window.end_ms + plot.window.step_s * 1000
        now_ms = snapshot.taken_at.timestamp() * 1000
        return now_ms - chart_source.WINDOW * snapshot.interval_s * 1000, now_ms

    # -- the future ------------------------------------------------------------------------------

    def _predict(
        self, plot: Plot, snapshot: Snapshot, stored: Stored, workers: float | None
    ) -> None:
        """Forecast the one queue shown from the minutes read."""
        self.forecast = None
        if not plot.has_forecast or stored.minutes is None:
            return
        row = next((r for r in records(snapshot.queues) if str(r["queue"]) == plot.names[0]), None)
        if row is not None:
            self.forecast = drain_forecast(
                stored.minutes,
                backlog=float(row["waiting"] + row["running"]),
                workers=float(row["workers"]),
                what_if_workers=workers,
                slots=float(row["slots"]),
                busy=float(row["busy"]),
            )


def ahead_of(
    forecast: Forecast | None, plot: Plot, snapshot: Snapshot
) -> Mapping[str, list[float]] | None:
    """A forecast as lines: its middle and its band, for half as long as the window before it."""
    if forecast is None or forecast.drains is None or plot.window is None or not forecast.backlog:
        return {name: [] for name in ("at", "low", "middle", "high")}
    begin_ms = snapshot.taken_at.timestamp() * 1000
    span_s = (plot.window.end_ms - plot.window.start_ms) / 1000 * AHEAD_SHARE
    grows = max(0.0, forecast.arrivals_per_s - forecast.service_per_s)
    made: dict[str, list[float]] = {name: [] for name in ("at", "low", "middle", "high")}
    for n in range(AHEAD_POINTS + 1):
        after_s = span_s * n / AHEAD_POINTS
        made["at"].append(begin_ms + after_s * 1000)
        for name, empty_s in (
            ("low", forecast.low_s), ("middle", forecast.empty_in_s), ("high", forecast.high_s),
        ):  # fmt: skip
            made[name].append(round(_left(forecast.backlog, after_s, empty_s, grows), 1))
    return made


def _left(backlog: float, after_s: float, empty_s: float, grows_per_s: float) -> float:
    """What is left after *after_s* when it is empty after *empty_s*; never: it grows."""
    if empty_s == float("inf") or empty_s != empty_s:
        return backlog + grows_per_s * after_s
    return max(0.0, backlog * (1 - after_s / empty_s)) if empty_s > 0 else 0.0


def _about(marks: pd.DataFrame, plot: Plot, snapshot: Snapshot) -> pd.DataFrame:
    """The marks of the queues shown; and where the samples of this server begin."""
    if plot.is_only:
        marks = marks[marks["source"].isin(["", *plot.names])]
    marks = told_once(marks)
    if plot.window is not None:
        return marks
    history = snapshot.stream_history if plot.of_streams else snapshot.history
    if history.empty:
        return marks
    first = history["at"].iloc[0]
    start = frames.frame_of(
        [{"at": first.timestamp() * 1000, "kind": "start", "source": "", "actor": "",
          "text": "samples begin; before it, stored minutes"}],
        ANNOTATION_COLUMNS,
    )  # fmt: skip
    return pd.concat([start, marks], ignore_index=True)


__all__ = ["Plots", "ahead_of", "plot_of"]
