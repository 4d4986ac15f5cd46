"""Charts: what reaches the source, gaps, totals, colours."""

import math

import pandas as pd
import pytest
from bokeh.document import Document

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
    assert {r.data_source for chart in drawn for r in chart.renderers} == {source}


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
