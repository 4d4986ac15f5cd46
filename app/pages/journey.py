"""A journey: the moment a visit is at. What was stored of it, the bar and the banner that say so."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pandas as pd

from app.annals.recall import Recall
from app.errors import ArqscopeError, NotFound
from app.pages import strip, travel
from app.pages.address import Address
from app.pages.intents import Notice
from app.pages.markup import Html
from app.snapshot import Snapshot

log = logging.getLogger("arqscope.journey")

#: what a viewer is told who acts on the past
REFUSED = Notice(f"Not done: {travel.REFUSAL}. Go back to now.", ok=False)


class Journey:
    """Now, until an address asks for a moment; *later* asks for a refresh."""

    def __init__(
        self,
        recall: Recall,
        run: Callable[[Coroutine[Any, Any, None]], None],
        later: Callable[[], None],
    ) -> None:
        self._recall, self._run, self._later = recall, run, later
        self.at = ""  #: as the address says it; empty: now
        self._then: Snapshot | None = None
        self._trouble = ""

    @property
    def is_past(self) -> bool:
        """Whether a moment was asked for, one that can be read or not."""
        return bool(self.at)

    @property
    def then(self) -> pd.Timestamp | None:
        """The moment asked for."""
        ms = travel.then_ms(Address(query={"at": self.at}))
        return None if ms is None else pd.Timestamp(int(ms), unit="ms", tz="UTC")

    def go(self, address: Address) -> bool:
        """Go to the moment of *address* and read what was stored of it; whether that is another one."""
        at = address.get("at")
        if at == self.at:
            return False
        self.at, self._then, self._trouble = at, None, ""
        ms = travel.then_ms(address)
        if ms is not None:
            try:
                asyncio.get_running_loop()
            except RuntimeError:  # made outside a loop: nothing can be read
                return True
            self._run(self._read(ms, at))
        return True

    async def _read(self, at_ms: float, at: str) -> None:
        then, trouble = None, ""
        try:
            then = await self._recall.moment(at_ms)
        except NotFound:
            trouble = "nothing was stored in the time before it"
        except ArqscopeError as error:
            trouble = str(error)
        except Exception as error:  # said on the page; the present can still be seen
            log.exception("moment cannot be read")
            trouble = f"{type(error).__name__}: {error}"[:300]
        if at == self.at:
            self._then, self._trouble = then, trouble
            self._later()

    def shown(self, live: Snapshot) -> Snapshot:
        """*live*, or what was stored of the moment asked for; nothing while it is read."""
        if not self.is_past:
            return live
        return self._then if self._then is not None else Snapshot.empty(live.taken_at)

    def strip(self, address: Address, live: Snapshot) -> list[Html]:
        """What stands above a page of the past: that it is one, the way back, and its numbers."""
        now_ms = live.taken_at.timestamp() * 1000
        taken_at = self._then.taken_at if self._then is not None else None
        said = travel.banner(address, taken_at, self._trouble)
        numbers = travel.kept(strip.strip(self.shown(live)), address)
        return [said, travel.bar(address, now_ms), numbers]

    def asked(self, data: Mapping[str, Any], live: Snapshot) -> str | Notice:
        """What an address carries for what the bar sent; a notice when that is no moment."""
        given = data.get("fields")
        fields = {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {}
        now_ms = live.taken_at.timestamp() * 1000
        at = travel.asked_for(fields, str(data.get("value", "")), now_ms)
        if at is not None:
            return at
        said = f"{fields['moment'][:40]!r} is not a moment: for example 2026-11-25 23:40 (UTC)."
        return Notice(said, ok=False)


__all__ = ["REFUSED", "Journey"]
