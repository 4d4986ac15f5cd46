"""How our processes log: one line per event, its fields behind it, nothing forged into it, no secret in it.

Everything goes through the standard library's loggers, arq's and Tornado's too; structlog turns a
record into fields and renders them, for people or as one JSON object per line.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import quote

import structlog

#: id of the HTTP request a line belongs to; empty outside of one
request_id: ContextVar[str] = ContextVar("arqscope_request_id", default="")

HIDDEN: Final = "***"
#: characters of one value, and of one line's event
MAX_VALUE_CHARS: Final = 4_096
#: names whose values are never written
_SECRET_NAME: Final = re.compile(
    r"pass(word|wd)|secret|token|authorization|cookie|api[-_]?key|credential|private[-_]?key",
    re.IGNORECASE,
)
#: keys of ours, passwords in URLs, bearer headers
_SECRET_TEXT: Final = (
    (re.compile(r"(arqs_[0-9a-f]{8}_)[A-Za-z0-9_-]{20,}"), r"\1" + HIDDEN),
    (re.compile(r"(\w+://[^\s:/@\"']*:)[^\s@/\"']+@"), r"\1" + HIDDEN + "@"),
    (re.compile(r"(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1" + HIDDEN),
)
#: shorter secrets are words, and would be hidden everywhere
_MIN_SECRET_CHARS: Final = 6

Event = MutableMapping[str, Any]


class Redaction:
    """Takes secrets out of what is about to be written: by name, by shape, and those we know."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        forms = set()
        for secret in known:
            if len(secret) >= _MIN_SECRET_CHARS:
                escaped = json.dumps(secret)[1:-1]
                forms |= {secret, quote(secret, safe=""), escaped, ascii(secret)[1:-1]}
        self._known = sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return *text* without secrets."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        for pattern, instead in _SECRET_TEXT:
            text = pattern.sub(instead, text)
        return text

    def value(self, name: str, value: Any, depth: int = 0) -> Any:
        """Return *value* of the field *name* without secrets, bounded."""
        if _SECRET_NAME.search(name) and value not in (None, "", 0, False):
            return HIDDEN
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping) and depth < 4:
            return {
                str(key)[:100]: self.value(str(key), inner, depth + 1)
                for key, inner in list(value.items())[:50]
            }
        if isinstance(value, list | tuple | set | frozenset) and depth < 4:
            return [self.value("", inner, depth + 1) for inner in list(value)[:50]]
        try:
            text = str(value)
        except Exception:  # a value whose __str__ raises must not cost the line
            text = f"<{type(value).__name__}>"
        if len(text) > MAX_VALUE_CHARS:
            text = f"{text[:MAX_VALUE_CHARS]}… ({len(text):,} characters)"
        return self.text(text)

    def __call__(self, _logger: Any, _method: str, event: Event) -> Event:
        """Redact a whole event (structlog calls this as a processor)."""
        kept = {name: event.pop(name) for name in ("_record", "_from_structlog") if name in event}
        for name in list(event):
            event[name] = self.value("" if name == "event" else name, event[name])
        event.update(kept)
        return event


def _add_request(_logger: Any, _method: str, event: Event) -> Event:
    current = request_id.get()
    if current:
        event.setdefault("requestId", current)
    return event


def _render_json(_logger: Any, _method: str, event: Event) -> str:
    order = {name: event.pop(name) for name in ("timestamp", "level", "logger", "event")}
    return json.dumps(order | dict(event), default=str, ensure_ascii=True)


def _render_console(_logger: Any, _method: str, event: Event) -> str:
    when, level, logger, said = (event.pop(n) for n in ("timestamp", "level", "logger", "event"))
    trace = event.pop("exception", "")
    fields = [f"{name}={_shown(value)}" for name, value in event.items()]
    line = " ".join([when, level.upper(), logger, _printable(str(said)), *fields])
    # A traceback is the one thing of many lines; each is marked, so that none looks like an event.
    told = [f"    | {_printable(part)}" for part in str(trace).splitlines()] if trace else []
    return "\n".join([line, *told])


def formatter(form: str = "console", secrets: Iterable[str] = ()) -> logging.Formatter:
    """Return the formatter of every handler of ours."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _add_request,
            Redaction(secrets),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _render_json if form == "json" else _render_console,
        ],
        keep_exc_info=False,
    )


def configure(level: str, form: str = "console", secrets: Iterable[str] = ()) -> None:
    """Send everything of *level* and above to stderr; for the entry point of a process.

    *secrets* never appear in a line, whatever carries them. Handlers that others gave to arq's and
    Tornado's loggers are taken away, so that each event is one line, in one form.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(form, secrets))
    handler.setLevel(level)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("arq", "tornado", "bokeh", "panel"):
        other = logging.getLogger(name)
        other.handlers.clear()
        other.propagate = True
    if level != "DEBUG":  # a line per page opened, and one per widget touched
        for name in ("bokeh", "panel"):
            logging.getLogger(name).setLevel("WARNING")
            for child in list(logging.Logger.manager.loggerDict):
                if child.startswith(f"{name}."):
                    logging.getLogger(child).setLevel("NOTSET")


def _printable(text: str) -> str:
    """Escape what would move the cursor or begin a line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else ascii(text)
