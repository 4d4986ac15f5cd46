"""What must not leave in an export: values whose names say that they are secret. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"
#: deeper values are cut off: an export is for reading
MAX_DEPTH: Final = 40
_SECRET: Final = re.compile(
    r"pass(word|wd|phrase)?$|secret|token|api[_-]?key|private[_-]?key|access[_-]?key|authori[sz]ation"
    r"|cookie|credential|session[_-]?id|^pin$|^cvv|card[_-]?number|^ssn$|^iban$",
    re.IGNORECASE,
)
_IN_TEXT: Final = (
    re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,4096}"),
    re.compile(r"(?i)(://[^/\s:@]{0,200}:)[^/\s@]{1,400}(?=@)"),
    re.compile(
        r"(?i)\b((?:pass(?:word|wd)?|secret|token|api[_-]?key)[\"']?\s{0,3}[=:]\s{0,3}[\"']?)"
        r"[^\s\"',;&]{1,400}"
    ),
)


def is_secret(name: str) -> bool:
    """Whether a value of that name is to be masked."""
    return bool(_SECRET.search(name[:200]))


def redacted(value: Any, depth: int = 0) -> Any:
    """Copy *value* with the values of secret names masked; texts are looked at too."""
    if depth > MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(name): MASK
            if is_secret(str(name)) and inner not in (None, "")
            else redacted(inner, depth + 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(inner, depth + 1) for inner in value]
    return redacted_text(value) if isinstance(value, str) else value


def redacted_text(text: str) -> str:
    """Mask credentials that show in a text: authorization values, passwords in URLs, ``token=…``."""
    text = _IN_TEXT[0].sub(lambda m: f"{m[1]} {MASK}", text)
    text = _IN_TEXT[1].sub(lambda m: m[1] + MASK, text)
    return _IN_TEXT[2].sub(lambda m: m[1] + MASK, text)
