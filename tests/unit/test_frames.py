"""Frames: columns and dtypes never change, unknown stays unknown."""

import math
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import frames
from app.analyses.conservation import CONSERVATION_COLUMNS
from app.analyses.percentiles import exact_s, quantiles_s, split_minute
from app.analyses.utilisation import AGE_COLUMNS, UTILISATION_COLUMNS
from app.annals.past import ANNOTATION_COLUMNS
from app.annals.tiers import TIER_COLUMNS
from app.columns import TIME
from app.history import ColumnLog
from app.operations import Operation
from app.records import (
    BUCKET_ERROR,
    DeadLetter,
    JobRun,
    LetterState,
    Outcome,
    WorkerInfo,
    bucket_of,
    bucket_value,
    utc,
)
from app.sampling import record_rows
from app.sampling.foreign import FOREIGN_COLUMNS
from app.sampling.latency import Latency
from app.sampling.readings import QueueReading
from app.sampling.sample_rows import depth_row, function_rows, group_row
from app.sampling.turns import Rates, Rota
from app.settings import Settings
from app.snapshot import Snapshot, stats


def make_run(job_id: str = "j1", **more: object) -> JobRun:
    values: dict[str, object] = {
        "job_id": job_id, "queue": "async-processing", "function": "generic",
        "outcome": Outcome.COMPLETE, "attempt": 1, "worker": "w1", "enqueued_ms": 1_000,
        "due_ms": 1_000, "started_ms": 1_500, "finished_ms": 3_500,
    }  # fmt: skip
    return JobRun(**{**values, **more})  # type: ignore[arg-type]


def make_letter(letter_id: str = "d1", **more: object) -> DeadLetter:
    values: dict[str, object] = {
        "id": letter_id, "kind": "job", "source": "async-processing", "name": "generic",
        "state": LetterState.NEW, "reason": "attempts", "fingerprint": "f1", "died_ms": 5_000,
    }  # fmt: skip
    return DeadLetter(**{**values, **more})  # type: ignore[arg-type]


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(kind) for name, kind in frame.dtypes.items()}


@pytest.mark.parametrize("name", list(frames.FRAMES))
def test_an_empty_frame_keeps_its_columns_and_dtypes(name: str) -> None:
    columns = frames.FRAMES[name]

    frame = Snapshot.empty().frame(name)

    assert list(frame) == list(columns)
    assert dtypes(frame) == dtypes(frame.astype(dict(columns)))
    assert all(frame.dtypes.iloc[i] == kind for i, kind in enumerate(columns.values()))


@pytest.mark.parametrize("name", list(frames.FRAMES))
def test_a_row_that_says_nothing_has_the_dtypes_of_the_empty_frame(name: str) -> None:
    columns = frames.FRAMES[name]

    frame = frames.frame_of([{}], columns)

    assert dtypes(frame) == dtypes(frames.empty_frame(columns))


SCHEMAS: Final = {
    **frames.FRAMES, **frames.ASKED_FRAMES, "minutes": TIER_COLUMNS,
    "annotations": ANNOTATION_COLUMNS, "foreign": FOREIGN_COLUMNS, "ages": AGE_COLUMNS,
    "utilisation": UTILISATION_COLUMNS, "conservation": CONSERVATION_COLUMNS,
}  # fmt: skip


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_column_says_what_it_means_and_every_number_its_unit(name: str) -> None:
    schema = SCHEMAS[name]

    assert schema.row.startswith("One row per ")
    assert list(schema) == list(schema.about)
    for column, told in schema.about.items():
        assert told.meaning, column
        assert told.unit or told.dtype != "float64", column
        if column.endswith("_s"):
            is_rate = column.endswith("per_s")
            assert told.unit.endswith("/s") if is_rate else told.unit == "s", column
        if told.dtype == TIME:
            assert told.unit == "UTC"


def test_the_frames_of_the_design_are_all_there() -> None:
    design = "queues jobs runs functions workers streams groups events dead_letters causes redis operations history"

    assert set(design.split()) <= {*frames.FRAMES, *frames.ASKED_FRAMES}


def test_functions_are_counted_and_timed_apart() -> None:
    minute = {
        "mail|o|complete": 3, "mail|o|retry": 1, "mail|r|40": 4, "mail|w|0": 4, "mail|e|50": 3,
        "a|b|o|dead": 2, "idle|a|accepted": 5, "odd": 1,
    }  # fmt: skip

    rows = frames.frame_of(function_rows("q", minute), frames.FUNCTION_COLUMNS)

    assert rows[["function", "runs", "complete", "retried", "dead"]].to_numpy().tolist() == [
        ["a|b", 2, 0, 0, 2],
        ["mail", 4, 3, 1, 0],
    ]
    assert rows["run_p50_s"].iloc[1] == pytest.approx(bucket_value(40) / 1000)
    assert np.isnan(rows["run_p50_s"].iloc[0])


def test_operations_come_newest_first_and_undated_ones_have_no_time() -> None:
    operations = [
        Operation(id=f"o{n}", kind="retry_letters", source="q", created_at=utc(n * 1000),
                  filter={"name": "mail"})
        for n in (1, 2)
    ]  # fmt: skip

    frame = frames.frame_of(record_rows.operation_rows(operations), frames.OPERATION_COLUMNS)

    assert frame["id"].to_list() == ["o2", "o1"]
    assert frame["filter"].iloc[0] == '{"name": "mail"}'
    assert frame["created"].iloc[0] == pd.Timestamp(2, unit="s", tz="UTC")
    assert frame["finished"].isna().all()
    assert frame["rate_per_s"].isna().all()


texts = st.text(st.characters(codec=None), max_size=30)
times = st.integers(0, 4_102_444_800_000)


@given(
    st.lists(
        st.builds(
            make_run, texts, error=texts, started_ms=times, finished_ms=times, due_ms=times,
            outcome=st.sampled_from(Outcome), attempt=st.integers(0, 10_000),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_runs_keep_dtypes_order_and_number_whatever_they_hold(runs: list[JobRun]) -> None:
    frame = record_rows.runs_frame(runs)

    assert dtypes(frame) == dtypes(frames.empty_frame(frames.RUN_COLUMNS))
    assert len(frame) == len(runs)
    assert (frame["wait_s"] >= 0).all()
    assert (frame["run_s"] >= 0).all()
    assert frame["finished"].dropna().is_monotonic_increasing
    frame.to_json(date_format="iso")


def test_a_run_says_how_long_it_waited_and_ran() -> None:
    row = record_rows.runs_frame([make_run()]).iloc[0]

    assert row["wait_s"] == 0.5
    assert row["run_s"] == 2.0
    assert row["finished"] == pd.Timestamp("1970-01-01T00:00:03.5Z")


def test_the_outcomes_of_runs_are_always_the_same_categories() -> None:
    frame = record_rows.runs_frame([make_run()])

    assert list(frame["outcome"].cat.categories) == [outcome.value for outcome in Outcome]


def test_causes_count_letters_by_fingerprint_and_name_the_newest_error() -> None:
    letters = [
        make_letter("a", fingerprint="x", error="old", died_ms=1_000, name="sync"),
        make_letter("b", fingerprint="x", error="new", died_ms=9_000, name="mail"),
        make_letter("c", fingerprint="y", error="other", died_ms=5_000),
    ]

    causes = record_rows.causes_frame(record_rows.dead_letters_frame(letters))

    assert causes[["fingerprint", "error", "count", "functions"]].to_numpy().tolist() == [
        ["x", "new", 2, "mail, sync"],
        ["y", "other", 1, "generic"],
    ]
    assert causes["first_seen"][0] < causes["last_seen"][0]
    assert dtypes(causes) == dtypes(frames.empty_frame(frames.CAUSE_COLUMNS))


def test_running_jobs_come_from_what_workers_say_and_a_broken_heartbeat_says_nothing() -> None:
    worker = WorkerInfo(
        id="w1", role="worker", host="h", pid=1, source="async-processing", version="1",
        since_ms=0, beat_ms=10_000,
        jobs='[{"id":"j1","function":"f","started_ms":4000,"attempt":2}]',
    )  # fmt: skip
    broken = replace(worker, id="w2", jobs="{")

    frame = record_rows.running_frame([worker, broken], now_ms=10_000, due_ms={"j1": 3_000.0})

    row = frame.iloc[0]
    assert len(frame) == 1
    assert (row["job_id"], row["running_s"], row["attempt"]) == ("j1", 6.0, 2)
    assert row["due"] == pd.Timestamp("1970-01-01T00:00:03Z")


@given(st.lists(st.floats(2, 1e8), min_size=1, max_size=200), st.sampled_from([0.5, 0.95]))
def test_a_percentile_from_the_histogram_is_within_its_stated_error(
    durations_ms: list[float], quantile: float
) -> None:
    fields: dict[str, int] = {}
    for ms in durations_ms:
        name = f"generic|r|{bucket_of(ms)}"
        fields[name] = fields.get(name, 0) + 1

    exact = exact_s([ms / 1000 for ms in durations_ms], [quantile])[0]
    estimate = quantiles_s(split_minute(fields).run, [quantile])[0]

    assert abs(estimate - exact) <= exact * BUCKET_ERROR * 1.000001


def test_percentiles_of_nothing_are_unknown() -> None:
    assert all(map(math.isnan, exact_s([], [0.5, 0.95])))
    assert all(map(math.isnan, quantiles_s(split_minute({"f|o|complete": 3}).wait, [0.5])))


def test_latency_uses_the_histogram_once_it_has_forgotten_runs_of_the_window() -> None:
    latency = Latency()
    latency.histogram = {"f|w|100": 10, "f|r|50": 10}
    latency.add([make_run(str(i), finished_ms=100_000 + i) for i in range(500)])
    exact = latency.row(110_000)
    latency.add([make_run(str(i), finished_ms=101_000 + i) for i in range(900)])

    estimated = latency.row(110_000)

    assert exact["wait_p50_s"] == 0.5
    assert estimated["wait_p50_s"] == quantiles_s(split_minute(latency.histogram).wait, [0.5])[0]


@given(st.lists(st.integers(0, 100), min_size=2, max_size=30))
def test_a_rate_is_never_negative(values: list[int]) -> None:
    rates = Rates()

    seen = [rates.per_s("c", value, float(i)) for i, value in enumerate(values)]

    assert math.isnan(seen[0])
    assert all(math.isnan(rate) or rate >= 0 for rate in seen)


def test_a_rate_bridges_a_gap_by_the_time_that_really_passed() -> None:
    rates = Rates()
    rates.per_s("c", 10, 0.0)
    unknown = rates.per_s("c", None, 5.0)

    rate = rates.per_s("c", 30, 10.0)

    assert math.isnan(unknown)
    assert rate == 2.0


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_waiting_running_and_deferred_add_up_to_what_the_queue_holds(
    queued: int, due: int, claimed: int
) -> None:
    due = min(due, queued)
    reading = QueueReading(
        queued={"q": queued}, due={"q": due}, claimed={"q": claimed}, first_due_ms={"q": 1_000.0}
    )

    row = depth_row(reading, "q", now_ms=3_000)

    assert row["waiting"] + row["running"] + row["deferred"] == queued
    assert min(row["waiting"], row["running"], row["deferred"]) >= 0


def test_lag_is_estimated_where_redis_does_not_tell_it() -> None:
    info = {"length": 100, "last-generated-id": "2000-0", "first-entry": ("1000-0", {})}
    group = {"name": "g", "consumers": 1, "pending": 3, "last-delivered-id": "1500-0"}

    row = group_row("s", info, group, None, 4_000)

    assert row["lag"] == 50
    assert row["lag_is_estimate"]
    assert row["lag_s"] == 2.5


def test_those_marked_have_their_turn_first_and_nobody_is_forgotten() -> None:
    rota = Rota()
    names = [f"q{i}" for i in range(10)]
    first: list[str] = []
    for tick in range(1, 11):
        first += (taken := rota.take(names, tick, 2, 5))
        rota.done(taken, tick)
    rota.marked.add("q7")

    assert set(first) == set(names)
    assert rota.take(names, 11, 1, 5) == ["q7"]


def test_history_frames_given_out_before_never_change() -> None:
    log = ColumnLog(frames.HISTORY_COLUMNS, span_s=10)
    log.append(0, [{"queue": "a", "waiting": 1.0}])
    before = log.frame()
    for second in range(1, 3000):
        log.append(second * 1_000_000, [{"queue": "a", "waiting": float(second)}, {"queue": "b"}])

    after = log.frame()

    assert before["waiting"].to_list() == [1.0]
    assert len(after) == 2 * 11
    assert after["at"].is_monotonic_increasing
    assert after[after["queue"] == "a"]["waiting"].to_list() == list(map(float, range(2989, 3000)))
    assert after[after["queue"] == "b"]["waiting"].isna().all()
    assert dtypes(after) == dtypes(frames.empty_frame(frames.HISTORY_COLUMNS))


def test_stats_tell_unknown_from_zero() -> None:
    settings = Settings()
    queues = frames.frame_of(
        [
            {"queue": "async-processing", "waiting": 5, "running": 2, "complete": 150,
             "dead_total": 3, "deferred": 0, "dead_open": 1, "dead_retrying": 0, "resolved": 2,
             "discarded": 0},
        ],
        frames.QUEUE_COLUMNS,
    )  # fmt: skip
    streams = frames.frame_of(
        [{"stream": "s", "dead_open": 4, "resolved": 1, "discarded": 0}], frames.STREAM_COLUMNS
    )

    answer = stats(replace(Snapshot.empty(), queues=queues, streams=streams), settings)

    known = answer["async-processing"]
    assert [known[k] for k in ("waiting", "active", "completed", "failed", "delayed")] == [
        5, 2, 150, 3, 0,
    ]  # fmt: skip
    assert answer["long-running-jobs"]["waiting"] is None
    assert answer["dead-letter-queue"] == {
        "waiting": 5, "active": None, "completed": 3, "failed": 0, "delayed": 0,
    }  # fmt: skip


def test_text_no_encoder_accepts_becomes_printable() -> None:
    assert frames.printable("a\udcffb") == "a?b"
    assert frames.printable(None) == ""
    assert np.array_equal(
        frames.frame_of([{"queue": "\ud800"}], frames.QUEUE_COLUMNS)["queue"], ["?"]
    )
