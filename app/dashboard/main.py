"""The pages ``panel serve app/dashboard`` shows, one session for all of them, at /admin/….

Only the document is made here: theme, letters, reload after a restart. What it shows is a ``Visit``. A page
that cannot be made says so; Panel alone would show a blank one.
"""

import logging
from html import escape
from typing import Any, cast

import panel as pn
from bokeh.models import CustomJS

from app.pages.address import address_of
from app.pages.document import TEMPLATE, first_paint
from app.pages.masthead import DEFAULT_S, REFRESHES
from app.pages.visit import Visit
from app.server import page_actor, page_sessions, runtime

log = logging.getLogger("arqscope.page")
#: Panel's layouts are untyped
layout: Any = pn

#: reload once the server answers again: a reconnected session would have lost its stream
_RELOAD = """
if (window.__arqscope_reload) return
const root = location.pathname.replace(/\\/(admin\\/[^/]+|dashboard)\\/?$/, "")
window.__arqscope_reload = setInterval(async () => {
  try { const answer = await fetch(root + "/health/live", {cache: "no-store"})
        if (answer.ok) location.reload() } catch (error) {}
}, 1000)
"""


def page() -> Visit:
    """Build the page of one viewer."""
    shared = runtime()
    doc = cast(Any, pn.state.curdoc)
    context = doc.session_context
    request = getattr(context, "request", None)
    path, query = str(getattr(request, "path", "")), str(getattr(request, "query", ""))
    theme = pn.state.cookies.get("arqscope_theme")
    refresh = str(pn.state.cookies.get("arqscope_refresh", ""))
    is_known = refresh.isdecimal() and int(refresh) in REFRESHES
    visit = Visit(
        shared.collector,
        shared.settings,
        lambda: page_actor(context, shared.guard),
        shared.connections,
        address=address_of(path.rstrip("/").rpartition("/")[2], query),
        is_open=shared.guard.is_open,
        recall=shared.recall,
        tails=shared.tails,
        exhibits=shared.exhibits,
        viewers=page_sessions,
        refresh_s=int(refresh) if is_known else DEFAULT_S,
        theme=theme if theme in ("light", "dark") else "auto",
    )
    doc.js_on_event("connection_lost", CustomJS(code=_RELOAD))
    return visit


pn.extension()
try:
    shown = page()
    shown.servable(title=shown.screen.title)
    document = cast(Any, pn.state.curdoc)
    document.template = TEMPLATE
    document.template_variables["first"] = first_paint(shown.screen)
except Exception as error:
    log.exception("the page cannot be made")
    layout.pane.HTML(
        "<h1>arqscope cannot show this page</h1>"
        f"<p><code>{escape(type(error).__name__)}: {escape(str(error)[:500])}</code></p>"
        "<p>The server's log has the details. The API goes on: <a href='stats'>/stats</a>.</p>",
        sizing_mode="stretch_width",
        styles={"font": "15px/1.5 system-ui", "padding": "2rem"},
    ).servable(title="arqscope · error")
