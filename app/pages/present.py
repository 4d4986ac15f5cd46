"""The present: the latest snapshot, with the last known numbers of a source that is lost."""

from typing import Protocol, cast

from app.collector import Callback
from app.pages.made import once
from app.pages.summary import held
from app.snapshot import Snapshot


class Source(Protocol):
    """What a visit needs of a collector."""

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with each new one."""

    def unsubscribe(self, key: int) -> None:
        """Stop calling."""


class Present:
    """What one visit knows of now."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._good: Snapshot | None = None  #: the last that was shown whole

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot, whatever it lacks."""
        return self._source.snapshot

    @property
    def live(self) -> Snapshot:
        """The latest, held; one for all visits."""
        now, before = self._source.snapshot, self._good
        if before is None or not now.problems:
            return now
        # by number: what is kept with a snapshot must not hold on to one, or none is ever freed
        return cast(Snapshot, once(now, ("held", before.number), lambda: held(now, before)))

    def shows(self, live: Snapshot) -> None:
        """*live* is shown: where it lacks nothing, its numbers are those to hold."""
        if live.number and not live.problems:
            self._good = live


__all__ = ["Present", "Source"]
