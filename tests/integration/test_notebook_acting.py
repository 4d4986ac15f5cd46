"""What a notebook does: retries, conditions, refusals, questions, exports, a failed job run here."""

from typing import Any

import pandas as pd
import pytest

from app import audit, keys
from app.errors import ActionRefused, InvalidRequest
from app.notebook import Scope, connect
from app.settings import Settings
from tests.integration.scope_rig import (  # noqa: F401 - fixtures
    QUEUE,
    letter_of,
    put_letter,
    queue_server,
    scope,
)
from tests.integration.test_notebook_commands import Monitor


def test_a_retry_is_an_operation_with_its_audit_line(scope: Scope, queue_server: Any) -> None:
    trial = scope.dead_letters.where(source=QUEUE, fingerprint="f1").retry(dry_run=True)
    done = scope.dead_letters.where(source=QUEUE, fingerprint="f1").retry(
        rate="5/s", canary=2, reason="trial"
    )

    assert (trial.changed, trial.detail["matched"]) == (False, 5)
    (operation_id,) = done.detail["operations"]
    made = scope.operation(operation_id)
    assert (made.matched, made.rate_per_s, made.canary) == (5, 5.0, 2)
    assert dict(made.filter) == {"fingerprint": "f1"}
    assert scope.operations.df()["id"].to_list() == [operation_id]
    (last,) = audit.decoded(queue_server.xrevrange(keys.AUDIT, count=1))
    assert (last.action, last.actor) == ("start_operation", scope.deployment.actor.name)


def test_failed_jobs_and_causes_mean_their_letters(scope: Scope) -> None:
    by_jobs = scope.jobs(QUEUE, state="failed", function="data-sync").retry(dry_run=True)
    by_cause = scope.causes.where(fingerprint="f2").discard(dry_run=True)

    assert by_jobs.detail["matched"] == 5
    assert by_cause.detail["matched"] == 1
    with pytest.raises(ActionRefused, match="no dead letters"):
        scope.jobs(QUEUE).retry()
    with pytest.raises(ActionRefused, match="cannot be acted on"):
        scope.queues.discard()


def test_conditions_of_ours_act_letter_by_letter(scope: Scope) -> None:
    query = scope.dead_letters.where("error == 'no answer'").head(2)

    done = query.discard(reason="a test")

    assert (done.changed, done.detail["done"]) == (True, 2)
    assert len(scope.letters(QUEUE, state="closed").df()) == 2
    with pytest.raises(InvalidRequest, match="rate or a canary"):
        query.retry(rate="1/s")


def test_who_may_not_act_is_refused(settings: Settings, scope: Scope) -> None:
    with connect(settings, role="viewer", sample_interval_s=60) as viewer:
        with pytest.raises(ActionRefused, match="needs the role operator"):
            viewer.refresh().dead_letters.where(fingerprint="f1").retry()
        assert len(viewer.dead_letters.df()) == 6
    with (
        connect(settings, read_only=True, sample_interval_s=60) as still,
        pytest.raises(ActionRefused, match="read-only"),
    ):
        still.refresh().dead_letters.where(fingerprint="f1").discard()


def test_somebody_who_can_answer_is_asked(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "n"

    monkeypatch.setattr("app.scope.query.is_interactive", lambda: True)
    monkeypatch.setattr("builtins.input", answer)

    done = scope.dead_letters.where(fingerprint="f1").retry(rate="5/s", canary=5)

    assert done.message == "not confirmed; nothing was changed"
    assert asked == [f"retry 5 dead letters of {QUEUE} at 5/s, 5 of them first? [y/N] "]
    assert scope.operations.df().empty


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_an_export_masks_credentials(
    scope: Scope, tmp_path: Any, suffix: str, queue_server: Any
) -> None:
    put_letter(queue_server, letter_of(20, error="refused: token=abc123 is old"))
    scope.refresh()

    file = scope.dead_letters.export(tmp_path / f"x.{suffix}")

    assert b"abc123" not in file.read_bytes()
    if suffix == "parquet":
        found = pd.read_parquet(file)
        assert len(found) == 7
        assert str(found["died"].dtype) == "datetime64[us, UTC]"
    with pytest.raises(InvalidRequest, match="'xlsx'"):
        scope.dead_letters.export(tmp_path / "x.xlsx")


def test_a_failed_job_runs_here_without_touching_the_queue(
    scope: Scope, settings: Settings
) -> None:
    async def fails(ctx: Any, data: dict[str, Any]) -> None:
        await ctx["job"].progress(1, 2, "half")
        raise ValueError(f"n is {data['n']}")

    job = scope.job(QUEUE, "w2")
    done: list[Any] = []

    seen = Monitor(settings).during(lambda: done.append(job.run_locally(fails)))

    assert seen == []
    assert repr(done[0].error) == "ValueError('n is 2')"
    assert done[0].progress == ((1, 2, "half"),)
    assert scope.job(QUEUE, "w2").state == "queued"
