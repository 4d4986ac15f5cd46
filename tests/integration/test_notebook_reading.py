"""What a notebook reads of a deployment, and how it says what it did not understand."""

import time
from typing import Any

import pytest

from app import frames, keys
from app.errors import ActionRefused, InvalidRequest, NotFound, RedisUnavailable
from app.notebook import Scope, connect
from app.settings import Settings
from tests.integration.scope_rig import (  # noqa: F401 - fixtures
    QUEUE,
    queue_server,
    run_of,
    scope,
)


def test_runs_are_read_newest_first_and_narrowed(scope: Scope) -> None:
    found = scope.runs.where(queue=QUEUE).since("1h").where("run_s > 0.01").head(5).df()

    assert found["job_id"].to_list() == [f"j{n}" for n in range(1, 6)]
    assert {name: str(kind) for name, kind in found.dtypes.items()} == {
        name: str(kind) for name, kind in frames.empty_frame(frames.RUN_COLUMNS).dtypes.items()
    }
    assert found["wait_s"].iloc[0] == pytest.approx(0.03)


def test_jobs_are_read_by_state_with_their_arguments_masked(scope: Scope) -> None:
    waiting = scope.jobs(QUEUE).df()
    later = scope.jobs(QUEUE, state="deferred").df()
    failed = scope.jobs(QUEUE, state="failed", since="2h", function="data-sync").df()

    assert waiting["job_id"].to_list() == ["w1", "w2"]
    assert waiting["arguments"].iloc[0] == ('{"args": [{"n": 1, "password": "***"}], "kwargs": {}}')
    assert later["job_id"].to_list() == ["later"]
    assert failed["job_id"].to_list() == ["j40"]
    assert list(failed.columns) == list(frames.JOB_COLUMNS)
    assert scope.jobs(QUEUE, function="generic").df()["job_id"].to_list() == ["w1"]
    assert scope.jobs(QUEUE, state="running").df().empty


def test_an_empty_answer_keeps_its_columns(settings: Settings) -> None:
    with connect(settings, sample_interval_s=60, keep_history=False) as scope:
        for query in (scope.runs, scope.dead_letters, scope.jobs(QUEUE), scope.operations):
            assert list(query.df().columns) == query.columns
        assert len(scope.history("wait_p95", "2h", source=QUEUE).df()) >= 119


def test_a_query_is_a_value(scope: Scope) -> None:
    every = scope.dead_letters
    some = every.where(fingerprint="f1")

    assert (len(every), len(some)) == (6, 5)
    assert "fingerprint = f1" in repr(some)
    assert every["name"].nunique() == 2


def test_texts_of_others_are_escaped_in_a_representation(scope: Scope) -> None:
    shown = scope.dead_letters._repr_html_()

    assert "&lt;b&gt;&amp;" in shown
    assert "<b>&" not in shown
    assert "hunter2" not in scope.jobs(QUEUE)._repr_html_()


def test_what_is_not_understood_names_the_remedy(scope: Scope) -> None:
    with pytest.raises(InvalidRequest, match="no column 'fingerprnt'") as told:
        scope.dead_letters.where(fingerprnt="f1")
    assert "did you mean fingerprint" in str(told.value.hint)
    with pytest.raises(InvalidRequest, match="state='lost'"):
        scope.jobs(QUEUE, state="lost")
    with pytest.raises(InvalidRequest, match="metric='wait_p96'"):
        scope.history("wait_p96")
    with pytest.raises(InvalidRequest, match="since='yesterdey'"):
        scope.runs.since("yesterdey")
    with pytest.raises(InvalidRequest, match="cannot be evaluated"):
        scope.runs.where("speed > 3").df()
    with pytest.raises(NotFound):
        scope.job(QUEUE, "nobody")


def test_no_redis_is_said_clearly(free_port: int) -> None:
    with pytest.raises(RedisUnavailable, match=r"does not answer.*REDIS_QUEUE_URL"):
        connect(f"redis://127.0.0.1:{free_port}/0")
    with pytest.raises(RedisUnavailable, match="does not answer"):
        connect(f"http://127.0.0.1:{free_port}")
    with pytest.raises(InvalidRequest, match="no address"):
        connect("localhost:6379")


async def test_it_works_inside_a_running_loop(scope: Scope) -> None:
    assert len(scope.runs.head(3).df()) == 3


def test_a_hundred_thousand_runs_are_a_frame_within_a_second(
    settings: Settings, queue_server: Any
) -> None:
    """
    connect() and df() together, ten queues of 10,000; in CPU time of this process, so that a
    neighbour's load says nothing, the best of three.
    """
    queue_server.sadd(keys.QUEUES, *(f"q{n}" for n in range(10)))
    texts = [run_of(n, queue="<queue>", job_id=f"<queue>-{n}").to_json() for n in range(10_000)]
    for queue in (f"q{n}" for n in range(10)):
        pipe = queue_server.pipeline(transaction=False)
        for text in texts:
            pipe.xadd(keys.runs(queue), {"r": text.replace("<queue>", queue)})
        pipe.execute()
    took_s = []

    for _ in range(3):
        began = time.process_time()
        with connect(settings, sample_interval_s=60, keep_history=False) as scope:
            found = scope.runs.df()
            took_s.append(time.process_time() - began)

    assert len(found) == 100_000
    assert min(took_s) < 1.0


def test_watching_says_what_does_not_end(scope: Scope) -> None:
    with pytest.raises(ActionRefused, match="still queued"):
        scope.watch("w1", queue=QUEUE, limit_s=0.3)
    with pytest.raises(InvalidRequest, match="cannot be watched"):
        scope.watch(3)
