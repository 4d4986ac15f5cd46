"""HTML that is escaped unless it is ours. The only way a page makes HTML.

``tag`` escapes every child and attribute that is not Html already, so untrusted text cannot become
markup by forgetting something; ``Html`` is constructed here and for the icons of ``palette`` only.
"""

import re
from collections.abc import Iterable
from html import escape
from typing import Any, Final

import pandas as pd

from app import palette

#: characters of one untrusted text that reach a page
MAX_CHARS: Final = 2_000

#: control characters, and marks that reorder or hide text
_TRICKS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_VOID: Final = frozenset({"input", "br", "hr", "col"})
_NAME: Final = re.compile(r"[a-z][a-z0-9-]*")


class Html(str):
    """Markup that is safe to show."""

    __slots__ = ()


def safe_text(value: object, limit: int = MAX_CHARS) -> Html:
    """Untrusted *value* as text: cut at *limit*, tricks made visible, escaped."""
    text = value if isinstance(value, str) else str(value)
    cut = text[:limit] + ("…" if len(text) > limit else "")
    return Html(escape(_TRICKS.sub(lambda found: f"␣{ord(found[0]):x}", cut), quote=True))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of *frame* as mappings."""
    return [{str(name): value for name, value in r.items()} for r in frame.to_dict("records")]


def join(*children: object) -> Html:
    """Children one after the other; None and False are nothing, iterables are flattened."""
    if len(children) == 1 and type(children[0]) is Html:
        return children[0]  # the same object: who compares it with itself is done at once
    parts: list[str] = []
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, Iterable) and not isinstance(child, str):
            parts.append(join(*child))
        else:
            parts.append(safe_text(child))
    return Html("".join(parts))


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """One element. ``class_`` is ``class``, ``data_x`` is ``data-x``; True is a bare attribute."""
    if not _NAME.fullmatch(element):
        raise ValueError(f"{element!r} is not an element")
    said = ""
    for raw, value in attributes.items():
        if value is None or value is False:
            continue
        key = raw.rstrip("_").replace("_", "-")
        if key.startswith("on") or not _NAME.fullmatch(key):
            raise ValueError(f"{raw!r} is not an attribute a page may use")
        said += f" {key}" if value is True else f' {key}="{safe_text(value)}"'
    if element in _VOID:
        return Html(f"<{element}{said}>")
    return Html(f"<{element}{said}>{join(*children)}</{element}>")


def icon(name: str, size: int = 14) -> Html:
    """One of the palette's icons, by the path data it gives."""
    return Html(palette.svg(name, size))


def sparkline(values: Iterable[float], said: str) -> Html:
    """A line of *values* without axes, gaps as gaps; *said* is read aloud instead."""
    points = [float(value) for value in values]
    known = [value for value in points if value == value]
    top = max(known, default=0.0) or 1.0
    steps, pen = [], "M"
    for number, value in enumerate(points):
        if value != value:
            pen = "M"
            continue
        steps.append(f"{pen}{number} {19 - 17 * value / top:.1f}")
        pen = "L"
    return Html(
        f'<svg class="spark" viewBox="0 0 {max(1, len(points) - 1)} 20" preserveAspectRatio="none" '
        f'role="img" aria-label="{safe_text(said)}"><path d="{"".join(steps)}" fill="none" '
        'stroke="currentColor" stroke-width="1.4"/></svg>'
    )


def state(look: palette.Look, css: str, *, word: str | None = None, title: str = "") -> Html:
    """A state: icon and word in its colour; *css* is the suffix of the colour's variable."""
    return tag(
        "span",
        icon(look.icon, 12),
        tag("span", word or look.word),
        class_=f"state c-{css}",
        title=title or None,
    )


def moment(then: pd.Timestamp | None, now: pd.Timestamp) -> Html:
    """A relative time; the browser keeps it current and shows the absolute one on hover.

    Its text does not depend on *now* between two samples, so that an age alone sends nothing.
    """
    if then is None or pd.isna(then):
        return tag("span", palette.UNKNOWN, class_="unknown", title="not known")
    said = f"{then:%H:%M:%S}" if abs((now - then).total_seconds()) < 86_400 else f"{then:%Y-%m-%d}"
    return tag("time", said, datetime=f"{then:%Y-%m-%dT%H:%M:%S.%fZ}")


def moment_ms(ms: float, now: pd.Timestamp) -> Html:
    """As ``moment``, of epoch ms; 0 is not known."""
    if not 0 < ms < 253_402_300_800_000:
        return moment(None, now)
    return moment(pd.Timestamp(int(ms), unit="ms", tz="UTC"), now)


def link(where: str, *children: object, **attributes: object) -> Html:
    """A link to a page, by its relative address (``address.href``)."""
    return tag("a", *children, href=where, data_go=True, **attributes)


def figure(shown: str, *, why: str = "", title: str = "", **attributes: object) -> Html:
    """A number; an unknown one says *why* on hover."""
    if shown == palette.UNKNOWN:
        return tag("span", shown, class_="unknown", title=why or "not known yet", **attributes)
    return tag("span", shown, class_="figure", title=title or None, **attributes)


def button(
    text: str,
    intent: str,
    *,
    kind: str = "quiet",
    mark: str = "",
    label: str = "",
    refused: str = "",
    **data: object,
) -> Html:
    """A control that sends *intent* and the ``data-`` values given; *refused* says why it cannot."""
    return tag(
        "button",
        icon(mark, 12) if mark else None,
        tag("span", text),
        type="button",
        class_=f"button {kind}",
        data_intent=None if refused else intent,
        aria_label=label or None,
        aria_disabled="true" if refused else None,
        title=refused or None,
        **{f"data_{name}": value for name, value in data.items()},
    )


def heading(title: str, *notes: object, level: int = 2, anchor: str = "") -> Html:
    """The head of a section: a title, and quiet notes such as its window."""
    said = [tag("span", note, class_="note") for note in notes if note]
    return tag("header", tag(f"h{level}", title, id=anchor or None), said, class_="head")


def table(
    columns: Iterable[tuple[str, str]], rows: Iterable[Html], *, caption: str, empty: str
) -> Html:
    """A dense table; *columns* are (title, class); it scrolls inside itself."""
    body = list(rows)
    if not body:
        return tag("p", empty, class_="empty")
    head = [tag("th", title, class_=kind or None, scope="col") for title, kind in columns]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption, class_="hidden"),
            tag("thead", tag("tr", head)),
            tag("tbody", body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def row(key: str, *cells: tuple[object, str], css: str = "") -> Html:
    """A row whose element stays the same between refreshes, by *key*; cells are (content, class)."""
    return tag(
        "tr",
        [tag("td", content, class_=kind or None) for content, kind in cells],
        data_key=key,
        class_=css or None,
    )


def select(
    name: str, options: Iterable[tuple[str, str]], chosen: str, *, label: str, **more: object
) -> Html:
    """A choice; *options* are (value, word)."""
    made = [tag("option", word, value=value, selected=value == chosen) for value, word in options]
    return tag("select", made, name=name, aria_label=label, **more)


def tabs(entries: Iterable[tuple[str, str, object, bool]], *, label: str) -> Html:
    """Tabs that are addresses; *entries* are (address, word, count or None, is current)."""
    made = [
        link(where, tag("span", word), tag("span", count, class_="n") if count not in (None, "") else None,
             class_="tab", aria_current="page" if current else None, data_key=word)
        for where, word, count, current in entries
    ]  # fmt: skip
    return tag("nav", made, class_="tabs", aria_label=label)


def panel(*content: object, label: str, css: str = "panel", **more: object) -> Html:
    """A box with a border, a landmark of its own."""
    return tag("section", content, class_=css, aria_label=label, **more)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Words and what is known about them, side by side."""
    made = [tag("div", tag("dt", word), tag("dd", value), data_key=word) for word, value in pairs]
    return tag("dl", made, class_="pairs")


def clipped(value: object, limit: int = 300, *, kind: str = "") -> Html:
    """Untrusted text on one line, all of it (to *limit*) on hover and when opened."""
    text = str(value)
    if not text:
        return tag("span", palette.UNKNOWN, class_="unknown", title="none")
    return tag("span", safe_text(text, limit), class_=f"clip {kind}".strip(), title=text[:limit])
