"""Where pages live: one address per page, every filter in its query. Pure.

An address is what a person pastes into a chat; whatever arrives in one was typed by somebody, so only
known parameters of bounded length are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

#: parameters every page takes: the moment it is shown as of
EVERYWHERE: Final = ("at",)
#: characters of one parameter
MAX_VALUE: Final = 300


@dataclass(frozen=True, slots=True)
class Place:
    """One kind of page: its title, its parameters, and the letter that follows ``g`` on a keyboard."""

    title: str
    takes: tuple[str, ...] = ()
    key: str = ""
    #: the page of the left navigation it belongs to, when it has no entry of its own
    under: str = ""


#: last segment of a page's path → what it is; the path is ``/admin/<segment>``
PLACES: Final[Mapping[str, Place]] = MappingProxyType(
    {
        "queues": Place("Overview", key="o"),
        "queue": Place(
            "Queue", ("name", "state", "cursor", "range", "workers"), key="q", under="queue"
        ),
        "jobs": Place("Jobs", ("queue", "state", "function", "text", "cursor"), key="j"),
        "job": Place("Job", ("queue", "id", "tab", "whole"), under="jobs"),
        "dead-letters": Place(
            "Dead letters",
            ("view", "cause", "source", "function", "died", "state", "cursor", "page"),
            key="d",
        ),
        "dead-letter": Place("Dead letter", ("source", "id", "tab", "whole"), under="dead-letters"),
        "streams": Place(
            "Streams",
            ("stream", "type", "user", "workspace", "correlation", "from", "to", "tail", "cursor"),
            key="s",
        ),
        "pubsub": Place("Pub/Sub", ("pattern", "text"), key="p"),
        "workers": Place("Workers", ("queue",), key="w"),
        "schedules": Place("Schedules", ("queue",), key="c"),
        "history": Place("History", ("name", "metric", "range", "start", "end"), key="h"),
        "operations": Place("Operations", ("id", "cursor")),
        "alerts": Place("Alerts", ("metric", "above", "for")),
        "settings": Place("Settings"),
        "chart": Place("Chart", ("chart", "name", "range", "start", "end"), under="history"),
    }
)
HOME: Final = "queues"


@dataclass(frozen=True, slots=True)
class Address:
    """Which page, with what in its query."""

    page: str = HOME
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """What kind of page it is."""
        return PLACES[self.page]

    def get(self, name: str, default: str = "") -> str:
        """One parameter."""
        return self.query.get(name) or default

    @property
    def href(self) -> str:
        """The address, relative to ``/admin/``."""
        said = urlencode({k: v for k, v in self.query.items() if v})
        return f"{self.page}?{said}" if said else self.page

    def but(self, **changes: object) -> "Address":
        """The same page with some parameters changed; the cursor is forgotten unless it is given."""
        query: dict[str, Any] = {**self.query, "cursor": "", **changes}
        return Address(
            self.page, {k: str(v)[:MAX_VALUE] for k, v in query.items() if v not in ("", None)}
        )


def address_of(page: str, search: str = "") -> Address:
    """The address of the last segment of a path and its query string; the overview when unknown."""
    name = page if page in PLACES else HOME
    try:
        pairs = parse_qsl(search.removeprefix("?")[:4_000], max_num_fields=20)
    except ValueError:
        pairs = []
    known = PLACES[name].takes
    return Address(name, {k: v[:MAX_VALUE] for k, v in pairs if k in known or k in EVERYWHERE})


def href(page: str, **query: object) -> str:
    """The relative address of *page* with *query*; empty parameters are left out."""
    return Address(page, {k: str(v) for k, v in query.items() if v not in ("", None)}).href


def paths() -> tuple[str, ...]:
    """The path of every page, without the deployment's prefix."""
    return tuple(f"/admin/{name}" for name in PLACES)


__all__ = ["HOME", "PLACES", "Address", "Place", "address_of", "href", "paths"]
