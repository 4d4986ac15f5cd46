"""Plans of queries, the reference page and small pictures: without Redis."""

import time
from pathlib import Path

import pandas as pd
import pytest

from app import frames
from app.drawing.pictures import drawn_lines
from app.errors import InvalidRequest
from app.exports import reference
from app.exports.files import file_of, redacted_frame
from app.plans.ask import Ask, moment
from app.plans.commands import plan_of, runs_of
from app.records import JobRun, Outcome
from app.scope.query import card
from app.snapshot import Snapshot

ROOT = Path(__file__).resolve().parents[2]
NOW_MS = 1_795_000_000_000.0


def snapshot_of(*queues: str) -> Snapshot:
    made = Snapshot.empty(pd.Timestamp(int(NOW_MS), unit="ms", tz="UTC"))
    rows = [{"queue": name, "waiting": 4.0, "dead_open": 2_500.0} for name in queues]
    object.__setattr__(made, "queues", frames.frame_of(rows, frames.QUEUE_COLUMNS))
    return made


def test_the_reference_page_is_what_the_code_says():
    """
    Made by ``python -m app.exports.reference > docs/frames.md``.
    """
    assert (ROOT / "docs" / "frames.md").read_text(encoding="utf-8") == reference.page()


@pytest.mark.parametrize(
    ("said", "ms"),
    [
        ("2h", NOW_MS - 7_200_000),
        ("90s", NOW_MS - 90_000),
        ("2026-11-18T10:00Z", 1_794_996_000_000),
        ("10:00", 1_794_996_000_000),
        ("1794996000000", 1_794_996_000_000),
    ],
)
def test_a_moment_is_an_age_a_time_of_day_or_a_time(said: str, ms: float):
    assert moment("since", said, NOW_MS) == ms


@pytest.mark.parametrize("said", ["", "yesterday", "25:99", "2 hours"])
def test_what_is_no_moment_is_refused(said: str):
    with pytest.raises(InvalidRequest, match="since"):
        moment("since", said, NOW_MS)


def test_letters_are_asked_for_a_thousand_at_once_and_no_more_than_there_are():
    plan = plan_of(Ask(what="dead_letters", state="open"), snapshot_of("a", "b"), now_ms=NOW_MS)

    assert [step.command[step.command.index("LIMIT") + 1] for step in plan.steps] == [
        0, 1000, 2000, 0, 1000, 2000,
    ]  # fmt: skip
    assert plan.round_trips == 1


def test_a_limit_is_left_to_redis_only_where_nothing_else_is_asked():
    plain = plan_of(Ask(what="runs", limit=7), snapshot_of("a"), now_ms=NOW_MS)
    narrowed = plan_of(
        Ask(what="runs", limit=7).where("", {"function": "f"}), snapshot_of("a"), now_ms=NOW_MS
    )

    assert plain.commands == ["XREVRANGE arqscope:{a}:runs + - COUNT 7"]
    assert narrowed.commands == ["XREVRANGE arqscope:{a}:runs + - COUNT 10000"]


def test_a_frame_of_the_snapshot_costs_nothing():
    plan = plan_of(Ask(what="queues"), snapshot_of("a"), now_ms=NOW_MS)

    assert (plan.commands, plan.round_trips) == ([], 0)
    assert "nothing is sent" in plan.cost


def report(number: int, **more: object) -> str:
    said = {
        "job_id": f"j{number}", "queue": "q", "function": "f", "outcome": Outcome.COMPLETE, "attempt": 1,
        "worker": "w", "enqueued_ms": 0, "due_ms": 10, "started_ms": 30, "finished_ms": 1_000 + number,
    }  # fmt: skip
    return JobRun(**{**said, **more}).to_json()  # type: ignore[arg-type]


def test_a_report_that_cannot_be_read_costs_only_itself():
    texts = [report(1), "{", '{"job_id": 3}', "[]", report(2, error="\udcff")]

    found = runs_of([[[b"1-0", [b"r", text.encode("utf-8", "surrogateescape")]] for text in texts]])

    assert found["job_id"].to_list() == ["j2", "j1"]
    assert found["enqueued"].isna().all()
    assert found["wait_s"].to_list() == [0.02, 0.02]


def test_a_hundred_thousand_runs_are_a_frame_within_a_second_of_cpu():
    """
    T: connect() and df() of 100,000 runs within 1 s; here without Redis' part, in CPU time.
    """
    reply = [[b"1-0", [b"r", report(number).encode()]] for number in range(100_000)]

    began = time.process_time()
    found = runs_of([reply])

    assert time.process_time() - began < 1.0
    assert len(found) == 100_000


@pytest.mark.parametrize(
    "column",
    ["error", "arguments", "note", "reason", "decision_reason", "jobs", "text", "filter", "value"],
)
def test_credentials_in_what_people_wrote_do_not_leave(column: str):
    """
    Marks, filters of operations and arguments that failures share are written by people as well.
    """
    made = redacted_frame(pd.DataFrame({column: ["password=hunter2"], "queue": ["q"]}))

    assert b"hunter2" not in file_of(made, "csv")
    assert made[column].iloc[0] == "password=***"


def test_credentials_in_free_texts_do_not_leave():
    frame = pd.DataFrame({"error": ["token=abc123", None], "name": ["token=kept", "x"]})

    made = redacted_frame(frame)

    assert made["error"].iloc[0] == "token=***"
    assert b"abc123" not in file_of(made, "csv")
    with pytest.raises(InvalidRequest, match="'xlsx'"):
        file_of(made, ".xlsx")


def test_a_picture_has_gaps_where_nobody_looked_and_escapes_names():
    at = pd.Series(pd.date_range("2026-11-26", periods=5, freq="s", tz="UTC"))
    values = pd.Series([1.0, 2.0, float("nan"), 4.0, 3.0])

    made = drawn_lines({"<q>": (at, values)}, "Backlog & more")

    assert made.count('stroke-width="1.6"') == 2
    assert "&lt;q&gt;" in made
    assert "Backlog &amp; more" in made
    assert "no values" in drawn_lines({}, "x")


def test_a_card_hides_no_number():
    """
    Zero and unknown are said; only a column of empty texts is left out.
    """
    frame = pd.DataFrame(
        {"queue": ["q"], "waiting": [0.0], "lag": [float("nan")], "note": [""], "paused": [False]}
    )

    made = card("a <b>", frame)

    assert "a &lt;b&gt;" in made
    assert [name in made for name in ("queue", "waiting", "lag", "note", "paused")] == [
        True, True, True, False, True,
    ]  # fmt: skip
    assert made.count("<td ") == 4
