"""History, time travel and charts of a range in a real browser, over what a historian really wrote."""

import io
import json
import re
import time
import zipfile
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from app import alerts, audit, keys, operations
from app.annals.historian import Historian
from app.collector import Collector
from app.enqueue import JobRequest
from app.operations import Operation
from app.records import DeadLetter, JobRun, LetterState, Outcome
from tests.browser.conftest import House, Window, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

#: ms ago that the moment was: the leader writes none there
AGO_MS = 30 * 60_000
QUEUE, IDLE = "async-processing", "long-running-jobs"


@pytest.fixture(scope="module", autouse=True)
def remembered(house: House) -> int:
    """
    Three jobs wait; a look at them is stored as the leader would have, half an hour ago. Its epoch ms.
    """
    house.enqueue(IDLE, *(JobRequest(name="bulk-operation", args=({},)) for _ in range(3)))

    async def store(redis: Any) -> int:
        collector = Collector(house.settings)
        try:
            await collector.sample()
            seen = collector._historian._newest
            assert seen is not None
            then = replace(seen, at_us=seen.at_us - AGO_MS * 1000, now_ms=seen.now_ms - AGO_MS)
            historian = Historian()  # another than the leader's, which knows nothing of that minute
            historian.see(then)
            await historian.write(redis, (then.now_ms // 60_000 + 1) * 60_000 + 4_000)
            return then.at_us // 1000
        finally:
            await collector.stop()

    at_ms = int(house.run(store))
    house.queue.delete(IDLE)
    wait_for(lambda: house.queue.exists(keys.moment("m", at_ms // 60_000)), "the moment is stored")
    return at_ms


def moment(at_ms: int) -> str:
    """The first second after *at_ms*, as an address carries it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms // 1000 + 1))


def test_every_page_is_shown_as_of_a_moment_and_back(window: Window, remembered: int) -> None:
    page = window.open("history")

    page.get_by_label("As of, UTC").fill(moment(remembered))
    page.get_by_role("button", name="Go", exact=True).click()
    page.get_by_text(re.compile("^As of .* not live")).wait_for()
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("heading", name="Overview").wait_for()

    assert "at=" in page.url
    page.get_by_role("link", name=f"3 waiting in {IDLE}").wait_for()
    assert page.get_by_role("button", name=re.compile("^Pause ")).count() == 0
    assert page.get_by_role("button", name="Submit a job").count() == 0
    page.keyboard.press("g")
    page.keyboard.press("w")
    page.get_by_role("heading", name="Workers").wait_for()
    page.get_by_text(re.compile("^As of .* not live")).wait_for()
    page.get_by_role("link", name="Back to now").click()
    page.get_by_role("group", name="Time travel").wait_for(state="detached")
    assert "at=" not in page.url


def test_the_slider_goes_back_and_says_when_nothing_was_stored(window: Window) -> None:
    page = window.open("history")

    slider = page.get_by_label("As of: how long ago")
    slider.focus()
    page.keyboard.press("Home")

    page.get_by_text(re.compile("^Nothing to show as of")).wait_for()
    page.get_by_role("link", name="Back to now").click()
    page.get_by_text(re.compile("^Nothing to show as of")).wait_for(state="detached")


def test_a_metric_over_a_range_is_an_address(window: Window) -> None:
    page = window.open("history")

    page.get_by_label("Metric").select_option("Most waiting")
    page.wait_for_url("**metric=waiting_max**")
    page.get_by_label("Queue or stream").select_option(IDLE)
    chosen = page.locator(f'a[href*="name={IDLE}"][href*="metric=waiting_max"]')
    chosen.filter(has_text="60 min").click()

    page.get_by_text("one point is 1 m").wait_for()
    assert f"name={IDLE}" in page.url
    assert "metric=waiting_max" in page.url
    assert "range=60m" in page.url
    drawn = "() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])" \
        ".some(m => m.type === 'ColumnDataSource' && [...(m.data.get?.('waiting_max:0') ?? m.data['waiting_max:0'] ?? [])]" \
        ".includes(3))"  # fmt: skip
    page.wait_for_function(drawn, timeout=20_000)


def test_what_happened_is_listed_beside_the_charts(window: Window, house: House) -> None:
    page = window.open(f"queue?name={IDLE}")
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("button", name="Resume", exact=True).first.wait_for()

    page.get_by_role("link", name="History").click()

    table = page.get_by_role("table", name="What happened, newest first")
    table.get_by_text("Paused").wait_for(timeout=40_000)
    assert IDLE in table.inner_text()
    house.queue.srem(keys.PAUSED_QUEUES, IDLE)


def test_a_queue_has_ranges_and_a_forecast_with_what_if(window: Window) -> None:
    page = window.open(f"queue?name={QUEUE}")

    page.get_by_role("link", name="24 h", exact=True).click()
    page.get_by_text("24 h", exact=True).first.wait_for()
    forecast = page.get_by_role("region", name="Forecast")
    forecast.get_by_role("status").wait_for()
    slider = page.get_by_label("Workers, what if")
    slider.focus()
    page.keyboard.press("ArrowRight")

    forecast.get_by_text(re.compile(r"\d+ \(\+1\)")).wait_for()
    assert "range=24h" in page.url
    assert "workers=" in page.url


def test_a_chart_stands_by_itself(window: Window) -> None:
    page = window.open(f"chart?chart=backlog&name={QUEUE}&range=60m")

    page.locator("canvas").first.wait_for()
    assert page.title().startswith(f"Backlog of {QUEUE}")
    assert not page.get_by_role("navigation", name="Pages and queues").is_visible()
    window.go("chart?chart=nonsense")
    page.get_by_text("There is no chart 'nonsense'").wait_for()


def test_another_theme_keeps_the_stretch_and_the_names_somebody_looks_at(window: Window) -> None:
    """
    Colours are changed in place; no chart is drawn anew, on whichever theme it was opened.
    """
    page = window.open("queues")
    charts = "Bokeh.documents.flatMap(doc => doc.roots()).filter(root => root.type === 'Figure')"
    page.wait_for_function(
        f"{charts}.length === 4 && {charts}.every(one => one.x_range.end > 1e12)"
    )
    before = page.evaluate(
        f"""() => {{
          const figures = {charts}, {{x_range}} = figures[1]
          x_range.have_updated_interactively = true
          x_range.setv({{start: x_range.end - 60000}})
          figures[1].renderers[0].visible = false
          window.first = figures[1]
          return [x_range.start, x_range.end, figures[1].title.text_color]
        }}"""
    )

    page.locator("[data-intent=turn-theme]").click()
    page.wait_for_function(f"ink => {charts}[1].title.text_color !== ink", arg=before[2])
    after = page.evaluate(
        f"""() => {{
          const chart = {charts}[1]
          return [chart.x_range.start, chart.x_range.end, chart === window.first, chart.renderers[0].visible]
        }}"""
    )
    page.locator("[data-intent=turn-theme]").click()
    page.wait_for_function(f"ink => {charts}[1].title.text_color === ink", arg=before[2])

    assert after == [before[0], before[1], True, False]


def test_the_first_chart_of_a_session_holds_the_minutes_before_it(window: Window) -> None:
    """
    The minute was stored before this server's samples reach back: it stands in the chart.
    """
    page = window.open()

    page.wait_for_function(
        "() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])"
        ".some(m => m.name === 'marks')",
        timeout=20_000,
    )


def test_a_brushed_stretch_is_offered_as_an_incident_bundle(
    window: Window, house: House, tmp_path: Any
) -> None:
    page = window.open(f"queue?name={QUEUE}&range=60m")
    canvas = page.locator(".part-charts canvas").first
    canvas.wait_for()
    page.wait_for_function(
        "() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])"
        ".some(m => m.type === 'DataRange1d' && m.end > 1e12)",
        timeout=20_000,
    )
    box = canvas.bounding_box()
    across = [box["x"] + box["width"] * share for share in (0.5, 0.8)]
    middle = box["y"] + box["height"] * 0.5

    page.mouse.move(across[0], middle)
    page.mouse.down()
    page.mouse.move(across[1], middle, steps=8)
    page.mouse.up()
    offer = page.locator(".stretch")
    offer.wait_for()
    with page.expect_download() as told:
        offer.get_by_role("link", name="Incident bundle of this stretch").click()

    file = tmp_path / "bundle.zip"
    told.value.save_as(file)
    assert re.fullmatch(r"incident-\d{8}-\d{4}\.zip", told.value.suggested_filename)
    with zipfile.ZipFile(file) as packed:
        assert packed.testzip() is None
        history = pd.read_parquet(io.BytesIO(packed.read("frames/history.parquet")))
        packed.extract("charts/charts.html", tmp_path)
    assert set(history["source"]) == {QUEUE}
    span_s = (history["at"].max() - history["at"].min()).total_seconds()
    assert 600 <= span_s <= 1_600  # three tenths of an hour, to the minute
    newest = house.queue.xrevrange(keys.AUDIT, count=1)[0][1]["body"]
    assert '"action":"make_incident"' in newest
    page.get_by_role("button", name="Close the stretch").click()
    offer.wait_for(state="detached")

    page.goto((tmp_path / "charts" / "charts.html").as_uri())
    page.locator("canvas").first.wait_for()


def test_a_window_of_the_history_is_a_bundle_too_unless_it_is_too_long(window: Window) -> None:
    page = window.open("history?range=60m")

    link = page.get_by_role("link", name="Incident bundle of this stretch")
    link.wait_for()
    assert re.search(r"incident\?start=\d{4}.*&end=\d{4}", link.get_attribute("href"))
    page.get_by_role("link", name="30 d", exact=True).click()
    refused = page.get_by_role("button", name="Incident bundle of this stretch")
    refused.wait_for()
    assert refused.get_attribute("aria-disabled") == "true"


@pytest.fixture(scope="module")
def walker(house: House) -> dict[str, int]:
    """
    A job that failed 20 minutes ago and died 5 minutes ago, by the records workers leave; named moments.
    """
    now = int(time.time() * 1000)
    at = {name: now - minutes * 60_000 for name, minutes in
          {"before": 30, "retrying": 10, "dead": 3}.items()}  # fmt: skip
    told: dict[str, Any] = {
        "job_id": "walker",
        "queue": IDLE,
        "function": "data-sync",
        "worker": "w",
    }
    for attempt, began, outcome in ((1, 21, Outcome.RETRY), (2, 6, Outcome.DEAD)):
        start = now - began * 60_000
        run = JobRun(
            outcome=outcome, attempt=attempt, enqueued_ms=now - 22 * 60_000, due_ms=start - 10,
            started_ms=start, finished_ms=start + 60_000, error="TimeoutError: too late", **told,
        )  # fmt: skip
        house.queue.xadd(keys.runs(IDLE), {"r": run.to_json()})
    letter = DeadLetter(
        id="walker", kind="job", source=IDLE, name="data-sync", state=LetterState.NEW,
        reason="attempts", error_type="TimeoutError", error="too late", attempts=2,
        enqueued_ms=now - 22 * 60_000, died_ms=now - 5 * 60_000, changed_ms=now - 5 * 60_000,
    )  # fmt: skip
    house.queue.hset(keys.dead_record(IDLE, "walker"), mapping=letter.to_fields())
    house.queue.zadd(keys.dead_open(IDLE), {"walker": letter.died_ms})
    house.queue.sadd(keys.QUEUES, IDLE)
    return at


def test_one_job_is_shown_as_of_then(window: Window, walker: dict[str, int]) -> None:
    where = f"job?queue={IDLE}&id=walker&at="

    page = window.open("history")
    window.go(where + moment(walker["before"]))
    page.get_by_text("It did not exist yet.").wait_for()
    window.go(where + moment(walker["retrying"]))
    page.get_by_role("region", name="Life of the job").get_by_text("none yet").wait_for()
    page.locator(".title .state").get_by_text("retrying", exact=True).wait_for()
    attempts = page.get_by_role("table", name="Attempts up to then").locator("tbody tr")
    attempts.first.wait_for()
    assert attempts.count() == 1
    assert page.locator("dd .state.c-unknown").first.get_attribute("title")
    window.go(where + moment(walker["dead"]))
    page.get_by_role("link", name="walker").wait_for()
    page.locator(".title .state").get_by_text("dead", exact=True).wait_for()
    assert page.get_by_role("button", name="Retry").count() == 0


def test_one_letter_is_shown_as_of_then_whatever_was_done_since(
    window: Window, walker: dict[str, int]
) -> None:
    where = f"dead-letter?source={IDLE}&id=walker"
    page = window.open(where)
    page.get_by_role("button", name="Discard", exact=True).click()
    page.locator(".title").get_by_text("discarded").wait_for()

    window.go(f"{where}&at={moment(walker['retrying'])}")
    page.get_by_text("It did not exist yet").wait_for()
    window.go(f"{where}&at={moment(walker['dead'])}")
    page.locator(".title .state").get_by_text("open", exact=True).wait_for()
    assert page.get_by_text("Nobody did anything to it by itself.").is_visible()
    window.go(f"{where}&at={moment(int(time.time() * 1000))}")
    page.locator(".title .state").get_by_text("discarded").wait_for()
    page.get_by_role("table", name="What people did to it").get_by_text(
        "discarded the letter"
    ).wait_for()


def test_operations_and_audit_are_those_of_then(
    window: Window, house: House, walker: dict[str, int]
) -> None:
    async def ask(redis: Any) -> str:
        made, _ = await operations.create(
            redis, Operation(id=operations.new_id(), kind="retry_letters", source=QUEUE, matched=9)
        )
        await audit.record(redis, "ann", "start_operation", QUEUE, {"operation": made.id})
        return made.id

    house.run(ask)
    page = window.open("history")
    window.go(f"operations?at={moment(walker['before'])}")
    page.get_by_text("No bulk action had been asked for.").wait_for()
    page.get_by_text("Nobody has done anything yet.").wait_for()

    window.go(f"operations?at={moment(int(time.time() * 1000))}")

    page.get_by_role("table", name="Operations, newest first").get_by_text(
        "Retry dead letters"
    ).wait_for()
    page.get_by_role("table", name="Audit, newest first").get_by_text(
        "started a bulk action"
    ).first.wait_for()
    assert page.get_by_role("button", name=re.compile("^(Pause|Abort) ")).count() == 0


def test_alerts_are_those_of_then(window: Window, house: House, walker: dict[str, int]) -> None:
    async def fire(redis: Any) -> None:
        facts = {"id": "rule-past", "kind": "rule", "title": "Backlog grows", "source": QUEUE}
        await alerts.raise_alert(redis, facts, mark="past", window_s=60)

    house.run(fire, "cache")
    page = window.open("history")
    window.go(f"alerts?at={moment(walker['before'])}")
    page.get_by_text("No alert that is stored had fired by then.").wait_for()

    window.go(f"alerts?at={moment(int(time.time() * 1000))}")

    listed = page.get_by_role("table", name="Alerts, newest first")
    listed.get_by_text("Backlog grows").wait_for()
    assert page.get_by_role("button", name=re.compile("^Acknowledge")).count() == 0


def test_settings_say_what_of_then_is_stored_and_what_is_not(
    window: Window, house: House, remembered: int
) -> None:
    async def mark(redis: Any) -> None:
        told = json.dumps({"kind": "deploy", "source": "", "version": "9.1", "actor": "kim"})
        await redis.zadd(keys.MARKS, {told: remembered - 60_000})

    house.run(mark)
    page = window.open("history")
    window.go(f"settings?at={moment(remembered)}")

    page.get_by_role("region", name="Not stored").get_by_text("is not stored").wait_for()
    page.get_by_role("table", name="What was changed").get_by_text("9.1").wait_for()
    page.get_by_role("table", name="Versions that ran").get_by_text(QUEUE).wait_for()
    page.get_by_role("table", name="Redis servers").get_by_text("up").first.wait_for()
    assert page.get_by_role("region", name="Settings in effect").count() == 0


def test_what_is_no_moment_shows_nothing_of_now(window: Window, walker: dict[str, int]) -> None:
    page = window.open("history")
    window.go(f"job?queue={IDLE}&id=walker&at=yesterday")

    page.get_by_text("is not a moment").first.wait_for()
    assert page.get_by_role("table", name="Attempts up to then").count() == 0
