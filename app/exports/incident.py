"""Incident bundles: what was known of a stretch of time as one zip, for whoever looks into it later.

Parquet frames, charts as one page and as pictures, and a notebook that reads them: it needs pandas and
no Redis. Texts are redacted by the rules of every export.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pandas as pd
from bokeh.embed import components
from bokeh.layouts import column
from bokeh.resources import INLINE

from app.annals.tiers import TIER_COLUMNS
from app.charts import chart_of_history
from app.drawing.easel import Together
from app.drawing.pictures import drawn_lines
from app.errors import InvalidRequest, NotFound
from app.explanation import Explanation
from app.exports.files import parquet, redacted_frame
from app.exports.reference import section_of
from app.frames import FRAMES, empty_frame
from app.plans.ask import Ask
from app.snapshot import Snapshot

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


class Source(Protocol):
    """What a bundle needs of a deployment, however it is reached."""

    where: str  #: for people, without passwords

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""

    def read(self, ask: Ask) -> pd.DataFrame:
        """The rows of *ask*."""

    def explain_cause(self, fingerprint: str) -> Explanation:
        """Why a cause strikes; NotFound."""

    def as_of(self, at_ms: float) -> Snapshot:
        """The snapshot of then; NotFound."""

    def annotations(self, start_ms: float, end_ms: float) -> pd.DataFrame:
        """Deploys, pauses and operations of a range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one bundle may read, where others wait for the same process; 0: as much as is kept."""

    queues: tuple[str, ...] = ()  #: what it is about; empty: everything
    sources: int = 0  #: queues, and streams, at most: those with most in them
    rows: int = 0  #: runs, and letters of each state, shared evenly between the sources


def check_stretch(start_ms: float, end_ms: float) -> None:
    """Raise InvalidRequest for a stretch that is empty or too long."""
    if not start_ms < end_ms:
        raise InvalidRequest("the stretch is empty", field="start", hint="start before end")
    if end_ms - start_ms > MAX_SPAN_MS:
        raise InvalidRequest("the stretch is longer than 7 days", field="end", hint="a shorter one")


def file_name(start_ms: float) -> str:
    """What a bundle is called."""
    return pd.Timestamp(int(start_ms), unit="ms").strftime("incident-%Y%m%d-%H%M.zip")


def incident(source: Source, start_ms: int, end_ms: int, bounds: Bounds | None = None) -> bytes:
    """The zip of what is known between two moments; InvalidRequest for an empty or too long stretch."""
    check_stretch(start_ms, end_ms)
    read, left_out = _frames(source, start_ms, end_ms, bounds or Bounds())
    frames = {name: redacted_frame(frame) for name, frame in read.items()}
    history = _seen(frames["history"])
    pictures = {name: _picture(history, *told) for name, told in _CHARTS.items()}
    files: dict[str, bytes] = {f"frames/{name}.parquet": parquet(f) for name, f in frames.items()}
    files |= {f"charts/{name}.svg": text.encode() for name, text in pictures.items()}
    files["charts/charts.html"] = _page(history, start_ms, end_ms).encode()
    files["incident.ipynb"] = json.dumps(
        _notebook(frames, pictures, start_ms, end_ms), indent=1
    ).encode()
    files["README.md"] = _readme(source.where, frames, start_ms, end_ms, left_out).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, body in files.items():
            bundle.writestr(name, body)
    return packed.getvalue()


def _frames(
    source: Source, start_ms: int, end_ms: int, bounds: Bounds
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """What was read, and sentences about what was left out of it."""
    span: dict[str, Any] = {"since_ms": start_ms, "until_ms": end_ms}
    snapshot = source.snapshot
    queues, streams = (
        _names(snapshot.queues, "queue", "accepted"),
        _names(snapshot.streams, "stream", "length"),
    )
    if bounds.queues:
        queues, streams = list(bounds.queues), []
    left_out: list[str] = []
    if bounds.sources:
        for word, names in (("queues", queues), ("streams", streams)):
            if len(names) > bounds.sources:
                left_out.append(
                    f"Of {len(names):,} {word} it has the {bounds.sources} with most in them."
                )
                del names[bounds.sources :]
    cut = _Reader(source, bounds.rows, left_out)
    letters = [
        cut.rows("dead_letters", [*queues, *streams], state=state, **span)
        for state in ("open", "retrying", "closed")
    ]
    some = [part for part in letters if len(part)] or letters[:1]
    made = {
        "history": cut.history(queues, **span),
        "stream_history": cut.history(streams, **span),
        "runs": cut.rows("runs", queues, **span),
        "dead_letters": pd.concat(some, ignore_index=True),
        "operations": source.read(Ask(what="operations", **span)),
        "annotations": source.annotations(start_ms, end_ms),
        "causes": snapshot.causes.copy(),
    }
    made |= _moment(source, end_ms)
    return made | _explained(source, made["dead_letters"]), left_out


def _names(frame: pd.DataFrame, column: str, by: str) -> list[str]:
    """The sources of *frame*, those with most first."""
    ordered = frame.sort_values(by, ascending=False, kind="stable") if by in frame else frame
    return [str(name) for name in ordered[column]]


class _Reader:
    """Reads rows of several sources, evenly bounded, and notes what was cut."""

    def __init__(self, source: Source, most: int, left_out: list[str]) -> None:
        self._source, self._most, self._left_out = source, most, left_out

    def history(self, names: Sequence[str], **span: Any) -> pd.DataFrame:
        if not names:  # a question without sources is about all queues
            return empty_frame(TIER_COLUMNS)
        return self._source.read(Ask(what="history", sources=tuple(names), **span))

    def rows(self, what: str, names: Sequence[str], **more: Any) -> pd.DataFrame:
        if not names:
            return empty_frame(FRAMES[what])
        if not self._most:
            return self._source.read(Ask(what=what, sources=tuple(names), **more))
        each = max(100, self._most // len(names))
        parts = [
            self._source.read(Ask(what=what, sources=(name,), limit=each, **more)) for name in names
        ]
        if any(len(part) >= each for part in parts):
            said = f"{what.replace('_', ' ')}: at most {each:,} of each queue, the newest."
            if said not in self._left_out:
                self._left_out.append(said)
        some = [part for part in parts if len(part)] or parts[:1]
        return pd.concat(some, ignore_index=True)


def _moment(source: Source, at_ms: int) -> dict[str, pd.DataFrame]:
    """Queues and workers as they were at the end, where a moment was stored near."""
    with suppress(NotFound):
        then = source.as_of(at_ms)
        return {"queues": then.queues.copy(), "workers": then.workers.copy()}
    return {
        "queues": source.snapshot.queues.copy(),
        "workers": source.snapshot.workers.copy(),
    }


def _explained(source: Source, letters: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Shared arguments of the commonest causes among *letters*."""
    found = []
    for fingerprint in letters["fingerprint"].value_counts().index[:EXPLAINED]:
        with suppress(NotFound):
            shared = source.explain_cause(str(fingerprint)).shared
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


def _page(history: pd.DataFrame, start_ms: float, end_ms: float) -> str:
    step_s = float(history.attrs.get("step_s", 60))
    together = Together(step_s, window=(start_ms, end_ms))
    charts = [
        chart_of_history(name, history, interval_s=step_s, is_stored=True, together=together)
        for name in _CHARTS
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
    where: str,
    frames: Mapping[str, pd.DataFrame],
    start_ms: int,
    end_ms: int,
    left_out: Sequence[str],
) -> str:
    listed = "\n".join(
        f"- `frames/{name}.parquet`: {len(frame):,} rows" for name, frame in frames.items()
    )
    limits = "".join(f"- {said}\n" for said in left_out) + ("\n" if left_out else "")
    told = "\n".join(filter(None, (section_of(name) for name in frames)))
    return (
        f"# Incident bundle\n\n{_said(start_ms)} to {_said(end_ms)}, read from {where} at "
        f"{pd.Timestamp.now('UTC').strftime('%Y-%m-%d %H:%M UTC')}.\n\n"
        "Open `incident.ipynb` (pandas and pyarrow are enough), or `charts/charts.html` in a browser.\n"
        "Runs and letters are those that were still kept; causes are as they are when this was made. "
        f"What looked like a credential is masked.\n\n{limits}{listed}\n\n{told}"
    )
