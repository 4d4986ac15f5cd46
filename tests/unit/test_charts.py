"""Charts: what reaches the source, gaps, totals, colours."""

import math
import re

import pandas as pd
import pytest
from bokeh.document import Document
from bokeh.models import ColumnDataSource, CrosshairTool, HoverTool, Label, LogScale

from app import charts, palette
from app.drawing import chart_source, easel
from app.frames import HISTORY_COLUMNS, frame_of
from app.records import JobState

T0_MS = 1_795_000_000_000
QUEUES = ["a", "b"]


def history(*rows):
    """Rows of (second, queue, complete per s, more columns)."""
    return frame_of(
        (
            {"at": T0_MS + second * 1000, "queue": queue, "complete_per_s": complete, **more}
            for second, queue, complete, more in rows
        ),
        HISTORY_COLUMNS,
    )


def test_a_total_adds_the_queues():
    """
    One row of the source per moment.
    """
    frame = history((0, "a", 1.0, {"failed_per_s": 0.5}), (0, "b", 2.0, {"failed_per_s": 0.25}))

    columns = chart_source.columns_of(frame, QUEUES)

    assert columns["at"] == [T0_MS]
    assert (columns["complete"], columns["failed"], columns["top"]) == ([3.0], [0.75], [3.75])


def test_a_total_with_an_unknown_part_is_unknown():
    """
    A queue that could not be read does not count as idle.
    """
    frame = history((0, "a", 1.0, {}), (0, "b", None, {}))

    columns = chart_source.columns_of(frame, QUEUES)

    assert columns["complete_per_s:0"] == [1.0]
    assert math.isnan(columns["complete"][0])


def test_time_without_samples_is_a_gap():
    """
    A line must not run through a minute nobody looked.
    """
    frame = history((0, "a", 1.0, {}), (1, "a", 1.0, {}), (61, "a", 2.0, {}))

    columns = chart_source.columns_of(frame, ["a"])

    assert [value for value in columns["complete_per_s:0"] if not math.isnan(value)] == [1, 1, 2]
    assert math.isnan(columns["complete_per_s:0"][2])
    assert columns["at"][1] < columns["at"][2] < columns["at"][3]


def test_only_what_is_new_is_streamed():
    """
    A page asks for what came after its last moment.
    """
    frame = history(*((second, "a", float(second), {}) for second in range(5)))

    columns = chart_source.columns_of(frame, ["a"], after=frame["at"].iloc[2])

    assert columns["complete_per_s:0"] == [3.0, 4.0]
    assert chart_source.columns_of(frame, ["a"], after=frame["at"].iloc[4])["at"] == []


def test_a_late_page_gets_a_gap_before_what_is_new():
    """
    Silence between two streamed batches is a gap as well.
    """
    frame = history((0, "a", 1.0, {}), (60, "a", 2.0, {}))

    columns = chart_source.columns_of(frame, ["a"], after=frame["at"].iloc[0])

    assert math.isnan(columns["complete_per_s:0"][0])
    assert columns["complete_per_s:0"][1:] == [2.0]


def test_no_history_makes_empty_columns():
    """
    A chart can be made before the first sample.
    """
    columns = chart_source.columns_of(frame_of([], HISTORY_COLUMNS), QUEUES)

    assert list(columns) == chart_source.source_columns(QUEUES)
    assert not any(columns.values())


def test_the_window_is_bounded():
    """
    An hour of history does not reach the browser at once.
    """
    frame = history(*((second, "a", 1.0, {}) for second in range(chart_source.WINDOW + 50)))

    assert len(chart_source.columns_of(frame, ["a"])["at"]) == chart_source.WINDOW


def test_a_wait_below_the_floor_stands_on_the_floor():
    """
    A log axis has no zero.
    """
    frame = history((0, "a", 1.0, {"wait_p50_s": 0.0}))

    assert chart_source.columns_of(frame, ["a"])["wait_p50_s:0"] == [chart_source.FLOOR_S]


@pytest.mark.parametrize("name", ["throughput", "backlog", "latency", "run-time"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_chart_of_history_can_be_drawn(name, theme):
    """
    One call in a notebook; Bokeh accepts every property.
    """
    chart = charts.chart_of_history(name, history((0, "a", 1.0, {}), (1, "b", 1.0, {})), theme)

    document = Document()
    document.add_root(chart)
    assert len(document.to_json(deferred=False)["roots"]) == 1
    assert chart.output_backend == "canvas"


def test_charts_share_source_axis_and_cursor():
    """
    Zooming one zooms all.
    """
    together = easel.Together()
    source = chart_source.make_source(history((0, "a", 1.0, {})), ["a"])

    drawn = [
        charts.throughput_chart(source, ["a"], together=together),
        charts.backlog_chart(source, ["a"], together=together),
        charts.latency_chart(source, ["a"], together=together),
    ]

    assert {chart.x_range for chart in drawn} == {together.x_range}
    sources = {r.data_source for chart in drawn for r in chart.renderers}
    assert {s for s in sources if s.name != "bins"} == {source}  # bins are made of it, in a browser


def test_colours_follow_the_theme():
    """
    The same chart, painted again.
    """
    chart = charts.chart_of_history("throughput", history((0, "a", 1.0, {})))
    complete = next(r for r in chart.renderers if r.tags == ["state", "complete", "line"])

    easel.paint(chart, "dark")

    assert complete.glyph.line_color == palette.JOB_LOOK[JobState.COMPLETE].dark


def test_an_unknown_chart_names_the_known_ones():
    """
    The remedy is in the message.
    """
    with pytest.raises(KeyError, match="backlog"):
        charts.chart_of_history("nonsense", pd.DataFrame({"queue": []}))


def test_a_sample_is_of_the_time_since_the_one_before():
    """
    A late one of more, so that a rate times its time is what was counted; after a gap, of one interval.
    """
    frame = history(*((second, "a", 1.0, {}) for second in (0, 1, 3, 60)))

    columns = chart_source.columns_of(frame, ["a"])
    later = chart_source.columns_of(frame, ["a"], after=frame["at"].iloc[1])

    lengths = [b - a for a, b in zip(columns["since"], columns["until"], strict=True)]
    assert [ms for ms in lengths if not math.isnan(ms)] == [1000, 1000, 2000, 1000]
    assert later["since"][0] == T0_MS + 1000


def test_a_stored_step_stands_in_its_middle():
    """
    What happened in an hour is not drawn before the hour began.
    """
    frame = history((0, "a", 1.0, {}), (3600, "a", 2.0, {}))

    columns = chart_source.columns_of(frame, ["a"], interval_s=3600, is_stored=True)

    assert columns["since"] == [T0_MS, T0_MS + 3_600_000]
    assert columns["until"] == [T0_MS + 3_600_000, T0_MS + 7_200_000]
    assert columns["at"] == [T0_MS + 1_800_000, T0_MS + 5_400_000]


def test_a_rate_over_a_long_step_still_gives_the_number_it_was_made_of():
    """
    Three jobs in six hours are not rounded away.
    """
    frame = history((0, "a", 3 / 21_600, {}))

    columns = chart_source.columns_of(frame, ["a"], interval_s=21_600, is_stored=True)

    assert round(columns["complete"][0] * 21_600, 1) == 3.0
    assert round(columns["complete_per_s:0"][0] * 21_600, 1) == 3.0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_chart_carries_the_colours_of_both_themes(theme):
    """
    A browser turns the theme by itself: it finds name, light, dark with each model, and draws nothing anew.
    """
    chart = charts.chart_of_history("throughput", history((0, "a", 1.0, {})), theme)

    tinted = [model for model in chart.references() if model.tags[:1] == ["tints"]]
    for model in tinted:
        for name, light, dark in zip(*(model.tags[n::3] for n in (1, 2, 3)), strict=True):
            assert getattr(model, name) == (dark if theme == "dark" else light)
    kinds = {type(model).__name__ for model in tinted}
    assert kinds >= {"Quad", "Segment", "Title", "Legend", "Label", "LinearAxis", "Grid"}


def test_a_name_in_a_tooltip_is_text():
    """
    Neither markup nor one of Bokeh's placeholders.
    """
    frame = history((0, "<b>@at{x}$index</b>", 1.0, {}))

    chart = charts.chart_of_history("backlog", frame)

    tip = chart.tools[-1].tooltips
    assert "&lt;b&gt;&#64;at{x}&#36;index&lt;/b&gt;" in tip
    assert tip.count("@") == 2  # the moment, and the value


@pytest.mark.parametrize("name", charts.CHARTS)
def test_every_chart_has_what_every_chart_must_have(name):
    """
    One axis and cursor for all, marks, exact values with a unit, names that filter, a log axis for durations,
    words where there is nothing, colours for both themes.
    """
    told = charts.CHARTS[name]
    marks = ColumnDataSource({column: [] for column in easel.MARK_COLUMNS}, name="marks")
    together = easel.Together(marks=marks)
    source = chart_source.make_source(frame_of([], HISTORY_COLUMNS), ["a"], series=told.series)

    chart = told.draw(source, ["a"], together=together)

    assert chart.x_range is together.x_range
    assert [tool.overlay for tool in chart.select(CrosshairTool)] == [together.cursor]
    values, about_marks = (tool.tooltips for tool in chart.tools if isinstance(tool, HoverTool))
    assert "@at{when}" in values
    assert re.search(r"@at{(number|count|duration) [^}]+}( [/a-z]+)?", values)
    assert "@kind" in about_marks
    assert [legend.click_policy for legend in chart.legend] == ["hide"]
    series = [r for r in chart.renderers if r.tags[:1] in (["series"], ["state"])]
    assert {r for item in chart.legend[0].items for r in item.renderers} == {*series}
    assert all(r.glyph.tags[0] == "tints" for r in series)
    metric = charts.METRICS.get(name)
    is_of_time = name in ("wait", "run") or (metric is not None and metric.kind == "duration")
    assert isinstance(chart.y_scale, LogScale) == is_of_time
    assert [type(one) for one in chart.center if isinstance(one, Label)] == [Label]
