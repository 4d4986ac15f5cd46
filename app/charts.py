"""Frames to Bokeh figures over one shared source, and the list of them by name. Pure.

The page decides when to stream; a notebook and an address of its own show the same charts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pandas as pd
from bokeh.models import ColumnDataSource
from bokeh.models.glyphs import Line, Quad, Segment, VArea
from bokeh.plotting import figure

from app.drawing.bins import bins_of, keep_binned
from app.drawing.captions import UNKNOWN, hover, hover_marks, hush, legend
from app.drawing.chart_source import QUEUE_SERIES, STREAM_SERIES, WINDOW, make_source
from app.drawing.easel import Together, drawn_as, finish, lines, paint, stand, tone
from app.palette import Theme
from app.records import JobState

#: names a chart draws a line for; more would be a tangle
MAX_LINES: Final = 8


def throughput_chart(
    source: ColumnDataSource,
    queues: Sequence[str],
    *,
    by: Literal["outcome", "queue"] = "outcome",
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """Runs per second: complete with failed on top, or one line per queue."""
    chart: Any = stand("Throughput", "runs per second", together)
    if by == "queue":
        return _rates(chart, source, queues, "complete_per_s", "runs", theme, together)
    stack = {"complete": JobState.COMPLETE, "failed": JobState.FAILED}
    bins = bins_of(list(stack), list(stack))
    bars, edges = [], []
    for cell, state in stack.items():
        bar = Quad(
            left="since", right="until", bottom=f"low:{cell}", top=f"high:{cell}", line_color=None
        )
        bars.append(drawn_as(chart, bins, bar))
        bars[-1].tags = ["state", state.value, "fill"]
    for cell, state in stack.items():
        top = f"edge:{cell}"
        edge = Segment(x0="since", x1="until", y0=top, y1=top, line_width=1.6)
        edges.append(drawn_as(chart, bins, edge))
        edges[-1].tags = ["state", state.value, "line"]
    keep_binned(chart, source, bins, list(stack), list(stack), bars)
    tips = [(cell, f"{{number {cell}}} /s · {{count n:{cell}}} runs") for cell in stack]
    legend(chart, list(stack), list(zip(edges, bars, strict=True)), together)
    return _finished(
        chart, source, bars, tips, list(stack), theme, together, bins=bins, none=UNKNOWN
    )


def _rates(
    chart: Any,
    source: ColumnDataSource,
    names: Sequence[str],
    series: str,
    word: str,
    theme: Theme,
    together: Together | None,
) -> figure:
    """A line per name of what happened per second, in bins."""
    cells = _of(series, names)
    bins = bins_of(cells)
    drawn = lines(chart, bins, names, series, together)
    keep_binned(chart, source, bins, cells)
    tips = [
        (name, f"{{number {cell}}} /s · {{count n:{cell}}} {word}")
        for name, cell in zip(names, cells, strict=True)
    ]
    legend(chart, names, [[line] for line in drawn], together)
    return _finished(chart, source, drawn, tips, cells, theme, together, bins=bins, none=UNKNOWN)


def _finished(
    chart: Any,
    source: ColumnDataSource,
    drawn: Sequence[Any],
    tips: Sequence[tuple[str, str]],
    columns: Sequence[str],
    theme: Theme,
    together: Together | None,
    *,
    none: str,
    bins: ColumnDataSource | None = None,
) -> figure:
    """Give *chart* its axes, marks, words and colours; *none* is said where *columns* hold no value."""
    hover(chart, bins or source, tips, together)
    marks = finish(chart, source, drawn, together)
    if marks is not None and together is not None:
        hover_marks(chart, marks, together)
    hush(chart, source, columns, none, together)
    return paint(chart, theme)


def _of(series: str, names: Sequence[str]) -> list[str]:
    return [f"{series}:{n}" for n in range(len(names))]


def backlog_chart(
    source: ColumnDataSource,
    queues: Sequence[str],
    *,
    theme: Theme = "light",
    together: Together | None = None,
    ahead: ColumnDataSource | None = None,
) -> figure:
    """Jobs that are due and wait, one line per queue; *ahead* is a forecast with its band."""
    chart: Any = stand("Backlog", "jobs waiting", together, whole=True)
    drawn = lines(chart, source, queues, "waiting", together)
    names, shown = list(queues), [[line] for line in drawn]
    if ahead is not None:
        band = drawn_as(chart, ahead, VArea(x="at", y1="low", y2="high", fill_alpha=0.16))
        dashed = Line(x="at", y="middle", line_width=1.6, line_dash=[5, 4])
        middle = drawn_as(chart, ahead, dashed)
        of = tone(0, together)
        band.tags, middle.tags = ["forecast", "fill", of], ["forecast", "line", of]
        names.append("forecast, 80% band")
        shown.append([middle, band])
        drawn = [*drawn, band, middle]
    legend(chart, names, shown, together)
    cells = _of("waiting", queues)
    tips = [(name, f"{{count {cell}}} waiting") for name, cell in zip(queues, cells, strict=True)]
    return _finished(chart, source, drawn, tips, cells, theme, together, none=UNKNOWN)


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
    chart: Any = stand(title, "p95, dotted p50", together, y_axis_type="log")
    p95 = lines(chart, source, queues, f"{of}_p95_s", together)
    p50 = lines(chart, source, queues, f"{of}_p50_s", together, line_dash=[2, 3], line_width=1.2)
    legend(chart, queues, [list(pair) for pair in zip(p95, p50, strict=True)], together)
    cells = _of(f"{of}_p95_s", queues)
    tips = [
        (name, f"p50 {{duration {of}_p50_s:{n}}} · p95 {{duration {of}_p95_s:{n}}}")
        for n, name in enumerate(queues)
    ]
    none = f"No job was {'started' if of == 'wait' else 'run'} in this time."
    return _finished(chart, source, [*p95, *p50], tips, cells, theme, together, none=none)


def run_time_chart(source: ColumnDataSource, queues: Sequence[str], **more: Any) -> figure:
    """Run time, as ``latency_chart`` shows it."""
    return latency_chart(source, queues, of="run", **more)


def by_queue_chart(source: ColumnDataSource, queues: Sequence[str], **more: Any) -> figure:
    """Throughput with a line per queue."""
    return throughput_chart(source, queues, by="queue", **more)


def lag_chart(
    source: ColumnDataSource,
    streams: Sequence[str],
    *,
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """Events the slowest group of each stream has not been given yet."""
    chart: Any = stand("Lag", "events not yet delivered", together, whole=True)
    drawn = lines(chart, source, streams, "lag", together)
    legend(chart, streams, [[line] for line in drawn], together)
    cells = _of("lag", streams)
    tips = [
        (name, f"{{count {cell}}} events, {{duration lag_s:{n}}}")
        for n, (name, cell) in enumerate(zip(streams, cells, strict=True))
    ]
    none = "No group's lag is known in this time."
    return _finished(chart, source, drawn, tips, cells, theme, together, none=none)


def event_rate_chart(
    source: ColumnDataSource,
    streams: Sequence[str],
    *,
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """Events handled per second, one line per stream."""
    chart: Any = stand("Events", "handled per second", together)
    return _rates(chart, source, streams, "processed_per_s", "events", theme, together)


def metric_chart(
    source: ColumnDataSource,
    names: Sequence[str],
    *,
    metric: str,
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """One column of stored history, one line per queue or stream."""
    told = METRICS[metric]
    more: dict[str, Any] = {"y_axis_type": "log"} if told.kind == "duration" else {}
    chart: Any = stand(
        told.title, told.unit, together, whole=told.kind == "count", height=300, **more
    )
    drawn = lines(chart, source, names, metric, together)
    legend(chart, names, [[line] for line in drawn], together)
    after = {"duration": "", "number": " /s", "count": f" {told.word}"}[told.kind]
    cells = _of(metric, names)
    tips = [
        (name, f"{{{told.kind} {cell}}}{after}") for name, cell in zip(names, cells, strict=True)
    ]
    none = "Nothing ended that could be timed." if told.kind == "duration" else UNKNOWN
    return _finished(chart, source, drawn, tips, cells, theme, together, none=none)


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of stored history (``tiers.TIER_COLUMNS``) as people read it."""

    title: str
    unit: str
    kind: Literal["count", "number", "duration"] = "count"
    word: str = ""


#: what may be looked back at, of any queue; a stream's ``waiting`` is its lag
METRICS: Final[Mapping[str, Metric]] = {
    "waiting": Metric("Waiting", "mean of each step", word="waiting"),
    "waiting_max": Metric("Most waiting", "greatest of each step", word="waiting"),
    "deferred": Metric("Deferred", "at the end of each step", word="deferred"),
    "running": Metric("Running", "mean of each step", word="running"),
    "held": Metric("Held", "waiting, deferred and running", word="held"),
    "dead_open": Metric("Open dead letters", "at the end of each step", word="open"),
    "workers": Metric("Workers", "mean of each step", word="workers"),
    "slots": Metric("Slots", "mean of each step", word="slots"),
    "accepted": Metric("Accepted", "in each step", word="accepted"),
    "complete": Metric("Completed", "in each step", word="completed"),
    "retried": Metric("Retried runs", "in each step", word="retried"),
    "dead": Metric("Died", "in each step", word="died"),
    "aborted": Metric("Aborted", "in each step", word="aborted"),
    "complete_per_s": Metric("Completed per second", "mean of each step", "number"),
    "failed_per_s": Metric("Failed runs per second", "mean of each step", "number"),
    "oldest_wait_s": Metric("Oldest waiting", "greatest of each step", "duration"),
    **{
        f"{kind}_{name}_s": Metric(f"{word} {name}", "of each step", "duration")
        for kind, word in (("wait", "Wait time"), ("run", "Run time"), ("e2e", "End to end"))
        for name in ("p50", "p95", "p99")
    },
}


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart by name: what draws it, and the columns it draws."""

    title: str
    draw: Callable[..., figure]
    series: tuple[str, ...] = QUEUE_SERIES
    of_streams: bool = False
    is_live: bool = True  #: whether samples hold what it shows; else stored history alone does


def _of_metric(metric: str) -> Chart:
    def draw(source: ColumnDataSource, names: Sequence[str], **more: Any) -> figure:
        return metric_chart(source, names, metric=metric, **more)

    return Chart(METRICS[metric].title, draw, (metric,), is_live=False)


#: every chart there is: pages, addresses and notebooks name them alike
CHARTS: Final[Mapping[str, Chart]] = {
    "throughput": Chart("Throughput", throughput_chart),
    "by-queue": Chart("Throughput by queue", by_queue_chart),
    "backlog": Chart("Backlog", backlog_chart),
    "wait": Chart("Wait time", latency_chart),
    "run": Chart("Run time", run_time_chart),
    "lag": Chart("Lag", lag_chart, STREAM_SERIES, of_streams=True),
    "events": Chart("Events", event_rate_chart, STREAM_SERIES, of_streams=True),
    **{metric: _of_metric(metric) for metric in METRICS},
}
#: other names they are known by
ALIASES: Final[Mapping[str, str]] = {"latency": "wait", "run-time": "run"}


def chart_of_history(
    name: str,
    history: pd.DataFrame,
    theme: Theme = "light",
    *,
    interval_s: float = 1.0,
    is_stored: bool = False,
    together: Together | None = None,
) -> figure:
    """One chart of *history* as it is now; its second column names queues or streams.

    Rows that are *is_stored* are of the *interval_s* that begins at their moment, others of the time
    before it. KeyError names the charts there are.
    """
    chart = CHARTS.get(ALIASES.get(name, name))
    if chart is None:
        raise KeyError(f"no chart {name!r}; there are {', '.join((*CHARTS, *ALIASES))}")
    names = [str(one) for one in history.iloc[:, 1].drop_duplicates()] if len(history) else []
    limit = max(WINDOW, len(history))
    source = make_source(history, names, interval_s, chart.series, limit, is_stored=is_stored)
    return chart.draw(source, names, theme=theme, together=together)


__all__ = [
    "ALIASES",
    "CHARTS",
    "MAX_LINES",
    "METRICS",
    "Chart",
    "backlog_chart",
    "by_queue_chart",
    "chart_of_history",
    "event_rate_chart",
    "lag_chart",
    "latency_chart",
    "metric_chart",
    "run_time_chart",
    "throughput_chart",
]
