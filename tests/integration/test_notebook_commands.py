"""What a notebook sends to Redis: exactly what it explains, and nothing before it is looked at."""

import threading
from typing import Any

import pytest
from redis import Redis as SyncRedis

from app.notebook import Scope
from app.plans.plan import Plan
from app.settings import Settings
from tests.integration.scope_rig import (  # noqa: F401 - fixtures
    QUEUE,
    queue_server,
    scope,
)


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
