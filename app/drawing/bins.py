"""Bins: rates of many moments drawn as bars wide enough to be read, made in the browser for what is shown.

A source has a row a second; as lines that is a thicket. Rows that follow each other and lie in the same bin
become one bar: as long as they are together, as high as their mean, so that what happened is its area. A row
longer than a bin stays by itself, and no bar runs over what was not seen.
"""

from collections.abc import Sequence
from typing import Any, Final

from bokeh.models import ColumnDataSource, CustomJS

#: px a bar has at least
BAR_PX: Final = 8
#: lengths of bins, s
STEPS_S: Final = (
    1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200,
    86_400, 172_800, 604_800,
)  # fmt: skip

#: Models are found by id: a legend makes itself anew with each change of a model that its lines lead to, and
#: they lead to what their source's callbacks hold. ``cells`` are the columns of rates; of each there is its mean, and under ``n:`` what it adds up to.
#: ``stack`` are columns with what draws them: each stands on those before it that are not hidden
_BIN: Final = """
const [source, bins, chart, range, ...drawn] = ids.map(id => cb_obj.document?.get_model_by_id(id))
if (!chart) return
const {start, end} = range
const wide = chart.properties.inner_width.is_unset ? 0 : chart.inner_width // unset before it is laid out
if (!(end > start) || !(wide > 0)) return
const least = (end - start) / 1000 / wide * px
const step = 1000 * (steps.find(s => s >= least) ?? steps.at(-1))
if (cb_obj === range && bins.data.step[0] === step) return
const {since, until} = source.data
const values = cells.map(cell => source.data[cell])
const zone = step < 3600e3 ? 0 : new Date(end).getTimezoneOffset() * 60e3 // hours and days are the viewer's
const made = Object.fromEntries(Object.keys(bins.data).map(name => [name, []]))
let key = null, from = 0, to = 0, sums = []
const close = () => {
  if (key === null) return
  const seconds = (to - from) / 1000
  made.since.push(from)
  made.until.push(to)
  made.at.push((from + to) / 2)
  made.step.push(step)
  cells.forEach((cell, n) => {
    made[cell].push(sums[n] / seconds)
    made['n:' + cell].push(Math.round(sums[n]))
  })
  key = null
}
for (let row = 0; row < since.length; row++) {
  const length = until[row] - since[row]
  if (!(length > 0)) { // a gap
    close()
    for (const name in made) made[name].push(name === 'step' ? step : name === 'at' ? source.data.at[row] : NaN)
    continue
  }
  const known = values.map(list => Number.isFinite(list[row]) ? 1 : 0).join('')
  const bin = length >= step ? 'row ' + row : Math.floor((since[row] + length / 2 - zone) / step) + ' ' + known
  if (bin !== key || Math.abs(since[row] - to) > length / 2) {
    close()
    key = bin
    from = since[row]
    sums = cells.map(() => 0)
  }
  to = until[row]
  values.forEach((list, n) => sums[n] += (list[row] ?? NaN) * length / 1000)
}
close()
let below = made.at.map(() => 0)
stack.forEach((cell, n) => {
  const shown = drawn[n].visible
  made['low:' + cell] = below
  made['high:' + cell] = below.map((low, row) => low + made[cell][row])
  made['edge:' + cell] = made['high:' + cell].map((high, row) => n > 0 && !made[cell][row] ? NaN : high)
  if (shown) below = made['high:' + cell]
})
bins.setv({data: made}, {sync: false})
"""


def bin_columns(cells: Sequence[str], stack: Sequence[str] = ()) -> list[str]:
    """Names of the columns of bins of *cells*."""
    return [
        "at", "since", "until", "step",
        *cells, *(f"n:{cell}" for cell in cells),
        *(f"{part}:{cell}" for cell in stack for part in ("low", "high", "edge")),
    ]  # fmt: skip


def bins_of(cells: Sequence[str], stack: Sequence[str] = ()) -> ColumnDataSource:
    """Bins of the columns *cells*, empty until ``keep_binned`` fills them in a browser."""
    data: dict[str, Any] = {name: [] for name in bin_columns(cells, stack)}
    return ColumnDataSource(data, name="bins")


def keep_binned(
    chart: Any,
    source: ColumnDataSource,
    bins: ColumnDataSource,
    cells: Sequence[str],
    stack: Sequence[str] = (),
    drawn: Sequence[Any] = (),
) -> None:
    """Fill *bins* from *source*, again whenever it, the range shown or the width of *chart* changes.

    *drawn* draw the columns of *stack*; who is hidden holds nothing up.
    """
    rebin = CustomJS(
        args={
            "ids": [model.id for model in (source, bins, chart, chart.x_range, *drawn)],
            "cells": list(cells), "stack": list(stack), "steps": list(STEPS_S), "px": BAR_PX,
        },
        code=_BIN,
    )  # fmt: skip
    source.js_on_change("data", rebin)
    source.js_on_change("streaming", rebin)
    chart.js_on_change("inner_width", rebin)
    chart.x_range.js_on_change("start", rebin)
    chart.x_range.js_on_change("end", rebin)
    for one in drawn:
        one.js_on_change("visible", rebin)


__all__ = ["BAR_PX", "STEPS_S", "bin_columns", "bins_of", "keep_binned"]
