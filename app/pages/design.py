"""The design system: spacing, type scale, colours and components of every page, as one stylesheet.

Colours of states come from ``palette`` and become variables here; ``design.css`` uses variables only.
"""

import functools
from pathlib import Path
from typing import Any, Final

from app import palette
from app.palette import Look, Theme

#: surfaces and inks per theme: light, dark
_TOKENS: Final = {
    "paper": ("#ffffff", "#1a1917"),
    "ground": ("#f7f6f4", "#121110"),
    "raised": ("#faf9f7", "#211f1d"),
    "line": ("#e7e5e1", "#322f2c"),
    "line-strong": ("#d3cfc9", "#47433f"),
    "ink": ("#1c1917", "#ebe8e4"),
    "ink-2": ("#57534e", "#b3ada6"),
    "ink-3": ("#6b6560", "#a29e96"),
    "accent": ("#1d4ed8", "#8ab0f0"),
    "focus": ("#2563eb", "#8ab0f0"),
}


#: stylesheets of layouts: one below the other; the page's margin
STACK: Final = ":host{display:flex!important;flex-direction:column;gap:12px!important}.scroll-button{display:none!important}"
PAGE: Final = ":host{padding:12px;box-sizing:border-box}"


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
    """The stylesheet of a section."""
    css = (Path(__file__).parent / "design.css").read_text(encoding="utf-8")
    states = "".join(f".c-{name}{{--tone:var(--c-{name})}}" for name in _looks())
    return (
        f".section{{{variables('light')}}}"
        f'.section[data-theme="dark"]{{{variables("dark")}}}{states}{css}'
    )


def theme_config() -> dict[str, Any]:
    """Return the theme of the server's page frame, light and dark."""
    font = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', system-ui, sans-serif"
    out: dict[str, Any] = {}
    for index, name in enumerate(("light", "dark")):
        out[name] = {
            "palette": {
                "primary": {"main": _TOKENS["accent"][index]},
                "background": {
                    "default": _TOKENS["ground"][index],
                    "paper": _TOKENS["ground"][index],
                },
                "text": {"primary": _TOKENS["ink"][index], "secondary": _TOKENS["ink-2"][index]},
                "divider": _TOKENS["line"][index],
            },
            "typography": {"fontFamily": font, "fontSize": 13},
            "shape": {"borderRadius": 6},
        }
    return out


def grid(min_px: int) -> str:
    """Stylesheet of a layout whose children stand side by side while each has *min_px*."""
    return (
        ":host{display:grid!important;gap:12px;"
        f"grid-template-columns:repeat(auto-fit,minmax(min({min_px}px,100%),1fr));"
        "align-items:stretch}.scroll-button{display:none!important}:host>*{min-width:0;width:100%!important}"
    )


def chart_panel(theme: Theme = "light") -> str:
    """Stylesheet of the box around a chart."""
    dark = theme == "dark"
    paper, line = _TOKENS["paper"][dark], _TOKENS["line"][dark]
    return (
        f":host{{background:{paper};border:1px solid {line};border-radius:8px;"
        "padding:9px 10px 4px;box-sizing:border-box;overflow:hidden}"
    )


def frame_sx() -> dict[str, Any]:
    """Style of the server's page frame: a quiet head, content with a margin."""
    return {
        "& .MuiAppBar-root": {
            "backgroundColor": "background.default",
            "backgroundImage": "none",
            "color": "text.primary",
            "boxShadow": "none",
            "borderBottom": "1px solid",
            "borderColor": "divider",
        },
        "& .MuiToolbar-root": {"minHeight": "48px !important", "height": "48px"},
        "& .MuiAppBar-root .title": {
            "color": "text.primary",
            "fontSize": "15px",
            "fontWeight": 650,
            "marginRight": "16px",
        },
        "& .MuiAppBar-root .MuiIconButton-root": {"color": "text.secondary"},
    }
