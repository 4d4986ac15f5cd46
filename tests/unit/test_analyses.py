"""Analyses against loads whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import frames
from app.analyses.conservation import conservation
from app.analyses.deploys import (
    BLOCK_MINUTES,
    LEAST_MINUTES,
    deploy_changes,
    rank_p,
    share_difference,
    shares_p,
    told_once,
    wilson,
)
from app.analyses.forecast import drain_forecast
from app.analyses.utilisation import oldest_ages, utilisation
from app.annals.chunks import MINUTES_GROUP
from app.annals.past import ANNOTATION_COLUMNS
from app.annals.tiers import TIER_COLUMNS

START = pd.Timestamp("2026-11-23T10:00Z")


def minutes(count: int = 30, **columns: object) -> pd.DataFrame:
    """*count* minutes of one queue; a column is a value or a sequence."""
    values: dict[str, object] = {"samples": 60, "dead": 0, "aborted": 0, "retried": 0} | columns
    rows = []
    for n in range(count):
        row = {k: v[n] if isinstance(v, list | np.ndarray) else v for k, v in values.items()}
        rows.append(row | {"at": START.timestamp() * 1000 + n * 60_000, "source": "q"})
    return frames.frame_of(rows, TIER_COLUMNS)


def test_a_steady_drain_is_forecast_to_the_minute() -> None:
    held = np.linspace(5000 + 29 * 60, 5000, 30)

    told = drain_forecast(
        minutes(accepted=120, complete=180, held=held), backlog=5000, workers=2, slots=10, busy=10
    )

    assert told.drains
    assert told.arrivals_per_s == pytest.approx(2)
    assert told.service_per_s == pytest.approx(3)
    assert told.empty_in_s == pytest.approx(5000, rel=0.001)
    assert told.low_s == pytest.approx(told.high_s)
    assert told.sentence == "empty in 1 h 23 m (80%: 1 h 23 m to 1 h 23 m)"


def test_the_band_holds_the_truth_four_times_of_five() -> None:
    """
    Noisy minutes of a known mean: the band of 80 % covers the true time as often as it says, within
    what 200 loads can tell.
    """
    random = np.random.default_rng(3)
    inside = 0
    for seed in range(200):
        complete = random.poisson(180, 30)
        accepted = random.poisson(120, 30)
        told = drain_forecast(
            minutes(accepted=accepted, complete=complete, held=np.nan),
            backlog=6000, workers=1, seed=seed,
        )  # fmt: skip
        inside += told.low_s <= 6000 <= told.high_s
    assert 0.65 <= inside / 200 <= 0.92


def test_more_arrivals_than_endings_never_drain_and_more_workers_do() -> None:
    busy = minutes(accepted=200, complete=100, held=np.linspace(0, 2900, 30))

    now = drain_forecast(busy, backlog=3000, workers=2, slots=10, busy=10)
    more = drain_forecast(busy, backlog=3000, workers=2, what_if_workers=6, slots=10, busy=10)
    none = drain_forecast(busy, backlog=3000, workers=2, what_if_workers=0)

    assert (now.drains, now.empty_in_s) == (False, math.inf)
    assert now.sentence == "will not drain: 100 jobs a minute more arrive than end"
    assert more.drains
    assert more.empty_in_s == pytest.approx(3000 / (300 - 200) * 60, rel=0.01)
    assert none.drains is False
    assert "no worker" in none.sentence


def test_idle_workers_would_not_be_helped_by_more() -> None:
    idle = minutes(accepted=60, complete=90, held=np.linspace(900, 0, 30))

    now = drain_forecast(idle, backlog=300, workers=2, slots=10, busy=0)
    more = drain_forecast(idle, backlog=300, workers=2, what_if_workers=4, slots=10, busy=0)

    assert more.empty_in_s == now.empty_in_s


def test_arrivals_of_stock_producers_are_implied_by_what_is_held() -> None:
    told = drain_forecast(
        minutes(accepted=0, complete=60, held=np.linspace(0, 29 * 40, 30)), backlog=1160, workers=1
    )

    assert told.arrivals_per_s == pytest.approx(100 / 60, rel=0.05)
    assert told.drains is False


@pytest.mark.parametrize("known", [0, 2])
def test_too_little_history_is_not_a_forecast(known: int) -> None:
    part = minutes(30, samples=[0] * (30 - known) + [60] * known, accepted=1, complete=2, held=5)

    told = drain_forecast(part, backlog=10, workers=1)

    assert told.drains is None
    assert math.isnan(told.empty_in_s)
    assert "not known yet" in told.sentence


def test_an_empty_queue_is_empty_now() -> None:
    told = drain_forecast(minutes(accepted=5, complete=5, held=0), backlog=0, workers=1)

    assert (told.drains, told.empty_in_s, told.sentence) == (True, 0.0, "empty now")


def test_the_conservation_figure_tells_what_is_missing() -> None:
    def row(queue: str, accepted: float | None, **more: float) -> dict[str, object]:
        held = {"waiting": 3, "deferred": 2, "running": 1, "complete": 10, "dead_total": 2}
        return {"queue": queue, "accepted": accepted, "aborted": 1, **held, **more}

    queues = frames.frame_of(
        [row("even", 19), row("lost", 20), row("stock", 0), row("dark", None)], frames.QUEUE_COLUMNS
    )

    told = conservation(queues)

    assert told["verdict"].to_list() == ["holds", "missing", "extra", "unknown"]
    assert told["difference"].to_list()[:3] == [0, 1, -19]
    assert conservation(queues.iloc[:0]).empty


def test_utilisation_and_ages_of_a_known_hour() -> None:
    queues = frames.frame_of(
        [{"queue": "q", "workers": 2, "slots": 10, "busy": 5, "oldest_wait_s": 90},
         {"queue": "none", "workers": 0, "slots": 0, "busy": 0}], frames.QUEUE_COLUMNS,
    )  # fmt: skip
    log = frames.frame_of(
        [{"at": n, "queue": "q", "running": r} for n, r in enumerate((5, 10, 10, None))],
        frames.HISTORY_COLUMNS,
    )
    past = minutes(31, oldest_wait_s=np.arange(31) * 30.0)

    used, ages = utilisation(queues, log), oldest_ages(queues, past)

    assert used.iloc[0][["now", "mean"]].to_list() == pytest.approx([0.5, 25 / 30])
    assert used["saturated_share"][0] == pytest.approx(2 / 3)
    assert used.iloc[1][["now", "mean", "saturated_share"]].isna().all()
    assert ages["grows_s_per_s"][0] == pytest.approx(0.5)
    assert ages["worst_s"][0] == 900
    assert math.isnan(ages["grows_s_per_s"][1])


def test_a_deploy_that_breaks_things_is_told_from_chance() -> None:
    random = np.random.default_rng(1)
    run = np.where(np.arange(60) < 30, 1.0, 2.0) * random.lognormal(0, 0.1, 60)
    broken = minutes(
        60, complete=100, retried=[2] * 30 + [15] * 30, run_p50_s=run, run_p95_s=run,
        wait_p50_s=random.lognormal(0, 0.3, 60), wait_p95_s=1.0,
    )  # fmt: skip

    changes = {c.metric: c for c in deploy_changes(broken, START + pd.Timedelta(minutes=30))}

    assert changes["failed_share"].verdict == "worse"
    assert changes["failed_share"].low > 0
    assert changes["run_p50_s"].verdict == "worse"
    assert changes["run_p50_s"].after == pytest.approx(2, rel=0.1)
    assert changes["wait_p50_s"].verdict == "no change seen"
    assert changes["wait_p95_s"].p == 1.0
    assert changes["e2e_p95_s"].verdict == "unknown"


def test_chance_is_seldom_called_a_change() -> None:
    random = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        same = minutes(
            40, complete=random.poisson(100, 40), retried=random.poisson(5, 40),
            run_p50_s=random.lognormal(0, 0.5, 40),
        )  # fmt: skip
        changes = deploy_changes(same, START + pd.Timedelta(minutes=20))
        wrong += sum(change.verdict in ("better", "worse") for change in changes)
    assert wrong <= 12  # two tests a load at p < 0.01: 4 expected


def test_minutes_that_share_their_percentiles_are_no_further_evidence() -> None:
    random = np.random.default_rng(5)
    wrong = 0
    for _ in range(200):
        packed = minutes(60, complete=100, run_p50_s=np.repeat(random.lognormal(0, 0.5, 12), 5))
        changes = deploy_changes(packed, START + pd.Timedelta(minutes=30))
        wrong += sum(change.verdict in ("better", "worse") for change in changes)
    assert wrong <= 8
    assert BLOCK_MINUTES == MINUTES_GROUP


def test_tests_agree_with_published_figures() -> None:
    # Newcombe 1998, table II, method 10, (a) 56/70 and 48/80: 0.0524 to 0.3339
    low, high = share_difference(48, 80, 56, 70)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, method 3
    assert shares_p(48, 80, 56, 70) == pytest.approx(0.00819, abs=2e-4)
    # exact p of these ranks is 0.0079 (all of one side below the other, 5 and 5)
    p = rank_p(np.arange(5.0), np.arange(5.0) + 10)
    assert p == pytest.approx(0.0122, abs=1e-3)
    assert LEAST_MINUTES == 5


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=20),
    st.lists(st.floats(0, 100), min_size=2, max_size=20),
)
def test_a_p_is_a_probability_and_does_not_depend_on_the_order(
    a: list[float], b: list[float]
) -> None:
    one = rank_p(np.array(a), np.array(b))

    assert 0 <= one <= 1
    assert one == pytest.approx(rank_p(np.array(b), np.array(a)))


def test_the_marks_of_one_deploy_are_told_once() -> None:
    def mark(at_s: float, source: str, text: str, kind: str = "deploy") -> dict[str, object]:
        return {"at": at_s * 1000, "kind": kind, "source": source, "text": text, "actor": ""}

    marks = frames.frame_of(
        [
            mark(0, "async", "2.0 (before: 1.0)"),
            mark(10, "long", "2.0 (before: 1.0)"),
            mark(20, "async", "", "pause_queue"),
            mark(30, "events", "2.0 (before: 1.1)"),
            mark(40, "long", "3.0"),
            mark(901, "late", "2.0 (before: 1.0)"),
        ],
        ANNOTATION_COLUMNS,
    )
    marks.attrs["cut"] = False

    told = told_once(marks)

    assert list(zip(told["source"], told["text"], strict=True)) == [
        ("async, long and events", "2.0"),
        ("async", ""),
        ("long", "3.0"),
        ("late", "2.0 (before: 1.0)"),
    ]
    assert told.attrs == marks.attrs
    assert told.dtypes.to_dict() == marks.dtypes.to_dict()
    assert marks["source"].to_list()[0] == "async"  # what was given stays as it was
    assert told_once(marks.iloc[:0]).empty
