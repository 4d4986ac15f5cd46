"""The pages in a real browser, with a real Redis and a real worker: main paths, walks, attacks, access."""

import json
import re
import signal

import pytest
from playwright.sync_api import Page

from app import keys
from app.enqueue import JobRequest
from app.pages.address import PLACES
from tests.browser.conftest import AXE, CHECK, DENIED, House, Window, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

#: what the four walks are about: one broken queue, one paused one, one commonest cause
IDLE, PAUSED, SERVED = "long-running-jobs", "event-driven-jobs", "async-processing"


def fails(error: str = DENIED, **more: object) -> JobRequest:
    data = {"shouldFail": True, "error": error, "duration": 1, **more}
    return JobRequest(name="generic", args=(data,), attempts=1)


@pytest.fixture(scope="module", autouse=True)
def trouble(house: House) -> None:
    """
    What a person on call finds: nobody serves a queue, one is paused, jobs die of two causes.
    """
    house.queue.sadd(keys.PAUSED_QUEUES, PAUSED)
    house.enqueue(IDLE, JobRequest(name="bulk-operation", args=({"items": 3},)))
    house.enqueue(PAUSED, JobRequest(name="notification", args=({"userId": "u1"},), id="stuck-1"))
    house.enqueue(SERVED, *(fails() for _ in range(5)), fails("ConnectionRefusedError: db is away"))
    house.enqueue(
        SERVED, JobRequest(name="data-sync", args=({"records": 10, "duration": 5},), id="good-1")
    )
    house.enqueue(SERVED, JobRequest(name="generic", args=({},), id="later-1", delay_s=3600))
    wait_for(lambda: house.queue.zcard(keys.dead_open(SERVED)) >= 5, "five letters")
    wait_for(
        lambda: house.queue.zcard(keys.dead_retrying(SERVED)) == 1, "a policy retries the sixth"
    )


# -- four walks of a person who has never seen it: visible labels only --------------------------------


def test_what_is_broken_is_one_click_away(window: Window) -> None:
    page = window.open()

    page.get_by_text("degraded", exact=True).click()

    page.get_by_text(f"No worker takes jobs of {IDLE}: 1 wait.").first.wait_for()


def test_why_one_job_does_not_run_is_said_on_its_page(window: Window) -> None:
    page = window.open()

    page.get_by_role("link", name="Jobs", exact=True).click()
    page.get_by_label("Queue", exact=True).select_option(PAUSED)
    page.get_by_role("link", name="notification").click()

    page.get_by_text(f"Why it does not run: {PAUSED} is paused.").wait_for()
    page.get_by_role("link", name="Open the queue").click()
    page.get_by_role("button", name="Resume", exact=True).wait_for()


def test_the_commonest_cause_stands_first(window: Window) -> None:
    page = window.open()

    page.get_by_role("link", name="Dead letters").first.click()

    causes = page.get_by_role("table", name="Causes, commonest first")
    causes.wait_for()
    first = causes.locator("tbody tr").first.inner_text()
    assert "PermissionError" in first
    assert "generic" in first


def test_a_letter_is_retried_with_one_click_and_its_retry_can_be_watched(
    window: Window, house: House
) -> None:
    page = window.open("dead-letters")
    before = int(house.queue.hget(keys.totals(SERVED), "redriven") or 0)

    page.get_by_role("button", name=re.compile("^Retry generic ")).first.click()

    page.get_by_role("link", name="Watch it").click()
    page.get_by_role("list", name="Timeline").wait_for()
    assert int(house.queue.hget(keys.totals(SERVED), "redriven")) == before + 1
    assert re.search(r"~r\d", page.url)


def test_the_commonest_cause_is_retried_as_a_canary(window: Window, house: House) -> None:
    """
    Five letters of one cause: two go first, both fail again, the rest is left alone.
    """
    page = window.open("dead-letters")
    row = page.get_by_role("table", name="Causes, commonest first").locator("tbody tr").first

    row.get_by_role("button", name=re.compile("^Retry the")).click()
    page.get_by_text(re.compile("open letters? match")).wait_for()
    page.get_by_label("Canary: retry first").fill("2")
    page.get_by_label("Stop when more than this fail, %").fill("0")
    page.get_by_label("Reason, kept in the record").fill("is the token renewed?")
    page.get_by_role("button", name=re.compile("^Retry .* letters?$")).last.click()

    page.get_by_role("heading", name="Operations").wait_for()
    page.get_by_text("stopped", exact=True).first.wait_for()
    made = page.get_by_role("table", name="Operations, newest first").locator("tbody tr").first
    assert "Retry dead letters" in made.inner_text()
    operation = house.queue.zrevrange(keys.OPERATIONS, 0, 0)[0]
    record = house.queue.hgetall(keys.operation(operation))
    assert (record["canary"], record["reason"]) == ("2", "is the token renewed?")
    assert int(record["done"]) + int(record["failed"]) == 2


# -- main paths -----------------------------------------------------------------------------------


def test_every_page_has_an_address_of_its_own_and_lives(window: Window) -> None:
    for name, place in PLACES.items():
        if name in ("job", "dead-letter"):
            continue
        page = window.go(name)
        if name not in ("queue", "chart"):  # titled after what they show
            assert page.locator("main h1").first.inner_text() == place.title
            assert page.title().startswith(place.title)


def test_switching_pages_keeps_the_session_and_back_works(window: Window) -> None:
    page = window.open()
    sockets: list[str] = []
    page.on("websocket", lambda ws: sockets.append(ws.url))

    page.get_by_role("link", name="Workers", exact=False).first.click()
    page.get_by_role("table", name="Processes").wait_for()
    page.keyboard.press("g")
    page.keyboard.press("j")
    page.get_by_role("navigation", name="States").wait_for()
    assert page.url.endswith("/admin/jobs")
    page.go_back()

    page.get_by_role("table", name="Processes").wait_for()
    assert page.url.endswith("/admin/workers")
    assert sockets == []


def test_a_filter_is_in_the_address_and_can_be_pasted(window: Window, house: House) -> None:
    page = window.open("jobs")
    page.get_by_label("Queue", exact=True).select_option(SERVED)
    page.locator(f'a.tab[href*="queue={SERVED}"]').first.wait_for()
    page.get_by_role("link", name="Complete").click()
    page.locator('a[aria-current="page"]', has_text="Complete").wait_for()
    page.get_by_label("Text", exact=True).fill("good-1")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="data-sync").wait_for()
    where = page.url

    page.goto("about:blank")
    page.goto(where)
    window.settle()

    assert page.get_by_role("link", name="data-sync").count() == 1
    assert page.get_by_label("Text", exact=True).input_value() == "good-1"


def test_a_job_is_submitted_in_a_dialog_and_followed_to_its_end(window: Window) -> None:
    page = window.open("jobs")

    page.get_by_role("button", name="Submit a job").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Queue", exact=True).select_option(SERVED)
    page.get_by_label("Data, a JSON object").fill("{not json")
    page.get_by_role("button", name="Submit job").click()
    page.get_by_role("alert").get_by_text("not JSON").wait_for()
    page.get_by_label("Data, a JSON object").fill('{"records": 3, "duration": 1}')
    page.get_by_role("button", name="Submit job").click()
    page.get_by_role("link", name="Watch it").click()

    page.get_by_text("Attempt 1: complete").wait_for()


def test_selected_rows_hold_the_list_and_can_be_made_due(window: Window, house: House) -> None:
    ids = house.enqueue(
        SERVED,
        *(JobRequest(name="generic", args=({"duration": 1},), delay_s=900, id=f"sel-{n}") for n in range(3)),
    )  # fmt: skip
    page = window.open(f"jobs?queue={SERVED}&state=deferred")

    page.get_by_label("Select sel-0").check()
    page.get_by_label("Select sel-1").check()
    page.get_by_text("2 selected").wait_for()
    page.get_by_role("button", name="Run now", exact=True).first.click()

    wait_for(
        lambda: all(house.queue.zscore(SERVED, i) is None for i in ids[:2]), "both jobs have run"
    )
    assert house.queue.zscore(SERVED, ids[2]) is not None


def test_a_waiting_job_is_put_off_and_a_delay_that_is_none_keeps_the_dialog(
    window: Window, house: House
) -> None:
    house.enqueue(SERVED, JobRequest(name="generic", args=({"duration": 1},), delay_s=900, id="put-off"))  # fmt: skip
    due = house.queue.zscore(SERVED, "put-off")
    page = window.open(f"job?queue={SERVED}&id=put-off")

    page.get_by_role("button", name="Reschedule …").click()
    dialog = page.get_by_role("dialog", name="Make this job due at another time")
    dialog.get_by_label("Due in").fill("soon")
    dialog.get_by_role("button", name="Reschedule").click()
    dialog.get_by_role("alert").wait_for()
    assert "delay='soon'" in dialog.get_by_role("alert").inner_text()
    assert dialog.get_by_label("Due in").input_value() == "soon"
    assert house.queue.zscore(SERVED, "put-off") == due

    dialog.get_by_label("Due in").fill("3h")
    dialog.get_by_role("button", name="Reschedule").click()
    page.get_by_text("put-off is due in 3 h").wait_for()

    assert dialog.count() == 0
    later_s = (house.queue.zscore(SERVED, "put-off") - due) / 1000
    assert 10_800 - 900 - 1 <= later_s < 10_800


def test_a_row_stays_open_while_the_page_refreshes(window: Window) -> None:
    page = window.open(f"jobs?queue={SERVED}&state=deferred")
    page.get_by_role("button", name="Show more of later-1").click()
    page.get_by_role("link", name="Open the job").wait_for()
    stamp = page.locator(".foot-line").first.inner_text()

    wait_for(lambda: page.locator(".foot-line").first.inner_text() != stamp, "a refresh")

    assert page.get_by_role("link", name="Open the job").is_visible()


def test_pausing_shows_at_once_and_reaches_redis(window: Window, house: House) -> None:
    page = window.open(f"queue?name={IDLE}")

    page.get_by_role("button", name="Pause", exact=True).click()
    page.locator("main").get_by_role("button", name="Resume", exact=True).first.wait_for()
    assert house.queue.sismember(keys.PAUSED_QUEUES, IDLE)
    page.locator("main").get_by_role("button", name="Resume", exact=True).first.click()

    page.get_by_role("button", name="Pause", exact=True).wait_for()
    assert not house.queue.sismember(keys.PAUSED_QUEUES, IDLE)


def test_the_keyboard_reaches_help_search_and_back(window: Window) -> None:
    page = window.open("jobs")

    page.keyboard.press("?")
    page.get_by_role("dialog", name="Help and keyboard").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    page.keyboard.press("/")

    assert page.get_by_label("Text", exact=True).evaluate("el => el.matches(':focus')")


# -- truth ----------------------------------------------------------------------------------------


def number(text: str) -> int:
    return int(re.sub(r"\D", "", text.splitlines()[1]))


# -- attacks --------------------------------------------------------------------------------------

CLICK_TWISTS = """() => {
  const all = (root) => [...root.querySelectorAll("*")].flatMap(el => el.shadowRoot ? [el, ...all(el.shadowRoot)] : [el])
  all(document).filter(el => el.matches("button.twist")).slice(0, 5).forEach(el => el.click())
}"""
EVIL = (
    "<script>window.pwned=1</script>",
    '"><img src=x onerror="window.pwned=1">',
    "javascript:window.pwned=1",
    "'-window.pwned=1-'",
    "</textarea></script><svg onload=window.pwned=1>",
    "{{constructor.constructor('window.pwned=1')()}}",
    "\u202eevil\u0000<b>",
)


def test_hostile_text_stays_text_on_every_page(window: Window, house: House) -> None:
    """
    Arguments, ids, errors, event fields and worker names come from whoever can write to Redis.
    """
    text = "".join(EVIL)
    house.enqueue(
        SERVED,
        JobRequest(name="generic", args=({"x": text, text: 1, "shouldFail": True, "error": f"PermissionError: {text}",
                                          "duration": 1},), attempts=1, id="evil-1", correlation_id="c1"),
        JobRequest(name="generic", args=({"x": text},), delay_s=900, id="evil-2"),
    )  # fmt: skip
    worker = {
        "id": "w<img src=x onerror=window.pwned=1>", "role": "worker", "host": text[:80], "pid": "1",
        "source": SERVED, "version": text[:40], "since_ms": "1", "beat_ms": "1", "trouble": text[:100],
        "state": text[:30], "jobs": json.dumps([{"id": text, "function": text, "started_ms": 1}]),
    }  # fmt: skip
    house.queue.hset(keys.worker(worker["id"]), mapping=worker)
    house.queue.zadd(keys.WORKERS, {worker["id"]: 9_000_000_000_000})
    streams = __import__("redis").Redis.from_url(house.redis.database(1))
    streams.xadd(
        house.settings.stream_name, {"type": text, "data": text, "source": text, "userId": text}
    )
    wait_for(lambda: house.queue.zscore(keys.dead_open(SERVED), "evil-1"), "its letter")

    for where in (
        *PLACES,
        f"jobs?queue={SERVED}&state=deferred",
        f"jobs?queue={SERVED}&state=failed",
        f"jobs?text={EVIL[1]}",
        f"job?queue={SERVED}&id=evil-1&tab=errors",
        f"job?queue={SERVED}&id=evil-2",
        f"dead-letter?source={SERVED}&id=evil-1&tab=data",
        f"dead-letter?source={SERVED}&id={EVIL[0]}",
        f"queue?name={EVIL[0]}",
        f"streams?type={EVIL[1]}",
    ):
        page = window.go(where)
        page.wait_for_timeout(100)
        page.evaluate(CLICK_TWISTS)
        assert page.evaluate("window.pwned") is None, where
        assert page.locator("main img, main script, main svg[onload]").count() == 0, where
    house.queue.delete(keys.worker(worker["id"]))
    house.queue.zrem(keys.WORKERS, worker["id"])


# -- access ---------------------------------------------------------------------------------------


def test_a_page_whose_redis_hangs_keeps_its_last_values_and_can_be_read(
    window: Window, house: House
) -> None:
    page = window.open()
    page.add_script_tag(path=str(AXE))
    process, before = house.redis.process, shown_numbers(page)
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        page.locator(".strip.stale").wait_for()
        assert shown_numbers(page) == before
        assert page.evaluate(CHECK) == []
    finally:
        process.send_signal(signal.SIGCONT)
    page.locator(".strip:not(.stale)").wait_for()


def shown_numbers(page: Page) -> list[int]:
    return [number(cell.inner_text()) for cell in page.locator(".strip > a").all()[:3]]


def test_a_phone_shows_everything_without_sideways_scroll(window: Window) -> None:
    """
    At 390 px the page is not wider than the screen, Retry is in sight, and the pages are in a menu.
    """
    window.page.set_viewport_size({"width": 390, "height": 844})
    for where in ("queues", "jobs", "dead-letters", "workers", "streams", "settings"):
        page = window.go(where)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, where

    page = window.open("dead-letters")
    box = page.get_by_role("button", name=re.compile("^Retry generic ")).first.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    page.get_by_role("button", name="Show the pages").click()
    page.get_by_role("link", name="Workers").first.click()
    page.get_by_role("table", name="Processes").wait_for()


def test_a_phone_shows_the_tab_that_is_chosen_and_that_there_are_more(window: Window) -> None:
    """
    Tabs wider than the screen are moved to the one chosen; a shadow lies where more are.
    """
    window.page.set_viewport_size({"width": 390, "height": 844})
    page = window.go("jobs?state=failed")
    chosen = page.get_by_role("link", name="Failed runs")
    chosen.wait_for()

    wait_for(
        lambda: chosen.evaluate(
            """tab => { const at = tab.getBoundingClientRect(), row = tab.parentNode.getBoundingClientRect()
                        return at.left >= row.left && at.right <= row.right + 1 }"""
        ),
        "the chosen tab is in sight",
        5,
    )
    tabs = page.locator(".tabs").first
    assert tabs.evaluate("row => row.scrollWidth > row.clientWidth && row.scrollLeft > 0")
    assert tabs.evaluate("row => getComputedStyle(row).backgroundAttachment") == (
        "local, local, scroll, scroll"
    )


#: the widest space in a row of a table between the text of one cell and that of the next
_HOLE = """table => {
  const text = (cell) => { const all = document.createRange(); all.selectNodeContents(cell); return all.getBoundingClientRect() }
  const row = [...table.querySelectorAll("tbody tr:not(.more)")][0]
  const cells = [...row.cells].map(text).filter(box => box.width)
  return Math.max(...cells.slice(1).map((box, n) => box.left - cells[n].right))
}"""


def test_the_eye_can_follow_a_row_from_one_column_to_the_next(window: Window, house: House) -> None:
    """
    At 1440 px no column takes all that is left while its text is short.
    """
    window.page.set_viewport_size({"width": 1440, "height": 1000})
    house.enqueue("async-processing", JobRequest(name="generic"))
    for where, name in (
        ("workers", "Processes"),
        ("jobs?queue=async-processing&state=complete", "Complete jobs of async-processing"),
    ):
        page = window.go(where)
        table = page.get_by_role("region", name=name).get_by_role("table")
        wait_for(lambda table=table: table.count() == 1, f"{name} has rows")  # type: ignore[misc]

        assert table.evaluate(_HOLE) < 240, where
