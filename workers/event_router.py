"""Which handlers an event has: registered by exact type, by prefix (``user.*``) or for all (``*``).

    from workers.event_router import on

    @on("user.created", "workspace.*")
    async def greet(event, context):
        await context.enqueue("notification", {"message": "hello", "userId": event.user_id})

Patterns are looked up in a table, never matched as regular expressions. A plain ``def`` runs in a
thread. What a handler does through its context happens once, however often the event is delivered.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from app.errors import InvalidRequest, SettingsError
from app.settings import Settings
from app.streams import events

F = TypeVar("F", bound=Callable[..., Any])

#: characters of a handler's name: it is part of the ids of the jobs it enqueues
MAX_NAME_CHARS: Final = 48
#: types whose plan is remembered; a producer may invent any number of them
PLANS_KEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that handles events, under a name unique in its registry."""

    name: str
    function: Callable[..., Any]
    is_async: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with events of one type."""

    handlers: tuple[Handler, ...]
    names: str  #: of the handlers, comma separated
    is_matched: bool  #: False: nobody handles the type, *handlers* are those of unmatched events


class Registry:
    """Handlers by pattern; several per event, called in the order they were registered."""

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        self._names: set[str] = set()
        self._by_pattern: dict[str, list[tuple[int, Handler]]] = {}
        self._unmatched: Handler | None = None
        self._count = 0

    def on(self, *patterns: str) -> Callable[[F], F]:
        """Register a handler for each of *patterns*; a type matching several calls it once."""
        for pattern in patterns:
            check_pattern(pattern)

        def register(function: F) -> F:
            handler = self._handler(function)
            self._count += 1
            self._plans.clear()
            for pattern in patterns:
                self._by_pattern.setdefault(pattern, []).append((self._count, handler))
            return function

        return register

    def on_unmatched(self, function: F) -> F:
        """Register the one handler of events no pattern matches; the last one registered counts."""
        self._unmatched = self._handler(function)
        self._plans.clear()
        return function

    def matching(self, event_type: str) -> tuple[Handler, ...]:
        """Return the handlers whose pattern matches; empty when none does."""
        found = {
            order: handler
            for pattern in patterns_of(event_type)
            for order, handler in self._by_pattern.get(pattern, ())
        }
        return tuple(found[order] for order in sorted(found))

    def plan(self, event_type: str) -> Plan:
        """Return what is done with events of *event_type*; the same object every time."""
        plan = self._plans.get(event_type)
        if plan is None:
            matching = self.matching(event_type)
            handlers = matching or self.unmatched
            plan = Plan(handlers, ",".join(one.name for one in handlers), bool(matching))
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            self._plans[event_type] = plan
        return plan

    @property
    def unmatched(self) -> tuple[Handler, ...]:
        """The handler of unmatched events, if there is one."""
        return (self._unmatched,) if self._unmatched else ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """Every registered pattern, sorted."""
        return tuple(sorted(self._by_pattern))

    def _handler(self, function: Callable[..., Any]) -> Handler:
        base = re.sub(r"[^A-Za-z0-9_]", "_", getattr(function, "__name__", "handler"))
        base = base.strip("_")[: MAX_NAME_CHARS - 4] or "handler"
        name, number = base, 1
        while name in self._names:
            number += 1
            name = f"{base}_{number}"
        self._names.add(name)
        return Handler(name, function, inspect.iscoroutinefunction(function))


def check_pattern(pattern: str) -> None:
    """Refuse what is neither a type, nor ``prefix.*``, nor ``*``."""
    try:
        events.check_pattern(pattern)
    except InvalidRequest as error:
        raise SettingsError(f"{error}: write {error.hint}") from error


def patterns_of(event_type: str) -> Iterator[str]:
    """Every pattern that would match *event_type*: itself, its dotted prefixes, ``*``."""
    yield event_type
    end = event_type.rfind(".")
    while end > 0:
        yield f"{event_type[:end]}.*"
        end = event_type.rfind(".", 0, end)
    yield "*"


#: the registry the decorators below fill
REGISTRY: Final = Registry()
on = REGISTRY.on
on_unmatched = REGISTRY.on_unmatched


def load_handlers(settings: Settings) -> Registry:
    """Import the built-in handlers and the user's own (``ARQSCOPE_HANDLERS``), ours first."""
    importlib.import_module("workers.events.handlers")
    if "" not in sys.path:  # a console script does not look in the current directory
        sys.path.append("")
    for name in filter(None, (part.strip() for part in settings.handlers.split(","))):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SettingsError(
                f"ARQSCOPE_HANDLERS={settings.handlers!r}: cannot import {name!r} ({error})"
            ) from error
    return REGISTRY
