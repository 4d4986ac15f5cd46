"""What a job carries, as text people may read: pretty, cut, secrets masked by their key."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from app import palette
from app.pages.markup import Html, link, safe_text, tag
from app.reader import Arguments

#: characters shown at first, and when all of it is asked for
PREVIEW_CHARS: Final = 2_000
WHOLE_CHARS: Final = 200_000
MASK: Final = "•••"
_SECRET: Final = re.compile(
    r"(pass(word|wd|phrase)?|secret|token|api[_-]?key|authorization|credential|private[_-]?key|cookie)",
    re.IGNORECASE,
)
MAX_DEPTH: Final = 30


def masked(value: Any, depth: int = 0) -> Any:
    """*value* with what stands under a secret's name replaced."""
    if depth > MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(k): MASK if _SECRET.search(str(k)) and v not in (None, "", True, False)
            else masked(v, depth + 1)
            for k, v in value.items()
        }  # fmt: skip
    if isinstance(value, (list, tuple)):
        return [masked(item, depth + 1) for item in value]
    return value


def text_of(value: Any, *, indent: int | None = 2) -> str:
    """*value* as JSON text, or as Python shows it; never fails."""
    try:
        return json.dumps(masked(value), indent=indent, ensure_ascii=False, default=repr)
    except (ValueError, TypeError, RecursionError):
        return repr(value)[:WHOLE_CHARS]


def preview(arguments: Arguments, limit: int = 120) -> str:
    """Arguments on one line."""
    if arguments.note:
        return arguments.note
    parts = [text_of(arg, indent=None) for arg in arguments.args]
    if not parts and not arguments.kwargs:
        return "no arguments"
    parts += [f"{name}={text_of(v, indent=None)}" for name, v in masked(arguments.kwargs).items()]
    text = ", ".join(parts)
    return text[:limit] + ("…" if len(text) > limit else "")


def block(text: str, *, whole: bool = False, more: str = "", label: str) -> Html:
    """Text in a box; cut, with a link to all of it at the address *more*."""
    limit = WHOLE_CHARS if whole else PREVIEW_CHARS
    size = len(text)
    shown = tag("pre", safe_text(text, limit), tabindex="0", role="region", aria_label=label)
    if size <= limit:
        return shown
    said = f"The first {palette.count(limit)} of {palette.count(size)} characters. "
    if not whole and more:
        return tag("div", shown, tag("p", said, link(more, "Show all of it"), class_="note"))
    return tag("div", shown, tag("p", said, class_="note"))


def arguments_block(arguments: Arguments, *, whole: bool = False, more: str = "") -> Html:
    """Positional and keyword arguments."""
    if arguments.note:
        return tag("p", f"Not shown: {arguments.note}.", class_="empty")
    if not arguments.args and not arguments.kwargs:
        return tag("p", "It was enqueued without arguments.", class_="empty")
    value: Any = {f"argument {n}": arg for n, arg in enumerate(arguments.args, 1)}
    if len(arguments.args) == 1 and not arguments.kwargs:
        value = arguments.args[0]
    else:
        value |= dict(arguments.kwargs)
    return block(text_of(value), whole=whole, more=more, label="Arguments")


__all__ = ["arguments_block", "block", "masked", "preview", "text_of"]
