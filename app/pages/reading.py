"""The reading: what the page of one visit reads for its address, and why it could not."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from app.errors import ArqscopeError
from app.pages.address import Address
from app.pages.errands import Errands
from app.pages.scene import Page, Reach

log = logging.getLogger("arqscope.visit")


class Reading:
    """One reading at a time; *reach* is what it may read, *later* asks for a refresh when it has come."""

    def __init__(
        self, reach: Callable[[], Reach], errands: Errands, later: Callable[[], None]
    ) -> None:
        self._reach, self._errands, self._later = reach, errands, later
        self._address: Address | None = None
        self._page: Page | None = None
        self._began_at = 0.0
        self._is_under_way = False
        self.is_wanted = False  #: whether the page reads for the address shown
        self.found: Any = None
        self.trouble = ""

    @property
    def age_s(self) -> float:
        """How long ago the last one began."""
        return time.monotonic() - self._began_at

    def go(self, address: Address, page: Page, *, is_past: bool, is_new: bool) -> None:
        """Read for *address*; of the past only what *page* can. *is_new*: what was found is of another page."""
        self._address, self._page, self.trouble = address, page, ""
        self.is_wanted = page.load is not None and (page.reads_past or not is_past)
        if is_new or not self.is_wanted:
            self.found = None
        if self.is_wanted:
            self._is_under_way = False
            self.again()

    def again(self) -> None:
        """Read anew, unless that is under way."""
        if self._is_under_way or not self.is_wanted or self._address is None or self._page is None:
            return
        self._is_under_way, self._began_at = True, time.monotonic()
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # made outside a loop (a test, an export): nothing can be read
            self._is_under_way = False
            return
        self._errands.run(self._read(self._address, self._page))

    async def _read(self, address: Address, page: Page) -> None:
        found, trouble = None, ""
        try:
            found = await page.load(self._reach(), address) if page.load else None
        except ArqscopeError as error:
            trouble = str(error)
        except Exception as error:  # a page says what is wrong; the others go on
            log.exception("page cannot be read", extra={"page": address.page})
            trouble = f"{type(error).__name__}: {error}"[:300]
        self._is_under_way = False
        if address != self._address:
            self.again()
            return
        if found is not None or trouble:
            self.found, self.trouble = (found if found is not None else self.found), trouble
        self._later()


__all__ = ["Reading"]
