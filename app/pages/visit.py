"""A visit: one viewer's address, what they chose and were told, and the screen that follows it all.

One object for the server and for a notebook. It reads the collector's snapshot and writes through the
desk; every snapshot reaches the browser as the parts of the screen that changed.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

import panel as pn
import param
from bokeh.document import Document

from app.actions import Actor, Connections
from app.annals.recall import Recall
from app.pages import dialogs, masthead, stretch, travel
from app.pages.address import Address, address_of
from app.pages.catalogue import PAGES
from app.pages.counter import Counter
from app.pages.errands import Errands
from app.pages.exhibit import Exhibits
from app.pages.gallery import Gallery
from app.pages.intents import Desk, Notice
from app.pages.journey import Journey
from app.pages.made import once
from app.pages.markup import Html, join
from app.pages.parts import Frame
from app.pages.plots import Plots, plot_of
from app.pages.present import Present, Source
from app.pages.pulse import Pulse
from app.pages.reading import Reading
from app.pages.scene import Page, Reach, Scene
from app.pages.screen import Intent, Screen
from app.pages.selection import Selection
from app.pages.wall import Wall
from app.pages.wire import Wire
from app.palette import Theme
from app.settings import Settings
from app.snapshot import Snapshot
from app.streams.tails import Ear, Tails

#: s a page may take to read before it is shown without what it reads
PATIENCE_S: Final = 0.2


class Visit(pn.viewable.Viewer):
    """All pages as one live object, one of them shown."""

    theme: Any = param.Selector(default="auto", objects=["auto", "light", "dark"])

    def __init__(
        self,
        collector: Source,
        settings: Settings,
        actor_of: Callable[[], Actor],
        connections: Connections,
        *,
        address: Address | None = None,
        is_open: bool = False,
        refresh_s: int = masthead.DEFAULT_S,
        recall: Recall | None = None,
        tails: Tails | None = None,
        exhibits: Exhibits | None = None,
        viewers: Callable[[], int] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)  # type: ignore[no-untyped-call]
        self._collector, self._settings = collector, settings
        self._present, self._connections = Present(collector), connections
        self._recall = recall or Recall(connections.queue, connections.streams, connections.holding)
        self._ear = Ear(tails or Tails(settings))
        self._desk = Desk(connections, settings, actor_of)
        self.address = address or Address()
        doc = pn.state.curdoc
        self._doc: Document | None = doc if doc is not None and doc.session_context else None
        self._pulse = Pulse(self._doc, self._refreshed, lambda: self.screen.is_greeted, refresh_s)
        self._frame = Frame(settings, is_open, viewers)
        self._errands = Errands()
        self._selection = Selection()
        self._reading = Reading(self._reach, self._errands, self._pulse.later)
        self._counter = Counter(
            self._desk, self._selection, self._errands, self._pulse.later, self._told
        )
        self._stretch: stretch.Stretch | None = None  #: brushed on the charts shown
        #: whether the browser was told nothing while it took what came before
        self._is_owed = False
        exhibits = exhibits if self._doc is not None else None
        self.gallery = Gallery(settings.sample_interval_s)
        self.screen = Screen(
            self._handle, charts=None if exhibits else self.gallery.column,
            theme=self.theme, served=self._doc is not None,
        )  # fmt: skip
        if self._doc is not None and exhibits is not None:
            self.screen.wire = Wire(self._doc, self._on_taken)
        plots = Plots(self.gallery, self._recall, self._errands.run, self._pulse.later)
        self._wall = Wall(self, self.gallery, plots, exhibits)
        self.journey = Journey(self._recall, self._errands.run, self._pulse.later)
        self._key = collector.subscribe(self._on_snapshot)
        if self._doc is not None:
            pn.state.on_session_destroyed(lambda _: self.stop())
        self.journey.go(self.address)
        self._reading.go(self.address, self.page, is_past=self.journey.is_past, is_new=True)
        self.refresh()

    def __panel__(self) -> Any:
        return self.screen

    def stop(self) -> None:
        """Stop following the collector; what is under way ends."""
        self._pulse.is_over = True
        self._collector.unsubscribe(self._key)
        self._wall.leave()
        self._ear.leave()
        if self.screen.wire is not None:
            self.screen.wire.close()
        self._errands.stop()

    @property
    def plots(self) -> Plots:
        """What its charts show, its own or those of all who see the same."""
        return self._wall.plots

    @property
    def page(self) -> Page:
        """The page shown."""
        return PAGES[self.address.page]

    @property
    def _is_watched(self) -> bool:
        """Whether a browser is connected: a page that was left, or is being loaded, needs no news."""
        return self.screen.wire is None or self.screen.wire.is_watched

    # -- snapshots -------------------------------------------------------------------------------

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        slack = self._settings.sample_interval_s / 2
        if not self._is_watched or not self._pulse.is_time(snapshot.number, slack):
            return
        if self.journey.is_past:  # it does not change
            return
        tail_s = self.page.tail_s if self.address.get("tail") else 0.0
        age_s = self._reading.age_s
        if not self._selection.rows and age_s >= (tail_s or self.page.reload_s) - slack:
            self._reading.again()
        self._pulse.later()

    def _refreshed(self) -> None:
        """Refresh; a notebook is told of what its charts have."""
        self.refresh()
        if self._doc is None:
            for box in self.gallery.column:
                pn.io.push_notebook(box)

    def look(self) -> None:
        """Look again at an exhibit that changed by itself."""
        self._pulse.later()

    def _on_taken(self) -> None:
        """The browser has taken what it was told: what came meanwhile is next."""
        if self._is_owed:
            self._pulse.later()

    def refresh(self) -> None:
        """Show the present, or the moment asked for: what changed is sent, nothing else."""
        live = self._present.live
        self._pulse.shows(live.number)
        self._present.shows(live)
        address, journey = self.address, self.journey
        snapshot = journey.shown(live)
        plot = once(
            snapshot,
            ("plot", address.href),
            lambda: plot_of(self.page, address, snapshot, travel.then_ms(address)),
        )
        boxes = self._wall.show(
            plot, snapshot, self.drawn_theme, address.get("at"), _number(address.get("workers"))
        )
        if not self.screen.is_greeted:
            self.screen.boxes = boxes
        scene = self.scene(live)
        parts = self._frame.parts(self.page, scene, journey, live, self._pulse.refresh_s)
        title = self.page.title(address) if self.page.title else address.place.title
        charts = self._wall.news() if self.screen.is_greeted else {}
        asked = self._counter.asked
        self._is_owed = not self.screen.put(
            title=f"{title} · arqscope", place=address.page, charts=charts,
            dialog=dialogs.dialog(asked, scene) if asked else "",
            notices=join(self._offer(snapshot), self._counter.board.show()), **parts,
        )  # fmt: skip
        if charts and not self._is_owed:
            self._wall.told()

    def _offer(self, snapshot: Snapshot) -> Html | None:
        """What can be done with the stretch that was brushed."""
        if self._stretch is None:
            return None
        name = self.address.get("name") if self.page.is_about_one else ""
        is_queue = bool((snapshot.queues["queue"] == name).any())
        return stretch.offer(self._stretch, self.address, name if is_queue else "")

    def scene(self, snapshot: Snapshot) -> Scene:
        """What the page shown is a function of; held while rows are selected."""
        found = self._reading.found
        if self._selection.held is not None:
            snapshot, found = self._selection.held
        journey = self.journey
        return Scene(
            snapshot=journey.shown(snapshot), address=self.address, settings=self._settings,
            refusal=travel.REFUSAL if journey.is_past else self._desk.refusal,
            found=found, trouble=self._reading.trouble, chosen=frozenset(self._selection.rows),
            is_past=journey.is_past, then=journey.then, forecast=self.plots.forecast,
        )  # fmt: skip

    # -- where it is -----------------------------------------------------------------------------

    def _reach(self) -> Reach:
        """What its page may read now."""
        return Reach(
            connections=self._connections, settings=self._settings,
            snapshot=self._present.snapshot, recall=self._recall, ear=self._ear,
        )  # fmt: skip

    def visit(self, address: Address) -> None:
        """Go to another page, or the same with another query."""
        if address == self.address:
            return
        same_page = address.page == self.address.page
        if not same_page:
            self._ear.leave()
        self.address = address
        is_elsewhen = self.journey.go(address)
        self._selection.let_go()
        self._stretch = None
        if is_elsewhen:
            self._counter.asked = None
        is_new = not same_page or is_elsewhen
        self._reading.go(address, self.page, is_past=self.journey.is_past, is_new=is_new)
        if not self._reading.is_wanted:
            self._pulse.later()
        elif not same_page:
            asyncio.get_running_loop().call_later(PATIENCE_S, self._pulse.later)

    # -- what the viewer asks --------------------------------------------------------------------

    def _handle(self, data: Intent) -> None:
        """Take one message of a browser, to be answered under the document's lock.

        Panel calls this outside of it, where a chart must not be touched.
        """
        if self._doc is None:
            self._answer(data)
        elif self._wall.is_shared:
            asyncio.get_running_loop().call_soon(self._answer, data)
        else:
            self._doc.add_next_tick_callback(functools.partial(self._answer, data))

    def _answer(self, data: Intent) -> None:
        """Do what a message asks for; it is what somebody typed, so nothing in it is trusted."""
        intent = str(data.get("intent", ""))[:40]
        match intent:
            case "visit":
                self.visit(address_of(str(data.get("page", "")), str(data.get("search", ""))))
                return
            case "hello":
                if data.get("theme") in ("light", "dark"):
                    self.theme = data["theme"]
                self._pulse.set(data.get("refresh"))
                self._wall.forget()
                self.screen.greet(data.get("edition"))
            case "turn-theme":
                self.theme = "light" if self.theme == "dark" else "dark"
                self.screen.tell(theme=self.theme)
            case "refresh":
                self._pulse.set(data.get("value"))
            case "seen":
                self._pulse.is_seen = data.get("value") is not False
            case "reload":
                if not self._selection.rows:
                    self._reading.again()
            case "travel":
                self._travel(data)
            case "stretch":
                now_ms = self._present.snapshot.taken_at.timestamp() * 1000
                self._stretch = stretch.brushed(data, now_ms)
            case "what-if":
                where = self.address.but(
                    workers=data.get("value"), cursor=self.address.get("cursor")
                )
                self.screen.tell(go=where.href)
            case "choose" | "choose-all" | "clear":
                self._choose(intent, data)
            case _:
                self._counter.take(
                    intent, data, lambda: self.scene(self._present.snapshot),
                    is_past=self.journey.is_past,
                )  # fmt: skip
        self.refresh()

    def _travel(self, data: Intent) -> None:
        """Go to the moment the bar asks for."""
        asked = self.journey.asked(data, self._present.snapshot)
        if isinstance(asked, Notice):
            self._counter.board.post(asked)
        else:
            self.screen.tell(go=self.address.but(at=asked).href)

    def _choose(self, intent: str, data: Intent) -> None:
        snapshot = self._present.live
        keys = self.page.keys(self.scene(snapshot)) if self.page.keys else []
        self._selection.choose(intent, data, keys, (snapshot, self._reading.found))

    @property
    def drawn_theme(self) -> Theme:
        """The theme charts are drawn in."""
        return "dark" if self.theme == "dark" else "light"

    @param.depends("theme", watch=True)
    def _dress(self) -> None:
        self.screen.theme = self.theme
        self._wall.paint(self.drawn_theme)

    def _told(self, notice: Notice) -> None:
        """Something was done: the page may show it."""
        if notice.go:
            self.screen.tell(go=notice.go)
        self._reading.again()
        self._pulse.later()


def _number(text: str) -> float | None:
    """A number of workers an address asks about."""
    return float(text) if text.isdecimal() and len(text) < 5 else None


__all__ = ["Source", "Visit"]
