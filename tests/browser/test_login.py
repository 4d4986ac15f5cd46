"""The login in a real browser: what browsers send by themselves decides whether the door opens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
