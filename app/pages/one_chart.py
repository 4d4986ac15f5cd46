"""One chart by itself: nothing but the chart its address names, for other pages to hold."""

from app.charts import ALIASES, CHARTS
from app.pages.address import Address
from app.pages.markup import Html, join, panel, tag
from app.pages.scene import Page, Scene
from app.pages.strip import reconnecting


def _name(address: Address) -> str:
    asked = address.get("chart", "throughput")
    return ALIASES.get(asked, asked)


def _charts(address: Address, _: object = None) -> tuple[str, ...]:
    return (_name(address),) if _name(address) in CHARTS else ()


def _above(scene: Scene) -> Html:
    name = _name(scene.address)
    if name in CHARTS:
        return join(tag("h1", CHARTS[name].title, class_="hidden"), _missing(scene, name))
    known = ", ".join(CHARTS)
    return panel(
        tag("p", f"There is no chart {name[:40]!r}. There are: {known}.", class_="empty"),
        label="Chart",
    )


def _missing(scene: Scene, name: str) -> Html:
    """What the chart does without: Redis, or anything to draw. Nothing around it says so."""
    snapshot, of_streams = scene.snapshot, CHARTS[name].of_streams
    said = [reconnecting(snapshot, source) for source in snapshot.problems if source != "cache"]
    frame = snapshot.streams if of_streams else snapshot.queues
    if frame.empty:
        what = "stream" if of_streams else "queue"
        known = f"No {what} is known yet: the chart appears with the first."
        said.append(
            known if snapshot.number else "No sample yet: the chart appears with the first."
        )
    return join(tag("p", text, class_="empty", role="status") for text in said)


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
