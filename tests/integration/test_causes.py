"""Causes: counted once, with a life of their own, silent when ignored, told when they come back."""

import json
import time
from typing import Any

import pytest

from app import actions, alerts, keys
from app.actions import Connections
from app.alerts import AlertState
from app.errors import ActionRefused, InvalidRequest, NotFound
from app.letters import causes
from app.letters.causes import CauseState
from app.records import DeadLetter, LetterState
from app.settings import Settings
from tests.letters import ANN, EVE, QUEUE, both_servers, bury, bury_event, field
from workers.letters.rounds import DeadLetterProcessor
from workers.policies import Action, Rule

ALERT_ALL = (Rule(name="all", action=Action.ALERT),)


@pytest.fixture
def connections(queue_redis, streams_redis, cache_redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


@pytest.fixture
def processor(connections: Connections, settings: Settings) -> DeadLetterProcessor:
    return make_processor(connections, settings)


def make_processor(
    connections: Connections, settings: Settings, rules: Any = ALERT_ALL
) -> DeadLetterProcessor:
    return DeadLetterProcessor(
        settings, connections.queue, connections.streams, connections.cache, rules
    )


async def cause_of(connections: Connections, fingerprint: str) -> causes.Cause:
    found = await causes.read(connections.queue, fingerprint)
    assert found is not None
    return found[0]


@both_servers
async def test_deaths_of_jobs_and_events_are_counted_once(connections, settings, processor):
    for n in range(3):
        await bury(connections.queue, f"j{n}", fingerprint="f1", name=f"sync-{n % 2}")
    await bury_event(connections.streams, settings.stream_name, fingerprint="f1")

    await processor.round()
    await processor.round()
    await make_processor(connections, settings).round()  # another one looks at all of them again
    await connections.queue.hset(keys.dead_record(QUEUE, "j0"), "decision", "")
    processor._places.clear()
    await processor.round()

    cause, counts = await causes.read(connections.queue, "f1")
    assert cause.count == 4
    assert cause.state is CauseState.NEW
    assert set(cause.functions) == {"sync-0", "sync-1", "user.created"}
    assert set(cause.sources) == {QUEUE, settings.stream_name}
    assert causes.periods(counts, time.time() * 1000)["24h"] == 4
    assert causes.periods(counts, time.time() * 1000)["7d"] == 4


async def test_a_letter_that_dies_again_is_counted_again(connections, processor):
    first = await bury(connections.queue, "j1", fingerprint="f1")
    await processor.round()
    await bury(connections.queue, "j1", fingerprint="f1", died_ms=first.died_ms + 5)
    await processor.round()

    assert (await cause_of(connections, "f1")).count == 2


async def test_a_kill_between_counting_and_marking_counts_no_event_twice(connections, settings):
    await bury_event(connections.streams, settings.stream_name, fingerprint="f1")
    raw = await connections.streams.hgetall(keys.dead_record(settings.stream_name, "5-1"))
    letter = DeadLetter.from_fields(raw)

    for _ in range(3):  # killed each time before the record on the other Redis was marked
        await causes.note_deaths(connections.queue, [letter], time.time() * 1000)

    assert (await cause_of(connections, "f1")).count == 1


@both_servers
async def test_a_resolved_cause_that_comes_again_is_regressed_and_told_at_once(
    connections, settings, processor
):
    where = (connections, settings, ANN)
    await bury(connections.queue, "j1", fingerprint="f1")
    await processor.round()
    done = await actions.change_cause(*where, "f1", state="resolved", note="fixed in 2.4")
    again = await actions.change_cause(*where, "f1", state="resolved")
    resolved_ms = (await cause_of(connections, "f1")).changed_ms
    # the next millisecond: what died in the very one it was resolved in may have died before
    await bury(connections.queue, "j2", fingerprint="f1", died_ms=resolved_ms + 1)
    await processor.round()

    cause = await cause_of(connections, "f1")
    assert (done.changed, again.changed) == (True, False)
    assert (cause.state, cause.regressions, cause.note) == (CauseState.REGRESSED, 1, "fixed in 2.4")
    notices = [json.loads(n) for n in await connections.cache.lrange(keys.DLQ_ALERTS, 0, -1)]
    assert [n["id"] for n in notices] == ["j2", "j1"]  # although the window of ten minutes holds
    assert [n["severity"] for n in notices] == ["critical", "warning"]


async def test_a_death_from_before_the_resolution_does_not_regress(
    connections, settings, processor
):
    await bury(connections.queue, "j1", fingerprint="f1")
    await processor.round()
    await actions.change_cause(connections, settings, ANN, "f1", state="resolved")
    await bury(connections.queue, "j0", fingerprint="f1", died_ms=int(time.time() * 1000) - 60_000)
    await processor.round()

    assert (await cause_of(connections, "f1")).state is CauseState.RESOLVED


async def test_an_ignored_cause_stays_silent_and_is_still_decided(connections, settings, processor):
    await bury(connections.queue, "j1", fingerprint="f1")
    await processor.round()
    await actions.change_cause(connections, settings, ANN, "f1", state="ignored", owner="ann")
    await connections.cache.delete(keys.alert_seen(keys.DLQ_ALERTS, "f1"))
    processor._alerts._told.clear()
    await bury(connections.queue, "j2", fingerprint="f1")
    await processor.round()
    await processor.watch_once()

    assert await connections.cache.llen(keys.DLQ_ALERTS) == 1
    assert await field(connections.queue, "j2", "decision") == "ALERT"
    assert "ignored" in await field(connections.queue, "j2", "decision_reason")
    assert (await cause_of(connections, "f1")).count == 2
    found = await alerts.newest(connections.cache)
    assert [(a.state, a.detail) for a in found] == [(AlertState.RESOLVED, "ignored by ann")]


async def test_who_may_not_act_changes_no_cause_and_every_change_is_audited(
    connections, settings, processor
):
    await bury(connections.queue, "j1", fingerprint="f1")
    await processor.round()

    with pytest.raises(ActionRefused):
        await actions.change_cause(connections, settings, EVE, "f1", state="ignored")
    with pytest.raises(InvalidRequest):
        await actions.change_cause(connections, settings, ANN, "f1", state="regressed")
    with pytest.raises(NotFound):
        await actions.change_cause(connections, settings, ANN, "nobody", state="known")

    await actions.change_cause(connections, settings, ANN, "f1", owner="bob")
    lines = await connections.queue.xrevrange(keys.AUDIT)
    assert '"owner":"bob"' in lines[0][1]["body"]
    assert (await cause_of(connections, "f1")).state is CauseState.NEW


async def test_causes_are_bounded_and_those_people_dealt_with_stay(
    connections, settings, monkeypatch
):
    monkeypatch.setattr(causes, "CAUSES_KEPT", 20)
    processor = make_processor(connections, settings)
    await bury(connections.queue, "first", fingerprint="mine", died_ms=1_700_000_000_000)
    await processor.round()
    await actions.change_cause(connections, settings, ANN, "mine", state="ignored")
    for n in range(60):
        await bury(connections.queue, f"j{n}", fingerprint=f"f{n}")
    await processor.round()

    names = await connections.queue.zrange(keys.CAUSES, 0, -1)
    hashes = await connections.queue.keys("arqscope:cause:*")
    assert len(names) == 20
    assert "mine" in names
    assert len(hashes) == 20


async def test_retries_of_one_cause_are_put_off_beyond_the_budget_of_the_hour(
    connections, settings
):
    """
    Ten an hour: of 25 letters ten are retried now, ten in the next hour, five in the one after.
    """
    rules = (Rule(name="net", action=Action.RETRY, delay_s=1, cause_per_hour=10),)
    for n in range(25):
        await bury(connections.queue, f"j{n}", fingerprint="f1")
    await make_processor(connections, settings, rules).round()
    now_ms = time.time() * 1000

    counts = await connections.queue.hgetall(keys.cause_counts("f1"))
    planned = {int(name[1:]): int(n) for name, n in counts.items() if name.startswith("r")}
    first = min(planned)  # the hour of the round; it may have ended since
    assert planned == {first: 10, first + 1: 10, first + 2: 5}
    due = [score for _, score in await connections.queue.zrange(QUEUE, 0, -1, withscores=True)]
    assert all(at <= now_ms + 1_000 for at in due[:10])  # the rule's delay
    assert {int(at // 3_600_000) for at in due[10:20]} == {first + 1}
    assert {int(at // 3_600_000) for at in due[20:]} == {first + 2}
    letter = await connections.queue.hget(keys.dead_record(QUEUE, "j24"), "decision_reason")
    assert "put off" in letter


async def test_a_full_plan_becomes_an_alert_instead_of_a_queue_without_end(connections, settings):
    rules = (Rule(name="net", action=Action.RETRY, cause_per_hour=1),)
    for n in range(30):
        await bury(connections.queue, f"j{n}", fingerprint="f1")
    await make_processor(connections, settings, rules).round()

    decisions = [await field(connections.queue, f"j{n}", "decision") for n in range(30)]
    assert decisions.count("RETRY") == causes.HOURS_PLANNED
    assert decisions.count("ALERT") == 30 - causes.HOURS_PLANNED


async def test_an_event_that_waits_for_its_retry_spends_no_budget(connections, settings):
    rules = (Rule(name="net", action=Action.RETRY, delay_s=600, cause_per_hour=2),)
    await bury_event(connections.streams, settings.stream_name, fingerprint="f1")
    processor = make_processor(connections, settings, rules)
    for _ in range(5):
        await processor.round()

    counts = await connections.queue.hgetall(keys.cause_counts("f1"))
    assert [name for name in counts if name.startswith("r")] == []
    state = await connections.streams.hget(keys.dead_record(settings.stream_name, "5-1"), "state")
    assert state == LetterState.NEW
