"""A real browser for the tests: which Chromium, how it is started, what is said where there is none."""

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.conftest import lacking

FLAGS: Final = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def driver() -> Any:
    """Playwright's blocking interface; ``lacking`` where it is not installed."""
    try:
        return importlib.import_module("playwright.sync_api")
    except ImportError:
        lacking("playwright")


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium of the system's; ``lacking`` where there is none."""
    run_playwright = driver().sync_playwright
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        lacking("Chromium")
    with run_playwright() as run:
        made = run.chromium.launch(executable_path=found, args=FLAGS)
        yield made
        made.close()
