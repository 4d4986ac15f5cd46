"""Frames to small SVG pictures, for where no script runs: code hosts, mail, paper. Pure."""

import html
import math
from collections.abc import Mapping
from typing import Final

import pandas as pd

from app import palette
from app.palette import Theme

WIDTH: Final = 720
HEIGHT: Final = 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 28, 40
#: points a line keeps: more than a pixel each is waste
MAX_POINTS: Final = 360
_INK: Final[dict[Theme, tuple[str, str]]] = {
    "light": ("#57534e", "#e2dfda"),
    "dark": ("#a8a29e", "#3a3632"),
}


def drawn_lines(
    lines: Mapping[str, tuple["pd.Series[pd.Timestamp]", "pd.Series[float]"]],
    title: str,
    theme: Theme = "light",
) -> str:
    """One line per name over time, from zero, as SVG; unknown values are gaps."""
    ink, grid = _INK[theme]
    plain = {
        name: _thinned(at.astype("int64").to_list(), [float(v) for v in values])
        for name, (at, values) in lines.items()
    }
    xs = [x for points in plain.values() for x, _ in points]
    ys = [y for points in plain.values() for _, y in points if not math.isnan(y)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="system-ui,sans-serif" font-size="11" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<text x="8" y="16" fill="{ink}" font-size="12">{html.escape(title)}</text>',
    ]
    if not xs or not ys:
        parts.append(
            f'<text x="{WIDTH // 2}" y="{HEIGHT // 2}" fill="{ink}">no values</text></svg>'
        )
        return "".join(parts)
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1)
    top = _nice(max(ys))

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - _LEFT - _RIGHT)
        return f"{across:.1f},{HEIGHT - _BOTTOM - y / top * (HEIGHT - _TOP - _BOTTOM):.1f}"

    for share in (0, 0.5, 1):
        y = HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="{grid}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{ink}">{top * share:,.6g}</text>'
        )
    unit = _units(lines)
    for x, anchor in ((low_x, "start"), (high_x, "end")):
        at = pd.Timestamp(x, unit=unit).strftime("%H:%M:%S")
        across = _LEFT if anchor == "start" else WIDTH - _RIGHT
        parts.append(
            f'<text x="{across}" y="{HEIGHT - _BOTTOM + 14}" text-anchor="{anchor}" fill="{ink}">{at}</text>'
        )
    across = _LEFT
    for number, (name, points) in enumerate(plain.items()):
        colour = palette.series_colour(number, theme)
        for piece in _pieces(points):
            path = "L".join(place(x, y) for x, y in piece)
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(
            f'<rect x="{across}" y="{HEIGHT - 16}" width="10" height="3" fill="{colour}"/>'
            f'<text x="{across + 14}" y="{HEIGHT - 11}" fill="{ink}">{html.escape(name)}</text>'
        )
        across += 30 + 6 * len(name)
    return "".join([*parts, "</svg>"])


def _units(lines: Mapping[str, tuple["pd.Series[pd.Timestamp]", "pd.Series[float]"]]) -> str:
    at = next(iter(lines.values()))[0]
    return str(getattr(at.dtype, "unit", "ns"))


def _thinned(xs: list[int], ys: list[float]) -> list[tuple[int, float]]:
    every = max(1, -(-len(xs) // MAX_POINTS))
    return list(zip(xs, ys, strict=True))[::every]


def _pieces(points: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """Runs of known values; one alone is drawn as a dot's worth of line."""
    made: list[list[tuple[int, float]]] = [[]]
    for x, y in points:
        if math.isnan(y):
            made.append([])
        else:
            made[-1].append((x, y))
    return [piece if len(piece) > 1 else [*piece, *piece] for piece in made if piece]


def _nice(value: float) -> float:
    if value <= 0:
        return 1.0
    power: float = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)
