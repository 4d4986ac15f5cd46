"""The easel: what every chart stands on. One time axis, marks, legend, hover, colours per theme. Pure."""

import re
from collections.abc import Sequence
from typing import Any, Final

from bokeh.models import (
    CategoricalColorMapper,
    ColumnDataSource,
    CrosshairTool,
    CustomJS,
    CustomJSHover,
    CustomJSTickFormatter,
    DataRange1d,
    HoverTool,
)
from bokeh.models.annotations import Legend, LegendItem, Span
from bokeh.models.glyph import Glyph
from bokeh.models.glyphs import Line, Scatter, VSpan
from bokeh.plotting import figure

from app import palette
from app.drawing import ticks
from app.drawing.chart_source import FLOOR_S, WINDOW
from app.palette import Theme
from app.records import JobState

FONT: Final = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', system-ui, sans-serif"
#: s of a time axis beyond which its labels name the day
DAYS_S: Final = 36 * 3600

#: text and grid per theme
_INK: Final[dict[Theme, tuple[str, str]]] = {
    "light": ("#57534e", "#ebe9e5"),
    "dark": ("#a8a29e", "#2e2b28"),
}
#: columns of a source of marks: what happened, when
MARK_COLUMNS: Final = ("at", "sort", "kind", "text", "actor")
#: sorts of marks and their colours per theme: what was deployed, what somebody did, where we began
_SORTS: Final[dict[str, tuple[str, str]]] = {
    "deploy": ("#7c3aed", "#a68be6"),
    "act": ("#b45309", "#ebe8e4"),  # dark: ink, for no series has it
    "start": ("#8a837c", "#8a837c"),
}


class Together:
    """What the charts of one page share: the time axis, the crosshair, the marks, the way back.

    A *window* (start and end, epoch ms) is shown whole, whatever was stored of it; without one the axis
    follows the newest sample, *now_ms* at first. *tones* say which colour each line has, where a page shows
    some of the queues only: a queue has one colour everywhere.
    """

    def __init__(
        self,
        interval_s: float = 1.0,
        now_ms: float | None = None,
        *,
        window: tuple[float, float] | None = None,
        marks: ColumnDataSource | None = None,
        tones: Sequence[int] = (),
    ) -> None:
        self.tones = tones
        self.interval_s = interval_s
        self.span_s = (
            WINDOW * interval_s if window is None else round((window[1] - window[0]) / 1000)
        )
        self.is_live = window is None
        follows: dict[str, Any] = (
            {"follow": "end", "follow_interval": self.span_s * 1000} if window is None else {}
        )
        self.x_range: Any = DataRange1d(range_padding=0, renderers=[], **follows)
        self.cursor = Span(dimension="height", line_width=1, line_alpha=0.5, line_color="#888888")
        self.back = CustomJS(
            args={"range": self.x_range},
            code="range.have_updated_interactively = false; range.reset(); "
            "dispatchEvent(new CustomEvent('arqscope:stretch'))",
        )
        #: tells the page around the charts which stretch was brushed
        self.brushed = CustomJS(code=_BRUSHED)
        self.marks = marks
        # models that charts of one page share: opening a page costs per model
        self.mapper = CategoricalColorMapper(
            factors=list(_SORTS), palette=[tone for tone, _ in _SORTS.values()]
        )
        self.durations = ticks.durations()
        self.duration_labels = ticks.duration_labels()
        self.number_labels = ticks.number_labels()
        self.fold = CustomJS(code=_FOLD)
        self._shows: dict[str, CustomJSHover] = {}
        #: the ends of the axis where there are not samples enough to fill it
        self.ends: ColumnDataSource | None = None
        self.is_first = True
        if window is not None:
            self.ends = ColumnDataSource({"at": list(window), "y": [FLOOR_S] * 2})
        elif now_ms is not None:
            self.ends = ColumnDataSource({"at": [now_ms - self.span_s * 1000], "y": [FLOOR_S]})

    def shows(self, kind: str) -> CustomJSHover:
        """How a tooltip shows numbers of a *kind*; one model for all charts."""
        if kind not in self._shows:
            self._shows[kind] = CustomJSHover(code=_SHOW[kind])
        return self._shows[kind]

    @property
    def words(self) -> str:
        """How long the axis is."""
        span = self.span_s
        if span >= 2 * 86_400:
            long = f"{span / 86_400:g} d"
        elif span > 3600:
            long = f"{span / 3600:g} h"
        else:
            long = f"{span / 60:g} min"
        return f"last {long}" if self.is_live else long


def stand(
    title: str, unit: str, together: Together | None, *, whole: bool = False, **more: Any
) -> Any:
    """An empty figure on the shared axis."""
    shared = together or Together()
    chart: Any = figure(
        height=more.pop("height", 186),
        sizing_mode="stretch_width",
        min_width=200,
        x_axis_type="datetime",
        x_range=shared.x_range,
        tools="xpan,xbox_zoom,reset",
        active_drag="xbox_zoom",
        toolbar_location=None,
        output_backend="canvas",
        title=f"{title} · {unit} · {shared.words}",
        name=title.lower().replace(" ", "-"),
        **more,
    )
    chart.add_tools(CrosshairTool(overlay=shared.cursor))
    chart.js_on_event("doubletap", shared.back)
    chart.js_on_event("rangesupdate", shared.brushed)
    ends = None
    if shared.ends is not None and (shared.is_first or not shared.is_live):
        invisible = Scatter(x="at", y="y", fill_alpha=0, line_alpha=0, size=1)
        ends = drawn_as(chart, shared.ends, invisible)
        shared.x_range.renderers = [*shared.x_range.renderers, ends]
        shared.is_first = False
    chart.title.text_font = FONT
    chart.title.text_font_size = "12px"
    chart.title.standoff = 12
    chart.title.offset = -50  # above the axis' labels, where the box begins
    chart.title.text_font_style = "normal"
    chart.min_border_left, chart.min_border_right, chart.min_border_top = 52, 8, 0
    chart.xgrid.visible = False
    for axis in (*chart.xaxis, *chart.yaxis):
        axis.major_tick_line_color = axis.minor_tick_line_color = None
        axis.major_label_text_font = FONT
        axis.major_label_text_font_size = "11px"
    chart.yaxis.axis_line_alpha = 0
    days = shared.span_s > DAYS_S
    chart.xaxis.formatter = CustomJSTickFormatter(code=_LOCAL_DAY if days else _LOCAL_TIME)
    chart.xaxis.ticker.desired_num_ticks = 5
    if more.get("y_axis_type") == "log":
        chart.y_range = DataRange1d(only_visible=True, renderers=[])
        chart.ygrid.ticker = chart.yaxis.ticker = shared.durations
        chart.yaxis.formatter = shared.duration_labels
    else:
        chart.yaxis.ticker.desired_num_ticks = 4
        if whole:
            chart.yaxis.ticker.min_interval = 1
        chart.y_range = DataRange1d(
            start=0,
            only_visible=True,
            min_interval=2 * ticks.LEAST_END,  # half of it lies below 0, outside
            renderers=[] if ends is None else [ends],
        )
        chart.yaxis.formatter = shared.number_labels
    return chart


def finish(chart: Any, together: Together | None, drawn: Sequence[Any]) -> None:
    """Let the axes follow *drawn* only, and put the marks behind it."""
    shared = together
    chart.y_range.renderers = [*chart.y_range.renderers, *drawn]
    chart.x_range.renderers = [*chart.x_range.renderers, *drawn]
    if shared is None or shared.marks is None:
        return
    glyph = VSpan(
        x="at", line_width=1.3, line_dash=[4, 3],
        line_color={"field": "sort", "transform": shared.mapper},
    )  # fmt: skip
    marks = drawn_as(chart, shared.marks, glyph, level="underlay")
    marks.tags = ["marks"]
    chart.add_tools(
        HoverTool(
            renderers=[marks],
            tooltips=[("@kind", "@text"), ("by", "@actor"), ("at", "@at{custom}")],
            formatters={"@at": shared.shows("time")},
        )
    )


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
            case ["marks"]:  # looked up here: ``select`` walks every model of the chart
                mapper = renderer.glyph.line_color["transform"]
                mapper.palette = [pair[theme == "dark"] for pair in _SORTS.values()]
            case ["forecast", str(part), int(index)]:
                tone = palette.series_colour(index, theme)
                setattr(renderer.glyph, f"{part}_color", tone)
            case ["forecast", str(part), int(), "grows"]:
                tone = palette.JOB_LOOK[JobState.FAILED].colour(theme)
                setattr(renderer.glyph, f"{part}_color", tone)
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


_BRUSHED: Final = "dispatchEvent(new CustomEvent('arqscope:stretch', {detail: {start: cb_obj.x0, end: cb_obj.x1}}))"
_CLOCK: Final = "hour: '2-digit', minute: '2-digit'"
_LOCAL_TIME: Final = (
    f"return new Date(tick).toLocaleTimeString([], {{{_CLOCK}, "
    "second: tick % 60000 ? '2-digit' : undefined, hour12: false})"
)
_LOCAL_DAY: Final = (
    "const day = new Date(tick); return day.toLocaleDateString([], {day: 'numeric', month: 'short'}) + "
    f"(day.getHours() || day.getMinutes() ? ' ' + day.toLocaleTimeString([], {{{_CLOCK}, hour12: false}})"
    " : '')"
)
#: a legend's columns: as many as its names leave room for, px of a letter and of what stands before a name
_FOLD: Final = """
for (const legend of cb_obj.below) {
  if (!legend.items) continue
  const widths = legend.items.map(item => 31 + 6.2 * String(item.label.value ?? item.label).length)
  let columns = widths.length
  const wide = n => [...Array(n).keys()].reduce(
    (sum, at) => sum + Math.max(...widths.filter((_, i) => i % n == at)), 0)
  while (columns > 1 && wide(columns) > cb_obj.inner_width) columns -= 1
  if (legend.ncols !== columns) legend.ncols = columns
}
"""
_KNOWN: Final = "!(value !== null && isFinite(value)) ? '\\u2013' : "
_SHOW: Final = {
    "number": f"return {_KNOWN}value.toLocaleString('en', {{maximumFractionDigits: 2}})",
    "count": f"return {_KNOWN}value.toLocaleString('en')",
    "duration": f"return {_KNOWN}value < 1 ? Math.round(value * 1000) + ' ms' : "
    "value < 120 ? value.toFixed(1) + ' s' : Math.round(value / 60) + ' m'",
    "time": "const day = new Date(value); return (Date.now() - value > 72000000 ? "
    "day.toLocaleDateString([], {day: 'numeric', month: 'short'}) + ' ' : '') + "
    "day.toLocaleTimeString([], {hour12: false})",
    # how long the moment of a point is: a sample, or a stored step's mean
    "width": "const s = Math.round(value / 1000); return s < 60 ? 'sample' : s < 3600 ? "
    "s / 60 + ' min' : s / 3600 + ' h'",
}  # fmt: skip


def drawn_as(chart: Any, source: ColumnDataSource, glyph: Glyph, **more: Any) -> Any:
    """Draw *glyph*, without the glyphs of a selection that ``figure`` would add: nothing is selected."""
    return chart.add_glyph(source, glyph, **more)


def tone(number: int, together: Together | None) -> int:
    """Which of the palette's colours the line *number* of a chart has."""
    tones = together.tones if together is not None else ()
    return tones[number] if number < len(tones) else number


def lines(
    chart: Any,
    source: ColumnDataSource,
    names: Sequence[str],
    series: str,
    together: Together | None,
    **more: Any,
) -> list[Any]:
    """One line per name, in its colour."""
    drawn = []
    for n in range(len(names)):
        line = drawn_as(
            chart, source, Line(x="at", y=f"{series}:{n}", **{"line_width": 1.6, **more})
        )
        line.tags = ["series", tone(n, together)]
        drawn.append(line)
    return drawn


def legend(
    chart: Any,
    names: Sequence[str],
    renderers: Sequence[Sequence[Any]],
    together: Together | None = None,
) -> None:
    """Names below the chart, as many beside each other as fit; a click hides one."""
    items = [
        LegendItem(label={"value": name}, renderers=list(drawn))
        for name, drawn in zip(names, renderers, strict=True)
    ]
    made: Any = Legend(
        items=items,
        orientation="horizontal",
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
    made.padding = 0
    made.location = "bottom_left"
    chart.add_layout(made, "below")
    chart.js_on_change("inner_width", (together or Together()).fold)


def hover(
    chart: Any,
    on: Sequence[Any],
    tips: Sequence[tuple[str, str]],
    kind: str,
    together: "Together | None" = None,
) -> None:
    """Exact values of *tips* at the moment under the pointer, as *kind* shows them."""
    shows = (together or Together()).shows
    show = shows(kind)
    formatters: dict[str, Any] = {"@at": shows("time"), "@width": shows("width")}
    for mentioned in re.findall(r"(@\{[\w:]+\}|@\w+)\{custom\}", " ".join(tip for _, tip in tips)):
        formatters[mentioned] = show
    chart.add_tools(
        HoverTool(
            renderers=list(on[:1]),
            mode="vline",
            tooltips=[("at", "@at{custom} (@width{custom})"), *tips],
            formatters=formatters,
        )
    )


__all__ = [
    "MARK_COLUMNS",
    "Together",
    "drawn_as",
    "finish",
    "hover",
    "legend",
    "lines",
    "paint",
    "stand",
    "tone",
]
