"""Incident bundles: complete, redacted, and readable on a machine without Redis."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from app.errors import ActionRefused, InvalidRequest
from app.notebook import connect
from app.scope.rehearsal import rehearse
from app.settings import Settings
from tests.integration.scope_rig import (
    QUEUE,
    letter_of,
    put_letter,
    put_runs,
    queue_server,  # noqa: F401 - a fixture
    run_of,
)

SECRET = "sk-live-4242"
_EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read("incident.ipynb", 4)
NotebookClient(book, timeout=60, kernel_name="python3").execute()
nbformat.write(book, "executed.ipynb")
"""


@pytest.fixture
def bundle(settings: Settings, queue_server: Any, tmp_path: Path) -> Path:
    rehearse(settings, QUEUE, minutes=30, arrivals_per_s=2, service_per_s=2, backlog=50)
    put_runs(queue_server, [run_of(n) for n in range(1, 20)])
    for number in range(4):
        put_letter(queue_server, letter_of(number, error=f"refused, token={SECRET}"))
    with connect(settings, sample_interval_s=60) as scope:
        file = scope.refresh().incident("40min", "0s", path=tmp_path / "x.zip")
    with zipfile.ZipFile(file) as packed:
        packed.extractall(tmp_path / "x")
    return tmp_path / "x"


def test_a_bundle_holds_frames_charts_and_a_notebook(bundle: Path) -> None:
    frames = {file.stem: pd.read_parquet(file) for file in (bundle / "frames").glob("*.parquet")}

    assert {"history", "runs", "dead_letters", "causes", "annotations", "queues"} <= set(frames)
    assert len(frames["runs"]) == 19
    assert len(frames["dead_letters"]) == 4
    assert 25 <= frames["history"].query("source == @QUEUE")["accepted"].notna().sum() <= 31
    assert "async-processing" in (bundle / "charts" / "backlog.svg").read_text()
    assert "long-running-jobs" not in (bundle / "charts" / "backlog.svg").read_text()  # never seen
    assert "Bokeh" in (bundle / "charts" / "charts.html").read_text()
    assert "`waiting`" in (bundle / "README.md").read_text()


def test_no_credential_leaves(bundle: Path) -> None:
    for file in bundle.rglob("*"):
        if file.suffix == ".parquet":
            assert SECRET not in pd.read_parquet(file).to_csv()
        elif file.is_file():
            assert SECRET not in file.read_text()
    assert "token=***" in pd.read_parquet(bundle / "frames" / "dead_letters.parquet")["error"][0]
    assert "test-password" not in (bundle / "README.md").read_text()


def test_its_notebook_runs_without_redis_and_without_us(bundle: Path) -> None:
    """
    A kernel whose path has no ``app`` and whose settings point nowhere.
    """
    world = {k: v for k, v in os.environ.items() if "REDIS" not in k and k != "PYTHONPATH"}
    world |= {"REDIS_QUEUE_URL": "redis://127.0.0.1:1/0", "REDIS_URL": "redis://127.0.0.1:1/0"}

    done = subprocess.run(
        [sys.executable, "-P", "-c", _EXECUTE],
        cwd=bundle,
        env=world,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    book = nbformat.read(bundle / "executed.ipynb", 4)
    shown = [str(cell.get("outputs", "")) for cell in book.cells]
    assert any("TimeoutError" in text for text in shown)
    assert any("svg" in text for text in shown)
    assert not any("import app" in cell.source or "from app" in cell.source for cell in book.cells)


def test_a_stretch_that_is_none_is_refused(settings: Settings) -> None:
    with connect(settings, sample_interval_s=60, keep_history=False) as scope:
        with pytest.raises(InvalidRequest, match="empty"):
            scope.incident("1h", "2h")
        with pytest.raises(InvalidRequest, match="longer than 7 days"):
            scope.incident("9d", "0s")


def test_a_past_that_happened_is_not_painted_over(settings: Settings) -> None:
    with connect(settings, sample_interval_s=60, keep_history=False) as scope:
        scope.enqueue(QUEUE, "generic", {})
        with pytest.raises(ActionRefused, match="past of its own"):
            rehearse(settings, QUEUE)
