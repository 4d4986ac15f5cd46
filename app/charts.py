"""Frames to Bokeh figures over one shared source, and the list of them by name. Pure.

The page decides when to stream; a notebook and an address of its own show the same charts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pandas as pd
from bokeh.models import ColumnDataSource
from bokeh.models.glyphs import Line, VArea, VBar
from bokeh.plotting import figure

from app.drawing.chart_source import QUEUE_SERIES, STREAM_SERIES, WINDOW, make_source
from app.drawing.easel import Together, drawn_as, finish, hover, legend, lines, paint, stand, tone
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
        drawn = lines(chart, source, queues, "complete_per_s", together)
        legend(chart, queues, [[line] for line in drawn], together)
        tips = [(name, f"@{{complete_per_s:{n}}}{{custom}} /s") for n, name in enumerate(queues)]
        hover(chart, drawn, tips, "number", together)
        finish(chart, together, drawn)
        return paint(chart, theme)
    stack: tuple[tuple[str | int, str, JobState], ...] = (
        (0, "complete", JobState.COMPLETE),
        ("complete", "top", JobState.FAILED),
    )
    fills: list[Any] = []
    for bottom, top, state in stack:
        bar = VBar(x="at", bottom=bottom, top=top, width="width", line_color=None)
        bars = drawn_as(chart, source, bar)
        bars.tags = ["state", state.value, "fill"]
        fills.append(bars)
    tops = []
    # where nothing failed both lines lie on each other: green is drawn last
    for _, top, state in reversed(stack):
        line = drawn_as(chart, source, Line(x="at", y=top, line_width=1.4))
        line.tags = ["state", state.value, "line"]
        tops.append(line)
    legend(chart, ["complete", "failed"], [[tops[1], fills[0]], [tops[0], fills[1]]], together)
    tips = [("complete", "@complete{custom} /s"), ("failed", "@failed{custom} /s")]
    hover(chart, tops[1:], tips, "number", together)
    finish(chart, together, [*fills, *tops])
    return paint(chart, theme)


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
    tips = [(name, f"@{{waiting:{n}}}{{custom}} waiting") for n, name in enumerate(queues)]
    hover(chart, drawn, tips, "count", together)
    finish(chart, together, drawn)
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
    chart: Any = stand(title, "p95, dotted p50", together, y_axis_type="log")
    p95 = lines(chart, source, queues, f"{of}_p95_s", together)
    p50 = lines(chart, source, queues, f"{of}_p50_s", together, line_dash=[2, 3], line_width=1.2)
    legend(chart, queues, [list(pair) for pair in zip(p95, p50, strict=True)], together)
    tips = [
        (name, f"p50 @{{{of}_p50_s:{n}}}{{custom}} · p95 @{{{of}_p95_s:{n}}}{{custom}}")
        for n, name in enumerate(queues)
    ]
    hover(chart, p95, tips, "duration", together)
    finish(chart, together, [*p95, *p50])
    return paint(chart, theme)


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
    tips = [
        (name, f"@{{lag:{n}}}{{custom}} events, @{{lag_s:{n}}} s") for n, name in enumerate(streams)
    ]
    hover(chart, drawn, tips, "count", together)
    finish(chart, together, drawn)
    return paint(chart, theme)


def event_rate_chart(
    source: ColumnDataSource,
    streams: Sequence[str],
    *,
    theme: Theme = "light",
    together: Together | None = None,
) -> figure:
    """Events handled per second, one line per stream."""
    chart: Any = stand("Events", "handled per second", together)
    drawn = lines(chart, source, streams, "processed_per_s", together)
    legend(chart, streams, [[line] for line in drawn], together)
    tips = [(name, f"@{{processed_per_s:{n}}}{{custom}} /s") for n, name in enumerate(streams)]
    hover(chart, drawn, tips, "number", together)
    finish(chart, together, drawn)
    return paint(chart, theme)


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
    tips = [(name, f"@{{{metric}:{n}}}{{custom}}{after}") for n, name in enumerate(names)]
    hover(chart, drawn, tips, told.kind, together)
    finish(chart, together, drawn)
    return paint(chart, theme)


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
    together: Together | None = None,
) -> figure:
    """One chart of *history* as it is now; its second column names queues or streams.

    KeyError names the charts there are.
    """
    chart = CHARTS.get(ALIASES.get(name, name))
    if chart is None:
        raise KeyError(f"no chart {name!r}; there are {', '.join((*CHARTS, *ALIASES))}")
    names = [str(one) for one in history.iloc[:, 1].drop_duplicates()] if len(history) else []
    limit = max(WINDOW, len(history))
    source = make_source(history, names, interval_s, chart.series, limit)
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
