"""Notebooks where people see them: exported without a kernel, and live in the real JupyterLab."""

import importlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from app.notebook import connect
from app.scope.rehearsal import rehearse
from app.settings import Settings
from tests.browser.conftest import wait_for
from tests.conftest import unused_port

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
#: nothing of a chart may come from a network
WORLD = {**os.environ, "PANEL_INLINE": "true", "PYTHONPATH": str(ROOT)}
_LAST_AT = """() => {
    let last = 0
    for (const doc of (window.Bokeh?.documents ?? []))
        for (const model of doc._all_models.values())
            if (model.name === "history" && model.data?.at?.length)
                last = Math.max(last, model.data.at[model.data.at.length - 1])
    return last
}"""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A window that reaches nothing but this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.route(
        lambda url: (
            not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "file:", "data:", "blob:"))
        ),
        lambda route: route.abort(),
    )
    made = context.new_page()
    yield made
    context.close()


def test_an_exported_notebook_shows_charts_and_tables_without_a_kernel(
    page: Any, tmp_path: Path
) -> None:
    """
    03, executed and exported: every table and the chart with its last values, no network.
    """
    command = [
        *(sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--execute"),
        *("--ExecutePreprocessor.timeout=180", "--output-dir", str(tmp_path)),
        str(NOTEBOOKS / "03_triage_dead_letters.ipynb"),
    ]
    done = subprocess.run(command, env=WORLD, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    page.goto((tmp_path / "03_triage_dead_letters.html").as_uri())

    page.locator(".bk-Figure canvas, .bk-Canvas canvas").first.wait_for(timeout=30_000)
    wait_for(lambda: page.evaluate(_LAST_AT) > 1.7e12, "the chart has its last values")
    cards = page.locator(".arqscope-card")
    assert cards.count() >= 2
    assert cards.first.locator("tbody tr").count() == 10
    assert "PermissionError" in cards.first.inner_text()
    assert "app0003" in page.locator("table.dataframe").nth(2).inner_text()


def test_the_charts_of_an_incident_open_without_a_network(
    page: Any, settings: Settings, tmp_path: Path
) -> None:
    importlib.import_module(
        "panel.models.esm"
    )  # wants a script of its own, as a dashboard's models do
    rehearse(
        settings, "async-processing", minutes=30, arrivals_per_s=3, service_per_s=2.5, backlog=900
    )
    with connect(settings, sample_interval_s=60) as scope:
        bundle = scope.refresh().incident("40min", "0s", path=tmp_path / "bundle.zip")
    with zipfile.ZipFile(bundle) as packed:
        packed.extract("charts/charts.html", tmp_path)
    complaints: list[str] = []
    asked: list[
        str
    ] = []  # of anybody but the file itself; the browser's own look for an icon is not one
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: m.type == "error" and complaints.append(f"{m.text} {m.location}"))
    page.on("request", lambda r: asked.append(r.url))

    page.goto((tmp_path / "charts" / "charts.html").as_uri())

    page.locator(".bk-Figure").nth(3).wait_for(timeout=30_000)
    wait_for(lambda: page.evaluate(_LAST_AT) > 1.7e12, "the charts have their values")
    html = (tmp_path / "charts" / "charts.html").as_uri()
    assert [url for url in asked if url != html and not url.startswith(("data:", "blob:"))] == []
    assert [text for text in complaints if "Failed to load resource" not in text] == []


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """A JupyterLab of its own over a copy of 04 that does not stop its stack; its address."""
    book = nbformat.read(NOTEBOOKS / "04_events_and_streams.ipynb", 4)
    book.cells = book.cells[:-1]
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    nbformat.write(book, tmp_path / "events.ipynb")
    port = unused_port()
    world = WORLD | {
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "HOME": str(tmp_path),
    }  # fmt: skip
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"),
        *("--ServerApp.port_retries=0", "--IdentityProvider.token=lab", "--expose-app-in-browser"),
        *("--ip=127.0.0.1", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url="),
    ]
    with (tmp_path / "lab.log").open("wb") as log:
        process = subprocess.Popen(command, env=world, cwd=tmp_path, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "lab.log").read_text()[-3000:]
        return f"127.0.0.1:{port}" in (tmp_path / "lab.log").read_text()

    try:
        wait_for(answers, "JupyterLab answers", 60)
        yield address
    finally:
        process.terminate()  # its kernel goes with it, and the kernel's stack with the kernel
        process.wait(30)


def test_a_chart_moves_in_jupyterlab(lab: str, page: Any) -> None:
    page.goto(f"{lab}/lab/tree/events.ipynb?token=lab&reset")
    page.wait_for_function(
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady", timeout=60_000
    )
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")

    wait_for(lambda: page.evaluate(_LAST_AT) > 1.7e12, "the chart is drawn", 120)
    first = page.evaluate(_LAST_AT)
    wait_for(lambda: page.evaluate(_LAST_AT) >= first + 3_000, "the chart moves", 60)

    assert page.locator(".jp-OutputArea .bk-Figure, .jp-OutputArea .bk-Column").count() >= 1
