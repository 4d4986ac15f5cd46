"""Who cannot use a mouse, sees little or is made sick by motion: every page, its states and dialogs."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from app import keys
from app.enqueue import JobRequest
from app.pages.address import PLACES
from tests.browser.conftest import AXE, CHECK, DENIED, House, Window, wait_for
from tests.browser.test_past import moment, remembered  # noqa: F401 - a fixture

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

IDLE, SERVED = "long-running-jobs", "async-processing"
#: pages that need no more than their name
PLAIN = tuple(name for name in PLACES if name not in ("job", "dead-letter"))
#: what a keyboard must reach, in the order of the document; what it has reached; what it stands on
_WALK = """() => {
  window.standing = () => {
    let at = document.activeElement
    while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement
    return at
  }
  window.pieces = () => {
    const all = node => [...node.querySelectorAll("*")].flatMap(
      el => el.shadowRoot ? [el, ...all(el.shadowRoot)] : [el])
    const reachable = el => el.matches("a[href], button, input, select, textarea, summary, [tabindex='0']")
      && !el.disabled && el.type !== "hidden" && el.checkVisibility({visibilityProperty: true}) && !el.closest("[inert]")
      && (!el.closest("details:not([open])") || el.tagName === "SUMMARY")
    return all(document.getElementById("page")).filter(reachable)
  }
  window.said = el => (el.getAttribute("aria-label") || el.textContent || el.name || el.className).trim().slice(0, 60)
}"""


#: fields whose edge has less than 3:1 against what is inside or around them, as the browser computes both
_FIELDS = """() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
  const pen = canvas.getContext("2d", {willReadFrequently: true})
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1)
    pen.fillStyle = colour
    pen.fillRect(0, 0, 1, 1)
    return [...pen.getImageData(0, 0, 1, 1).data]
  }
  const ground = (el) => {
    for (let at = el; at; at = at.assignedSlot || at.parentElement || at.getRootNode().host) {
      const colour = rgba(getComputedStyle(at).backgroundColor)
      if (colour[3] === 255) return colour
    }
    return [255, 255, 255]
  }
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map(n => n / 255).map(n => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05)
  const all = node => [...node.querySelectorAll("*")].flatMap(el => el.shadowRoot ? [el, ...all(el.shadowRoot)] : [el])
  const fields = all(document).filter(el => el.matches(
    "input:not([type=checkbox], [type=range], [type=hidden]), select, textarea") && !el.disabled && el.checkVisibility())
  const wrong = []
  for (const el of fields) {
    const style = getComputedStyle(el)
    const edge = rgba(style.borderTopColor)
    const least = Math.min(contrast(edge, ground(el)), contrast(edge, ground(el.parentElement || el.getRootNode().host)))
    if (edge[3] < 255 || parseFloat(style.borderTopWidth) < 1 || least < 3)
      wrong.push(`field ${el.name || el.getAttribute("aria-label")}: its edge has ${least.toFixed(2)}:1`)
  }
  return {wrong, seen: fields.length}
}"""


@pytest.fixture(scope="module")
def told(house: House) -> dict[str, str]:
    """
    Addresses of one job, one letter and one cause, of jobs that fail, wait and are put off.
    """
    failing = {"shouldFail": True, "error": DENIED, "duration": 1}
    dead, *_ = house.enqueue(
        SERVED, *(JobRequest(name="generic", args=(failing,), attempts=1) for _ in range(3))
    )
    house.enqueue(
        SERVED, JobRequest(name="data-sync", args=({"records": 9, "duration": 5},), id="good")
    )
    house.enqueue(SERVED, JobRequest(name="generic", args=({},), id="later", delay_s=3600))
    house.enqueue(IDLE, JobRequest(name="bulk-operation", args=({"items": 3},), id="stuck"))
    wait_for(lambda: house.queue.zcard(keys.dead_open(SERVED)) >= 3, "three letters")
    letter = house.queue.zrange(keys.dead_open(SERVED), 0, 0)[0]
    prints = house.queue.hget(keys.dead_record(SERVED, letter), "fingerprint")
    return {
        "job": f"job?{urlencode({'queue': SERVED, 'id': dead})}",
        "good": f"job?{urlencode({'queue': SERVED, 'id': 'good'})}",
        "later": f"job?{urlencode({'queue': SERVED, 'id': 'later'})}",
        "letter": f"dead-letter?{urlencode({'source': SERVED, 'id': letter})}",
        "cause": f"dead-letters?{urlencode({'cause': prints})}",
    }


def places(told: dict[str, str], remembered: int) -> list[str]:
    """Every page, and its states that have an address; the moment stored is shown on all that know one."""
    then = moment(remembered)
    return [
        *PLAIN,
        *told.values(),
        *(f"{told['job']}&tab={tab}" for tab in ("data", "result", "progress", "trail")),
        *(f"{told['letter']}&tab={tab}" for tab in ("data", "trail")),
        *(f"jobs?queue={SERVED}&state={state}" for state in ("complete", "failed", "deferred")),
        f"queue?name={SERVED}&range=60m",
        "queue?name=nobody-knows-it",
        "chart?chart=wait_p95_s",
        "streams?tail=1",
        "history?range=7d&metric=waiting",
        *(f"{page}?at={then}" for page in ("queues", "queue", "jobs", "dead-letters", "streams",
                                           "workers", "schedules", "history")),
        "queues?at=2020-01-01T00:00:00Z",
    ]  # fmt: skip


#: dialogs: the page, the control that opens it, and what has to be done before
DIALOGS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("queues", "Submit a job", ()),
    ("queues", "Help and keyboard", ()),
    (f"queue?name={SERVED}", "Failed …", ()),
    ("later", "Reschedule …", ()),
    ("later", "Cancel …", ()),
    ("cause", "Retry all …", ()),
    ("cause", "Discard all …", ()),
    ("streams", "Publish an event", ()),
    ("streams", "Replay …", ()),
    ("pubsub", "Send a notification", ()),
    ("workers", "Stop ", ()),
)


@pytest.fixture
def examined(window: Window) -> Callable[[], list[str]]:
    """What axe finds on the page as it is (its script is put in once), and fields hard to see."""

    def look() -> list[str]:
        if not window.page.evaluate("'axe' in window"):
            window.page.add_script_tag(path=str(AXE))
        found: list[str] = window.page.evaluate(CHECK)
        fields = window.page.evaluate(_FIELDS)
        bare = window.page.locator(
            '.frame[data-page="chart"]'
        ).count()  # a chart by itself has no head
        assert fields["seen"] or bare, "the head alone has a field"
        return [*found, *fields["wrong"]]

    return look


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_and_no_state_has_a_barrier_axe_can_see(
    window: Window,
    told: dict[str, str],
    remembered: int,
    examined: Callable[[], list[str]],
    theme: str,
) -> None:
    """
    Contrast, names, roles, landmarks: WCAG A and AA; the edge of every field has 3:1 (1.4.11).
    """
    window.page.emulate_media(color_scheme=theme)
    barriers: dict[str, list[str]] = {}
    for where in places(told, remembered):
        page = window.go(where)
        page.get_by_text("Reading …").first.wait_for(state="detached")
        if found := examined():
            barriers[where] = found

    assert barriers == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_dialog_has_a_barrier_and_each_is_left_by_escape(
    window: Window, told: dict[str, str], examined: Callable[[], list[str]], theme: str
) -> None:
    """
    A dialog takes the focus, keeps it while Tab goes round, and gives it back to what opened it.
    """
    window.page.emulate_media(color_scheme=theme)
    barriers: dict[str, list[str]] = {}
    for where, control, _ in DIALOGS:
        page = window.go(told.get(where, where))
        page.evaluate(_WALK)
        page.get_by_role("button", name=re.compile(f"^{re.escape(control)}")).first.click()
        dialog = page.get_by_role("dialog")
        dialog.wait_for()
        if found := examined():
            barriers[f"{where}: {control}"] = found
        for _ in range(12):
            page.keyboard.press("Tab")
            assert page.evaluate(
                "standing() === document.body || !!standing().closest('dialog')"
            ), control
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")
        wait_for(
            lambda page=page, control=control: (  # type: ignore[misc]
                page.evaluate("standing() ? said(standing()) : ''").startswith(control.strip())
            ),
            f"{control} has the focus again",
            5,
        )

    assert barriers == {}


def test_the_open_menu_of_a_phone_and_a_notice_have_no_barrier(
    window: Window, told: dict[str, str], examined: Callable[[], list[str]]
) -> None:
    window.page.set_viewport_size({"width": 390, "height": 844})
    page = window.open("queues")
    page.get_by_role("button", name="Show the pages").click()
    assert examined() == []
    page.get_by_role("link", name="Jobs", exact=True).click()
    page = window.go(told["letter"])
    page.get_by_role("button", name="Archive", exact=True).click()
    page.get_by_role("button", name="Dismiss").wait_for()
    assert examined() == []


def test_the_keyboard_reaches_every_control_of_every_page_in_the_order_it_stands(
    window: Window, told: dict[str, str], remembered: int
) -> None:
    """
    Tab from the beginning: what has the focus is seen to have it, and nothing that can be pressed is left out.
    """
    page = window.open("queues")
    page.get_by_label("Refresh the page").select_option("0")  # nothing comes or goes meanwhile
    left_out: dict[str, list[str]] = {}
    for where in (*PLAIN, *told.values(), f"jobs?queue={SERVED}&state=deferred",
                  f"queues?at={moment(remembered)}"):  # fmt: skip
        page = window.go(where)
        page.get_by_text("Reading …").first.wait_for(state="detached")
        page.evaluate(_WALK)
        page.evaluate(_BEGIN)
        for _ in range(page.evaluate("wanted.length") + 12):
            page.keyboard.press("Tab")
            if page.evaluate(_STEP):
                break
        missed = page.evaluate(
            "wanted.filter(el => el.isConnected && !reached.includes(el)).map(said)"
        )
        wrong = page.evaluate(_FAULTS)
        if missed or wrong:
            left_out[where] = [*missed, *wrong]

    assert left_out == {}


#: stand on the first control, which skips to the content
_BEGIN = """() => {
  window.reached = []
  window.seen = new Set()
  window.wanted = pieces()
  wanted[0].focus()
  seen.add(wanted[0])
  reached.push(wanted[0])
}"""
#: one press of Tab further: true when the walk is round
_STEP = """() => {
  const at = standing()
  if (!at || at === document.body || reached.includes(at)) return reached.length > 0
  const look = getComputedStyle(at)
  if (look.outlineStyle !== "none" && parseFloat(look.outlineWidth) > 0) seen.add(at)
  reached.push(at)
  return false
}"""
#: what has the focus without showing it, and what comes before what stands before it
_FAULTS = """() => {
  const unseen = reached.filter(el => !seen.has(el)).map(el => "not seen: " + said(el))
  const ordered = wanted.filter(el => reached.includes(el))
  const known = reached.filter(el => ordered.includes(el))
  const first = known.findIndex((el, n) => el !== ordered[n])
  return first < 0 ? unseen : [...unseen, "out of order: " + said(known[first])]
}"""


def test_twice_as_large_loses_nothing(window: Window, told: dict[str, str]) -> None:
    """
    200 % of a window 1,440 wide: 720 px of the page are seen, nothing is cut off at the right.
    """
    window.page.set_viewport_size({"width": 720, "height": 450})
    lost: dict[str, list[str]] = {}
    for where in (*PLAIN, *told.values()):
        page = window.go(where)
        page.get_by_text("Reading …").first.wait_for(state="detached")
        page.evaluate(_WALK)
        assert page.evaluate("document.documentElement.scrollWidth") <= 720, where
        if outside := page.evaluate(_OUTSIDE):
            lost[where] = outside

    assert lost == {}


#: controls that stand outside the window and cannot be scrolled into it
_OUTSIDE = """() => pieces().filter(el => {
  const box = el.getBoundingClientRect()
  const scrolls = el.parentElement?.closest(".scroll, .tabs, .part-rail, .timeline, pre")
  return !scrolls && box.width && (box.left < -1 || box.right > innerWidth + 1) && !el.classList.contains("skip")
}).map(said)"""


def test_who_asked_for_less_motion_sees_none(window: Window, told: dict[str, str]) -> None:
    window.page.emulate_media(reduced_motion="reduce")
    for where in ("queues", "jobs", "streams", "history", told["letter"]):
        page = window.go(where)
        assert page.evaluate(_MOVING) == [], where


_MOVING = """() => {
  const all = node => [...node.querySelectorAll("*")].flatMap(el => el.shadowRoot ? [el, ...all(el.shadowRoot)] : [el])
  const moves = el => { const look = getComputedStyle(el)
    return look.animationName !== "none" || parseFloat(look.transitionDuration) > 0 || look.scrollBehavior === "smooth" }
  return all(document).filter(moves).map(el => el.tagName + "." + el.className)
}"""


def test_nothing_jumps_while_a_page_comes_in(
    profile: Any, house: House, told: dict[str, str]
) -> None:
    """
    The first paint stands still, and where the page will stand; the sum of all shifts from then on is what
    Chromium calls good. Under the first paint, which covers it, a page may come together piece by piece.
    """
    letters = profile.new_page()  # whoever comes first may see other letters until ours are there
    letters.goto(f"{house.url}/admin/queues")
    letters.evaluate("document.fonts.ready.then(() => 0)")
    letters.close()
    compared = 0
    for width, height in ((1440, 1000), (390, 844)):
        for where in ("queues", "queue", "streams", "pubsub", "chart", told["job"]):
            # an alert that fires between the first paint and the page is news: then look once more
            for _ in range(5):
                stood, bared, live, shifts, has_news = _came_in(
                    profile, house, where, width, height
                )
                if not has_news:
                    break
            assert not has_news, (where, width)
            assert sum(value for value, *_ in shifts) < 0.1, (where, width, shifts)
            assert bared == live, (where, width, bared)
            assert stood in ([], [live]), (where, width, stood, live)
            compared += len(stood)
    assert compared > 0


def _came_in(profile: Any, house: House, where: str, width: int, height: int) -> tuple[Any, ...]:
    """Open a page: where it stood in the first paint, bared, and then; what shifted; whether its words changed."""
    page = profile.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.add_init_script(_SHIFTS.replace("STANDS", _STANDS).replace("SAYS", _SAYS))
    page.goto(f"{house.url}/admin/{where}")
    page.wait_for_function("!document.getElementById('first')")
    page.locator(".frame .part-foot time").first.wait_for(state="attached")
    page.wait_for_function("performance.now() > gone + 1500")
    live = page.evaluate(_STANDS, False)
    stood, bared, shifts, said = page.evaluate("[stood, bared, shifts, said]")
    says = page.evaluate(_SAYS, False)
    page.close()
    return stood, bared, live, shifts, said is not None and said != says


#: where the first paint stood in any frame, and the page as it was bared; the shifts after that frame
_SHIFTS = """
  window.shifts = []
  window.stood = []
  window.said = null
  window.gone = Infinity
  let seen = Infinity
  const stands = STANDS
  const says = SAYS
  const look = () => {
    const found = document.body && document.readyState !== "loading" && stands(true) // whole, not half parsed
    if (found && JSON.stringify(found) !== JSON.stringify(stood.at(-1))) stood.push(found)
    if (found) said = says(true)
    if (gone === Infinity) requestAnimationFrame(look)
  }
  requestAnimationFrame(look)
  let came = false
  new MutationObserver(() => {
    const first = document.getElementById("first")
    if (came && !first && gone === Infinity) {
      gone = performance.now()
      window.bared = stands(false)
      requestAnimationFrame(() => requestAnimationFrame(() => { seen = performance.now() }))
    }
    came ||= !!first
  }).observe(document, {childList: true, subtree: true})
  new PerformanceObserver(list => {
    for (const one of list.getEntries()) if (one.startTime >= seen && !one.hadRecentInput) shifts.push([one.value, ...one.sources.map(
      part => `${part.node?.nodeName} ${part.node?.className}: ${part.previousRect.y} to ${part.currentRect.y}`)])
  }).observe({type: "layout-shift", buffered: true})
"""
#: what the verdict says, numbers aside
_SAYS = """is_first => {
  const first = document.getElementById("first")
  if (is_first && !first) return null
  const all = node => [...node.querySelectorAll("*")].flatMap(el => el.shadowRoot ? [el, ...all(el.shadowRoot)] : [el])
  const within = is_first ? [...first.shadowRoot.querySelectorAll("*")] : all(document.getElementById("page"))
  return within.find(el => el.classList?.contains("part-strip"))?.textContent.replace(/[\\d.,]+ ?\\w*/g, "#") ?? null
}"""
#: where the parts of a page begin, in the first paint (while it is there) or in the page
_STANDS = """is_first => {
  const first = document.getElementById("first")
  if (is_first && !first) return null
  const all = node => [...node.querySelectorAll("*")].flatMap(el => el.shadowRoot ? [el, ...all(el.shadowRoot)] : [el])
  const within = is_first ? [...first.shadowRoot.querySelectorAll("*")] : all(document.getElementById("page"))
  const found = {}
  for (const name of ["part-head", "part-rail", "part-strip", "part-above", "part-charts", "part-below"]) {
    const el = within.find(one => one.classList?.contains(name))
    const box = el?.getBoundingClientRect()
    if (box?.height) found[name] = Math.round(box.top)
  }
  return found
}"""
