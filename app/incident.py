"""Incident bundles: what was known of a stretch of time as one zip, for whoever looks into it later.

Parquet frames, charts as one page and as pictures, and a notebook that reads them: it needs pandas and
no Redis. Texts are redacted by the rules of every export.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import pandas as pd
from bokeh.embed import components
from bokeh.layouts import column
from bokeh.resources import INLINE

from app.charts import chart_of_history
from app.deployment import Deployment
from app.drawing import drawn_lines
from app.easel import Together
from app.errors import InvalidRequest, NotFound
from app.frame_files import parquet, redacted_frame
from app.frame_reference import section_of
from app.query_plan import Ask

#: longest stretch one bundle is about
MAX_SPAN_MS: Final = 7 * 86_400_000
#: causes that are explained, those with most letters first
EXPLAINED: Final = 5
#: chart → column and words of its picture
_CHARTS: Final[Mapping[str, tuple[str, str]]] = {
    "throughput": ("complete_per_s", "Throughput · runs per second"),
    "backlog": ("waiting", "Backlog · jobs waiting"),
    "wait": ("wait_p95_s", "Wait time · p95, s"),
    "run": ("run_p95_s", "Run time · p95, s"),
}


def incident(deployment: Deployment, start_ms: int, end_ms: int) -> bytes:
    """The zip of what is known between two moments; InvalidRequest for an empty or too long stretch."""
    if not start_ms < end_ms:
        raise InvalidRequest("the stretch is empty", field="start", hint="start before end")
    if end_ms - start_ms > MAX_SPAN_MS:
        raise InvalidRequest("the stretch is longer than 7 days", field="end", hint="a shorter one")
    frames = {
        name: redacted_frame(frame) for name, frame in _frames(deployment, start_ms, end_ms).items()
    }
    history = _seen(frames["history"])
    pictures = {name: _picture(history, *told) for name, told in _CHARTS.items()}
    files: dict[str, bytes] = {f"frames/{name}.parquet": parquet(f) for name, f in frames.items()}
    files |= {f"charts/{name}.svg": text.encode() for name, text in pictures.items()}
    files["charts/charts.html"] = _page(history).encode()
    files["incident.ipynb"] = json.dumps(
        _notebook(frames, pictures, start_ms, end_ms), indent=1
    ).encode()
    files["README.md"] = _readme(deployment, frames, start_ms, end_ms).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, body in files.items():
            bundle.writestr(name, body)
    return packed.getvalue()


def _frames(deployment: Deployment, start_ms: int, end_ms: int) -> dict[str, pd.DataFrame]:
    bounds = {"since_ms": start_ms, "until_ms": end_ms}
    snapshot = deployment.snapshot
    streams = tuple(str(name) for name in snapshot.streams["stream"])
    letters = [
        deployment.read(Ask(what="dead_letters", state=state, **bounds))  # type: ignore[arg-type]
        for state in ("open", "retrying", "closed")
    ]
    some = [part for part in letters if len(part)] or letters[:1]
    made = {
        "history": deployment.read(Ask(what="history", **bounds)),  # type: ignore[arg-type]
        "stream_history": deployment.read(Ask(what="history", sources=streams, **bounds)),  # type: ignore[arg-type]
        "runs": deployment.read(Ask(what="runs", **bounds)),  # type: ignore[arg-type]
        "dead_letters": pd.concat(some, ignore_index=True),
        "operations": deployment.read(Ask(what="operations", **bounds)),  # type: ignore[arg-type]
        "annotations": deployment.annotations(start_ms, end_ms),
        "causes": snapshot.causes.copy(),
    }
    made |= _moment(deployment, end_ms)
    return made | _explained(deployment, made["dead_letters"])


def _moment(deployment: Deployment, at_ms: int) -> dict[str, pd.DataFrame]:
    """Queues and workers as they were at the end, where a moment was stored near."""
    with suppress(NotFound):
        then = deployment.as_of(at_ms)
        return {"queues": then.queues.copy(), "workers": then.workers.copy()}
    return {
        "queues": deployment.snapshot.queues.copy(),
        "workers": deployment.snapshot.workers.copy(),
    }


def _explained(deployment: Deployment, letters: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Shared arguments of the commonest causes among *letters*."""
    found = []
    for fingerprint in letters["fingerprint"].value_counts().index[:EXPLAINED]:
        with suppress(NotFound):
            shared = deployment.explain_cause(str(fingerprint)).shared
            found.append(shared.assign(fingerprint=str(fingerprint)))
    some = [part for part in found if len(part)]
    return {"shared_arguments": pd.concat(some, ignore_index=True)} if some else {}


def _seen(history: pd.DataFrame) -> pd.DataFrame:
    """The sources that were seen at all: a total of unknown parts would be unknown."""
    seen = history.groupby("source")["samples"].transform("count") > 0
    made = history[seen].reset_index(drop=True)
    made.attrs.update(history.attrs)
    return made if len(made) else history


def _picture(history: pd.DataFrame, column_name: str, title: str) -> str:
    lines = {str(name): (rows["at"], rows[column_name]) for name, rows in history.groupby("source")}
    return drawn_lines(lines, title)


def _page(history: pd.DataFrame) -> str:
    step_s = float(history.attrs.get("step_s", 60))
    ends = history["at"]
    window = (ends.min().timestamp() * 1000, ends.max().timestamp() * 1000 + step_s * 1000)
    together = Together(step_s, window=window)
    charts = [
        chart_of_history(name, history, interval_s=step_s, together=together) for name in _CHARTS
    ]
    script, places = components(column(*charts, sizing_mode="stretch_width"))
    # not file_html: it links what any model this process has loaded wants, used here or not
    libraries = "\n".join(f"<script>{source}</script>" for source in INLINE.js_raw)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Incident</title>\n'
        f"{libraries}\n</head>\n<body>\n{places}\n{script}\n</body>\n</html>\n"
    )


# -- the notebook ----------------------------------------------------------------------------------


def _said(ms: int) -> str:
    return pd.Timestamp(ms, unit="ms", tz="UTC").strftime("%Y-%m-%d %H:%M UTC")


_LOAD: Final = """from pathlib import Path

import pandas as pd

frames = {file.stem: pd.read_parquet(file) for file in sorted(Path("frames").glob("*.parquet"))}
{name: len(frame) for name, frame in frames.items()}"""
_BY_QUEUE: Final = """counts = ["accepted", "complete", "retried", "dead", "aborted"]
by_queue = frames["history"].groupby("source")[counts].sum().join(
    frames["history"].groupby("source")[["waiting_max", "oldest_wait_s"]].max()
)
by_queue"""
_FAILED: Final = """letters = frames["dead_letters"]
letters.groupby(["fingerprint", "error_type", "source", "name"]).agg(
    letters=("id", "size"), first=("died", "min"), last=("died", "max"), error=("error", "first")
).sort_values("letters", ascending=False)"""
_SHARED: Final = """frames.get("shared_arguments", pd.DataFrame())"""
_SLOW: Final = """runs = frames["runs"]
runs.groupby(["queue", "function"])[["wait_s", "run_s"]].agg(["median", "max"]).round(3)"""
_DONE: Final = """frames["annotations"]"""
_SHOW: Final = """from IPython.display import SVG, display

for name in ("throughput", "backlog", "wait", "run"):
    display(SVG(filename=f"charts/{name}.svg"))"""


def _notebook(
    frames: Mapping[str, pd.DataFrame], pictures: Mapping[str, str], start_ms: int, end_ms: int
) -> dict[str, Any]:
    letters, runs = frames["dead_letters"], frames["runs"]
    facts = (
        f"# Incident of {_said(start_ms)} to {_said(end_ms)}\n\n"
        f"{len(runs):,} runs are kept of this time, {len(letters):,} jobs or events died in it, of "
        f"{letters['fingerprint'].nunique()} causes; {len(frames['annotations']):,} deploys, pauses and operations.\n\n"
        "This notebook needs pandas and pyarrow, and no Redis. `charts/charts.html` has the charts to zoom into."
    )
    drawn = [
        {"output_type": "display_data", "data": {"image/svg+xml": text}, "metadata": {}}
        for text in pictures.values()
    ]
    cells = [
        _text(facts), _code(_LOAD), _text("## What it looked like"), _code(_SHOW, drawn),
        _text("## How much, per queue"), _code(_BY_QUEUE),
        _text("## What failed, and what the failures share"), _code(_FAILED), _code(_SHARED),
        _text("## What was slow"), _code(_SLOW),
        _text("## What people and deploys did"), _code(_DONE),
        _text("## Notes\n\n- What was noticed first, and by whom?\n- What was the cause?\n"
              "- What was done, and did it help?\n- What would have shown it earlier?"),
    ]  # fmt: skip
    return {
        "nbformat": 4, "nbformat_minor": 5, "cells": [{**c, "id": f"c{n:02d}"} for n, c in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    }  # fmt: skip


def _text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _code(source: str, outputs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {
        "cell_type": "code", "metadata": {}, "source": source, "outputs": list(outputs),
        "execution_count": None,
    }  # fmt: skip


def _readme(
    deployment: Deployment, frames: Mapping[str, pd.DataFrame], start_ms: int, end_ms: int
) -> str:
    listed = "\n".join(
        f"- `frames/{name}.parquet`: {len(frame):,} rows" for name, frame in frames.items()
    )
    told = "\n".join(filter(None, (section_of(name) for name in frames)))
    return (
        f"# Incident bundle\n\n{_said(start_ms)} to {_said(end_ms)}, read from {deployment.where} at "
        f"{pd.Timestamp.now('UTC').strftime('%Y-%m-%d %H:%M UTC')}.\n\n"
        "Open `incident.ipynb` (pandas and pyarrow are enough), or `charts/charts.html` in a browser.\n"
        "Runs and letters are those that were still kept; causes are as they are when this was made. "
        f"What looked like a credential is masked.\n\n{listed}\n\n{told}"
    )
