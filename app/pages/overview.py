"""The overview: what is running, waiting and broken now, and what to do about it.

One object for the server and for a notebook. It reads the collector's snapshot and writes through the
desk; every snapshot reaches the browser as the parts of it that changed.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import panel as pn
import param
from bokeh.document import Document

from app import charts
from app.actions import Actor, Connections
from app.collector import Callback
from app.pages import activity, cards, design, strip, submission
from app.pages.intents import ACTS, Desk, Notice
from app.pages.letters import LetterList
from app.pages.markup import Html, button, icon, tag
from app.pages.section import Intent, Section
from app.pages.summary import held
from app.palette import JOB_LOOK, Theme
from app.records import JobState
from app.settings import Settings
from app.snapshot import Snapshot

MAX_NOTICES: Final = 4


class Source(Protocol):
    """What the page needs of a collector."""

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with each new one."""

    def unsubscribe(self, key: int) -> None:
        """Stop calling."""


@dataclass(frozen=True)
class _Posted:
    notice: Notice
    number: int
    until: float


class Overview(pn.viewable.Viewer):
    """The overview page as one live object."""

    theme: Any = param.Selector(default="auto", objects=["auto", "light", "dark"])

    def __init__(
        self,
        collector: Source,
        settings: Settings,
        actor_of: Callable[[], Actor],
        connections: Connections,
        *,
        is_open: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(**more)  # type: ignore[no-untyped-call]
        self._collector, self._settings, self._is_open = collector, settings, is_open
        self._desk = Desk(connections, settings, actor_of)
        self._may_act = not self._desk.refusal
        self._letters = LetterList()
        self._answer: submission.Answer | None = None
        self._notices: list[_Posted] = []
        self._notice_number = 0
        self._good: Snapshot | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_due = False
        self._queues: list[str] = []
        self._last_at: Any = None

        doc = pn.state.curdoc
        self._doc: Document | None = doc if doc is not None and doc.session_context else None
        self._make_sections()
        self._key = collector.subscribe(self._on_snapshot)
        if self._doc is not None:
            pn.state.on_session_destroyed(lambda _: self.stop())
        self._refresh()
        self._dress()

    def _make_sections(self) -> None:
        handle = self._handle
        self.mast = Section(handle, announce=True, sizing_mode=None, width_policy="min")
        self._upper = Section(handle)
        self._left, self._right = Section(handle), Section(handle)
        self._dead, self._form = Section(handle), Section(handle)
        self._foot, self._toast = Section(handle), Section(handle)
        self._sections = [
            self.mast, self._upper, self._left, self._right, self._dead, self._form, self._foot, self._toast,
        ]  # fmt: skip
        plain: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self._charts = pn.Column(stylesheets=[design.grid(380)], css_classes=["go-charts"], **plain)
        self._layout = pn.Column(
            self._upper,
            self._charts,
            self._dead,
            pn.Column(
                self._left,
                pn.Column(self._right, self._form, stylesheets=[design.STACK], **plain),
                stylesheets=[design.grid(560)],
                **plain,
            ),
            self._foot,
            self._toast,
            stylesheets=[design.STACK, design.PAGE],
            **plain,
        )

    def __panel__(self) -> Any:
        return self._layout

    def stop(self) -> None:
        """Stop following the collector."""
        self._collector.unsubscribe(self._key)

    # -- snapshots -------------------------------------------------------------------------------

    def _on_snapshot(self, _: Snapshot) -> None:
        self._later()

    def _later(self) -> None:
        """Refresh under the document's lock, once for however many snapshots came meanwhile."""
        if self._doc is None:
            self._refresh()
        elif not self._is_due:
            self._is_due = True
            self._doc.add_next_tick_callback(self._refresh)

    def _refresh(self) -> None:
        self._is_due = False
        snapshot = held(self._collector.snapshot, self._good)
        if snapshot.number and not snapshot.problems:
            self._good = snapshot
        settings, acts = self._settings, self._may_act
        self.mast.put(_once(snapshot, ("mast",), lambda: strip.mast(snapshot, settings)))
        self._upper.put(
            strip.banners(snapshot, settings, is_open=self._is_open),
            _once(snapshot, ("strip",), lambda: strip.strip(snapshot)),
            _once(snapshot, ("cards", acts), lambda: cards.cards(snapshot, may_act=acts)),
        )
        self._show_letters(snapshot)
        self._left.put(_once(snapshot, ("left", acts), lambda: _left(snapshot, may_act=acts)))
        self._right.put(_once(snapshot, ("right",), lambda: _right(snapshot)))
        self._show_form(snapshot)
        self._foot.put(strip.foot(snapshot, settings))
        self._show_notices()
        self._stream(snapshot)

    def _show_letters(self, snapshot: Snapshot) -> None:
        self._dead.put(self._letters.show(snapshot, may_act=self._may_act))

    def _show_form(self, snapshot: Snapshot) -> None:
        if self._may_act:
            self._form.put(submission.form(self._queue_names(snapshot), snapshot, self._answer))

    def _queue_names(self, snapshot: Snapshot) -> list[str]:
        known = [str(name) for name in snapshot.queues["queue"]]
        return list(dict.fromkeys((*known, *self._settings.queue_names)))

    # -- charts ----------------------------------------------------------------------------------

    @property
    def _drawn_theme(self) -> Theme:
        return "dark" if self.theme == "dark" else "light"

    def _stream(self, snapshot: Snapshot) -> None:
        queues = self._queue_names(snapshot)
        if queues != self._queues:
            self._draw(snapshot, queues)
        else:
            interval = self._settings.sample_interval_s
            after = self._last_at
            new: dict[str, Any] = _once(
                snapshot,
                ("columns", after, *queues),
                lambda: charts.columns_of(
                    snapshot.history, queues, after=after, interval_s=interval
                ),
            )
            if not new["at"]:
                return
            self._source.stream(new, rollover=charts.WINDOW)
            if self._doc is None:
                for box in self._charts:
                    pn.io.push_notebook(box)
        if not snapshot.history.empty:
            self._last_at = snapshot.history["at"].iloc[-1]

    def _draw(self, snapshot: Snapshot, queues: list[str]) -> None:
        interval = self._settings.sample_interval_s
        self._queues = queues
        self._source = charts.make_source(snapshot.history, queues, interval)
        together, theme = charts.Together(), self._drawn_theme
        source = self._source
        self.figures = [
            charts.throughput_chart(
                source, queues, theme=theme, together=together, interval_s=interval
            ),
            charts.backlog_chart(source, queues, theme=theme, together=together),
            charts.latency_chart(source, queues, theme=theme, together=together),
        ]
        self._charts[:] = [_boxed(chart, theme) for chart in self.figures]

    @param.depends("theme", watch=True)
    def _dress(self) -> None:
        for section in self._sections:
            section.theme = self.theme
        for chart in self.figures:
            charts.paint(chart, self._drawn_theme)
        for box in self._charts:
            box.stylesheets = [design.chart_panel(self._drawn_theme)]

    # -- what the viewer asks --------------------------------------------------------------------

    def _handle(self, data: Intent) -> None:
        """Take one message of a browser; it is what somebody typed, so nothing in it is trusted."""
        intent = str(data.get("intent", ""))[:40]
        letters, snapshot = self._letters, self._collector.snapshot
        chosen = sorted(letters.chosen)
        match intent:
            case "theme" if data.get("value") in ("light", "dark"):
                self.theme = data["value"]
            case "choose":
                letters.choose(str(data.get("letter", "")), on=data.get("checked") is True)
            case "cause":
                letters.filter(fingerprint=str(data.get("fingerprint", "")))
            case "source":
                letters.filter(source=str(data.get("value", "")))
            case "turn":
                letters.turn(-1 if data.get("by") == "-1" else 1)
            case "clear":
                letters.clear()
            case "retry-chosen" | "discard-chosen":
                letters.clear()
                self._run(self._perform_each(intent.removesuffix("-chosen"), chosen))
            case "ask-abort":
                job = str(data.get("job", ""))[:300]
                self._post(Notice(
                    f"Abort {job}? The worker stops it; it is not retried.",
                    offers=(("Abort job", "abort", {"job": job}),), lasts_s=30,
                ))  # fmt: skip
            case "dismiss":
                number = str(data.get("number", ""))
                self._notices = [p for p in self._notices if str(p.number) != number]
                self._show_notices()
            case "submit" if isinstance(data.get("fields"), dict):
                self._run(self._submit(dict(data["fields"])))
            case _ if intent in ACTS:
                self._run(self._perform(intent, dict(data)))
        self._show_letters(held(snapshot, self._good))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, intent: str, data: Intent) -> None:
        self._post(await self._desk.perform(intent, data), replaces=data.get("number"))
        self._later()

    async def _perform_each(self, intent: str, chosen: list[str]) -> None:
        self._post(await self._desk.perform_each(intent, chosen))
        self._later()

    async def _submit(self, fields: dict[str, Any]) -> None:
        self._answer = await self._desk.submit(fields)
        self._later()

    # -- notices ---------------------------------------------------------------------------------

    def _post(self, notice: Notice, replaces: object = None) -> None:
        self._notice_number += 1
        kept = [p for p in self._notices if str(p.number) != str(replaces)]
        posted = _Posted(notice, self._notice_number, time.monotonic() + notice.lasts_s)
        self._notices = [*kept, posted][-MAX_NOTICES:]
        self._later()

    def _show_notices(self) -> None:
        now = time.monotonic()
        self._notices = [posted for posted in self._notices if posted.until > now]
        shown = [_notice(posted) for posted in self._notices]
        self._toast.put(tag("div", shown, class_="notices", role="status", aria_live="polite"))


#: what was made of a snapshot already: sessions that see the same share it
_made: WeakKeyDictionary[Snapshot, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()


def _once(snapshot: Snapshot, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What *make* makes of *snapshot*, made once for all sessions; *key* says all it depends on."""
    known = _made.setdefault(snapshot, {})
    if key not in known:
        known[key] = make()
    return known[key]


def _left(snapshot: Snapshot, *, may_act: bool) -> Html:
    running = activity.running(snapshot, may_act=may_act)
    return tag("div", running, activity.events(snapshot), class_="stack")


def _right(snapshot: Snapshot) -> Html:
    return tag("div", activity.workers(snapshot), activity.streams(snapshot), class_="stack")


def _boxed(chart: Any, theme: Theme) -> pn.Column:
    pane = pn.pane.Bokeh(  # type: ignore[no-untyped-call]
        chart, sizing_mode="stretch_width", margin=0
    )
    return pn.Column(
        pane, sizing_mode="stretch_width", margin=0, stylesheets=[design.chart_panel(theme)]
    )


def _notice(posted: _Posted) -> Html:
    notice = posted.notice
    look = JOB_LOOK[JobState.COMPLETE if notice.ok else JobState.FAILED]
    offers = [
        button(label, intent, kind="quiet once", number=posted.number, **data)
        for label, intent, data in notice.offers
    ]
    close = button("Dismiss", "dismiss", number=posted.number)
    css = "complete" if notice.ok else "failed"
    return tag(
        "div",
        tag("span", icon(look.icon, 14), class_=f"c-{css}"),
        tag("span", notice.text),
        offers,
        close,
        class_="notice",
        data_key=f"notice-{posted.number}",
    )
