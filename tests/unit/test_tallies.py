"""Deaths per period: exact where the counters can tell, bounded where not, never 0 where unknown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.letters.tallies import PERIODS, Count, tallies

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
#: a quarter past 05:00 UTC of some day
NOW_MS = 20_000 * DAY_MS + 5 * HOUR_MS + 900_000


def counted(*died_ms: int, kept_h: int = 72) -> Count:
    """The counters after these deaths, as the processor keeps them."""
    buckets: dict[str, int] = {}
    for at in died_ms:
        names = [f"d{at // DAY_MS}"]
        if at // HOUR_MS > NOW_MS // HOUR_MS - kept_h:
            names.append(f"h{at // HOUR_MS}")
        for name in names:
            buckets[name] = buckets.get(name, 0) + 1
    first, last = min(died_ms, default=0), max(died_ms, default=0)
    return Count(ever=len(died_ms), first_ms=first, last_ms=last, buckets=buckets)


@given(st.lists(st.integers(0, 10 * 24 * 60), min_size=1, max_size=60))
def test_the_true_number_lies_between_the_bounds(minutes):
    """Whenever letters died; and what is likely lies there, too."""
    died = [NOW_MS - m * 60_000 for m in minutes]

    for tally in tallies(counted(*died), NOW_MS):
        true = sum(at > NOW_MS - PERIODS[tally.period] * HOUR_MS for at in died)
        at_edge = sum(at == NOW_MS - PERIODS[tally.period] * HOUR_MS for at in died)
        assert tally.low is not None
        assert tally.high is not None
        assert tally.low <= true + at_edge
        assert true <= tally.high
        assert tally.low <= tally.likely <= tally.high
        assert bool(tally.note) != tally.is_exact


def test_the_hour_a_period_begins_in_is_spread_evenly():
    """
    45 minutes of the hour before the full one lie in the last hour: of eight deaths in it six are likely.
    """
    full = NOW_MS - 900_000
    count = counted(
        *[full + 1] * 2, *[full - 60_000 * n for n in range(1, 9)], NOW_MS - 30 * DAY_MS
    )

    hour, three, *_ = tallies(count, NOW_MS)

    assert (hour.low, hour.high, hour.likely) == (2, 10, 8)
    assert hour.note == "2 to 10: deaths are counted by the hour, and it begins within one"
    assert (three.low, three.high, three.is_exact) == (10, 10, True)


def test_a_cause_younger_or_quieter_than_a_period_is_counted_exactly():
    """
    What began after the period did lies in it whole; what ended before lies out of it.
    """
    young = tallies(counted(NOW_MS - 50 * 60_000, NOW_MS - 40 * 60_000), NOW_MS)
    quiet = tallies(counted(NOW_MS - 62 * 60_000, NOW_MS - 20 * DAY_MS), NOW_MS)

    assert [t.likely for t in young] == [2] * 5
    assert all(t.is_exact for t in young)
    assert (quiet[0].likely, quiet[0].is_exact) == (0, True)


@pytest.mark.parametrize(
    ("count", "more", "why"),
    [(Count(ever=None, buckets={}), {}, "not counted yet"),
     (counted(NOW_MS - 10 * DAY_MS), {"is_counting": False}, "no dead-letter processor")],
)  # fmt: skip
def test_what_nobody_counted_is_unknown_and_not_none(count, more, why):
    for tally in tallies(count, NOW_MS, **more):
        assert tally.low is None
        assert tally.high is None
        assert math.isnan(tally.likely)
        assert why in tally.note


def test_what_is_not_counted_any_more_or_was_forgotten_is_a_lower_bound():
    """
    Without a processor there may be more; of a cause that made room once, what came before is not known.
    """
    count = counted(NOW_MS - 60_000, NOW_MS - 2 * HOUR_MS)

    idle = tallies(count, NOW_MS, is_counting=False)
    crowded = tallies(count, NOW_MS, is_full=True)

    assert [(t.low, t.high) for t in idle] == [
        (1, None),
        (2, None),
        (2, None),
        (2, None),
        (2, None),
    ]
    assert crowded[0].is_exact
    assert [(t.low, t.high) for t in crowded[1:]] == [(2, None)] * 4
    assert "what this one did before is not known" in crowded[1].note
