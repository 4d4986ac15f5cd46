"""Time travel: the moment an address asks for, the bar that sets it, and links that stay in it. Pure."""

import re
from typing import Final
from urllib.parse import quote

import pandas as pd

from app import palette
from app.annals.historian import MOMENTS
from app.errors import InvalidRequest
from app.pages.address import Address
from app.pages.markup import Html, icon, link, safe_text, tag
from app.pages.window import moment_of, moment_text

MINUTE_MS: Final = 60_000
#: what the slider steps over, newest first: how far back (ms) moments of a kind reach, and their distance
_REACH: Final = tuple(
    (kept_ms, every * MINUTE_MS) for every, kept_ms in sorted(MOMENTS.values())
)  # fmt: skip
#: why nothing may be done in the past
REFUSAL: Final = "this is the past"


def then_ms(address: Address) -> float | None:
    """The moment *address* asks for, epoch ms; None: now, or nothing that can be read."""
    return moment_of(address.get("at"))


def then_asked(address: Address) -> float | None:
    """As ``then_ms``, for who reads: InvalidRequest where the address asks for what is no moment."""
    then = then_ms(address)
    if then is None and address.get("at"):
        raise InvalidRequest(f"{address.get('at')[:40]!r} is not a moment", field="at")
    return then


def positions() -> list[int]:
    """How long ago (ms) each place of the slider is, now first: as many as moments are stored."""
    ago, made = 0, [0]
    for reach_ms, step_ms in _REACH:
        while ago + step_ms <= reach_ms:
            ago = (ago // step_ms + 1) * step_ms
            made.append(ago)
    return made


_POSITIONS: Final = positions()


def place_of(ago_ms: float) -> int:
    """The place of the slider that is nearest to *ago_ms*, counted from the oldest."""
    nearest = min(range(len(_POSITIONS)), key=lambda n: abs(_POSITIONS[n] - ago_ms))
    return len(_POSITIONS) - 1 - nearest


def moment_at(place: str, now_ms: float) -> str:
    """What an address carries for a place of the slider; empty: now."""
    last = len(_POSITIONS) - 1
    number = int(place) if place.isdecimal() and len(place) < 5 else last
    ago = _POSITIONS[last - min(number, last)]
    return moment_text((now_ms - ago) // MINUTE_MS * MINUTE_MS) if ago else ""


def bar(address: Address, now_ms: float) -> Html:
    """The control that sets "as of" for every page: steps, a slider over what is stored, a date."""
    then = then_ms(address)
    at = now_ms if then is None else then
    last = len(_POSITIONS) - 1
    steps = [
        _step(address, at, now_ms, word, by_ms)
        for word, by_ms in (("−1 d", -86_400_000), ("−1 h", -3_600_000), ("−1 min", -MINUTE_MS))  # noqa: RUF001
    ]
    onward = [
        _step(address, at, now_ms, word, by_ms)
        for word, by_ms in (("+1 min", MINUTE_MS), ("+1 h", 3_600_000), ("+1 d", 86_400_000))
    ]
    slider = tag(
        "input", type="range", min="0", max=str(last), value=str(place_of(now_ms - at)), step="1",
        data_intent="travel", aria_label="As of: how long ago, from 90 days to now",
        list="travel-ticks", class_="travel-slider", data_key="travel-slider",
    )  # fmt: skip
    ticks = [
        tag("option", value=str(place_of(ago)), label=word)
        for word, ago in (("7 d", 7 * 86_400_000), ("2 h", 2 * 3_600_000), ("now", 0))
    ]
    form = tag(
        "form",
        tag("input", name="moment", value=moment_text(at)[:16].replace("T", " ") if then else "",
            placeholder="YYYY-MM-DD HH:MM", aria_label="As of, UTC", autocomplete="off",
            spellcheck="false", class_="travel-date"),
        tag("button", "Go", type="submit", class_="button"),
        data_intent="travel",
    )  # fmt: skip
    return tag(
        "div",
        tag("span", "As of", class_="label"),
        tag("span", steps, class_="steps"),
        slider,
        tag("datalist", ticks, id="travel-ticks"),
        tag("span", onward if then else None, class_="steps"),
        form,
        class_="travel",
        role="group",
        aria_label="Time travel",
    )


def _step(address: Address, at: float, now_ms: float, word: str, by_ms: int) -> Html:
    target = at + by_ms
    where = address.but(at=moment_text(target) if target < now_ms - MINUTE_MS else "")
    said = word.replace("−", "back ").replace("+", "on ")  # noqa: RUF001
    return link(where.href, word, data_now=True, class_="button", aria_label=f"As of {said}")


def banner(address: Address, shown_at: pd.Timestamp | None, trouble: str) -> Html:
    """What must be known before any number of the past is read, and the way back."""
    asked = address.get("at")
    known = then_ms(address)
    back = link(address.but(at="").href, "Back to now", data_now=True, class_="button primary")
    if known is None:
        title: object = f"{asked[:40]!r} is not a moment. For example 2026-11-25T23:40Z."
    elif trouble:
        title = f"Nothing to show as of {moment_text(known)}: {trouble}"
    elif shown_at is None:
        title = f"Reading what was stored before {moment_text(known)} …"
    else:
        title = f"As of {shown_at:%Y-%m-%d %H:%M:%S} UTC, not live."
    note = (
        "The newest moment stored before the one asked for. Nothing can be done from here."
        if known is not None and shown_at is not None
        else "Moments are stored every minute for 2 h, every hour for 7 d, every day for 90 d."
    )
    return tag(
        "div",
        icon(palette.ICONS["history"], 15),
        tag("div", tag("p", tag("b", safe_text(title, 300))), tag("p", note)),
        tag("span", back, class_="end"),
        class_="banner verdict c-deferred past",
        role="status",
        data_key="past",
    )


def asked_for(fields: dict[str, str], value: str, now_ms: float) -> str | None:
    """What an address carries for what the bar sent; None: that is no moment."""
    if "moment" not in fields:
        return moment_at(value, now_ms)
    text = fields["moment"].strip()
    if not text:
        return ""
    ms = moment_of(text)
    return None if ms is None else moment_text(ms)


_LINK: Final = re.compile(r'<a href="([^"#]*)"( data-go)(?! data-now)')
_FORM: Final = re.compile(r'(<form\b[^>]*\bdata-go="[^"]*"[^>]*>)')


def kept(html: Html, address: Address) -> Html:
    """*html* with every link to a page and every form of its address staying in the moment shown.

    It reads the markup ``tag`` writes; links of the bar itself, which choose a moment, are left alone.
    """
    if then_ms(address) is None:
        return html
    at = quote(address.get("at"))
    hidden = str(tag("input", type="hidden", name="at", value=address.get("at")))

    def stay(found: re.Match[str]) -> str:
        where = found[1]
        query = where.partition("?")[2]
        if any(part.startswith("at=") for part in query.replace("&amp;", "&").split("&")):
            return found[0]
        return f'<a href="{where}{"&amp;" if query else "?"}at={at}"{found[2]}'

    return Html(_FORM.sub(lambda found: found[1] + hidden, _LINK.sub(stay, html)))


__all__ = [
    "REFUSAL",
    "asked_for",
    "banner",
    "bar",
    "kept",
    "moment_at",
    "place_of",
    "then_asked",
    "then_ms",
]
