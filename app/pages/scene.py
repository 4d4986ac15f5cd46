"""The scene: all a page is a function of, and what a page consists of. Pure."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from app.actions import Connections
from app.analyses.forecast import Forecast
from app.annals.recall import Recall
from app.pages.address import Address
from app.pages.markup import Html
from app.settings import Settings
from app.snapshot import Snapshot
from app.streams.tails import Ear


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One moment of one page: the snapshot, the address, what was read for it, and who looks."""

    snapshot: Snapshot
    address: Address
    settings: Settings
    refusal: str = ""  #: why this viewer may not act; empty when they may
    found: Any = None  #: what ``Page.load`` read; None: nothing yet
    trouble: str = ""  #: why it could not be read
    chosen: frozenset[str] = frozenset()
    is_past: bool = False  #: whether the page is shown as of a moment
    then: pd.Timestamp | None = None  #: that moment, where it can be read
    forecast: Forecast | None = None  #: of the queue shown

    @property
    def may_act(self) -> bool:
        """Whether controls are made at all."""
        return not self.refusal

    @property
    def now(self) -> pd.Timestamp:
        """When the snapshot was taken."""
        return self.snapshot.taken_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a page may read when it is opened."""

    connections: Connections
    settings: Settings
    snapshot: Snapshot
    recall: Recall
    ear: Ear


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page: what it reads when opened, and its two halves with the charts between them."""

    above: Callable[[Scene], Html]
    below: Callable[[Scene], Html] | None = None
    load: Callable[[Reach, Address], Awaitable[Any]] | None = None
    #: names of ``charts.CHARTS``, or what chooses them for an address
    charts: tuple[str, ...] | Callable[[Address, Snapshot], tuple[str, ...]] = ()
    is_about_one: bool = False  #: whether its charts are of the queue or stream its address names
    usual_range: str = ""  #: of ``window.RANGES``, where the address asks for none; empty: live
    has_forecast: bool = False
    #: what it shows as of a moment, where what it reads is always the present; see ``reads_past``
    past: Callable[[Scene], Html] | None = None
    reads_past: bool = False  #: whether ``load`` reads what was known at the address' moment
    reload_s: float = 5.0  #: how often ``load`` is asked again while somebody looks
    tail_s: float = 0.0  #: the same, where the address asks to follow live (``tail``)
    title: Callable[[Address], str] | None = None
    keys: Callable[[Scene], list[str]] | None = None  #: of the rows that may be selected
    #: whether every viewer of the same address and right sees the same: then it is made once
    is_shared: bool = False


__all__ = ["Page", "Reach", "Scene"]
