"""The page ``panel serve app/dashboard`` shows at /dashboard, and the server at /admin/queues.

Only the frame is made here: head, theme, reload after a restart. What it frames is ``Overview``. A page
that cannot be made says so; Panel alone would show a blank one.
"""

import logging
from html import escape
from typing import Any, cast

import panel as pn
import panel_material_ui
from bokeh.models import CustomJS
from bokeh.themes import Theme

from app.pages import design
from app.pages.overview import Overview
from app.server import page_actor, runtime

log = logging.getLogger("arqscope.page")
#: pmui builds its namespace at run time, and Panel's layouts are untyped
pmui: Any = panel_material_ui
layout: Any = pn

#: reload once the server answers again: a reconnected session would have lost its stream
_RELOAD = """
if (window.__arqscope_reload) return
const root = location.pathname.replace(/\\/(admin\\/queues|dashboard)\\/?$/, "")
window.__arqscope_reload = setInterval(async () => {
  try { const answer = await fetch(root + "/health/live", {cache: "no-store"})
        if (answer.ok) location.reload() } catch (error) {}
}, 1000)
"""

#: names what ``charts`` paints itself, so that the frame's theme leaves it alone
_OWN_CHARTS = {
    "attrs": {
        "Figure": {"outline_line_color": None},
        "Axis": {"minor_tick_line_color": None},
        "Legend": {"border_line_color": None},
        "Title": {"text_font_style": "normal"},
        "Grid": {"minor_grid_line_color": None},
    }
}


def page() -> Any:
    """Build the page of one viewer."""
    shared = runtime()
    doc = cast(Any, pn.state.curdoc)
    context = doc.session_context
    saved = pn.state.cookies.get("arqscope_theme")
    overview = Overview(
        shared.collector,
        shared.settings,
        lambda: page_actor(context, shared.guard),
        shared.connections,
        is_open=shared.guard.is_open,
        theme=saved if saved in ("light", "dark") else "auto",
    )
    frame = pmui.Page(
        title="arqscope",
        header=[
            layout.Row(
                layout.layout.HSpacer(), overview.mast, sizing_mode="stretch_width", margin=0
            )
        ],
        main=[overview],
        dark_theme=overview.theme == "dark",
        theme_config=design.theme_config(),
        busy_indicator=None,
        sx=design.frame_sx(),
        main_width="100%",
    )

    def to_page(event: object) -> None:  # noqa: ARG001 - param's signature
        frame.dark_theme = overview.theme == "dark"

    def to_overview(event: object) -> None:  # noqa: ARG001 - param's signature
        overview.theme = "dark" if frame.dark_theme else "light"
        overview.mast.remember_theme(overview.theme)

    overview.param.watch(to_page, "theme")
    frame.param.watch(to_overview, "dark_theme")
    doc.js_on_event("connection_lost", CustomJS(code=_RELOAD))
    doc.title = "arqscope"
    doc.theme = Theme(json=_OWN_CHARTS)
    return frame


pn.extension()
try:
    page().servable(title="arqscope")
except Exception as error:
    log.exception("the page cannot be made")
    layout.pane.HTML(
        "<h1>arqscope cannot show this page</h1>"
        f"<p><code>{escape(type(error).__name__)}: {escape(str(error)[:500])}</code></p>"
        "<p>The server's log has the details. The API goes on: <a href='stats'>/stats</a>.</p>",
        sizing_mode="stretch_width",
        styles={"font": "15px/1.5 system-ui", "padding": "2rem"},
    ).servable(title="arqscope · error")
