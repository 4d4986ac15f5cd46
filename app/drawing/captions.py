"""Captions: what a chart says in words. The names of its lines, the values under the pointer, that there are none."""

import html
import re
from collections.abc import Sequence
from typing import Any, Final

from bokeh.models import ColumnDataSource, CustomJS, CustomJSHover, HoverTool
from bokeh.models.annotations import Label, Legend, LegendItem
from bokeh.models.glyphs import Quad

from app.drawing.chart_source import FLOOR_S
from app.drawing.easel import CLOCK, FONT, Together, drawn_as

#: letters of a name in a legend: what a phone has room for
MAX_NAME: Final = 40

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

#: a value of the row under the pointer, as its kind is shown: ``@at{kind column}``. It hangs on the moment,
#: which is always known, for Bokeh writes NaN itself where a value is not.
#: ``when``: the moment of a sample; from when to when a bin or a stored step is, and how long that is
_TELL: Final = f"""
const row = special_vars.index, data = source.data
const [kind, column] = format.split(' ')
const clock = (ms, parts) => {{
  const at = new Date(ms)
  const day = Date.now() - ms > 72000000 ? at.toLocaleDateString([], {{day: 'numeric', month: 'short'}}) + ' ' : ''
  return day + at.toLocaleTimeString([], {{{CLOCK}, hour12: false, ...parts}})
}}
if (kind === 'moment') return clock(value, {{second: '2-digit'}})
if (kind === 'when') {{
  const since = data.since[row], until = data.until[row], long = Math.round((until - since) / 1000)
  const parts = since % 60000 || until % 60000 ? {{second: '2-digit'}} : {{}}
  if (!data.step && long < 60) return clock(until, parts) + ' (sample)'
  const words = long < 60 ? long + ' s' : long < 3600 ? Math.round(long / 6) / 10 + ' min'
    : long < 86400 ? Math.round(long / 360) / 10 + ' h' : Math.round(long / 8640) / 10 + ' d'
  return clock(since, parts) + ' \\u2013 ' + clock(until, parts) + ' (' + words + ')'
}}
const told = data[column][row]
if (told === null || !isFinite(told)) return '\\u2013'
if (kind === 'number') return told.toLocaleString('en', {{maximumFractionDigits: 2}})
if (kind === 'count') return told.toLocaleString('en')
return told < 1 ? Math.round(told * 1000) + ' ms' : told < 120 ? told.toFixed(1) + ' s' : Math.round(told / 60) + ' m'
"""
#: colours are the page's where there is one; elsewhere those of paper
_TABLE: Final = f"display:grid;grid-template-columns:auto auto;gap:2px 12px;font:11px/1.4 {FONT};font-variant-numeric:tabular-nums"
_SOFT: Final = "color:var(--ink-2,#57534e)"

#: says so in the middle of a chart that shows no value
_HUSH: Final = """
const [source, chart, range, label] = ids.map(id => cb_obj.document?.get_model_by_id(id))
if (!chart) return
const {start, end} = range
if (chart.properties.inner_width.is_unset) return
const {since, until} = source.data
let rows = 0, known = 0
for (let row = 0; row < since.length; row++) {
  if (until[row] <= start || since[row] >= end) continue // there may be no range yet
  rows += 1
  if (columns.some(column => Number.isFinite(source.data[column][row]))) { known = 1; break }
}
const text = known ? '' : rows ? none : nothing
if (label.text === text && label.x === chart.inner_width / 2) return
label.setv({text, x: chart.inner_width / 2, y: chart.inner_height / 2, visible: !known}, {sync: false})
"""
#: where there is no row at all: of now, of a stored stretch, which has a row for each step once it is read
_NOTHING: Final = {
    True: "No sample yet: they appear here as they are taken.",
    False: "What was stored of this time is not read yet.",
}
#: where rows know nothing
UNKNOWN: Final = "Not known in this time."
_NOT_STORED: Final = "Nothing was stored in this time."


def legend(
    chart: Any,
    names: Sequence[str],
    renderers: Sequence[Sequence[Any]],
    together: Together | None = None,
) -> None:
    """Names below the chart, as many beside each other as fit; a click hides one."""
    items = [
        LegendItem(
            label={"value": name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"},
            renderers=list(drawn),
        )
        for name, drawn in zip(names, renderers, strict=True)
    ]
    made: Any = Legend(
        items=items,
        orientation="horizontal",
        click_policy="hide",
        border_line_color=None,
        background_fill_color=None,
        inactive_fill_alpha=0.7,
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
    shared = together or Together()
    chart.js_on_change("inner_width", shared.once("fold", lambda: CustomJS(code=_FOLD)))


def hover(
    chart: Any,
    source: ColumnDataSource,
    tips: Sequence[tuple[str, str]],
    together: Together | None = None,
) -> None:
    """Exact values of *tips* of the row of *source* under the pointer: a name, and ``{kind column}`` in words.

    What is hit is drawn by nothing, so that a line hidden by the legend takes no tooltip with it.
    """
    rows = Quad(left="since", right="until", bottom=FLOOR_S, top=1e12, fill_alpha=0, line_alpha=0)
    told = "".join(
        f'<span style="{_SOFT}">{_plain(name)}</span><span>{_filled(tip)}</span>'
        for name, tip in tips
    )
    _add_tip(
        chart, source, drawn_as(chart, source, rows), together, mode="vline",
        shown=f'<span style="{_SOFT};grid-column:1/3">@at{{when}}</span>{told}',
    )  # fmt: skip


def hover_marks(chart: Any, marks: Any, together: Together) -> None:
    """What happened at the mark under the pointer, and who did it."""
    _add_tip(
        chart, marks.data_source, marks, together, mode="mouse",
        shown=f'<span style="{_SOFT}">@kind</span><span style="overflow-wrap:anywhere;max-width:300px">@text'
              f'</span><span style="{_SOFT}">by</span><span>@actor</span>'
              f'<span style="{_SOFT}">at</span><span>@at{{moment}}</span>',
    )  # fmt: skip


def _add_tip(
    chart: Any,
    source: ColumnDataSource,
    on: Any,
    together: Together | None,
    *,
    mode: Any,
    shown: str,
) -> None:
    shared = together or Together()
    teller = shared.once(source.id, lambda: CustomJSHover(args={"source": source}, code=_TELL))
    chart.add_tools(
        HoverTool(
            renderers=[on],
            mode=mode,
            point_policy="follow_mouse",
            show_arrow=False,
            tooltips=f'<div style="{_TABLE}">{shown}</div>',
            formatters={"@at": teller},
        )
    )


def _plain(name: str) -> str:
    """*name* as HTML that Bokeh finds no placeholder in."""
    return html.escape(name[:80]).replace("@", "&#64;").replace("$", "&#36;")


def _filled(tip: str) -> str:
    return re.sub(r"\{([^{}]+)\}", r"@at{\1}", tip)


def hush(
    chart: Any,
    source: ColumnDataSource,
    columns: Sequence[str],
    none: str,
    together: Together | None,
) -> None:
    """Say so where *columns* hold no value in the range shown: *none* where rows are known."""
    label = Label(
        x=0, y=0, x_units="screen", y_units="screen", text="", visible=False,
        text_align="center", text_baseline="middle", text_font=FONT, text_font_size="12px",
    )  # fmt: skip
    chart.add_layout(label)
    is_live = together is None or together.is_live
    say = CustomJS(
        args={
            "ids": [model.id for model in (source, chart, chart.x_range, label)],  # as ``bins`` says
            "columns": list(columns), "nothing": _NOTHING[is_live],
            "none": none if is_live or none != UNKNOWN else _NOT_STORED,
        },
        code=_HUSH,
    )  # fmt: skip
    source.js_on_change("data", say)
    source.js_on_change("streaming", say)
    for model, name in ((chart, "inner_width"), (chart.x_range, "start"), (chart.x_range, "end")):
        model.js_on_change(name, say)


__all__ = ["MAX_NAME", "UNKNOWN", "hover", "hover_marks", "hush", "legend"]
