"""Count wrong credentials, per address and per key guessed at; bounded, and never locking out who is known."""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Final

#: wrong keys an address may offer per minute before it has to wait
FAILURES_PER_MINUTE: Final = 10
#: wrong secrets for one key id (or for API_KEY) per minute, from all addresses together, after which
#: each address has a third of its tries
GUESSES_PER_MINUTE: Final = 100
#: addresses remembered at most, failures and successes each; the oldest is forgotten
REMEMBERED: Final = 10_000


class _Window:
    """Failures of the last minute per name."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait_s(self, name: str, limit: int | None = None) -> int:
        """Whole seconds after which fewer than *limit* of its failures are of the last minute; 0: now."""
        recent = self._recent(name)
        too_many = len(recent) - (limit or self._limit)
        if too_many < 0:
            return 0
        return max(1, ceil(recent[too_many] + 60 - self._clock()))

    def failed(self, name: str) -> None:
        """Note a failure."""
        recent = [*self._recent(name), self._clock()][-self._limit :]
        self._failures[name] = recent
        self._failures.move_to_end(name)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def _recent(self, name: str) -> list[float]:
        since = self._clock() - 60
        return [at for at in self._failures.get(name, ()) if at > since]


class Throttle:
    """Moving windows of one minute: one per address, one per key that is guessed at."""

    def __init__(
        self,
        limit: int = FAILURES_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
        *,
        guesses: int = GUESSES_PER_MINUTE,
    ) -> None:
        self._limit = limit
        self._fewer = max(1, limit // 3)
        self._addresses = _Window(limit, clock)
        self._keys = _Window(guesses, clock)
        self._welcome: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def __len__(self) -> int:
        return max(len(self._addresses), len(self._keys))

    def wait_s(self, address: str, key: str = "") -> int:
        """Seconds *address* has to wait before another secret for *key* is looked at; 0: none.

        While many addresses guess at one key, each has fewer tries; none has no try, so that a
        guesser does not lock out who comes with the right key from a new address.
        """
        besieged_s = self._keys.wait_s(key)
        if not besieged_s:
            return self._addresses.wait_s(address)
        # enough of its own are forgotten, or the siege is over and the usual number may be tried
        return min(
            self._addresses.wait_s(address, self._fewer),
            max(besieged_s, self._addresses.wait_s(address)),
        )

    def failed(self, address: str, key: str = "") -> bool:
        """Note a wrong credential from *address*; True when it has to wait from now on."""
        waited = self.wait_s(address, key)
        self._keys.failed(key)
        self._addresses.failed(address)
        return not waited and self.wait_s(address, key) > 0

    def welcome(self, address: str, digest: bytes) -> None:
        """Remember that *address* offered a right credential: guessers beside it do not lock it out."""
        self._welcome[address, digest] = None
        self._welcome.move_to_end((address, digest))
        while len(self._welcome) > REMEMBERED:
            self._welcome.popitem(last=False)

    def knows(self, address: str, digest: bytes) -> bool:
        """Whether *address* offered this right credential before."""
        return (address, digest) in self._welcome
