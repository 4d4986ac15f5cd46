"""Explanations: a planted cause is named first, chance is never named, small numbers say nothing."""

import math
import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import frames
from app.analyses import explain
from app.analyses.explain import adjusted, arguments_frame, fisher_greater, shared_arguments, wilson
from app.payloads.arguments import MAX_JSON_CHARS, MAX_PATHS, decoded, encoded, flat
from app.records import DeadLetter, LetterState
from app.sampling import record_rows


def jobs(seed: int, count: int, tenant_share: float = 0.0) -> list[dict[str, str]]:
    """Arguments of *count* jobs; *tenant_share* of them carry ``tenant_id=42``."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        item = {
            "tenant_id": str(chance.randint(1, 60)),
            "kind": chance.choice("abc"),
            "size": str(chance.randint(1, 5)),
            "dry": chance.choice(["true", "false"]),
            "amount": f"{chance.random():.6f}",
        }
        if chance.random() < tenant_share:
            item["tenant_id"] = "42"
        if chance.random() < 0.5:
            item["note"] = "x"
        made.append(item)
    return made


def shared(failed: list[dict[str, str]], ok: list[dict[str, str]]) -> pd.DataFrame:
    return shared_arguments(arguments_frame(failed), len(failed), arguments_frame(ok), len(ok))


@pytest.mark.parametrize("seed", range(40))
def test_a_planted_cause_is_the_first_thing_named(seed: int):
    found = shared(jobs(seed, 60, 0.91), jobs(1000 + seed, 200, 0.02))

    assert found.loc[0, ["argument", "value"]].to_list() == ["tenant_id", "42"]
    assert found.loc[0, "failed_share"] > 0.7
    assert found.loc[0, "ok_share"] < 0.1


def test_on_random_data_nothing_is_named():
    """
    Two hundred seeds of all sizes: not one value is named.
    """
    sizes = random.Random(1)
    named = [
        seed
        for seed in range(200)
        if len(shared(jobs(seed, sizes.randint(8, 120)), jobs(5000 + seed, 200)))
    ]

    assert named == []


@pytest.mark.parametrize(("failures", "successes"), [(7, 200), (200, 19), (0, 0)])
def test_small_numbers_say_nothing(failures: int, successes: int):
    found = shared(jobs(1, failures, 1.0), jobs(2, successes))

    assert found.empty
    assert dict(found.dtypes) == dict(frames.empty_frame(explain.SHARED_COLUMNS).dtypes)


def test_an_argument_that_is_missing_is_named():
    failed = [{"a": str(n)} for n in range(40)]
    ok = [{"a": str(n), "customer_id": str(n)} for n in range(200)]

    found = shared(failed, ok)

    assert found.loc[0, ["argument", "value"]].to_list() == ["customer_id", explain.ABSENT]


def test_what_every_job_has_is_not_named():
    assert shared([{"kind": "a"}] * 50, [{"kind": "a"}] * 200).empty


def test_fisher_is_exact():
    """
    The tea-tasting table of Fisher (1935): 3 of 4 against 1 of 4 is 17/70; 4 of 4 against 0 is 1/70.
    """
    assert fisher_greater(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert fisher_greater(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert fisher_greater(0, 4, 4, 4) == pytest.approx(1.0)


@given(st.lists(st.floats(0, 1), max_size=30))
def test_adjusted_values_are_not_below_the_raw_ones_and_keep_their_order(p_values: list[float]):
    q_values = adjusted(p_values)

    assert all(p <= q + 1e-12 <= 1 + 2e-12 for p, q in zip(p_values, q_values, strict=True))
    ranked = [q for _, q in sorted(zip(p_values, q_values, strict=True))]
    assert ranked == sorted(ranked)


def test_adjusted_is_the_published_procedure():
    assert adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_wilson_is_the_published_interval():
    low, high = wilson(8, 10)

    assert (low, high) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def letter(letter_id: str, fingerprint: str = "f1", **facts) -> DeadLetter:
    base = {"kind": "job", "source": "async-processing", "name": "sync", "reason": "attempts"}
    error = {"error_type": "RuntimeError", "error": "boom", "died_ms": 1_700_000_000_000}
    given = {"id": letter_id, "fingerprint": fingerprint, "state": LetterState.NEW}
    return DeadLetter(**(base | error | given | facts))


def test_retry_odds_count_every_retry_once():
    table = record_rows.dead_letters_frame(
        [
            letter("a", state=LetterState.RESOLVED, redrives=2),  # one failed, one ended well
            letter("b", redrives=3),  # three failed
            letter("c", state=LetterState.RETRYING, redrives=1),  # nobody knows yet
            letter("d", "f2"),
        ]
    )

    odds = explain.retry_odds(table)

    assert odds["retries"].to_list() == [5, 0]
    assert odds["ended_well"].to_list() == [1, 0]
    assert odds.loc[0, "odds"] == pytest.approx(0.2)
    assert odds.loc[0, "low"] < 0.2 < odds.loc[0, "high"]
    assert math.isnan(odds.loc[1, "odds"])


def test_the_same_cause_is_found_in_other_queues():
    table = record_rows.dead_letters_frame(
        [
            letter("a"),
            letter("b", source="long-running-jobs", state=LetterState.RESOLVED),
            letter("c", "f9", source="event-driven-jobs", name="other"),
            letter("d", "f8", error="something else"),
        ]
    )

    found = explain.elsewhere(table, "f1")

    assert set(found["source"][:2]) == {"async-processing", "long-running-jobs"}
    assert found["same"].to_list() == [True, True, False]
    assert found["source"].to_list()[2] == "event-driven-jobs"


def test_only_what_came_shortly_before_is_a_change():
    first = pd.Timestamp("2026-11-23T12:00:00Z").as_unit("us")
    ms = first.timestamp() * 1000
    starts = explain.starts_frame(
        [
            ("w1", "q", "1.0", ms - 9_000_000),
            ("w2", "q", "2.0", ms - 60_000),
            ("w3", "q", "2.0", ms - 30_000),
            ("w4", "q", "2.0", ms + 1_000),
        ]
    )

    found = explain.changes_before(starts, first)

    assert found["kind"].to_list() == ["restart", "deploy"]
    assert found["before_s"].to_list() == [30.0, 60.0]


def test_arguments_become_flat_texts_without_secrets():
    data = {
        "tenant": {"id": 42, "name": "acme"},
        "rows": [1, 2, 3],
        "dry": True,
        "password": "hunter2",
        "auth": {"api_key": "k", "user": "ann"},
        "text": "x" * 500,
    }

    assert flat([data], {}) == {
        "tenant.id": "42",
        "tenant.name": "acme",
        "rows.length": "3",
        "dry": "true",
        "auth.user": "ann",
    }
    assert flat([1, "b"], {"key": None}) == {"args[0]": "1", "args[1]": "b", "key": "null"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=100) | st.binary(max_size=9),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=120), inner),
        max_leaves=200,
    )
)
def test_any_arguments_are_bounded(value):
    found = flat([value], {"k": value})

    text = encoded(found)
    assert len(found) <= MAX_PATHS
    assert len(text) <= MAX_JSON_CHARS
    assert set(decoded(text).items()) <= set(found.items())


def test_a_deploy_of_several_queues_is_one_change():
    starts = [
        ("w1", "async", "1.0", 0.0),
        ("w2", "async", "2.0", 10_000_000.0),
        ("w3", "long", "2.0", 10_020_000.0),
        ("w4", "events", "2.0", 10_030_000.0),
        ("w5", "async", "2.0", 10_040_000.0),
        ("w6", "reports", "2.0", 12_000_000.0),  # half an hour later: another one
    ]

    found = explain.starts_frame(starts)

    assert found["what"].to_list() == [
        "first worker of reports with version 2.0",
        "a worker of async started, version 2.0",
        "first worker of async, long and events with version 2.0",
        "first worker of async with version 1.0",
    ]
    assert found["at"].iloc[2] == pd.Timestamp(10_000_000, unit="ms", tz="UTC")


def test_many_names_are_cut():
    names = [f"q{n}" for n in range(9)]

    assert explain.in_words(names) == "q0, q1, q2, q3, q4, q5 and 3 more"
    assert explain.in_words(names[:1]) == "q0"
    assert explain.in_words([]) == ""
