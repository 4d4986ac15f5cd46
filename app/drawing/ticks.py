"""Ticks: where the axes of charts have lines and labels, chosen in the browser for what is in view."""

from typing import Final

from bokeh.models import CustomJSTicker, CustomJSTickFormatter

#: greatest end of an axis that counts from 0, as long as nothing was counted
LEAST_END: Final = 1

#: ticks of a log axis of seconds: decades, with minutes and hours; two of them are enough to read it.
#: Within one decade the steps between them; within one of those, even steps, of whole seconds and minutes
#: where the values are that long
_DURATIONS: Final = """
const {start, end} = cb_data
const low = Math.min(start, end), high = Math.max(start, end)
const seen = ticks => ticks.filter(tick => low <= tick && tick <= high)
const decades = [.001, .01, .1, 1, 10, 60, 600, 3600, 36000, 360000]
const steps = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800,
  3600, 7200, 18000, 36000, 86400, 180000, 360000]
for (const ticks of [seen(decades), seen(steps)])
  if (ticks.length >= 2) return ticks
const least = (high - low) / 4
const power = 10 ** Math.floor(Math.log10(least))
const evens = low < 60 ? [1, 2, 5, 10].map(part => part * power)
  : [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000]
const step = evens.find(even => even >= least * .999) ?? least
const first = Math.ceil(low / step - 1e-9), made = []
for (let n = first; n * step <= high * (1 + 1e-9) && made.length < 20; n++) made.push(n * step)
return made
"""
_SAID: Final = """
const round = value => Number(value.toPrecision(4)).toLocaleString('en', {maximumFractionDigits: 3})
return tick >= 3600 && tick % 900 == 0 ? round(tick / 3600) + ' h' : tick >= 60 && tick % 60 == 0 ?
  round(tick / 60) + ' m' : tick >= 1 ? round(tick) + ' s' : round(tick * 1000) + ' ms'
"""
#: a count, rate or share: as many digits as it takes, thousands apart
_NUMBERS: Final = "return Number(tick.toPrecision(12)).toLocaleString('en')"


def durations() -> CustomJSTicker:
    """Ticks of a log axis of seconds; without a state, so that all charts of a page share one."""
    return CustomJSTicker(major_code=_DURATIONS)


def duration_labels() -> CustomJSTickFormatter:
    """Labels of such an axis: ms, s, m or h."""
    return CustomJSTickFormatter(code=_SAID)


def number_labels() -> CustomJSTickFormatter:
    """Labels of an axis of numbers."""
    return CustomJSTickFormatter(code=_NUMBERS)


__all__ = ["LEAST_END", "duration_labels", "durations", "number_labels"]
