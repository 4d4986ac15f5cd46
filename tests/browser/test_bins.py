"""Bins, tooltips, what an empty chart says: made in the browser, so they are asked of a browser."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bokeh.embed import file_html
from bokeh.resources import INLINE

from app import charts
from app.drawing.captions import UNKNOWN
from app.drawing.chart_source import MINUTE_MS
from app.frames import HISTORY_COLUMNS, frame_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]

T0_MS = 1_795_000_020_000  # a whole minute
Row = tuple[float, float | None, float | None]
#: the bars of the one figure of the document
_BINS = """() => {
  const figure = Bokeh.documents[0].roots()[0]
  const bins = figure.renderers.map(r => r.data_source).find(s => s.name === 'bins')
  return JSON.parse(JSON.stringify(bins.data))
}"""
_SOURCE = "Bokeh.documents[0].roots()[0].renderers.map(r => r.data_source).find(s => s.name === 'history')"
_LABEL = "Bokeh.documents[0].roots()[0].center.find(one => one.type === 'Label')"
Bars = dict[str, list[Any]]


@pytest.fixture(scope="module")
def blank(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 700, "height": 400})
    yield page
    page.close()


@pytest.fixture
def drawn(blank: Any) -> Callable[..., None]:
    """Draw a chart of rows of (second, complete per s, failed per s)."""

    def draw(*rows: Row, name: str = "throughput", **more: Any) -> None:
        frame = frame_of(
            (
                {
                    "at": T0_MS + second * 1000,
                    "queue": "a",
                    "waiting": 1,
                    "complete_per_s": complete,
                    "failed_per_s": failed,
                }
                for second, complete, failed in rows
            ),
            HISTORY_COLUMNS,
        )
        blank.goto("about:blank")
        blank.set_content(file_html(charts.chart_of_history(name, frame, **more), INLINE))
        blank.wait_for_function("Bokeh.documents[0]?.roots()[0]?.inner_width > 0")

    return draw


def bars_of(page: Any) -> Bars:
    page.wait_for_function(f"({_BINS})().at.length > 0")
    found: Bars = page.evaluate(_BINS)
    return found


def total(bars: Bars, cell: str) -> float:
    """What the area of the bars says."""
    lengths = [(b or 0) - (a or 0) for a, b in zip(bars["since"], bars["until"], strict=True)]
    return sum((v or 0) * ms / 1000 for v, ms in zip(bars[cell], lengths, strict=True))


def brush(page: Any, seconds: int) -> None:
    """Show the first *seconds* only, as a box zoom does; wait for the bars of it."""
    page.evaluate(
        """([start, end]) => {
          const {x_range} = Bokeh.documents[0].roots()[0]
          x_range.have_updated_interactively = true
          x_range.setv({start, end})
        }""",
        [T0_MS, T0_MS + seconds * 1000],
    )
    page.wait_for_function(f"({_BINS})().step[0] === 1000", timeout=5000)


def test_seconds_become_bars_that_can_be_read_and_nothing_is_lost(
    blank: Any, drawn: Callable[..., None]
) -> None:
    """
    Ten minutes by the second: bars of at least 8 px, aligned to the clock, whose area is what happened.
    """
    rows = [(n, float(n % 7), float(n % 3 == 0)) for n in range(1, 601)]
    drawn(*rows)

    bars = bars_of(blank)

    wide = blank.evaluate("Bokeh.documents[0].roots()[0].inner_width")
    [step] = set(bars["step"])
    assert 8 * 600 / wide <= step / 1000 <= 3 * 8 * 600 / wide
    assert all(at % step == 0 for at in bars["since"][1:])
    assert total(bars, "complete") == pytest.approx(sum(c for _, c, _ in rows))
    assert sum(bars["n:complete"]) == sum(c for _, c, _ in rows)
    assert sum(bars["n:failed"]) == sum(f for _, _, f in rows)
    for low, high, edge in zip(
        bars["low:failed"], bars["high:failed"], bars["edge:failed"], strict=True
    ):
        assert edge == high or (edge is None and low == high)


def test_a_shorter_stretch_has_finer_bars_and_the_seconds_in_the_end(
    blank: Any, drawn: Callable[..., None]
) -> None:
    """
    Whoever brushes a minute sees more of it; the sums stay.
    """
    drawn(*((n, 2.0, 0.0) for n in range(1, 601)))
    whole = bars_of(blank)

    brush(blank, 30)
    fine = bars_of(blank)

    assert len(fine["at"]) == 600 > len(whole["at"])
    assert sum(fine["n:complete"]) == sum(whole["n:complete"]) == 1200


def test_no_bar_runs_over_what_was_not_seen(blank: Any, drawn: Callable[..., None]) -> None:
    """
    Half a minute without a sample, and a second whose number nobody knows.
    """
    drawn(
        *((n, 1.0, 0.0) for n in range(1, 301) if not 100 <= n < 130 and n != 200), (200, None, 0.0)
    )

    bars = bars_of(blank)

    known = [
        (a, b)
        for a, b, v in zip(bars["since"], bars["until"], bars["complete"], strict=True)
        if v is not None
    ]
    assert not any(a < T0_MS + 128_000 and b > T0_MS + 100_000 for a, b in known)
    assert not any(a < T0_MS + 200_000 and b > T0_MS + 199_000 for a, b in known)
    assert sum(bars["n:complete"][n] or 0 for n in range(len(bars["at"]))) == 300 - 30 - 1


def test_what_comes_is_added_and_a_name_that_is_hidden_holds_nothing_up(
    blank: Any, drawn: Callable[..., None]
) -> None:
    drawn(*((n, 2.0, 1.0) for n in range(1, 61)))
    assert sum(bars_of(blank)["n:complete"]) == 120

    blank.evaluate(
        f"""at => {_SOURCE}.stream({{at: [at], since: [at - 1000], until: [at], complete: [5], failed: [1],
          top: [6], ...Object.fromEntries(Object.keys({_SOURCE}.data).filter(n => n.includes(':')).map(n => [n, [1]]))}})""",
        T0_MS + 61_000,
    )
    blank.wait_for_function(
        f"({_BINS})()['n:complete'].reduce((a, b) => a + b, 0) === 125", timeout=5000
    )
    assert bars_of(blank)["low:failed"][0] == 2.0

    blank.evaluate(
        "Bokeh.documents[0].roots()[0].renderers.find(r => r.glyph.type === 'Quad').visible = false"
    )
    blank.wait_for_function(f"({_BINS})()['low:failed'][0] === 0", timeout=5000)


def test_stored_minutes_stay_whole_beside_samples(blank: Any, drawn: Callable[..., None]) -> None:
    """
    A minute is not split into seconds nobody knows.
    """
    drawn(*((n * 60, 1.0, 0.0) for n in range(10)), interval_s=60, is_stored=True)

    brush(blank, 30)
    bars = bars_of(blank)

    assert [b - a for a, b in zip(bars["since"], bars["until"], strict=True)] == [MINUTE_MS] * 10
    assert bars["n:complete"] == [60] * 10


def test_a_tooltip_has_exact_values_their_unit_and_their_time(
    blank: Any, drawn: Callable[..., None]
) -> None:
    """
    Over the bar under the pointer, also where the first name is hidden.
    """
    drawn(*((n, 2.0, 1.0) for n in range(1, 601)))
    bars = bars_of(blank)
    blank.evaluate(
        "Bokeh.documents[0].roots()[0].renderers.find(r => r.glyph.type === 'Quad').visible = false"
    )
    blank.mouse.move(340, 90)
    blank.mouse.move(343, 92)

    tip = blank.locator(".bk-Tooltip")
    tip.wait_for(timeout=5000)
    said = tip.evaluate("tip => tip.shadowRoot.textContent")

    seconds = bars["step"][0] / 1000
    assert f"({seconds:g} s)" in said
    assert "2 /s · " in said
    assert f"{2 * seconds:g} runs" in said


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("throughput", (), "No sample yet: they appear here as they are taken."),
        ("wait", ((0, 1.0, 0.0), (1, 1.0, 0.0)), "No job was started in this time."),
        ("throughput", ((0, None, None), (1, None, None)), UNKNOWN),
        ("backlog", ((0, 1.0, 0.0), (1, 1.0, 0.0)), ""),
    ],
)
def test_a_chart_without_a_value_says_so(
    blank: Any, drawn: Callable[..., None], name: str, rows: tuple[Row, ...], said: str
) -> None:
    drawn(*rows, name=name)

    if said:
        blank.wait_for_function(f"{_LABEL}.visible && {_LABEL}.text !== ''", timeout=5000)
    assert blank.evaluate(f"{_LABEL}.text") == said
