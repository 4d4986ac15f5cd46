"""The easel: what every chart stands on. One time axis, marks, colours per theme. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from bokeh.models import (
    CategoricalColorMapper,
    ColumnDataSource,
    CrosshairTool,
    CustomJS,
    CustomJSTickFormatter,
    DataRange1d,
)
from bokeh.models.annotations import Label, Span
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
#: what a chart stands on, per theme
_PAPER: Final = ("#ffffff", "#1a1917")
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
        self._made: dict[str, Any] = {}
        #: the ends of the axis where there are not samples enough to fill it
        self.ends: ColumnDataSource | None = None
        self.is_first = True
        if window is not None:
            self.ends = ColumnDataSource({"at": list(window), "y": [FLOOR_S] * 2})
        elif now_ms is not None:
            self.ends = ColumnDataSource({"at": [now_ms - self.span_s * 1000], "y": [FLOOR_S]})

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The model *name* that charts of one page share, made by the first."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

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
    chart.title.standoff = 16  # the greatest label stands half above the frame
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
            start=-ticks.LEAST_END / 50,  # a line of nothing but 0 is seen
            only_visible=True,
            min_interval=2.4 * ticks.LEAST_END,  # half of it lies below 0, outside
            renderers=[] if ends is None else [ends],
        )
        chart.yaxis.formatter = shared.number_labels
    return chart


def finish(
    chart: Any, source: ColumnDataSource, drawn: Sequence[Any], together: Together | None
) -> Any:
    """Let the axes follow *drawn* only, and put the marks behind it, if there are any; return them.

    The time axis follows the rows of *source*, known or not, and what is *drawn* of the future.
    """
    shared = together
    chart.y_range.renderers = [*chart.y_range.renderers, *drawn]
    moments = Scatter(x="at", y=FLOOR_S, fill_alpha=0, line_alpha=0, size=1)
    ahead = [one for one in drawn if one.tags[:1] == ["forecast"]]
    chart.x_range.renderers = [
        *chart.x_range.renderers, drawn_as(chart, source, moments), *ahead,
    ]  # fmt: skip
    if shared is None or shared.marks is None:
        return None
    glyph = VSpan(
        x="at", line_width=1.3, line_dash=[4, 3],
        line_color={"field": "sort", "transform": shared.mapper},
    )  # fmt: skip
    marks = drawn_as(chart, shared.marks, glyph, level="underlay")
    marks.tags = ["marks"]
    return marks


def paint(chart: figure, theme: Theme) -> figure:
    """Give every glyph and axis of *chart* the colours of *theme*; again when it changes."""
    drawn: Any = chart  # its parts are Bokeh's widest types
    for renderer in drawn.renderers:
        glyph = renderer.glyph
        match renderer.tags:
            case ["series", int(index)]:
                _tint(glyph, theme, line_color=_series(index))
            case ["state", str(state), "line"]:
                _tint(glyph, theme, line_color=_state(state))
            case ["state", str(state), "fill"]:
                _tint(glyph, theme, fill_color=_state(state))
                glyph.fill_alpha = 0.22
            case ["marks"]:  # looked up here: ``select`` walks every model of the chart
                light, dark = zip(*_SORTS.values(), strict=True)
                _tint(glyph.line_color["transform"], theme, palette=(list(light), list(dark)))
            case ["forecast", str(part), int(index)]:
                _tint(glyph, theme, **{f"{part}_color": _series(index)})
            case ["forecast", str(part), int(), "grows"]:
                _tint(glyph, theme, **{f"{part}_color": _state(JobState.FAILED)})
    drawn.background_fill_color = drawn.border_fill_color = None
    drawn.outline_line_color = None
    ink, grid = zip(_INK["light"], _INK["dark"], strict=True)
    _tint(drawn.title, theme, text_color=ink)
    for axis in (*drawn.xaxis, *drawn.yaxis):
        _tint(axis, theme, major_label_text_color=ink, axis_line_color=grid)
    for lines in drawn.grid:
        _tint(lines, theme, grid_line_color=grid)
    for legend in drawn.legend:
        _tint(legend, theme, label_text_color=ink, inactive_fill_color=_PAPER)
    for label in drawn.center:
        if isinstance(label, Label):
            _tint(label, theme, text_color=ink)
    return chart


def _tint(model: Any, theme: Theme, **pairs: Any) -> None:
    """Colour *model*, and leave both colours with it, so that a browser can turn the theme by itself."""
    tags: list[Any] = ["tints"]
    for name, (light, dark) in pairs.items():
        setattr(model, name, dark if theme == "dark" else light)
        tags += [name, light, dark]
    model.tags = tags


def _series(index: int) -> tuple[str, str]:
    return palette.series_colour(index, "light"), palette.series_colour(index, "dark")


def _state(state: str) -> tuple[str, str]:
    look = palette.JOB_LOOK[JobState(state)]
    return look.light, look.dark


_BRUSHED: Final = "dispatchEvent(new CustomEvent('arqscope:stretch', {detail: {start: cb_obj.x0, end: cb_obj.x1}}))"
CLOCK: Final = "hour: '2-digit', minute: '2-digit'"
_LOCAL_TIME: Final = (
    f"return new Date(tick).toLocaleTimeString([], {{{CLOCK}, "
    "second: tick % 60000 ? '2-digit' : undefined, hour12: false})"
)
_LOCAL_DAY: Final = (
    "const day = new Date(tick); return day.toLocaleDateString([], {day: 'numeric', month: 'short'}) + "
    f"(day.getHours() || day.getMinutes() ? ' ' + day.toLocaleTimeString([], {{{CLOCK}, hour12: false}})"
    " : '')"
)


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


__all__ = [
    "CLOCK",
    "FONT",
    "MARK_COLUMNS",
    "Together",
    "drawn_as",
    "finish",
    "lines",
    "paint",
    "stand",
    "tone",
]
