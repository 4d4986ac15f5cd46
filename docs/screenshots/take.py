"""Take the pictures of every page, in both themes and two widths, of a private stack under demo load."""

import argparse
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from app.scope.private_stack import PrivateStack

HERE = Path(__file__).parent
#: name of a picture → where it is taken; a click on the first strong link of a list opens one of it
PAGES = {
    "overview": "queues",
    "queue": "queue?name=async-processing&state=complete",
    "jobs": "jobs?queue=async-processing&state=complete",
    "job": "jobs?queue=async-processing&state=failed#first",
    "dead-letters": "dead-letters",
    "periods": "dead-letters?view=periods",
    "cause": "dead-letters#cause",
    "dead-letter": "dead-letters#last",
    "retry": "dead-letters#retry",
    "streams": "streams",
    "publish": "streams#publish",
    "pubsub": "pubsub?pattern=*#heard",
    "workers": "workers",
    "schedules": "schedules",
    "history": "history?range=60m",
    "past": "queues#past",
    "alerts": "alerts",
    "operations": "operations",
    "settings": "settings",
}
WIDTHS = {1440: 1000, 390: 844}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
#: tracebacks name files: where the project lies on this machine is nobody's business
_HIDE = """([root, shown]) => {
  const all = (node) => [...node.querySelectorAll("*")].flatMap(el => el.shadowRoot ? [el, ...all(el.shadowRoot)] : [el])
  for (const box of all(document).filter(el => el.tagName === "PRE"))
    box.textContent = box.textContent.replaceAll(root, shown)
}"""
#: colours of a picture: enough for text and charts, and half the bytes
COLOURS = 256
#: of them, for what covers little: a queue's swatch, a line of a chart
RARE = 96


def take(page: Any, root: str, where: str, target: Path, *, is_started: bool) -> None:
    """Go to *where* in the session that is open, and save what a viewer sees."""
    where, _, what = where.partition("#")
    if what == "past":
        where += time.strftime("?at=%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 150))
    page.evaluate(
        "where => { history.pushState({}, '', where); dispatchEvent(new PopStateEvent('popstate')) }",
        f"{root}/admin/{where}",
    )
    page.locator(f'.frame[data-page="{where.partition("?")[0]}"]').wait_for()
    page.wait_for_timeout(800)
    for notice in page.get_by_role("button", name="Dismiss").all():
        notice.click()
    strong = page.locator("main td a.strong")
    match what:
        case "first" | "last":
            strong.last.wait_for()
            (strong.first if what == "first" else strong.last).click()
            page.get_by_role("navigation", name="Details").wait_for()
        case "cause":
            strong.first.click()
            page.get_by_role("link", name="All causes").wait_for()
        case "retry":
            page.get_by_role("button", name="Retry the").first.click()
            page.get_by_text("now:").wait_for()
        case "heard":
            page.locator("main .tail tbody tr").nth(6).wait_for()
        case "publish":
            page.get_by_role("button", name="Publish an event").click()
            page.locator("dialog[open]").wait_for()
    page.wait_for_timeout(1_500)  # a sample or two, so that the picture shows movement
    page.evaluate(_HIDE, [str(HERE.parents[1]), "arqscope"])
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    _reduced(image).save(target, optimize=True)
    if what == "retry":  # one is started, so that the page of operations has something to show
        button = "text=Cancel" if is_started else "button[type=submit]"
        page.locator(f"dialog >> {button}").click()
        if not is_started:  # it leads to the page of operations: the next picture waits for that
            page.locator('.frame[data-page="operations"]').wait_for()
    elif what == "publish":
        page.locator("dialog >> text=Cancel").click()


def _reduced(image: Image.Image) -> Image.Image:
    """Fewer colours: the commonest exactly, which are grounds and letters; the rest for what is small."""
    counted = sorted(image.getcolors(image.width * image.height), reverse=True)
    common = [colour for _, colour in counted[: COLOURS - RARE]]
    small = image.quantize(RARE, Image.Quantize.MAXCOVERAGE).convert("RGB")
    palette = [*common, *(colour for _, colour in small.getcolors(RARE))]
    kept = np.array(palette, dtype=np.int32)
    nearest = {
        colour: int(((kept - np.array(colour)) ** 2).sum(axis=1).argmin()) for _, colour in counted
    }
    made = Image.new("P", image.size)
    made.putpalette([part for colour in palette for part in colour])
    made.putdata([nearest[colour] for colour in image.get_flattened_data()])
    return made


def main() -> None:
    """Start the stack, let the load run, take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="demo load before the pictures"
    )
    parser.add_argument("--address", default="", help="of a server that runs already")
    parser.add_argument("--only", default="", help="names of pictures, comma separated")
    arguments = parser.parse_args()
    if arguments.address:
        pictures(arguments.chromium, arguments.address, arguments.only)
        return
    schedules = (HERE / "keeping.py").read_text(encoding="utf-8")
    with PrivateStack(demo=True, functions=schedules) as stack:
        time.sleep(arguments.seconds)
        pictures(arguments.chromium, stack.address.removesuffix("/admin/queues"), arguments.only)


def pictures(chromium: str, root: str, only: str) -> None:
    """Take them all, one session per theme and width."""
    wanted = {name: where for name, where in PAGES.items() if not only or name in only.split(",")}
    with sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=FLAGS)
        for theme in ("light", "dark"):
            for width, height in WIDTHS.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if theme == "dark" else "light",
                )
                page.goto(f"{root}/admin/queues")
                page.wait_for_function("!document.getElementById('first')")
                page.wait_for_timeout(2_000)
                for name, where in wanted.items():
                    suffix = "" if width == 1440 else f"-{width}"
                    is_started = (theme, width) != ("light", 1440)
                    target = HERE / f"{name}-{theme}{suffix}.png"
                    take(page, root, where, target, is_started=is_started)
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
