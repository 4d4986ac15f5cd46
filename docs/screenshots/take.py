"""Take the pictures of every page, in both themes and two widths, of a private stack under demo load."""

import argparse
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from app.private_stack import PrivateStack

HERE = Path(__file__).parent
#: name of a picture → path of the page
PAGES = {"overview": "/admin/queues"}
WIDTHS = {1440: 1150, 390: 844}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def take(browser: Browser, address: str, target: Path, theme: str, width: int) -> None:
    """Open *address* as a viewer of *theme* and *width* would, and save what they see."""
    page = browser.new_page(
        viewport={"width": width, "height": WIDTHS[width]},
        color_scheme="dark" if theme == "dark" else "light",
    )
    page.goto(address)
    page.locator("canvas").first.wait_for(timeout=30_000)
    page.wait_for_timeout(3_000)  # a few live samples, so that the picture shows movement
    page.screenshot(path=str(target))
    page.close()


def main() -> None:
    """Start the stack, let the load run, take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--seconds", type=float, default=90.0, help="demo load before the pictures")
    arguments = parser.parse_args()
    with PrivateStack(demo=True) as stack, sync_playwright() as run:
        time.sleep(arguments.seconds)
        browser = run.chromium.launch(executable_path=arguments.chromium, args=FLAGS)
        root = stack.address.removesuffix("/admin/queues")
        for name, path in PAGES.items():
            for theme in ("light", "dark"):
                for width in WIDTHS:
                    suffix = "" if width == 1440 else f"-{width}"
                    take(browser, root + path, HERE / f"{name}-{theme}{suffix}.png", theme, width)
        browser.close()


if __name__ == "__main__":
    main()
