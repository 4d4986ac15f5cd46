"""The design system: spacing, type scale, colours and components of every page, as one stylesheet.

Colours of states come from ``palette`` and become variables here; ``design.css`` uses variables only.
"""

import functools
from pathlib import Path
from typing import Final

from app import palette
from app.palette import Look, Theme

_HERE: Final = Path(__file__).parent

#: surfaces and inks per theme: light, dark; every ink has 4.5:1 on every surface, the edge of a field 3:1
_TOKENS: Final = {
    "paper": ("#ffffff", "#1a1917"),
    "ground": ("#f7f6f4", "#121110"),
    "raised": ("#f4f2ef", "#242220"),
    "line": ("#e7e5e1", "#302d2a"),
    "line-strong": ("#d0ccc6", "#4a4641"),
    "field": ("#87817a", "#7d7770"),
    "shade": ("#1c191740", "#000000b0"),
    "ink": ("#1c1917", "#ebe8e4"),
    "ink-2": ("#57534e", "#b6b0a9"),
    "ink-3": ("#67625c", "#a39e97"),
    "accent": ("#1d4ed8", "#8ab0f0"),
    "on-accent": ("#ffffff", "#12161d"),
    "danger": ("#b91c1c", "#f0938d"),
    "on-danger": ("#ffffff", "#1d0f0e"),
    "focus": ("#2563eb", "#8ab0f0"),
}

FONT: Final = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', system-ui, sans-serif"
#: stylesheet of the row of charts
CHARTS: Final = (
    ":host{display:grid!important;gap:12px;"
    "grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));align-items:stretch}"
    ".scroll-button{display:none!important}:host>*{min-width:0;width:100%!important}"
)


def _looks() -> dict[str, Look]:
    states = {state.value: look for state, look in palette.JOB_LOOK.items()}
    verdicts = {f"verdict-{v.name.lower()}": look for v, look in palette.VERDICT_LOOK.items()}
    return {**states, **verdicts, "unknown": palette.UNKNOWN_LOOK, "paused": palette.PAUSED_LOOK}


def variables(theme: Theme) -> str:
    """CSS variables of *theme*."""
    dark = theme == "dark"
    lines = [f"--{name}:{pair[dark]};" for name, pair in _TOKENS.items()]
    lines += [f"--c-{name}:{look.colour(theme)};" for name, look in _looks().items()]
    lines += [f"--s-{n}:{palette.series_colour(n, theme)};" for n in range(len(palette.SERIES))]
    return "".join(lines) + f"color-scheme:{theme};"


@functools.cache
def stylesheet() -> str:
    """The stylesheet of a screen."""
    css = (_HERE / "design.css").read_text(encoding="utf-8")
    states = "".join(f".c-{name}{{--tone:var(--c-{name})}}" for name in _looks())
    return (
        f".section{{{variables('light')}}}"
        f'.section[data-theme="dark"]{{{variables("dark")}}}{states}{css}'
    )


def chart_panel(theme: Theme = "light") -> str:
    """Stylesheet of the box around a chart."""
    dark = theme == "dark"
    paper, line = _TOKENS["paper"][dark], _TOKENS["line"][dark]
    return (
        f":host{{background:{paper};border:1px solid {line};border-radius:8px;"
        "padding:9px 10px 4px;box-sizing:border-box;overflow:hidden}"
    )


def first_paint(font: str) -> str:
    """Style of the served document: the ground, our letters, the first paint over the page to come."""
    light, dark = _TOKENS["ground"]
    return (
        f"@font-face{{font-family:Inter;src:url({font}) format('woff2');font-weight:100 900;"
        "font-display:swap}html,body{height:auto!important;margin:0}body{display:block;position:relative;"
        f"min-height:100vh}}html{{background:{light};color-scheme:light}}"
        f'html[data-theme="dark"]{{background:{dark};color-scheme:dark}}'
        "#first{position:absolute;inset:0 0 auto 0;z-index:5;pointer-events:none}"
        + "".join(_tooltip(theme) for theme in ("light", "dark"))
    )


def _tooltip(theme: Theme) -> str:
    """Style of what stands beside the pointer on a chart: a child of the body, outside of every section."""
    mine = "".join(
        f"--{name}:{_TOKENS[name][theme == 'dark']};"
        for name in ("paper", "ink", "ink-2", "line-strong")
    )
    return (
        f"html[data-theme={theme}] .bk-Tooltip{{{mine}--tooltip-color:var(--paper);--tooltip-text:var(--ink);"
        "--tooltip-border:var(--line-strong);border-radius:6px;padding:6px 9px;opacity:1}"
    )


__all__ = ["CHARTS", "FONT", "chart_panel", "first_paint", "stylesheet", "variables"]
