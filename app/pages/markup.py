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
    """A relative time; the page shows the absolute one, in the viewer's zone, on hover."""
    if then is None or pd.isna(then):
        return tag("span", palette.UNKNOWN, class_="unknown", title="not known")
    return tag("time", palette.age(then, now), datetime=then.isoformat())


def figure(shown: str, *, why: str = "", title: str = "", **attributes: object) -> Html:
    """A number; an unknown one says *why* on hover."""
    if shown == palette.UNKNOWN:
        return tag("span", shown, class_="unknown", title=why or "not known yet", **attributes)
    return tag("span", shown, class_="figure", title=title or None, **attributes)


def button(
    text: str, intent: str, *, kind: str = "quiet", mark: str = "", label: str = "", **data: object
) -> Html:
    """A control that sends *intent* and the ``data-`` values given to the page's server side."""
    return tag(
        "button",
        icon(mark, 12) if mark else None,
        tag("span", text),
        type="button",
        class_=f"button {kind}",
        data_intent=intent,
        aria_label=label or None,
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


def clipped(value: object, limit: int = 300, *, kind: str = "") -> Html:
    """Untrusted text on one line, all of it (to *limit*) on hover and when opened."""
    text = str(value)
    if not text:
        return tag("span", palette.UNKNOWN, class_="unknown", title="none")
    return tag("span", safe_text(text, limit), class_=f"clip {kind}".strip(), title=text[:limit])
