"""Rows of history: what is packed comes back, merging is exact, a gap stays a gap."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import frames
from app.analyses.percentiles import exact_s, quantiles_s
from app.annals.canvas import Canvas
from app.annals.chunks import Chunk, pack, unpack
from app.annals.past import grid_of
from app.annals.tiers import (
    COUNTS,
    HISTOGRAMS,
    LEVELS,
    TIER_COLUMNS,
    TierRow,
    joined,
    merged_rows,
)
from app.errors import BadRecord
from app.records import BUCKET_ERROR, bucket_of

levels = st.dictionaries(st.sampled_from(list(LEVELS)), st.floats(0, 1e9), max_size=9)
counts = st.dictionaries(st.sampled_from(COUNTS), st.integers(1, 10**9), max_size=7)
histograms = st.dictionaries(
    st.sampled_from(list(HISTOGRAMS)),
    st.dictionaries(st.integers(0, 180), st.integers(1, 10**6), min_size=1, max_size=20),
    max_size=3,
)
rows = st.builds(TierRow, levels, counts, histograms)


@settings(max_examples=60)
@given(st.dictionaries(st.integers(0, 59), rows, max_size=12))
def test_what_is_packed_comes_back_to_five_digits(hour: dict[int, TierRow]) -> None:
    back = unpack(pack(hour))

    assert list(back) == sorted(hour)
    for place, row in hour.items():
        assert back[place].counts == row.counts
        assert back[place].histograms == row.histograms
        assert back[place].levels == pytest.approx(row.levels, rel=1e-4)
        assert TierRow.from_json(row.to_json()).histograms == row.histograms


def test_packed_minutes_share_the_histograms_of_their_five() -> None:
    hour = {
        n: TierRow({}, {"samples": 1}, {"run": {n: 1, 50: 2}}) for n in range(11) if n not in (3, 5)
    }
    canvas = Canvas(0, 60, 10)  # a group whose first minute is missing does not reach into the next
    canvas.put(Chunk.of(pack(hour, 5)), 0, 60)

    back, frame = unpack(pack(hour, 5)), canvas.frame("q")

    assert back[0].histograms["run"] == {0: 1, 1: 1, 2: 1, 4: 1, 50: 8}
    assert back[1].histograms == {}
    assert frame["run_p95_s"].isna().to_list() == [n in (3, 5) for n in range(10)]
    assert frame["run_p95_s"][0] == frame["run_p95_s"][4] == quantiles_s({50: 1}, [0.5])[0]


def test_what_is_no_chunk_is_refused() -> None:
    for raw in (b"", b"nonsense", pack({})[:-3]):
        with pytest.raises(BadRecord):
            unpack(raw)
    with pytest.raises(BadRecord):
        TierRow.from_json("[1]")


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(2, 1e7), min_size=1, max_size=60), min_size=1, max_size=6))
def test_percentiles_of_merged_minutes_are_as_good_as_those_of_one(
    minutes_ms: list[list[float]],
) -> None:
    made = []
    for durations in minutes_ms:
        row = TierRow(histograms={"run": {}})
        for ms in durations:
            bucket = bucket_of(ms)
            row.histograms["run"][bucket] = row.histograms["run"].get(bucket, 0) + 1
        made.append(row)
    everything = [ms / 1000 for durations in minutes_ms for ms in durations]

    total = merged_rows(made)
    canvas = Canvas(0, 3600, 1)
    canvas.put(Chunk.of_rows(dict(enumerate(made))), 0, 60)
    frame = canvas.frame("q")

    for quantile, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
        exact = exact_s(everything, [quantile])[0]
        assert quantiles_s(total.histograms["run"], [quantile])[0] == pytest.approx(
            exact, rel=BUCKET_ERROR * 1.0001
        )
        assert frame[f"run_{name}_s"][0] == pytest.approx(exact, rel=BUCKET_ERROR * 1.0001)


def test_a_step_weighs_means_by_samples_and_keeps_the_greatest_and_the_newest() -> None:
    hour = {
        0: TierRow({"waiting": 10, "waiting_max": 12, "held": 3}, {"samples": 60, "complete": 5}),
        1: TierRow({"waiting": 40, "waiting_max": 90, "held": 4}, {"samples": 20, "complete": 7}),
        2: TierRow({}, {"complete": 1}),  # counted, seen by nobody
    }
    canvas = Canvas(0, 120, 3)
    canvas.put(Chunk.of_rows(hour), 0, 60)

    frame = canvas.frame("q")

    assert list(frame) == list(TIER_COLUMNS)
    assert frame["waiting"].to_list()[:2] == pytest.approx([17.5, math.nan], nan_ok=True)
    assert frame[["waiting_max", "held", "complete", "samples"]].iloc[0].to_list() == [
        90,
        4,
        12,
        80,
    ]
    assert frame["complete"][1] == 1
    assert frame["complete_per_s"][0] == pytest.approx(12 / 120)
    assert frame.iloc[2].drop(["at", "source"]).isna().all()
    assert merged_rows(hour.values()).levels["waiting"] == pytest.approx(17.5)


def test_two_writers_of_a_minute_make_one_row() -> None:
    first = TierRow({"waiting": 5}, {"samples": 50, "complete": 3}, {"run": {1: 3}})
    second = TierRow({"waiting": 9}, {"samples": 10, "complete": 8}, {"run": {1: 3, 2: 5}})

    row = joined(first, second)

    assert row.levels == {"waiting": 5}
    assert row.counts == {"samples": 50, "complete": 8}
    assert row.histograms == {"run": {1: 3, 2: 5}}


def test_an_empty_canvas_has_the_dtypes_of_the_frame() -> None:
    frame = Canvas(0, 60, 5).frame("q")

    assert {n: str(k) for n, k in frame.dtypes.items()} == {
        n: str(k) for n, k in frames.empty_frame(TIER_COLUMNS).dtypes.items()
    }
    assert np.isnan(frame["complete"]).all()


@pytest.mark.parametrize(
    ("into_ms", "rows"), [(0, 60), (1, 61), (400, 61), (30_000, 61), (59_999, 61)]
)
def test_the_last_hour_reaches_into_the_minute_that_has_begun(into_ms: int, rows: int) -> None:
    """In its first second, too: a minute was left out that is shown in the seconds after."""
    now_ms = 1_795_651_200_000.0 + into_ms

    grid = grid_of(now_ms - 3_600_000, now_ms, now_ms=now_ms)

    assert (grid.steps, grid.step_s) == (rows, 60)
    assert grid.first_s == 1_795_651_200 - 3_600
