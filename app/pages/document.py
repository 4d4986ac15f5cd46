"""The document a browser is given: our letters, and the page as it is now, before any script has run."""

from typing import Any, Final

from app.pages import design
from app.pages.markup import Html, tag
from app.pages.screen import Screen

_FONT: Final = "assets/inter.woff2"
#: what of Panel's own document is replaced; Panel puts ``{% extends base %}`` before it
TEMPLATE: Final = f"""{{% from macros import embed %}}
{{% block title %}}{{{{ title | e if title else "arqscope" }}}}{{% endblock %}}
{{% block preamble %}}
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="preload" href="{_FONT}" as="font" type="font/woff2" crossorigin>
{{% endblock %}}
{{% block postamble %}}<style>{design.first_paint(_FONT)}</style>{{% endblock %}}
{{% block inner_body %}}
{{{{ first }}}}
<div id="page">{{% for doc in docs %}}{{% for root in doc.roots %}}{{{{ embed(root) }}}}{{% endfor %}}{{% endfor %}}</div>
{{{{ plot_script | indent(4) }}}}
{{% endblock %}}
"""
#: gives the first paint the theme the page will have
_THEME: Final = Html(
    "<script>(() => {"
    "const saved = /(?:^|; )arqscope_theme=(light|dark)/.exec(document.cookie)?.[1];"
    'const theme = saved || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");'
    "document.documentElement.dataset.theme = theme;"
    'const shadow = document.getElementById("first").shadowRoot;'
    'if (shadow) shadow.querySelector(".section").dataset.theme = theme;'
    "})()</script>"
)


def first_paint(screen: Screen) -> Html:
    """The page as a picture: what the screen shows now, without its script; charts are empty boxes."""
    charts = screen.boxes
    boxes = tag("div", [tag("div", class_="panel chart-box") for _ in range(charts)],
                class_="charts-row") if charts else Html("")  # fmt: skip

    def part(name: str) -> Html:
        return tag("div", Html(getattr(screen, name)), class_=f"part-{name}")

    body: list[Any] = [part(name) for name in ("strip", "above")]
    body += [tag("div", boxes, class_="part-charts"), part("below"), part("foot")]
    shown = tag(
        "div",
        tag("header", Html(screen.head), class_="part-head"),
        part("rail"),
        tag("main", body),
        class_="section frame",
        inert=True,
    )
    style = Html(f"<style>{design.stylesheet()}</style>")
    shadow = tag("template", style, shown, shadowrootmode="open")
    return Html(tag("div", shadow, id="first", aria_hidden="true") + _THEME)


__all__ = ["TEMPLATE", "first_paint"]
