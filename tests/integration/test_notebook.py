"""A scope over real Redis servers and over HTTP: what is read, what that sends, what it may do."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from redis import Redis as SyncRedis

from app import audit, frames, keys
from app.errors import ActionRefused, InvalidRequest, NotFound, RedisUnavailable
from app.notebook import Scope, connect
from app.plans.plan import Plan
from app.records import DeadLetter, JobRun, LetterState, Outcome
from app.settings import Settings
from tests.conftest import wait_until
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
QUEUE = "async-processing"
NOW_MS = int(time.time() * 1000)


def run_of(number: int, **more: Any) -> JobRun:
    """A run that ended *number* seconds ago."""
    end = NOW_MS - number * 1000
    said: dict[str, Any] = {
        "job_id": f"j{number}", "queue": QUEUE, "function": "data-sync", "outcome": Outcome.COMPLETE,
        "attempt": 1, "worker": "w", "enqueued_ms": end - 90, "due_ms": end - 80,
        "started_ms": end - 50, "finished_ms": end,
    }  # fmt: skip
    return JobRun(**said | more)


def letter_of(number: int, **more: Any) -> DeadLetter:
    said: dict[str, Any] = {
        "id": f"d{number}", "kind": "job", "source": QUEUE, "name": "data-sync",
        "state": LetterState.NEW, "reason": "attempts", "error_type": "TimeoutError",
        "error": "no answer", "fingerprint": "f1", "attempts": 3, "died_ms": NOW_MS - number * 1000,
    }  # fmt: skip
    return DeadLetter(**said | more)


@pytest.fixture
def queue_server(settings: Settings) -> Iterator[Any]:
    client: Any = SyncRedis.from_url(settings.url("queue"), decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def scope(settings: Settings, queue_server: Any) -> Iterator[Scope]:
    """A scope whose collector keeps still, over a queue with runs, jobs and letters."""
    dead = run_of(40, outcome=Outcome.DEAD, error="TimeoutError: no answer")
    put_runs(queue_server, [*(run_of(n) for n in range(1, 31)), dead])
    for number in range(5):
        put_letter(queue_server, letter_of(number))
    put_letter(queue_server, letter_of(9, name="notification", fingerprint="f2", error="<b>&"))
    with connect(settings, sample_interval_s=60, keep_history=False) as made:
        made.enqueue(QUEUE, "generic", {"n": 1, "password": "hunter2"}, id="w1")
        made.enqueue(QUEUE, "data-sync", {"n": 2}, id="w2")
        made.enqueue(QUEUE, "data-sync", {"n": 3}, id="later", delay_s=600)
        yield made.refresh()


def put_runs(client: Any, runs: list[JobRun]) -> None:
    for run in sorted(runs, key=lambda one: one.finished_ms):
        client.xadd(keys.runs(run.queue), {"r": run.to_json()}, id=f"{run.finished_ms}-0")


def put_letter(client: Any, letter: DeadLetter) -> None:
    client.hset(keys.dead_record(letter.source, letter.id), mapping=letter.to_fields())
    client.zadd(keys.dead_open(letter.source), {letter.id: letter.died_ms})
    client.set(keys.dead_payload(letter.source, letter.id), '{"v":1}')
    client.sadd(keys.QUEUES, letter.source)


# -- what is read ---------------------------------------------------------------------------------


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


# -- what is sent ---------------------------------------------------------------------------------


class Monitor:
    """What MONITOR sees of one client, sent between two marks."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.url("queue")

    def during(self, work: Any) -> list[str]:
        client: Any = SyncRedis.from_url(self._url, decode_responses=True)
        seen: list[str] = []
        marks = ("mark-begin", "mark-end")
        with client.monitor() as monitor:
            reader = threading.Thread(target=self._listen, args=(monitor, seen, marks[1]))
            reader.start()
            other: Any = SyncRedis.from_url(self._url)
            other.echo(marks[0])
            work()
            other.echo(marks[1])
            reader.join(20)
            other.close()
        client.close()
        assert not reader.is_alive()
        return seen

    def _listen(self, monitor: Any, seen: list[str], end: str) -> None:
        is_on = False
        for told in monitor.listen():
            if told["command"] == f"ECHO {end}":
                return
            if is_on:
                seen.append(told["command"])
            is_on = is_on or told["command"] == "ECHO mark-begin"


def planned(plan: Plan) -> list[str]:
    return [step.text for step in plan.steps if step.where == "queue"]


@pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)
def test_explain_says_exactly_what_monitor_sees(scope: Scope, settings: Settings) -> None:
    """
    Commands whose arguments are known are equal word for word; those per job, in form and number.
    """
    queries = {
        "runs": scope.runs.where(queue=QUEUE).since("1h"),
        "some runs": scope.runs.head(7),
        "letters": scope.dead_letters.where(source=QUEUE, fingerprint="f1"),
        "closed": scope.letters(QUEUE, state="closed"),
        "failed": scope.jobs(QUEUE, state="failed", function="data-sync"),
        "history": scope.history("wait_p95", "7d", source=QUEUE),
        "queues": scope.queues,
        "causes": scope.causes.where("count > 1"),
    }
    for query in queries.values():
        query.df()  # opens the connections
    for name, query in queries.items():
        plan = query.explain()

        seen = Monitor(settings).during(query.df)

        assert seen == planned(plan), name
        assert plan.sent == len(plan.steps)
    assert planned(scope.queues.explain()) == []


def test_commands_per_job_are_as_many_as_explain_allows(scope: Scope, settings: Settings) -> None:
    query = scope.jobs(QUEUE)
    plan = query.explain()
    query.df()

    seen = Monitor(settings).during(query.df)

    first, rest = seen[0], seen[1:]
    words = first.split()
    planned_words = plan.steps[0].text.split()
    assert (words[:3], words[4:]) == (planned_words[:3], planned_words[4:])  # the bound is now
    assert [c.split()[0] for c in rest] == ["GETRANGE", "STRLEN", "HGET", "HGET", "EXISTS"] * 2
    forms = [step.text.replace("<queue>", QUEUE) for step in plan.later]
    assert rest == [form.replace("<id>", one) for one in ("w1", "w2") for form in forms]
    assert len(rest) <= sum(step.times for step in plan.later)
    assert plan.round_trips == 2
    assert "at most" in plan.cost


def test_nothing_is_sent_before_it_is_looked_at(scope: Scope, settings: Settings) -> None:
    seen = Monitor(settings).during(
        lambda: scope.runs.where(queue=QUEUE).since("2h").head(3).explain()
    )

    assert seen == []


# -- what is done ---------------------------------------------------------------------------------


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


# -- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def served(scope: Scope, settings: Settings, tmp_path: Any) -> Iterator[str]:
    """A server of its own process over the same Redis; its address. Keys: ``k-operator``, ``k-viewer``."""
    port = settings.queue_ui_port
    world = {k: v for k, v in os.environ.items() if "REDIS" not in k and "ARQSCOPE" not in k} | {
        "REDIS_URL": settings.redis_url, "REDIS_STREAMS_URL": settings.redis_streams_url,
        "REDIS_QUEUE_URL": settings.redis_queue_url, "QUEUE_UI_PORT": str(port),
        "API_KEY": "k-operator", "ARQSCOPE_DATA_DIR": str(tmp_path / "served"),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    with (tmp_path / "served.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            cwd=tmp_path,
            env=world,
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(process, address, tmp_path), 40, "the server answers")
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _answers(process: Any, address: str, directory: Any) -> bool:
    assert process.poll() is None, (directory / "served.log").read_text()[-2000:]
    try:
        return httpx.get(f"{address}/health/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_same_object_over_http(scope: Scope, served: str, settings: Settings) -> None:
    """
    Every question of a scope has the same answer through the API as through Redis.
    """
    far = connect(served, key="k-operator")
    with far:
        for ask in (
            lambda s: s.runs.where(queue=QUEUE).head(5),
            lambda s: s.dead_letters.where(fingerprint="f1"),
            lambda s: s.jobs(QUEUE),
            lambda s: s.jobs(QUEUE, state="deferred"),
            lambda s: s.jobs(QUEUE, state="failed", function="data-sync"),
            lambda s: s.causes.where("count > 1"),
            lambda s: s.operations,
        ):
            near_frame, far_frame = ask(scope).df(), ask(far).df()
            pd.testing.assert_frame_equal(near_frame, far_frame)
            plan = ask(far).explain()
            assert all(step.where == "http" and "GET /" in step.text for step in plan.steps)
        history = far.history("wait_p95", "2h", source=QUEUE).df()
        assert list(history.columns) == ["at", "source", "wait_p95_s"]
        assert far.why(QUEUE, "later").hold == "deferred"
        assert far.job(QUEUE, "w2").detail.arguments.args == ({"n": 2},)
        assert far.forecast(QUEUE, workers=2).drains is None
        assert far.publish("user.created", {"n": 1}, event_id="e1").changed
        assert far.enqueue(QUEUE, "generic", {"n": 9}, id="far-1").created
        done = far.dead_letters.where(source=QUEUE, fingerprint="f1").retry(rate="5/s")
        assert far.operation(done.detail["operations"][0]).matched == 5
        assert far.dead_letters.where(fingerprint="f2").head(1).discard().changed
        with pytest.raises(NotFound, match="nobody"):
            far.job(QUEUE, "nobody")
        with pytest.raises(NotFound):
            far.forecast("nothing")
        assert "1970" not in repr(far)
        chart = far.chart("backlog")
        assert chart.picture().startswith("<svg")
        chart.stop()
        page = far.page("workers")
        assert "async-processing" in page.screen.html()
        page.stop()
        with pytest.raises(ActionRefused, match="settings are the server's"):
            far.page("settings")
        with pytest.raises(ActionRefused, match="the server shows it"):
            far.deployment.page_connections().queue.get("x")


def test_all_pages_of_a_kernel_act_through_one_set_of_connections(scope: Scope) -> None:
    """
    Each page opened its own, and a notebook left open for a week ran out of them.
    """
    first = scope.deployment.page_connections()

    assert scope.deployment.page_connections() is first


def test_a_wrong_key_is_said_clearly_and_never_shown(served: str) -> None:
    with pytest.raises(ActionRefused, match="give connect") as told:
        connect(served, key="wrong-key-1")

    assert "wrong-key-1" not in str(told.value)
    with pytest.raises(InvalidRequest, match="holds a password"):
        connect("http://me:secret@127.0.0.1:1")


# -- components -----------------------------------------------------------------------------------


async def test_a_chart_follows_the_deployment(settings: Settings, queue_server: Any) -> None:
    with connect(settings, sample_interval_s=0.1, keep_history=False) as scope:
        chart = scope.chart("backlog")
        wait_until(lambda: len(scope.frame("history")) > 3)
        before = len(chart._gallery.source.data["at"]) if chart._gallery.source else 0

        async def moved() -> bool:
            source = chart._gallery.source
            return source is not None and len(source.data["at"]) > before + 2

        await until(moved)

        assert chart.picture().startswith("<svg")
        assert "Backlog" in chart.picture()
        chart.stop()
        with pytest.raises(InvalidRequest, match="no chart 'speed'"):
            scope.chart("speed")


async def test_a_page_is_the_page_of_the_server(scope: Scope) -> None:
    page = scope.page("dead-letters", source=QUEUE)
    try:

        async def shown() -> bool:
            return "TimeoutError" in page.screen.html()

        await until(shown)
        with pytest.raises(InvalidRequest, match="no page 'letters'"):
            scope.page("letters")
        with pytest.raises(InvalidRequest, match="takes no colour"):
            scope.page("queues", colour="red")
    finally:
        page.stop()


def test_the_line_magic_knows_the_scope(scope: Scope) -> None:
    from app.notebook import _magic

    assert _magic("") is scope
    assert len(_magic("dead_letters")) == 6
    assert _magic("jobs async-processing deferred").df()["job_id"].to_list() == ["later"]
    with pytest.raises(InvalidRequest, match="no column 'dead_leters'"):
        _magic("dead_leters")
    with pytest.raises(InvalidRequest, match="not understood"):
        _magic("please help me")


def test_the_extension_adds_the_magic(scope: Scope) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.run_line_magic("load_ext", "app.notebook")

        assert shell.run_line_magic("arqscope", "queues").df()["queue"].tolist()
    finally:
        InteractiveShell.clear_instance()


def test_a_redirect_does_not_get_the_key() -> None:
    """
    An address that points elsewhere is told, not followed.
    """
    asked: list[Any] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.headers.get("X-API-Key") == "other":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>something else</html>")
                return
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/stolen")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InvalidRequest, match="redirects to"):
            connect(f"http://127.0.0.1:{server.server_port}", key="k")
        with pytest.raises(RedisUnavailable, match="is this an arqscope server"):
            connect(f"http://127.0.0.1:{server.server_port}", key="other")
        server.shutdown()

    assert "/stolen" not in asked


def test_watching_says_what_does_not_end(scope: Scope) -> None:
    with pytest.raises(ActionRefused, match="still queued"):
        scope.watch("w1", queue=QUEUE, limit_s=0.3)
    with pytest.raises(InvalidRequest, match="cannot be watched"):
        scope.watch(3)
