"""A stretch of time somebody brushed on a chart: what it is, its incident bundle, its address. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import pandas as pd

from app import palette
from app.pages.address import PLACES, Address, href
from app.pages.markup import Html, button, icon, link, tag
from app.pages.window import EARLIEST_MS, LATEST_MS, moment_text

#: longest stretch one bundle is about, as the server has it
MAX_SPAN_MS: Final = 7 * 86_400_000
#: a brush narrower than this is a click
MIN_SPAN_MS: Final = 1_000
BUNDLE: Final = "Incident bundle of this stretch"
_TOO_LONG: Final = "a bundle is about 7 days at most"


@dataclass(frozen=True, slots=True)
class Stretch:
    """From one moment to another, epoch ms."""

    start_ms: float
    end_ms: float

    @property
    def words(self) -> str:
        """The stretch as a person says it, UTC."""
        start, end = (
            pd.Timestamp(int(ms), unit="ms", tz="UTC") for ms in (self.start_ms, self.end_ms)
        )
        until = f"{end:%H:%M:%S}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
        return f"{start:%Y-%m-%d %H:%M:%S} to {until} UTC"


def brushed(data: Mapping[str, Any], now_ms: float) -> Stretch | None:
    """The stretch a browser sent; None: none, or nothing that is one. It ends now at the latest."""
    try:
        start, end = float(data["start"]), float(data["end"])
    except (KeyError, TypeError, ValueError):
        return None
    end = min(end, now_ms)
    if not (math.isfinite(start) and start >= EARLIEST_MS and end <= LATEST_MS):
        return None
    return Stretch(start, end) if end - start >= MIN_SPAN_MS else None


def bundle(stretch: Stretch, queue: str = "") -> Html:
    """The link that fetches the bundle of a *stretch*, of one *queue* or of all."""
    if stretch.end_ms - stretch.start_ms > MAX_SPAN_MS:
        return button(BUNDLE, "stretch", refused=_TOO_LONG)
    asked = {
        "start": moment_text(stretch.start_ms),
        "end": moment_text(math.ceil(stretch.end_ms / 1000) * 1000),
    }
    query = urlencode(asked | ({"queue": queue} if queue else {}))
    return tag(
        "a", icon(palette.ICONS["download"], 13), BUNDLE, href=f"../incident?{query}", download=True,
        class_="button bundle", data_key="bundle",
        title="frames, charts and a notebook as a zip that opens without Redis",
    )  # fmt: skip


def offer(stretch: Stretch, address: Address, queue: str) -> Html:
    """What can be done with a *stretch* brushed on the page at *address*."""
    times = {"start": moment_text(stretch.start_ms), "end": moment_text(stretch.end_ms)}
    here = "start" in PLACES[address.page].takes
    where = address.but(**times).href if here else href("history", name=queue, **times)
    took = palette.whole_duration(round((stretch.end_ms - stretch.start_ms) / 1000))
    return tag(
        "div",
        tag("p", tag("b", took), " ", tag("span", stretch.words, class_="soft")),
        tag("span", bundle(stretch, queue), link(where, "Open as a range", class_="button"),
            button("Close", "stretch", label="Close the stretch"), class_="offers"),
        class_="stretch", role="status", data_key="stretch",
    )  # fmt: skip


__all__ = ["BUNDLE", "Stretch", "brushed", "bundle", "offer"]
