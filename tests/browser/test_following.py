"""Streams, channels and schedules in a real browser: followed live, published to, run now."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from redis import Redis as SyncRedis

from app import keys
from tests.browser.conftest import ROOT, House, Window, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

STREAM, QUEUE = "pyairtable-events", "event-driven-jobs"
MODULE = """
from arq import cron


async def nightly(ctx):
    return "tidied"


cron_jobs = {"event-driven-jobs": [cron(nightly, name="nightly", hour=3, minute=30)]}
"""


@pytest.fixture(scope="module")
def keeper(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker that keeps a schedule."""
    directory = tmp_path_factory.mktemp("keeper")
    (directory / "by_itself.py").write_text(MODULE)
    world = {
        **os.environ,
        "REDIS_URL": house.redis.database(0),
        "REDIS_STREAMS_URL": house.redis.database(1),
        "REDIS_QUEUE_URL": house.redis.database(2),
        "ARQSCOPE_FUNCTIONS": "by_itself",
        "PYTHONPATH": f"{ROOT}:{directory}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "worker", QUEUE], cwd=directory, env=world,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def test_a_schedule_is_told_in_words_and_run_now(
    window: Window, house: House, keeper: None
) -> None:
    page = window.open("schedules")

    row = page.get_by_role("table", name="Schedules, the next one first").locator("tbody tr").first
    row.get_by_text("every day at 03:30").wait_for(timeout=40_000)
    assert row.get_by_text("no run yet").count() == 1
    page.get_by_role("button", name="Run now: nightly").click()

    page.get_by_role("link", name="Watch it").wait_for()
    wait_for(lambda: house.queue.hget(keys.ticks(QUEUE), "nightly"), "the tick ended")
    row.get_by_text("complete").wait_for(timeout=20_000)


def test_an_event_is_published_and_seen_as_it_comes(window: Window, house: House) -> None:
    page = window.open("streams")

    page.get_by_role("link", name="Follow live").click()
    page.get_by_text("followed live").wait_for()
    page.get_by_role("button", name="Publish an event").click()
    page.get_by_label("Type", exact=True).fill("user.seen")
    page.get_by_label("Data, JSON").fill("{")
    page.get_by_role("button", name="Publish event").click()
    page.get_by_text(re.compile("the data is not JSON in line 1")).wait_for()
    page.get_by_label("Data, JSON").fill('{"who": "ann"}')
    page.get_by_role("button", name="Publish event").click()

    page.get_by_text(re.compile("user.seen was published as")).wait_for()
    entries = page.get_by_role("table", name="Entries, newest first")
    entries.get_by_text("user.seen").first.wait_for()
    page.get_by_label("Type of event").fill("billing.*")
    page.get_by_role("button", name="Filter", exact=True).click()
    entries.get_by_text("user.seen").first.wait_for(state="detached")
    assert "type=billing" in page.url


def test_a_replay_is_counted_before_it_is_started(window: Window, house: House) -> None:
    streams = SyncRedis.from_url(house.redis.database(1), decode_responses=True)
    for number in range(3):
        fields = {
            "type": "audit.seen", "timestamp": "2026-11-26T00:00:00Z", "source": "test",
            "userId": "", "workspaceId": "", "correlationId": f"c{number}", "data": "{}",
        }  # fmt: skip
        streams.xadd(STREAM, fields)  # type: ignore[arg-type]
    before = streams.xlen(STREAM)
    page = window.open("streams?type=audit.seen")
    page.get_by_role("button", name="Replay …").click()

    assert page.locator("dialog input[name=type]").input_value() == "audit.seen"
    page.get_by_role("button", name="Replay", exact=True).click()
    page.get_by_text("3 events would be copied").wait_for()
    assert streams.xlen(STREAM) == before
    page.get_by_label("Only count what would be replayed").uncheck()
    page.get_by_label("Reason, kept in the record").fill("handlers were mended")
    page.get_by_role("button", name="Replay", exact=True).click()

    page.get_by_role("link", name="Watch it").wait_for()
    operation = house.queue.zrevrange(keys.OPERATIONS, 0, 0)[0]
    record = house.queue.hgetall(keys.operation(operation))
    assert (record["kind"], record["reason"]) == ("replay_events", "handlers were mended")
    assert json.loads(record["filter"])["type"] == "audit.seen"


def test_a_notification_is_heard_by_who_follows_its_channel(window: Window, house: House) -> None:
    page = window.open("pubsub?pattern=user:*")
    page.get_by_text("since somebody looks").wait_for()

    page.get_by_role("button", name="Send a notification").click()
    page.get_by_label("Id of the user or workspace").fill("ann")
    page.get_by_label("Message: text, or a JSON object").fill("the export is ready")
    page.get_by_role("button", name="Send notification").click()

    heard = page.get_by_role("table", name="Messages, newest first")
    heard.get_by_text("the export is ready", exact=True).wait_for()
    heard.get_by_role("link", name="user:ann").first.click()
    page.get_by_text("on user:ann since somebody looks").wait_for()
    page.get_by_text("remembered", exact=True).first.wait_for()


def test_the_tail_ends_with_the_page(window: Window, house: House) -> None:
    cache = SyncRedis.from_url(house.redis.database(0), decode_responses=True)
    window.open("pubsub?pattern=leaving:*")
    wait_for(lambda: cache.pubsub_numpat() > 0, "it is followed")

    window.go("workers")

    wait_for(lambda: cache.pubsub_numpat() == 0, "it is given up", 30)
