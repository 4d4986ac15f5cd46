"""Exhibits: charts that all viewers of the same plot see as one, made once, their changes encoded once.

A figure costs the server per model and viewer when each session has its own. Here a plot is one document
of its own; a browser is given it as text, and then the same changes as everybody else. It is drawn in light
colours; its models carry the dark ones too, and the browser that shows it chooses.
"""

import asyncio
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.document.events import DocumentChangedEvent, DocumentPatchedEvent

from app.annals.recall import Recall
from app.pages.gallery import Gallery, Plot
from app.pages.plots import Plots
from app.snapshot import Snapshot

#: plots kept ready after their last viewer left
MAX_EXHIBITS: Final = 24
#: changes kept for viewers who are behind; who is further behind is given the whole
MAX_CHANGES: Final = 40

Once = Callable[[tuple[Any, ...], Callable[[], Any]], Any]


class Looker(Protocol):
    """Somebody who shows an exhibit."""

    def look(self) -> None:
        """Look again: it has changed by itself."""


class Exhibit:
    """One plot."""

    def __init__(self, interval_s: float, recall: Recall, workers: float | None) -> None:
        self._workers = workers
        self._gallery = Gallery(interval_s)
        self.plots = Plots(self._gallery, recall, self._run, self._changed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookers: weakref.WeakSet[Looker] = weakref.WeakSet()
        self._document: Document | None = None
        self._figures: list[Any] = []
        self._events: list[DocumentPatchedEvent] = []
        self._changes: deque[str] = deque(maxlen=MAX_CHANGES)
        self._seen: tuple[Snapshot, Plot] | None = None
        self._whole: tuple[int, str] | None = None
        self.count = 0  #: changes so far

    def join(self, looker: Looker) -> None:
        """Tell *looker* from now on."""
        self._lookers.add(looker)

    def leave(self, looker: Looker) -> None:
        """Do not tell *looker* any more."""
        self._lookers.discard(looker)

    def show(self, plot: Plot, snapshot: Snapshot, once: Once) -> None:
        """Bring it to *snapshot*; the first viewer's call does it for all."""
        if self._seen is not None and self._seen[0] is snapshot and self._seen[1] == plot:
            return
        self._seen = (snapshot, plot)
        self.plots.show(plot, snapshot, "light", self._workers, once)
        if self._gallery.figures is not self._figures:
            self._figures = self._gallery.figures
            self._hang()
        elif self._events:
            self._note()

    def _hang(self) -> None:
        """Put new figures into a document of their own."""
        self._document, self._events = Document(), []
        for figure in self._figures:
            self._document.add_root(figure)
        self._changes.clear()
        self.count += 1
        self.whole()
        self._document.on_change(self._on_change)

    def _on_change(self, event: DocumentChangedEvent) -> None:
        if isinstance(event, DocumentPatchedEvent):
            self._events.append(event)

    def _note(self) -> None:
        events, self._events = self._events, []
        models: Any = self._document.models if self._document is not None else None
        serializer = Serializer(references=models.synced_references, deferred=False)
        text = serialize_json({"events": serializer.encode(events)})
        models.flush_synced(lambda model: not serializer.has_ref(model))
        self._changes.append(text)
        self.count += 1

    def whole(self) -> tuple[str, str]:
        """All of it, as the text of a document and the changes since that was made."""
        if self._document is None:
            return "", "[]"
        changes = None if self._whole is None else self.since(self._whole[0])
        if self._whole is None or changes is None:
            text, changes = serialize_json(self._document.to_json(deferred=False)), "[]"
            self._whole = (self.count, text)
        return self._whole[1], changes

    def since(self, count: int) -> str | None:
        """The changes after the first *count*, as a list; None where they are not kept any more."""
        behind = self.count - count
        if behind > len(self._changes) or behind < 0:
            return None
        return f"[{','.join(list(self._changes)[len(self._changes) - behind :])}]"

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _changed(self) -> None:
        self._seen = None
        for looker in list(self._lookers):
            looker.look()


class Exhibits:
    """The exhibits of one server, the last ones used."""

    def __init__(self, interval_s: float, recall: Recall) -> None:
        self._interval_s, self._recall = interval_s, recall
        self._kept: OrderedDict[tuple[object, ...], Exhibit] = OrderedDict()

    def of(self, plot: Plot, at: str, workers: float | None) -> Exhibit:
        """The one of *plot* as of *at* (empty: now), for *workers* where a forecast asks what if."""
        key = (plot.key, plot.of_streams, at, workers)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = Exhibit(self._interval_s, self._recall, workers)
            while len(self._kept) > MAX_EXHIBITS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return found


__all__ = ["Exhibit", "Exhibits", "Looker"]
