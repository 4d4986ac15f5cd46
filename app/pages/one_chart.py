"""One chart by itself: nothing but the chart its address names, for other pages to hold."""

from app.charts import ALIASES, CHARTS
from app.pages.address import Address
from app.pages.markup import Html, panel, tag
from app.pages.scene import Page, Scene


def _name(address: Address) -> str:
    asked = address.get("chart", "throughput")
    return ALIASES.get(asked, asked)


def _charts(address: Address, _: object = None) -> tuple[str, ...]:
    return (_name(address),) if _name(address) in CHARTS else ()


def _above(scene: Scene) -> Html:
    name = _name(scene.address)
    if name in CHARTS:
        return tag("h1", CHARTS[name].title, class_="hidden")
    known = ", ".join(CHARTS)
    return panel(
        tag("p", f"There is no chart {name[:40]!r}. There are: {known}.", class_="empty"),
        label="Chart",
    )


PAGE = Page(
    above=_above,
    charts=_charts,
    is_about_one=True,
    title=lambda address: (
        f"{CHARTS[_name(address)].title if _charts(address) else 'Chart'}"
        + (f" of {address.get('name')}" if address.get("name") else "")
    ),
    is_shared=True,
)

__all__ = ["PAGE"]
