"""The parts of a screen that several viewers may share, each made once for all who see the same."""

from collections.abc import Callable
from dataclasses import dataclass

from app.pages import masthead, rail, strip, travel
from app.pages.address import HOME
from app.pages.journey import Journey
from app.pages.made import once
from app.pages.markup import Html, join
from app.pages.scene import Page, Scene
from app.settings import Settings
from app.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around every page of one server, whatever it shows."""

    settings: Settings
    is_open: bool  #: whether anybody may come in
    viewers: Callable[[], int] | None = None  #: how many look; None: it is no server

    def parts(
        self, page: Page, scene: Scene, journey: Journey, live: Snapshot, refresh_s: int
    ) -> dict[str, Html]:
        """The parts of *page*; rows that are selected hold their own snapshot, what stands around does not."""
        address = scene.address
        if not page.is_shared or scene.chosen or journey.is_past:
            return self._made(page, scene, journey, live, refresh_s)
        key = ("parts", address.href, scene.refusal, refresh_s, self.is_open)
        made: dict[str, Html] = once(
            scene.snapshot, key, lambda: self._made(page, scene, journey, live, refresh_s)
        )
        return made

    def _made(
        self, page: Page, scene: Scene, journey: Journey, live: Snapshot, refresh_s: int
    ) -> dict[str, Html]:
        address, settings, is_past = scene.address, self.settings, journey.is_past
        around = journey.shown(live) if scene.chosen else scene.snapshot
        above, below = _halves(page, scene, is_past=is_past)
        is_open, at = self.is_open and address.page == HOME, address.get("at")
        return {
            "head": once(around, ("head", refresh_s, at),
                         lambda: travel.kept(masthead.head(around, settings, refresh_s), address)),
            "rail": once(around, ("rail", address.page, address.get("name"), at),
                         lambda: travel.kept(rail.rail(around, address), address)),
            "strip": join(journey.strip(address, live)) if is_past else once(
                around, ("strip", is_open), lambda: join(
                    strip.banners(around, settings, is_open=is_open), strip.strip(around))),
            "above": travel.kept(join(above), address),
            "below": travel.kept(join(below), address),
            "foot": once(around, ("foot", at, page.reads_past),
                         lambda: masthead.foot(around, settings, is_past=is_past,
                                               then=scene.then if page.reads_past else None,
                                               viewers=max(1, self.viewers()) if self.viewers else None)),
        }  # fmt: skip


def _halves(page: Page, scene: Scene, *, is_past: bool) -> tuple[object, object]:
    above, below = page.above, page.below or (lambda _: Html(""))
    if is_past and page.past is not None:
        above, below = page.past, lambda _: Html("")
    if not page.is_shared or scene.chosen:
        return above(scene), below(scene)
    key = (scene.address.href, scene.refusal)
    return (
        once(scene.snapshot, ("above", *key), lambda: above(scene)),
        once(scene.snapshot, ("below", *key), lambda: below(scene)),
    )


__all__ = ["Frame"]
