"""Arguments as flat texts: what failures and successes are compared by. Pure and bounded.

``{"tenant": {"id": 42}}`` becomes ``tenant.id`` = ``42``. Values whose key tells of a secret are
never taken.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from app.payloads.codec import safe_str
from app.payloads.redaction import is_secret

MAX_PATHS: Final = 40
MAX_DEPTH: Final = 4
MAX_VALUE_CHARS: Final = 80
MAX_PATH_CHARS: Final = 80
MAX_JSON_CHARS: Final = 2_048
#: what a list is told by; its items are rarely shared
MAX_LOOKED_AT: Final = 400


def flat(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Path → value as text, at most 40. One object as the only argument gives its own keys."""
    if len(args) == 1 and isinstance(args[0], Mapping):
        roots: dict[str, Any] = {"": args[0]}
    else:
        roots = {f"args[{n}]": value for n, value in enumerate(args[:10])}
    found: dict[str, str] = {}
    for root, value in (*roots.items(), *kwargs.items()):
        for path, text in _leaves(safe_str(root, MAX_PATH_CHARS), value, 0, [MAX_LOOKED_AT]):
            if len(found) == MAX_PATHS:
                return found
            found.setdefault(path, text)
    return found


def _leaves(path: str, value: Any, depth: int, left: list[int]) -> Iterator[tuple[str, str]]:
    left[0] -= 1
    if left[0] < 0 or len(path) > MAX_PATH_CHARS or is_secret(path.rpartition(".")[2]):
        return
    if isinstance(value, Mapping):
        if depth < MAX_DEPTH:
            for key, inner in value.items():
                name = safe_str(key, MAX_PATH_CHARS)
                yield from _leaves(f"{path}.{name}" if path else name, inner, depth + 1, left)
                if left[0] < 0:
                    return
    elif value is None or isinstance(value, bool):
        yield path, json.dumps(value)
    elif isinstance(value, int | float | str):
        text = safe_str(value, MAX_VALUE_CHARS + 1)
        if len(text) <= MAX_VALUE_CHARS:  # a long text is data, nobody shares it
            yield path, text
    elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        yield f"{path}.length", str(len(value))
    else:
        yield f"{path}.type", type(value).__name__


def encoded(found: Mapping[str, str]) -> str:
    """Encode for Redis, at most 2 KB: what does not fit is left out, the last first."""
    kept = dict(found)
    text = json.dumps(kept, separators=(",", ":"))
    while len(text) > MAX_JSON_CHARS and kept:
        for name in list(kept)[-max(1, len(kept) // 8) :]:
            del kept[name]
        text = json.dumps(kept, separators=(",", ":"))
    return text


def decoded(text: str) -> dict[str, str] | None:
    """Decode; None when it is not what ``encoded`` made."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {str(path): str(value) for path, value in found.items()}
