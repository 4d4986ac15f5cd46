"""Frames to Bokeh figures over one shared source. Pure: the page decides when to stream.

Every chart of a page reads the same ColumnDataSource of plain lists; a sample adds one row to it. A
moment without a sample, or with an unknown number, is a gap, not a zero.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from bokeh.models import (
    ColumnDataSource,
    CrosshairTool,
    CustomJS,
    CustomJSHover,
    CustomJSTickFormatter,
    DataRange1d,
    FixedTicker,
    HoverTool,
)
from bokeh.models.annotations import Legend, LegendItem, Span
from bokeh.plotting import figure

from app import palette
from app.palette import Theme
from app.records import JobState

#: samples a chart keeps
WINDOW: Final = 600
#: intervals without a sample that make a gap
GAP: Final = 3.5

#: columns of ``history`` that charts show per queue
QUEUE_SERIES: Final = (
    "waiting", "complete_per_s", "failed_per_s", "wait_p50_s", "wait_p95_s", "run_p50_s", "run_p95_s",
)  # fmt: skip
#: columns of ``stream_history`` that charts show per stream
STREAM_SERIES: Final = ("processed_per_s", "lag", "lag_s")
#: columns over all queues; ``top`` is complete and failed together
TOTALS: Final = ("complete", "failed", "top")
#: names a chart draws a line for; more would be a tangle
MAX_LINES: Final = 8
#: the least latency a log axis shows, s: what is faster stands here
FLOOR_S: Final = 0.001

FONT: Final = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', system-ui, sans-serif"
#: ticks of a log axis of time, s
TICKS_S: Final = [0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 360_000]

#: text and grid per theme
_INK: Final[dict[Theme, tuple[str, str]]] = {
    "light": ("#57534e", "#ebe9e5"),
    "dark": ("#a8a29e", "#2e2b28"),
}


def source_columns(names: Sequence[str], series: Sequence[str] = QUEUE_SERIES) -> list[str]:
    """Names of the columns of a source of *names*; ``waiting:0`` is of the first queue."""
    each = [f"{column}:{n}" for n in range(len(names)) for column in series]
    return ["at", *(TOTALS if series is QUEUE_SERIES else ()), *each]


def columns_of(
    history: pd.DataFrame,
    names: Sequence[str],
    after: pd.Timestamp | None = None,
    interval_s: float = 1.0,
    limit: int = WINDOW,
    series: Sequence[str] = QUEUE_SERIES,
) -> dict[str, list[Any]]:
    """Columns of what *history* holds after *after*, oldest first, a row of NaN in each gap.

    The second column of *history* names a queue or stream; *names* get columns of their own, the
    totals are over all. Times are epoch ms. A total is unknown when one of its parts is.
    """
    times = history["at"].to_numpy("datetime64[us]").astype("int64")
    start = 0
    if after is not None:
        start = int(np.searchsorted(times, _epoch_us(after), side="right"))
    moments = np.unique(times[start:])[-limit:]
    wanted = source_columns(names, series)
    if not len(moments):
        return {name: [] for name in wanted}
    start += int(np.searchsorted(times[start:], moments[0]))
    rows = history.iloc[start:]
    whose = rows.iloc[:, 1].to_numpy(dtype=object)
    places = np.searchsorted(moments, times[start:])
    out: dict[str, list[Any]] = {"at": [int(us) / 1000 for us in moments]}
    for n, name in enumerate(names):
        mine = whose == name
        for column in series:
            values = np.full(len(moments), np.nan)
            values[places[mine]] = rows[column].to_numpy("float64")[mine]
            out[f"{column}:{n}"] = [_plain(column, value) for value in values.tolist()]
    if series is QUEUE_SERIES:
        for total, column in (("complete", "complete_per_s"), ("failed", "failed_per_s")):
            added = np.zeros(len(moments))
            np.add.at(added, places, rows[column].to_numpy("float64"))
            out[total] = [round(value, 3) for value in added.tolist()]
        out["top"] = [a + b for a, b in zip(out["complete"], out["failed"], strict=True)]
    return _with_gaps({name: out[name] for name in wanted}, interval_s, after)


def _epoch_us(moment: pd.Timestamp) -> int:
    return int(moment.as_unit("us").asm8.astype("int64"))


def _plain(series: str, value: float) -> float:
    if math.isnan(value):
        return math.nan
    is_latency = series.startswith(("wait_p", "run_p"))
    return round(max(value, FLOOR_S), 4) if is_latency else round(value, 3)


def _with_gaps(
    columns: dict[str, list[Any]], interval_s: float, after: pd.Timestamp | None
) -> dict[str, list[Any]]:
    limit_ms = GAP * interval_s * 1000
    before = None if after is None else after.timestamp() * 1000
    out: dict[str, list[Any]] = {name: [] for name in columns}
    for number, now in enumerate(columns["at"]):
        if before is not None and now - before > limit_ms:
            for name, values in out.items():
                values.append((before + now) / 2 if name == "at" else math.nan)
        for name, values in out.items():
            values.append(columns[name][number])
        before = now
    return out


def make_source(
    history: pd.DataFrame,
    names: Sequence[str],
    interval_s: float = 1.0,
    series: Sequence[str] = QUEUE_SERIES,
) -> ColumnDataSource:
    """Return the shared source of a page, filled with what *history* holds."""
    columns: dict[str, Any] = columns_of(history, names, interval_s=interval_s, series=series)
    return ColumnDataSource(columns, name="history")


class Together:
    """What the charts of one page share: the time axis, the crosshair, the way back from a zoom."""

    def __init__(self, interval_s: float = 1.0, now_ms: float | None = None) -> None:
        self.span_s = WINDOW * interval_s
        self.x_range = DataRange1d(
            follow="end", follow_interval=self.span_s * 1000, range_padding=0
        )
        self.cursor = Span(dimension="height", line_width=1, line_alpha=0.5, line_color="#888888")
        self.back = CustomJS(
            args={"range": self.x_range},
            code="range.have_updated_interactively = false; range.reset()",
        )
        #: the left end of the axis before there are samples enough to fill it
        self.anchor: ColumnDataSource | None = None
        if now_ms is not None:
            self.anchor = ColumnDataSource({"at": [now_ms - self.span_s * 1000], "y": [FLOOR_S]})


def throughput_chart(
    source: ColumnDataSource,
    queues: Sequence[str],
    *,
    by: Literal["outcome", "queue"] = "outcome",
    theme: Theme = "light",
    together: Together | None = None,
    interval_s: float = 1.0,
) -> figure:
    """Runs per second: complete with failed on top, or one line per queue."""
    chart: Any = _figure("Throughput", "runs per second", together)
    if by == "queue":
        lines = _lines(chart, source, queues, "complete_per_s")
        _legend(chart, queues, [[line] for line in lines])
        tips = [(name, f"@{{complete_per_s:{n}}}{{custom}} /s") for n, name in enumerate(queues)]
        _hover(chart, lines, tips, "number")
        return paint(chart, theme)
    width = interval_s * 1000 * 1.05  # a touch over a sample's width, so that no seam shows
    stack: tuple[tuple[str | int, str, JobState], ...] = (
        (0, "complete", JobState.COMPLETE),
        ("complete", "top", JobState.FAILED),
    )
    fills: list[Any] = []
    for bottom, top, state in stack:
        bars = chart.vbar(
            x="at", bottom=bottom, top=top, width=width, source=source, line_color=None
        )
        bars.tags = ["state", state.value, "fill"]
        fills.append(bars)
    lines = []
    # where nothing failed both lines lie on each other: green is drawn last
    for _, top, state in reversed(stack):
        line = chart.line("at", top, source=source, line_width=1.4)
        line.tags = ["state", state.value, "line"]
        lines.append(line)
    _legend(chart, ["complete", "failed"], [[lines[1], fills[0]], [lines[0], fills[1]]])
    tips = [("complete", "@complete{custom} /s"), ("failed", "@failed{custom} /s")]
    _hover(chart, lines[1:], tips, "number")
    return paint(chart, theme)


def backlog_chart(
    source: ColumnDataSource,
    queues: Sequence[str],
    *,
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """Jobs that are due and wait, one line per queue."""
    chart: Any = _figure("Backlog", "jobs waiting", together, whole=True)
    lines = _lines(chart, source, queues, "waiting")
    _legend(chart, queues, [[line] for line in lines])
    tips = [(name, f"@{{waiting:{n}}}{{custom}} waiting") for n, name in enumerate(queues)]
    _hover(chart, lines, tips, "count")
    return paint(chart, theme)


def latency_chart(
    source: ColumnDataSource,
    queues: Sequence[str],
    *,
    of: Literal["wait", "run"] = "wait",
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """Wait (due to started) or run time on a log axis: p95 a line, p50 dotted, a colour per queue."""
    title = "Wait time" if of == "wait" else "Run time"
    chart: Any = _figure(title, "p95, dotted p50", together, y_axis_type="log")
    p95 = _lines(chart, source, queues, f"{of}_p95_s")
    p50 = _lines(chart, source, queues, f"{of}_p50_s", line_dash=[2, 3], line_width=1.2)
    _legend(chart, queues, [list(pair) for pair in zip(p95, p50, strict=True)])
    chart.y_range = DataRange1d(only_visible=True)
    chart.yaxis.ticker = FixedTicker(ticks=TICKS_S)
    chart.yaxis.formatter = CustomJSTickFormatter(
        code="return tick >= 3600 ? tick / 3600 + ' h' : tick >= 60 ? (tick / 60).toLocaleString('en') + ' m' : tick >= 1 ? "
        "tick.toLocaleString('en') + ' s' : Number((tick * 1000).toPrecision(2)) + ' ms'"
    )
    tips = [
        (name, f"p50 @{{{of}_p50_s:{n}}}{{custom}} · p95 @{{{of}_p95_s:{n}}}{{custom}}")
        for n, name in enumerate(queues)
    ]
    _hover(chart, p95, tips, "duration")
    return paint(chart, theme)


def lag_chart(
    source: ColumnDataSource,
    streams: Sequence[str],
    *,
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """Events the slowest group of each stream has not been given yet."""
    chart: Any = _figure("Lag", "events not yet delivered", together, whole=True)
    lines = _lines(chart, source, streams, "lag")
    _legend(chart, streams, [[line] for line in lines])
    tips = [
        (name, f"@{{lag:{n}}}{{custom}} events, @{{lag_s:{n}}} s") for n, name in enumerate(streams)
    ]
    _hover(chart, lines, tips, "count")
    return paint(chart, theme)


def event_rate_chart(
    source: ColumnDataSource,
    streams: Sequence[str],
    *,
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """Events handled per second, one line per stream."""
    chart: Any = _figure("Events", "handled per second", together)
    lines = _lines(chart, source, streams, "processed_per_s")
    _legend(chart, streams, [[line] for line in lines])
    tips = [(name, f"@{{processed_per_s:{n}}}{{custom}} /s") for n, name in enumerate(streams)]
    _hover(chart, lines, tips, "number")
    return paint(chart, theme)


def chart_of_history(name: str, history: pd.DataFrame, theme: Theme = "light") -> figure:
    """One chart of *history* as it is now: ``throughput``, ``backlog`` or ``latency``."""
    charts: dict[str, Any] = {
        "throughput": throughput_chart,
        "backlog": backlog_chart,
        "latency": latency_chart,
        "run-time": functools.partial(latency_chart, of="run"),
    }
    if name not in charts:
        raise KeyError(f"no chart {name!r}; there are {', '.join(charts)}")
    queues = [str(queue) for queue in history["queue"].drop_duplicates()]
    chart: figure = charts[name](make_source(history, queues), queues, theme=theme)
    return chart


def paint(chart: figure, theme: Theme) -> figure:
    """Give every glyph and axis of *chart* the colours of *theme*; again when it changes."""
    ink, grid = _INK[theme]
    drawn: Any = chart  # its parts are Bokeh's widest types
    for renderer in drawn.renderers:
        match renderer.tags:
            case ["series", int(index)]:
                renderer.glyph.line_color = palette.series_colour(index, theme)
            case ["state", str(state), "line"]:
                renderer.glyph.line_color = palette.JOB_LOOK[JobState(state)].colour(theme)
            case ["state", str(state), "fill"]:
                renderer.glyph.fill_color = palette.JOB_LOOK[JobState(state)].colour(theme)
                renderer.glyph.fill_alpha = 0.22
    drawn.background_fill_color = drawn.border_fill_color = None
    drawn.outline_line_color = None
    drawn.title.text_color = ink
    for axis in (*drawn.xaxis, *drawn.yaxis):
        axis.major_label_text_color = ink
        axis.axis_line_color = grid
    for lines in drawn.grid:
        lines.grid_line_color = grid
    for legend in drawn.legend:
        legend.label_text_color = ink
    return chart


def _figure(
    title: str, unit: str, together: Together | None, *, whole: bool = False, **more: Any
) -> Any:
    shared = together or Together()
    chart: Any = figure(
        height=186,
        sizing_mode="stretch_width",
        min_width=200,
        x_axis_type="datetime",
        x_range=shared.x_range,
        tools="xpan,xbox_zoom,reset",
        active_drag="xbox_zoom",
        toolbar_location=None,
        output_backend="canvas",
        title=f"{title} · {unit} · last {shared.span_s / 60:g} min",
        name=title.lower().replace(" ", "-"),
        **more,
    )
    chart.add_tools(CrosshairTool(overlay=shared.cursor))
    chart.js_on_event("doubletap", shared.back)
    if shared.anchor is not None:
        chart.scatter("at", "y", source=shared.anchor, alpha=0, size=1)
        shared.anchor = None
    chart.title.text_font = FONT
    chart.title.text_font_size = "12px"
    chart.title.standoff = 10
    chart.title.offset = -46  # above the axis' labels, where the box begins
    chart.title.text_font_style = "normal"
    chart.min_border_left, chart.min_border_right, chart.min_border_top = 52, 8, 0
    chart.xgrid.visible = False
    for axis in (*chart.xaxis, *chart.yaxis):
        axis.major_tick_line_color = axis.minor_tick_line_color = None
        axis.major_label_text_font = FONT
        axis.major_label_text_font_size = "11px"
    chart.yaxis.axis_line_alpha = 0
    chart.xaxis.formatter = CustomJSTickFormatter(code=_LOCAL_TIME)
    chart.xaxis.ticker.desired_num_ticks = 5
    if more.get("y_axis_type") == "log":
        chart.ygrid.ticker = FixedTicker(ticks=TICKS_S)
    else:
        chart.yaxis.ticker.desired_num_ticks = 4
        if whole:
            chart.yaxis.ticker.min_interval = 1
        chart.y_range = DataRange1d(start=0, only_visible=True, min_interval=1)
        chart.yaxis.formatter = CustomJSTickFormatter(code="return tick.toLocaleString('en')")
    return chart


_LOCAL_TIME: Final = (
    "return new Date(tick).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit', "
    "second: tick % 60000 ? '2-digit' : undefined, hour12: false})"
)
_KNOWN: Final = "!(value !== null && isFinite(value)) ? '\\u2013' : "
_SHOW: Final = {
    "number": f"return {_KNOWN}value.toLocaleString('en', {{maximumFractionDigits: 2}})",
    "count": f"return {_KNOWN}value.toLocaleString('en')",
    "duration": f"return {_KNOWN}value < 1 ? Math.round(value * 1000) + ' ms' : "
    "value < 120 ? value.toFixed(1) + ' s' : Math.round(value / 60) + ' m'",
    "time": "return new Date(value).toLocaleTimeString([], {hour12: false})",
}


def _lines(
    chart: Any, source: ColumnDataSource, queues: Sequence[str], series: str, **more: Any
) -> list[Any]:
    drawn = []
    for n in range(len(queues)):
        line = chart.line("at", f"{series}:{n}", source=source, **{"line_width": 1.6, **more})
        line.tags = ["series", n]
        drawn.append(line)
    return drawn


def _legend(chart: Any, names: Sequence[str], renderers: Sequence[Sequence[Any]]) -> None:
    items = [
        LegendItem(label={"value": name}, renderers=list(drawn))
        for name, drawn in zip(names, renderers, strict=True)
    ]
    legend: Any = Legend(
        items=items,
        orientation="horizontal",
        ncols=2 if sum(map(len, names)) > 24 else "auto",
        click_policy="hide",
        border_line_color=None,
        background_fill_color=None,
        label_text_font=FONT,
        label_text_font_size="11px",
        glyph_width=12,
        glyph_height=12,
        label_height=14,
        spacing=12,
        label_standoff=5,
        margin=2,
    )
    legend.padding = 0
    legend.location = "bottom_left"
    chart.add_layout(legend, "below")


def _hover(chart: Any, on: Sequence[Any], tips: Sequence[tuple[str, str]], kind: str) -> None:
    show, time = CustomJSHover(code=_SHOW[kind]), CustomJSHover(code=_SHOW["time"])
    formatters: dict[str, Any] = {"@at": time}
    for mentioned in re.findall(r"(@\{[\w:]+\}|@\w+)\{custom\}", " ".join(tip for _, tip in tips)):
        formatters[mentioned] = show
    chart.add_tools(
        HoverTool(
            renderers=list(on[:1]),
            mode="vline",
            tooltips=[("at", "@at{custom}"), *tips],
            formatters=formatters,
        )
    )


__all__ = [
    "Together",
    "backlog_chart",
    "chart_of_history",
    "columns_of",
    "event_rate_chart",
    "lag_chart",
    "latency_chart",
    "make_source",
    "paint",
    "source_columns",
    "throughput_chart",
]
