"""Metric rules: they fire after their time, end after theirs, and never by what is unknown."""

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import frames
from app.alerts.backtest import FIRING_COLUMNS, backtest
from app.alerts.rules import (
    BUILT_IN_ALERTS,
    GAP_S,
    AlertRule,
    RuleState,
    load_alert_rules,
    step,
)
from app.errors import InvalidRequest, SettingsError

RULE = AlertRule(name="r", metric="backlog", above=100, resolve=50, for_s=60, clear_s=30)


def turns(rule: AlertRule, values: list[float], every_s: float = 10.0) -> list[tuple[float, str]]:
    state, found = RuleState(), []
    for n, value in enumerate(values):
        state, turn = step(rule, state, 1000 + n * every_s, value)
        if turn:
            found.append((n * every_s, turn))
    return found


def test_a_rule_fires_after_its_time_and_ends_after_its_own():
    values = [0, *[200] * 8, *[40] * 5]

    assert turns(RULE, values) == [(70, "fired"), (120, "resolved")]


def test_a_short_peak_does_not_fire():
    assert turns(RULE, [200] * 6 + [10] + [200] * 6) == []


def test_between_the_two_thresholds_an_alert_goes_on():
    assert turns(RULE, [200] * 8 + [80] * 50) == [(60, "fired")]


def test_what_is_unknown_neither_fires_nor_ends():
    assert turns(RULE, [math.nan] * 50) == []
    assert turns(RULE, [200] * 8 + [math.nan] * 50) == [(60, "fired")]


def test_a_gap_in_what_is_known_starts_the_time_anew():
    state, _ = step(RULE, RuleState(), 1000, 200)
    state, turn = step(RULE, state, 1000 + GAP_S + 61, 200)

    assert turn == ""
    assert not state.firing


@given(st.lists(st.floats(0, 300) | st.just(math.nan), max_size=80))
def test_turns_alternate_whatever_comes(values: list[float]):
    words = [turn for _, turn in turns(RULE, values)]

    assert words == ["fired", "resolved"] * (len(words) // 2) + ["fired"] * (len(words) % 2)


@given(st.booleans(), *[st.floats(0, 1e9)] * 5)
def test_a_state_survives_its_way_through_redis(firing, bad, well, known, fired, peak):
    state = RuleState(
        firing=firing, bad_since_s=bad, well_since_s=well, known_s=known, fired_s=fired, peak=peak
    )

    assert RuleState.from_json(state.to_json()) == state
    assert RuleState.from_json("{broken") == RuleState()


def history(**columns: list[float]) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    base = [
        {"at": 1_700_000_000_000 + n * 10_000, "queue": "q"} | {k: v[n] for k, v in columns.items()}
        for n in range(rows)
    ]
    return frames.frame_of(base, frames.HISTORY_COLUMNS)


def test_the_back_test_fires_when_the_live_rule_does():
    values = [0, *[200] * 8, *[40] * 5]

    found = backtest(history(waiting=values), [RULE])

    start = pd.Timestamp(1_700_000_000_000, unit="ms", tz="UTC")
    assert [(row.fired - start).total_seconds() for row in found.itertuples()] == [70]
    assert found["duration_s"].to_list() == [50]
    assert found["peak"].to_list() == [200]
    assert dict(found.dtypes) == dict(frames.empty_frame(FIRING_COLUMNS).dtypes)


def test_a_firing_that_goes_on_has_no_end():
    found = backtest(history(waiting=[200.0] * 20), [RULE])

    assert found["resolved"].isna().to_list() == [True]


def test_the_share_of_failures_needs_enough_runs():
    rule = AlertRule(name="f", metric="failure_share", above=0.5, for_s=0)
    few = history(complete_per_s=[0.0] * 20, failed_per_s=[0.1] * 20)
    many = history(complete_per_s=[0.0] * 20, failed_per_s=[5.0] * 20)

    assert backtest(few, [rule]).empty
    assert len(backtest(many, [rule])) == 1


def test_a_metric_the_history_does_not_hold_is_refused():
    rule = AlertRule(name="x", metric="oldest_wait_s", above=1)

    with pytest.raises(InvalidRequest, match="oldest_wait_s"):
        backtest(history(waiting=[1.0]), [rule])


def test_rules_are_read_and_replace_built_in_ones_of_their_name(tmp_path: Path):
    file = tmp_path / "arqscope.toml"
    file.write_text(
        '[[alerts]]\nname = "no worker"\nmetric = "workers_missing"\nabove = 0.5\nfor_s = 600\n'
        '[[alerts]]\nmetric = "backlog"\nabove = 1000\nresolve = 500\nsource = ["async-*"]\n'
    )

    rules = {rule.name: rule for rule in load_alert_rules(file)}

    assert rules["no worker"].for_s == 600
    assert rules["backlog 2"].watches("async-processing")
    assert not rules["backlog 2"].watches("long-running-jobs")
    assert len(rules) == len(BUILT_IN_ALERTS) + 1


@pytest.mark.parametrize(
    "text",
    [
        '[[alerts]]\nmetric = "nothing"\nabove = 1',
        '[[alerts]]\nmetric = "backlog"',
        '[[alerts]]\nmetric = "backlog"\nabove = 1\nbelow = 2',
        '[[alerts]]\nmetric = "backlog"\nabove = "many"',
        '[[alerts]]\nmetric = "backlog"\nabove = 10\nresolve = 20',
        '[[alerts]]\nmetric = "backlog"\nabove = 10\nregex = "(a+)+"',
        '[[alerts]]\nmetric = "backlog"\nabove = 10\nseverity = "huge"',
        '[alerts]\nmetric = "backlog"',
        '[[alerts]]\nname="a"\nmetric = "backlog"\nabove = 1\n[[alerts]]\nname="a"\nmetric = "lag"\nabove = 1',
    ],
)
def test_a_rule_that_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str):
    file = tmp_path / "arqscope.toml"
    file.write_text(text)

    with pytest.raises(SettingsError, match=r"arqscope\.toml"):
        load_alert_rules(file)
