"""A visit: one viewer's address, what they chose and were told, and the screen that follows it all.

One object for the server and for a notebook. It reads the collector's snapshot and writes through the
desk; every snapshot reaches the browser as the parts of the screen that changed.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, Protocol, cast

import panel as pn
import param
from bokeh.document import Document

from app.actions import Actor, Connections
from app.annals.recall import Recall
from app.collector import Callback
from app.errors import ArqscopeError
from app.pages import bulk, dialogs, masthead, rail, stretch, strip, travel
from app.pages.address import HOME, Address, address_of
from app.pages.board import Board
from app.pages.catalogue import PAGES
from app.pages.exhibit import Exhibits
from app.pages.gallery import Gallery
from app.pages.intents import ACTS, Desk, Notice
from app.pages.journey import REFUSED, Journey
from app.pages.made import once
from app.pages.markup import Html, join
from app.pages.plots import Plots, plot_of
from app.pages.scene import Page, Reach, Scene
from app.pages.screen import Intent, Screen
from app.pages.summary import held
from app.pages.wall import Wall
from app.pages.wire import Wire
from app.palette import Theme
from app.settings import Settings
from app.snapshot import Snapshot
from app.streams.tails import Tails

log = logging.getLogger("arqscope.visit")

#: rows a viewer may select; more is an operation over a filter
MAX_CHOSEN: Final = 100
#: s a page may take to read before it is shown without what it reads
PATIENCE_S: Final = 0.2


class Source(Protocol):
    """What a visit needs of a collector."""

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with each new one."""

    def unsubscribe(self, key: int) -> None:
        """Stop calling."""


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
        self._collector, self._settings, self._is_open = collector, settings, is_open
        self._connections = connections
        self._recall = recall or Recall(connections.queue, connections.streams, connections.holding)
        self._tails = tails or Tails(settings)
        self._desk = Desk(connections, settings, actor_of)
        self._viewers = viewers  #: how many look at pages of this process; None: it is no server
        self.address = address or Address()
        self._refresh_s = refresh_s
        self._chosen: set[str] = set()
        self._held: tuple[Snapshot, Any] | None = None  #: what is shown while rows are selected
        self._board = Board()
        self._asked: dialogs.Asked | None = None
        self._stretch: stretch.Stretch | None = None  #: brushed on the charts shown
        self._found: Any = None
        self._trouble = ""
        self._loaded_at = 0.0
        self._is_loading = False
        self._good: Snapshot | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_due = False
        self._is_over = False
        self._is_seen = True
        self._shown_at = 0.0
        self._shown_number = -1

        doc = pn.state.curdoc
        self._doc: Document | None = doc if doc is not None and doc.session_context else None
        exhibits = exhibits if self._doc is not None else None
        self._is_owed = (
            False  #: whether the browser was told nothing while it took what came before
        )
        self.gallery = Gallery(settings.sample_interval_s)
        self.screen = Screen(
            self._handle, charts=None if exhibits else self.gallery.column,
            theme=self.theme, served=self._doc is not None,
        )  # fmt: skip
        if self._doc is not None and exhibits is not None:
            self.screen.wire = Wire(self._doc, self._on_taken)
        plots = Plots(self.gallery, self._recall, self._run, self._later)
        self._wall = Wall(self, self.gallery, plots, exhibits)
        self.journey = Journey(self._recall, self._run, self._later)
        self._key = collector.subscribe(self._on_snapshot)
        if self._doc is not None:
            pn.state.on_session_destroyed(lambda _: self.stop())
        self.journey.go(self.address)
        self._load()
        self.refresh()

    def __panel__(self) -> Any:
        return self.screen

    def stop(self) -> None:
        """Stop following the collector; what is under way ends."""
        self._is_over = True
        self._collector.unsubscribe(self._key)
        self._wall.leave()
        if self.screen.wire is not None:
            self.screen.wire.close()
        for task in self._tasks:
            task.cancel()

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
        waited = time.monotonic() - self._shown_at
        slack = self._settings.sample_interval_s / 2
        is_first = self._shown_number <= 0
        if not is_first and (not self._refresh_s or waited < self._refresh_s - slack):
            return
        if not self._is_seen or not self._is_watched or snapshot.number == self._shown_number:
            return
        if self.journey.is_past:  # it does not change
            return
        age_s = time.monotonic() - self._loaded_at
        tail_s = self.page.tail_s if self.address.get("tail") else 0.0
        if not self._chosen and age_s >= (tail_s or self.page.reload_s) - slack:
            self._load()
        self._later()

    def _later(self) -> None:
        """Refresh under the document's lock, once for however many reasons came meanwhile."""
        if self._is_over:
            return
        if self._doc is None:
            self.refresh()
            for box in self.gallery.column:
                pn.io.push_notebook(box)
        elif not self._is_due:
            self._is_due = True
            if self.screen.is_greeted:  # no model of the document is touched
                asyncio.get_running_loop().call_soon(self.refresh)
            else:
                self._doc.add_next_tick_callback(self.refresh)

    def look(self) -> None:
        """Look again at an exhibit that changed by itself."""
        self._later()

    def _on_taken(self) -> None:
        """The browser has taken what it was told: what came meanwhile is next."""
        if self._is_owed:
            self._later()

    @property
    def _live(self) -> Snapshot:
        """The latest snapshot, with the last known numbers of a lost source; one for all visits."""
        now, before = self._collector.snapshot, self._good
        if before is None or not now.problems:
            return now
        # by number: what is kept with a snapshot must not hold on to one, or none is ever freed
        return cast(Snapshot, once(now, ("held", before.number), lambda: held(now, before)))

    def refresh(self) -> None:
        """Show the present, or the moment asked for: what changed is sent, nothing else."""
        self._is_due = False
        live = self._live
        if live.number and not live.problems:
            self._good = live
        if live.number != self._shown_number:
            self._shown_at, self._shown_number = time.monotonic(), live.number
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
        if self.page.is_shared and not scene.chosen and not journey.is_past:
            key = ("parts", address.href, scene.refusal, self._refresh_s, self._is_open)
            parts = once(snapshot, key, lambda: self._parts(scene, live))
        else:
            parts = self._parts(scene, live)
        title = self.page.title(address) if self.page.title else address.place.title
        charts = self._wall.news() if self.screen.is_greeted else {}
        self._is_owed = not self.screen.put(
            title=f"{title} · arqscope", place=address.page, charts=charts,
            dialog=dialogs.dialog(self._asked, scene) if self._asked else "",
            notices=join(self._offer(snapshot), self._board.show()), **parts,
        )  # fmt: skip
        if charts and not self._is_owed:
            self._wall.told()

    def _parts(self, scene: Scene, live: Snapshot) -> dict[str, Html]:
        """All that several viewers may share."""
        address, journey, settings = self.address, self.journey, self._settings
        snapshot, is_past, refresh_s = scene.snapshot, journey.is_past, self._refresh_s
        # rows that are selected hold their own snapshot; what stands around them does not
        around = journey.shown(live) if scene.chosen else snapshot
        above, below = self._halves(scene)
        is_open, at = self._is_open and address.page == HOME, address.get("at")
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
            "foot": once(around, ("foot", at, self.page.reads_past),
                          lambda: masthead.foot(around, settings, is_past=is_past, then=scene.then
                                                if self.page.reads_past else None,
                                                viewers=max(1, self._viewers()) if self._viewers else None)),
        }  # fmt: skip

    def _offer(self, snapshot: Snapshot) -> Html | None:
        """What can be done with the stretch that was brushed."""
        if self._stretch is None:
            return None
        name = self.address.get("name") if self.page.is_about_one else ""
        is_queue = bool((snapshot.queues["queue"] == name).any())
        return stretch.offer(self._stretch, self.address, name if is_queue else "")

    def scene(self, snapshot: Snapshot) -> Scene:
        """What the page shown is a function of; held while rows are selected."""
        found = self._found
        if self._held is not None:
            snapshot, found = self._held
        journey = self.journey
        return Scene(
            snapshot=journey.shown(snapshot), address=self.address, settings=self._settings,
            refusal=travel.REFUSAL if journey.is_past else self._desk.refusal,
            found=found, trouble=self._trouble, chosen=frozenset(self._chosen),
            is_past=journey.is_past, then=journey.then, forecast=self.plots.forecast,
        )  # fmt: skip

    def _halves(self, scene: Scene) -> tuple[object, object]:
        page = self.page
        above, below = page.above, page.below or (lambda _: Html(""))
        if self.journey.is_past and page.past is not None:
            above, below = page.past, lambda _: Html("")
        if not page.is_shared or scene.chosen:
            return above(scene), below(scene)
        key = (scene.address.href, scene.refusal)
        return (
            once(scene.snapshot, ("above", *key), lambda: above(scene)),
            once(scene.snapshot, ("below", *key), lambda: below(scene)),
        )

    # -- what a page reads -----------------------------------------------------------------------

    @property
    def _reads(self) -> bool:
        """Whether the page reads for the address shown: of the past only what it can."""
        return self.page.load is not None and (self.page.reads_past or not self.journey.is_past)

    def _load(self) -> None:
        if self._is_loading or not self._reads:
            return
        self._is_loading, self._loaded_at = True, time.monotonic()
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # made outside a loop (a test, an export): nothing can be read
            self._is_loading = False
            return
        self._run(self._read(self.address, self.page))

    async def _read(self, address: Address, page: Page) -> None:
        found, trouble = None, ""
        reach = Reach(
            connections=self._connections, settings=self._settings,
            snapshot=self._collector.snapshot, recall=self._recall, tails=self._tails,
        )  # fmt: skip
        try:
            found = await page.load(reach, address) if page.load else None
        except ArqscopeError as error:
            trouble = str(error)
        except Exception as error:  # a page says what is wrong; the others go on
            log.exception("page cannot be read", extra={"page": address.page})
            trouble = f"{type(error).__name__}: {error}"[:300]
        self._is_loading = False
        if address != self.address:
            self._load()
            return
        if found is not None or trouble:
            self._found, self._trouble = (found if found is not None else self._found), trouble
        self._later()

    def visit(self, address: Address) -> None:
        """Go to another page, or the same with another query."""
        if address == self.address:
            return
        same_page = address.page == self.address.page
        self.address = address
        is_elsewhen = self.journey.go(address)
        self._let_go()
        self._stretch, self._trouble = None, ""
        if not same_page or is_elsewhen or not self._reads:
            self._found = None
        if is_elsewhen:
            self._asked = None
        if not self._reads:
            self._later()
            return
        self._is_loading = False
        self._load()
        if not same_page:
            asyncio.get_running_loop().call_later(PATIENCE_S, self._later)

    def _let_go(self) -> None:
        self._chosen.clear()
        self._held = None

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
                self._set_refresh(data.get("refresh"))
                self._wall.forget()
                self.screen.greet()
            case "turn-theme":
                self.theme = "light" if self.theme == "dark" else "dark"
                self.screen.tell(theme=self.theme)
            case "refresh":
                self._set_refresh(data.get("value"))
            case "seen":
                self._is_seen = data.get("value") is not False
            case "reload":
                if not self._chosen:
                    self._load()
            case "travel":
                self._travel(data)
            case "stretch":
                now_ms = self._collector.snapshot.taken_at.timestamp() * 1000
                self._stretch = stretch.brushed(data, now_ms)
            case "what-if":
                where = self.address.but(
                    workers=data.get("value"), cursor=self.address.get("cursor")
                )
                self.screen.tell(go=where.href)
            case "choose" | "choose-all" | "clear":
                self._choose(intent, data)
            case "help":
                self._asked = dialogs.Asked("help")
            case "ask":
                self._asked = dialogs.Asked.of(data, self.scene(self._collector.snapshot))
                if self._asked is not None and self._asked.what in bulk.KINDS:
                    self._run(self._count(self._asked))
            case "close":
                self._asked = None
            case "confirm" if (
                self._asked is not None
                and isinstance(data.get("fields"), dict)
                and not self.journey.is_past
            ):
                self._run(self._confirm(self._asked, dict(data["fields"])))
            case "dismiss":
                self._board.take_down(data.get("number"))
            case _ if intent in ACTS and self.journey.is_past:
                self._board.post(REFUSED)
            case _ if intent in ACTS:
                fields = data.get("fields")
                self._run(
                    self._perform(intent, {**data, **(fields if isinstance(fields, dict) else {})})
                )
        self.refresh()

    def _set_refresh(self, value: object) -> None:
        if str(value).isdecimal() and int(str(value)) in masthead.REFRESHES:
            self._refresh_s = int(str(value))

    def _travel(self, data: Intent) -> None:
        """Go to the moment the bar asks for."""
        asked = self.journey.asked(data, self._collector.snapshot)
        if isinstance(asked, Notice):
            self._board.post(asked)
        else:
            self.screen.tell(go=self.address.but(at=asked).href)

    def _choose(self, intent: str, data: Intent) -> None:
        snapshot = self._live
        keys = self.page.keys(self.scene(snapshot)) if self.page.keys else []
        if intent == "clear":
            self._let_go()
            return
        on = data.get("checked") is True
        wanted = keys if intent == "choose-all" else [str(data.get("row", ""))]
        for key in wanted:
            if not on:
                self._chosen.discard(key)
            elif key in keys and len(self._chosen) < MAX_CHOSEN:
                if not self._chosen:
                    self._held = (snapshot, self._found)
                self._chosen.add(key)
        if not self._chosen:
            self._held = None

    @property
    def drawn_theme(self) -> Theme:
        """The theme charts are drawn in."""
        return "dark" if self.theme == "dark" else "light"

    @param.depends("theme", watch=True)
    def _dress(self) -> None:
        self.screen.theme = self.theme
        self._wall.paint(self.drawn_theme)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, intent: str, data: Intent) -> None:
        if intent.endswith("-chosen"):
            chosen = sorted(self._chosen)
            self._let_go()
            notice = await self._desk.perform_each(intent.removesuffix("-chosen"), chosen)
        else:
            notice = await self._desk.perform(intent, data)
        self._told(notice, data.get("number"))

    async def _count(self, asked: dialogs.Asked) -> None:
        counted = await self._desk.count(asked)
        if self._asked is asked:
            self._asked = counted
        self._later()

    async def _confirm(self, asked: dialogs.Asked, fields: dict[str, Any]) -> None:
        notice = await self._desk.confirm(asked, fields)
        if notice.keeps_dialog:
            if self._asked is asked:
                self._asked = replace(asked, said=notice, fields=fields)
            self._later()
            return
        if self._asked is asked:
            self._asked = None
        self._let_go()
        self._told(notice)

    def _told(self, notice: Notice, replaces: object = None) -> None:
        self._board.post(notice, replaces)
        if notice.go:
            self.screen.tell(go=notice.go)
        self._load()
        self._later()


def _number(text: str) -> float | None:
    """A number of workers an address asks about."""
    return float(text) if text.isdecimal() and len(text) < 5 else None


__all__ = ["Source", "Visit"]
