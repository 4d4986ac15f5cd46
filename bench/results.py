"""Rows: a figure of ours beside the peers', whether it meets its target; printed and kept."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import ROOT

FILE = ROOT / "bench" / "results.json"
_OPEN, _CLOSE = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison; ``ratio`` is ours / peer."""

    id: str
    what: str
    unit: str
    ours: float
    peers: Mapping[str, float] = field(default_factory=dict)
    target: str = ""
    met: bool | None = None  #: None: no target, or the peer it needs is not installed
    settings: str = ""
    rounds: int = 1

    @property
    def ratio(self) -> dict[str, float]:
        """Ours divided by each peer's."""
        return {name: self.ours / value for name, value in self.peers.items() if value}


def show(rows: Iterable[Row]) -> None:
    """Print rows side by side."""
    for row in rows:
        verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
        print(
            f"\n{row.id}  {row.what} ({row.settings})"
            if row.settings
            else f"\n{row.id}  {row.what}"
        )
        print(f"  {'arqscope':<12}{number(row.ours):>12} {row.unit}")
        for name, value in row.peers.items():
            ratio = row.ratio.get(name, math.nan)
            print(f"  {name:<12}{number(value):>12} {row.unit}   ratio {ratio:.3g}")
        if row.target:
            print(f"  target: {row.target}   {verdict}")


def number(value: float) -> str:
    """Format a figure with three or four digits that mean something."""
    if value != value:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def keep(rows: Sequence[Row], versions: Mapping[str, str], path: Path = FILE) -> None:
    """Write rows to the results file; rows of other ids stay as they are."""
    kept: dict[str, dict[str, Any]] = {}
    if path.exists():
        kept = {row["id"]: row for row in json.loads(path.read_text("utf-8"))}
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    for row in rows:
        kept[row.id] = {
            "id": row.id,
            "what": row.what,
            "unit": row.unit,
            "ours": _plain(row.ours),
            "peers": {name: _plain(value) for name, value in row.peers.items()},
            "ratio": {name: _plain(value) for name, value in row.ratio.items()},
            "target": row.target,
            "met": row.met,
            "settings": row.settings,
            "rounds": row.rounds,
            "versions": dict(versions),
            "date": date,
        }
    ordered = sorted(kept.values(), key=lambda row: (int(row["id"][1:].split(".")[0]), row["id"]))
    path.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: float) -> float | None:
    return None if value != value else float(f"{value:.4g}")


def rewrite_table(path: Path = FILE) -> None:
    """Put the kept rows as a table between the marks of bench/README.md."""
    readme = path.with_name("README.md")
    if not readme.exists() or not path.exists():
        return
    before, _, rest = readme.read_text("utf-8").partition(_OPEN)
    _, _, after = rest.partition(_CLOSE)
    if not after:
        return
    lines = [
        "| row | what | arqscope | peers (ours / theirs) | target | met |",
        "|---|---|---|---|---|---|",
    ]
    rows = json.loads(path.read_text("utf-8"))
    for row in rows:
        peers = " · ".join(
            f"{name} {number(value)}"
            + (f" ({ratio:.3g})" if (ratio := row["ratio"].get(name)) else "")
            for name, value in row["peers"].items()
            if value is not None
        )
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        ours = number(math.nan if row["ours"] is None else row["ours"])
        lines.append(
            f"| {row['id']} | {row['what']}; {row['settings']} | {ours} {row['unit']} "
            f"| {peers} | {row['target']} | {met} |"
        )
    dates = sorted({row["date"] for row in rows})
    known = {name: value for row in rows for name, value in row["versions"].items()}
    versions = ", ".join(f"{name} {value}" for name, value in known.items())
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    head = f"Measured {span} (UTC). {versions}."
    text = "\n".join([_OPEN, "", head, "", *lines, "", _CLOSE])
    readme.write_text(before + text + after, encoding="utf-8")
