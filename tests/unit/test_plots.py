"""What the charts of a visit show: live, over a stored window, with what was stored before the first sample."""

import asyncio
import math

import pandas as pd
import pytest

from app import frames
from app.actions import Actor, Connections
from app.annals.past import ANNOTATION_COLUMNS
from app.annals.recall import joined
from app.annals.tiers import TIER_COLUMNS
from app.charts import CHARTS, METRICS, chart_of_history
from app.drawing import chart_source
from app.pages.address import Address
from app.pages.catalogue import PAGES
from app.pages.plots import plot_of
from app.pages.visit import Visit
from app.settings import Settings
from tests.unit.test_pages import NOW, NOW_MS, FakeCollector, make_queue, make_snapshot, shown

QUEUE = "async-processing"
MINUTE_MS = 60_000


def tiers(source, values, end_ms, step_s=60, **more):
    """Stored rows of *source* up to *end_ms*."""
    start_ms = end_ms - step_s * 1000 * len(values)
    frame = frames.frame_of(
        [
            {"at": start_ms + n * step_s * 1000, "source": source, "samples": 60, "waiting": value,
             "complete_per_s": value, "failed_per_s": 0.0, **more}
            for n, value in enumerate(values)
        ],
        TIER_COLUMNS,
    )  # fmt: skip
    frame.attrs["step_s"] = step_s
    return frame


class FakeRecall:
    """Remembers five minutes of every queue, and one deploy."""

    def __init__(self):
        self.asked = []

    async def rows(self, sources, start_ms, end_ms, step_s):
        self.asked.append((tuple(sources), start_ms, end_ms, step_s))
        return joined([tiers(name, [1.0, 2.0, 3.0, 4.0, 5.0], end_ms, step_s) for name in sources])

    async def marks(self, start_ms, end_ms):
        row = {
            "at": NOW_MS - 1000,
            "kind": "deploy",
            "source": QUEUE,
            "text": "2.0",
            "actor": "kim",
        }
        return frames.frame_of([row], ANNOTATION_COLUMNS)

    async def moment(self, at_ms):
        at = pd.Timestamp(int(at_ms), unit="ms", tz="UTC").as_unit("us")
        then = make_snapshot(queues=[make_queue(waiting=7)])
        object.__setattr__(then, "taken_at", at)
        return then


def visit_of(page, recall, snapshot=None, **query):
    snapshot = snapshot or make_snapshot(queues=[make_queue()])
    nowhere = Connections(queue=None, streams=None, cache=None)
    collector = FakeCollector(snapshot)
    visit = Visit(
        collector, Settings(), lambda: Actor(name="ann", role="operator"), nowhere,
        address=Address(page, query), recall=recall, refresh_s=1,
    )  # fmt: skip
    return visit


async def settled(visit):
    """Let what was begun end, and show it."""
    while visit._errands.under_way:
        await asyncio.gather(*visit._errands.under_way)
    visit.refresh()


def sampled(at_ms, value=9.0):
    return {"at": at_ms, "queue": QUEUE, "waiting": value, "complete_per_s": value}


def test_stored_minutes_stand_before_the_first_sample():
    """
    In their middle, a minute wide, and none that overlaps what was sampled.
    """
    first_ms = NOW_MS - 90_000
    history = frames.frame_of([sampled(first_ms)], frames.HISTORY_COLUMNS)
    made = chart_source.columns_of(history, [QUEUE])

    columns = chart_source.before(made, tiers(QUEUE, [1.0, 2.0, 3.0], NOW_MS), [QUEUE], 600)

    minute_ms = NOW_MS - 3 * MINUTE_MS
    assert columns["at"] == [minute_ms + MINUTE_MS / 2, first_ms]
    assert columns["since"] == [minute_ms, first_ms - 1000]
    assert columns["until"] == [minute_ms + MINUTE_MS, first_ms]
    assert columns["waiting:0"] == [1.0, 9.0]


def test_time_between_the_stored_and_the_sampled_is_a_gap():
    """
    The dashboard was away for ten minutes: no line runs through them.
    """
    history = frames.frame_of([sampled(NOW_MS)], frames.HISTORY_COLUMNS)
    made = chart_source.columns_of(history, [QUEUE])

    columns = chart_source.before(made, tiers(QUEUE, [1.0], NOW_MS - 10 * MINUTE_MS), [QUEUE], 3600)

    assert [math.isnan(v) for v in columns["waiting:0"]] == [False, True, False]


async def test_the_first_charts_of_a_process_are_filled():
    """
    One sample, and the ten minutes before it by the minute, with the mark where samples begin.
    """
    recall = FakeRecall()
    history = [sampled(NOW_MS)]
    visit = visit_of("queues", recall, make_snapshot(queues=[make_queue()], history=history))

    await settled(visit)

    source, marks = visit.gallery.source.data, visit.gallery.marks.data
    lengths = [b - a for a, b in zip(source["since"], source["until"], strict=True)]
    # not the fifth minute: its last second is the sample's, and no second is counted twice
    assert lengths == [60_000.0] * 4 + [1000.0]
    assert list(source["waiting:0"]) == [1.0, 2.0, 3.0, 4.0, 9.0]
    assert source["until"][-2] <= source["since"][-1]
    assert list(marks["sort"]) == ["start", "deploy"]
    assert recall.asked[0][2] - recall.asked[0][1] >= 600_000


async def test_a_stored_window_is_read_once_and_slides_by_whole_steps():
    """
    The same minute asks nothing; a minute later one point is streamed.
    """
    recall = FakeRecall()
    visit = visit_of("queue", recall, name=QUEUE, range="60m")
    await settled(visit)
    before = list(visit.gallery.source.data["at"])
    windows = [asked for asked in recall.asked if asked[2] - asked[1] == 3_600_000]

    visit.refresh()
    await settled(visit)
    assert len([a for a in recall.asked if a[2] - a[1] == 3_600_000]) == len(windows) == 1

    later = make_snapshot(queues=[make_queue()], number=2)
    object.__setattr__(later, "taken_at", NOW + pd.Timedelta(minutes=1))
    visit._collector.snapshot = later
    visit.refresh()
    await settled(visit)

    after = list(visit.gallery.source.data["at"])
    assert after[:-1] == before[1:]
    assert after[-1] == before[-1] + MINUTE_MS


async def test_a_queue_that_grows_is_said_in_red():
    """
    Nothing ends, everything waits: the forecast says so, and what workers it would take is asked.
    """

    class Growing(FakeRecall):
        async def rows(self, sources, start_ms, end_ms, step_s):
            return joined(
                [tiers(s, [1.0] * 10, end_ms, step_s, accepted=60.0, complete=6.0) for s in sources]
            )

    visit = visit_of("queue", Growing(), name=QUEUE, range="60m")

    await settled(visit)

    assert "Will not drain: 54 jobs a minute more arrive than end." in shown(visit)
    assert 'class="grows"' in shown(visit)
    ahead = visit.gallery.ahead.data
    assert ahead["middle"][-1] > ahead["middle"][0] > 0
    drawn = [r for chart in visit.gallery.figures for r in chart.renderers]
    assert next(r.tags for r in drawn if "forecast" in r.tags)[-1] == "grows"


async def test_the_past_is_shown_without_a_control():
    """
    The stored numbers, a banner, links that stay there, and nothing that acts.
    """
    visit = visit_of("queues", FakeRecall(), at="2026-11-23T11:00:00Z")

    assert "Reading what was stored" in shown(visit)
    await settled(visit)

    html = shown(visit)
    assert "As of 2026-11-23 11:00:00 UTC, not live." in html
    assert 'data-intent="pause"' not in html
    assert "jobs?state=waiting&amp;at=2026-11-23T11%3A00%3A00Z" in html
    assert ">7</span>" in html
    visit._answer({"intent": "pause", "queue": QUEUE})
    assert "this is the past" in visit.screen.notices
    visit._answer({"intent": "ask", "what": "submit"})
    assert visit.screen.dialog == ""


@pytest.mark.parametrize("page", sorted(PAGES))
async def test_every_page_has_a_past(page):
    """
    Of a moment that can be read, and of one that cannot.
    """
    for at in ("2026-11-23T11:00:00Z", "some time ago"):
        visit = visit_of(page, FakeRecall(), at=at, id="x", source=QUEUE, name="")
        await settled(visit)

        assert "Reading …" not in shown(visit)
        assert ("As of 2026-11-23 11:00:00 UTC" in shown(visit)) == at.startswith("2026")
        assert "Back to now" in shown(visit)


@pytest.mark.parametrize("name", sorted(CHARTS))
async def test_every_chart_has_an_address_of_its_own(name):
    """
    The charts of pages, and every metric of the stored history.
    """
    visit = visit_of("chart", FakeRecall(), chart=name)

    await settled(visit)

    plot = plot_of(visit.page, visit.address, visit._collector.snapshot, None)
    assert len(visit.gallery.figures) == (0 if CHARTS[name].of_streams else 1)
    assert (plot.window is not None) == (name in METRICS)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_can_be_drawn_from_stored_rows(name):
    """
    One call in a notebook, too.
    """
    rows = joined([tiers("a", [1.0, 2.0], NOW_MS), tiers("b", [3.0, 4.0], NOW_MS)])

    chart = chart_of_history(name, rows, interval_s=60)

    assert name in TIER_COLUMNS
    source = next(r for r in chart.renderers if r.tags[:1] == ["series"]).data_source
    assert len(source.data["at"]) == 2
