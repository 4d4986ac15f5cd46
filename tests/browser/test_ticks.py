"""Where axes have lines and labels: chosen in the browser, so they are asked of a browser."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bokeh.embed import file_html
from bokeh.plotting import figure
from bokeh.resources import INLINE

from app import charts
from app.drawing import ticks
from app.drawing.chart_source import make_source
from app.drawing.easel import Together
from app.frames import HISTORY_COLUMNS, frame_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]

Axis = Callable[[float, float], list[str]]
#: models of the one figure of the document, and what its vertical axis says
_SEEN = """() => {
  const figure = Bokeh.documents[0].roots()[0]
  const axis = figure.left[0], range = figure.y_range
  const {major} = axis.ticker.get_ticks(range.start, range.end, range, 0)
  return major.filter(tick => range.start <= tick && tick <= range.end)
}"""


@pytest.fixture(scope="module")
def blank(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture
def axis(blank: Any) -> Axis:
    """Labels of a log axis of seconds from one value to another."""
    major, label = ticks.durations().major_code, ticks.duration_labels().code

    def labels(start: float, end: float) -> list[str]:
        said: list[str] = blank.evaluate(
            """([major, label, start, end]) => {
              const made = new Function("cb_data", major)({start, end})
              return made.map(tick => new Function("tick", label)(tick))
            }""",
            [major, label, start, end],
        )
        return said

    return labels


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0.0008, 70, ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "1 m"]),
        (0.004, 0.3, ["10 ms", "100 ms"]),
        (0.04, 0.9, ["50 ms", "100 ms", "200 ms", "500 ms"]),
        (1.1, 9, ["2 s", "5 s"]),
        (8, 65, ["10 s", "1 m"]),
        (70, 590, ["2 m", "5 m"]),
        (4000, 30_000, ["2 h", "5 h"]),
    ],
)
def test_a_log_axis_has_decades_and_within_one_the_steps_between(
    axis: Axis, start: float, end: float, said: list[str]
) -> None:
    assert axis(start, end) == said


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0.021, 0.049, ["30 ms", "40 ms"]),
        (0.101, 0.1049, ["101 ms", "102 ms", "103 ms", "104 ms"]),
        (131, 149, ["135 s", "140 s", "145 s"]),
        (3700, 5300, ["70 m", "80 m"]),
    ],
)
def test_values_that_hardly_differ_still_have_two_labels_that_differ(
    axis: Axis, start: float, end: float, said: list[str]
) -> None:
    assert axis(start, end) == said


def test_no_stretch_of_a_log_axis_has_fewer_than_two_labels_or_too_many(axis: Axis) -> None:
    """
    From a millisecond to four days, as narrow as 3 % and as wide as all of it.
    """
    for low in (0.001, 0.0017, 0.03, 0.44, 1.3, 9.7, 31, 59, 61, 333, 2_900, 40_000):
        for factor in (1.03, 1.3, 2.2, 6, 9.9, 40, 2_000):
            said = axis(low, low * factor)
            assert 2 <= len(said) <= 9, (low, factor, said)
            assert len(set(said)) == len(said), (low, factor, said)


@pytest.mark.parametrize(
    ("values", "seen"), [([0, 0, 0], [0, 1]), ([0, 1, 0], [0, 1]), ([0, 3, 2], [0, 1, 2, 3])]
)
def test_a_backlog_of_none_or_few_has_whole_numbers_on_its_axis(
    blank: Any, values: list[int], seen: list[int]
) -> None:
    """
    The axis of a backlog that was 0 all the time has an end, and the end has a label.
    """
    rows = [{"at": 1_795_000_000_000 + n * 1000, "queue": "a", "waiting": v} for n, v in enumerate(values)]  # fmt: skip
    blank.goto("about:blank")
    blank.set_content(
        file_html(charts.chart_of_history("backlog", frame_of(rows, HISTORY_COLUMNS)), INLINE)
    )
    blank.wait_for_function("Bokeh.documents[0]?.roots()[0]?.y_range?.end > 0")

    assert blank.evaluate(_SEEN) == seen


def test_the_charts_of_one_page_share_ticks_and_labels() -> None:
    """
    They keep no state, and each model costs time when a page is opened.
    """
    together = Together()
    drawn: list[figure] = [
        charts.CHARTS[name].draw(make_source(frame_of([], HISTORY_COLUMNS), ["a"]), ["a"], together=together)
        for name in ("wait", "run")
    ]  # fmt: skip

    assert len({axis.ticker for chart in drawn for axis in chart.yaxis}) == 1
    assert len({axis.formatter for chart in drawn for axis in chart.yaxis}) == 1
