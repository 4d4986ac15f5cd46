"""The login in a real browser: what browsers send by themselves decides whether the door opens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.browser.conftest import AXE, CHECK
from tests.chromium import chromium
from tests.conftest import RunningRedis
from tests.serving import KEY, RunningServer, start_server, stop

pytestmark = pytest.mark.browser


@pytest.fixture
def keyed(redis_server: RunningRedis, tmp_path: Path) -> Iterator[RunningServer]:
    server = start_server(redis_server, tmp_path, API_KEY=KEY)
    yield server
    stop(server)


def test_a_person_logs_in_and_the_page_lives_without_a_violated_policy(
    keyed: RunningServer,
) -> None:
    """
    With "Referrer-Policy: no-referrer" Chromium sends the form with "Origin: null", and it fails.
    """
    complaints: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{keyed.url}/admin/queues")
        assert "/login" in page.url
        page.fill("#key", KEY)
        page.fill("#name", "Ada")
        page.click("button")
        page.get_by_text("for Ada").wait_for(timeout=20_000)
        assert page.url == f"{keyed.url}/admin/queues"
        page.goto(f"{keyed.url}/docs")
        page.locator(".opblock").first.wait_for(timeout=20_000)

    assert complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_door_has_no_barrier_axe_can_see_and_opens_by_keyboard(
    keyed: RunningServer, theme: Literal["light", "dark"]
) -> None:
    """
    As it is, and as it says that a key is wrong: WCAG A and AA, at 200 % of a small window too.
    """
    with chromium() as browser:
        page = browser.new_page(color_scheme=theme, viewport={"width": 640, "height": 400})
        page.goto(f"{keyed.url}/admin/queues")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert page.evaluate(CHECK) == []
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type("not the key, but long enough to be one")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert page.evaluate(CHECK) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 640
        page.locator("#key").focus()
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.get_by_text("for api-key").wait_for(timeout=20_000)
