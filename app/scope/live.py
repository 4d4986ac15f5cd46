"""Live components of a notebook: a chart or a page that follows a deployment while the kernel runs.

What was shown last stays in an exported page; a chart is also a small picture, for where no script runs.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

import panel as pn

from app.actions import Actor
from app.charts import ALIASES, MAX_LINES
from app.collector import Callback
from app.drawing.pictures import drawn_lines
from app.errors import ActionRefused, InvalidRequest
from app.pages.address import PLACES, address_of
from app.pages.gallery import Gallery, Plot, Stored
from app.pages.visit import Visit
from app.palette import Theme
from app.scope.deployment import Deployment
from app.snapshot import Snapshot

#: name of a chart → the frame and column its picture shows, its title and unit
_PICTURES: Final = {
    "throughput": ("history", "complete_per_s", "Throughput", "runs per second"),
    "backlog": ("history", "waiting", "Backlog", "jobs waiting"),
    "wait": ("history", "wait_p95_s", "Wait time", "p95, s"),
    "run": ("history", "run_p95_s", "Run time", "p95, s"),
    "lag": ("stream_history", "lag", "Lag", "events not yet delivered"),
    "events": ("stream_history", "processed_per_s", "Events", "handled per second"),
}
_NOTHING_STORED: Final = Stored()


class KernelRelay:
    """A deployment as components in a notebook see it: snapshots arrive on the kernel's own loop."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.settings = deployment.settings

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""
        return self._deployment.snapshot

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with each snapshot, on the kernel's loop where there is one."""
        loop = self._loop
        if loop is None:
            return self._deployment.subscribe(callback)

        def relay(snapshot: Snapshot) -> None:
            with suppress(RuntimeError):  # the kernel's loop is closed: nobody looks any more
                loop.call_soon_threadsafe(callback, snapshot)

        return self._deployment.subscribe(relay)

    def unsubscribe(self, key: int) -> None:
        """Forget the subscriber *key*."""
        self._deployment.unsubscribe(key)


def loaded() -> None:
    """Load Panel's scripts into the notebook, once, where there is one."""
    from panel.config import panel_extension

    if not panel_extension._loaded and _in_kernel():
        pn.extension()


def _in_kernel() -> bool:
    import sys

    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


def page_of(deployment: Deployment, name: str, query: dict[str, Any]) -> Visit:
    """The page *name* as a live object; InvalidRequest names those there are."""
    if name not in PLACES:
        raise InvalidRequest(f"no page {name!r}", field="name", hint=", ".join(PLACES))
    if name == "settings" and deployment.where.startswith("http"):
        raise ActionRefused(f"the settings are the server's: {deployment.where}/admin/settings")
    unknown = set(query) - set(PLACES[name].takes)
    if unknown:
        raise InvalidRequest(
            f"the page {name} takes no {', '.join(sorted(unknown))}", field="query",
            hint=", ".join(PLACES[name].takes) or "nothing",
        )  # fmt: skip
    loaded()
    from urllib.parse import urlencode

    def actor_of() -> Actor:
        return deployment.actor

    return Visit(
        KernelRelay(deployment), deployment.settings, actor_of, deployment.page_connections(),
        address=address_of(name, urlencode(query)),
    )  # fmt: skip


class LiveChart(pn.viewable.Viewer):
    """One chart of the pages that follows the deployment; ``stop()`` lets it stand."""

    def __init__(
        self, deployment: Deployment, name: str, *, only: str = "", theme: str = "light"
    ) -> None:
        name = ALIASES.get(name, name)
        if name not in _PICTURES:
            raise InvalidRequest(f"no chart {name!r}", field="name", hint=", ".join(_PICTURES))
        if theme not in ("light", "dark"):
            raise InvalidRequest(f"no theme {theme!r}", field="theme", hint="light or dark")
        super().__init__()  # type: ignore[no-untyped-call]
        loaded()
        self._name, self._only = name, only
        self._theme: Theme = "dark" if theme == "dark" else "light"
        self._relay = KernelRelay(deployment)
        self._gallery = Gallery(deployment.settings.sample_interval_s)
        self._show(self._relay.snapshot)
        self._key = self._relay.subscribe(self._follow)

    @property
    def figure(self) -> Any:
        """The Bokeh figure; None while nothing is known."""
        return self._gallery.figures[0] if self._gallery.figures else None

    def __panel__(self) -> Any:
        return self._gallery.column

    def _show(self, snapshot: Snapshot) -> None:
        of_streams = _PICTURES[self._name][0] == "stream_history"
        frame = snapshot.streams["stream"] if of_streams else snapshot.queues["queue"]
        names = (self._only,) if self._only else tuple(str(name) for name in frame)[:MAX_LINES]
        plot = Plot(
            charts=(self._name,), names=names, of_streams=of_streams, is_only=bool(self._only)
        )
        self._gallery.show(plot, snapshot, self._theme, _NOTHING_STORED)

    def _follow(self, snapshot: Snapshot) -> None:
        self._show(snapshot)
        if self._gallery.feed(snapshot, _NOTHING_STORED, lambda _, make: make()):
            for box in self._gallery.column:
                pn.io.push_notebook(box)

    def stop(self) -> None:
        """Stop following; what is shown stays."""
        self._relay.unsubscribe(self._key)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        bundle = super()._repr_mimebundle_(include, exclude)  # type: ignore[no-untyped-call]
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if isinstance(data, dict):
            data["image/svg+xml"] = self.picture()
        return bundle

    def picture(self) -> str:
        """The last values as a small SVG picture."""
        frame_name, column, title, unit = _PICTURES[self._name]
        frame = self._relay.snapshot.frame(frame_name)
        if self._only:
            frame = frame[frame.iloc[:, 1] == self._only]
        lines = {
            str(name): (rows["at"], rows[column])
            for name, rows in frame.groupby(frame.columns[1], observed=True)
        }
        return drawn_lines(dict(list(lines.items())[:MAX_LINES]), f"{title} · {unit}", self._theme)
