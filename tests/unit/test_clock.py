"""The sampler's clocks: a step of the wall clock neither shows nor makes a rate wrong."""

import math

import pytest

from app.sampling.clock import PATIENCE_S, Clock, Passed
from app.sampling.sources import Pace
from app.sampling.turns import Rates


class Hands:
    """Both clocks, set by hand."""

    def __init__(self) -> None:
        self.wall_s = 1_000_000.0
        self.steady_s = 50.0

    def pass_(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_step_of_the_wall_clock_is_followed_only_when_it_lasts(step_s: float) -> None:
    hands = Hands()
    clock = Clock(lambda: hands.wall_s, lambda: hands.steady_s)
    hands.wall_s += step_s
    hands.pass_(1)
    at_once = clock.now_s()
    hands.pass_(PATIENCE_S + 1)

    assert at_once == pytest.approx(1_000_001)
    assert clock.now_s() == pytest.approx(hands.wall_s)


def test_a_step_taken_back_never_shows() -> None:
    hands = Hands()
    clock = Clock(lambda: hands.wall_s, lambda: hands.steady_s)
    seen = []
    for step_s in (0.0, 3600.0, -3600.0, 0.0):
        hands.wall_s += step_s
        hands.pass_(1)
        seen.append(clock.now_s())

    assert seen == pytest.approx([1_000_001, 1_000_002, 1_000_003, 1_000_004])


@pytest.mark.parametrize("redis_step_s", [0.0, 3600.0, -3600.0])
def test_a_rate_is_right_though_the_sampler_hung_before_it_heard(redis_step_s: float) -> None:
    """
    Sent at 10 s, run by Redis at once, heard 5 s late: 100 jobs in the second between two answers.
    """
    line, rates = Passed(), Rates()
    rates.per_s("jobs", 0, line.note(10.0, 10.001, 1000.0))
    rates.per_s("jobs", 100, line.note(11.0, 16.0, 1001.0 + redis_step_s))

    rate = rates.per_s("jobs", 200, line.note(17.0, 17.001, 1007.0 + redis_step_s))

    # a stepped clock leaves what the monotonic one allows: between 1 s and 7 s passed
    expected = 100 / 6
    assert rate == pytest.approx(expected, rel=0.01) or (redis_step_s and 14 < rate <= 100.1)


def test_the_line_never_runs_backwards() -> None:
    line = Passed()
    seen = [line.note(t, t + 0.001, r) for t, r in ((1, 100), (2, 90), (3, 5000), (4, 1))]

    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(3, abs=0.01)


def test_the_pace_slows_while_redis_is_slow_and_recovers() -> None:
    pace = Pace(1.0)
    for _ in range(10):
        pace.note(2.0)
    slow = pace.interval_s
    for _ in range(20):
        pace.note(0.005)

    assert slow == 3.0
    assert pace.interval_s == 1.0
    assert not math.isnan(pace.interval_s)
