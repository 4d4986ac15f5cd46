"""What was made of a snapshot already: whoever needs the same of it takes that."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from app.snapshot import Snapshot

_made: WeakKeyDictionary[Snapshot, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()


def once(snapshot: Snapshot, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What *make* makes of *snapshot*, made once for all; *key* says all it depends on."""
    known = _made.setdefault(snapshot, {})
    if key not in known:
        known[key] = make()
    return known[key]


def once_of(snapshot: Snapshot) -> Callable[[tuple[Any, ...], Callable[[], Any]], Any]:
    """``once`` of *snapshot*."""
    return lambda key, make: once(snapshot, key, make)


__all__ = ["once", "once_of"]
