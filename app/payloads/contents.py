"""What a payload or a result says, for people: decoded without executing anything."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.errors import BadPayload
from app.frames import printable
from app.payloads import pickled
from app.payloads.codec import Codec, JobPayload

PICKLED: Final = "pickled by a stock producer; shown without executing it"
#: bytes a pickle may have to be shown
MAX_PICKLE_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What a payload says."""

    function: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    enqueued_ms: int = 0
    note: str = ""  #: why it could not be decoded, or how it was; empty when it is ours
    size_bytes: int = 0


def arguments_of(raw: bytes, codec: Codec | None = None, *, size_bytes: int = 0) -> Arguments:
    """Decode a payload; what cannot be decoded is a note, never an exception.

    *raw* may be the head of a payload of *size_bytes*: then only its function is told.
    """
    size = size_bytes or len(raw)
    if not raw:
        return Arguments(note="the payload is gone")
    if size > len(raw):
        return Arguments(
            function=function_of(raw),
            note=f"{size:,} bytes, open the job to see",
            size_bytes=size,
        )
    if raw[:1] == b"\x80":
        return _of_pickle(raw)
    try:
        job: JobPayload = Codec(key=codec.key if codec else None).decode_job(raw)
    except BadPayload as error:
        return Arguments(note=printable(error), size_bytes=size)
    return Arguments(
        function=job.function,
        args=job.args,
        kwargs=job.kwargs,
        options=job.options,
        enqueued_ms=job.enqueued_ms,
        size_bytes=size,
    )


def function_of(head: bytes) -> str:
    """The function a payload's first bytes name; empty when they do not."""
    if head[:1] == b"\x80":
        found = re.search(rb"\x8c\x01f(?:\x94)?\x8c(.)", head, re.DOTALL)
        if found is None:
            return ""
        start = found.end()
        return head[start : start + found.group(1)[0]].decode("utf-8", "replace")
    named = re.search(rb'"f":"((?:[^"\\]|\\.){0,128})"', head)
    return named.group(1).decode("utf-8", "replace") if named else ""


def outcome_of(raw: bytes, codec: Codec | None) -> dict[str, Any]:
    """Decode a result: arq's own fields ``f a k et s r st ft q``, and ``note`` when it is not plain."""
    if not raw:
        return {}
    if raw[:1] == b"\x80":
        return _pickled(raw) | {"note": PICKLED}
    try:
        found = Codec(key=codec.key if codec else None).decode(raw)
    except BadPayload as error:
        return {"note": printable(error)}
    return {"a": (), "k": {}, **found}


def _pickled(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_PICKLE_BYTES:
        return {}
    try:
        value = pickled.shown(raw)
    except BadPayload:
        return {}
    if not isinstance(value, dict):
        return {}
    known = {str(name): item for name, item in value.items()}
    args, kwargs = known.get("a"), known.get("k")
    return known | {
        "a": tuple(args) if isinstance(args, list | tuple) else (),
        "k": kwargs if isinstance(kwargs, dict) else {},
    }


def _of_pickle(raw: bytes) -> Arguments:
    found = _pickled(raw)
    enqueued = found.get("et")
    return Arguments(
        function=str(found.get("f", "") or ""),
        args=found.get("a", ()),
        kwargs={str(name): value for name, value in found.get("k", {}).items()},
        enqueued_ms=enqueued if isinstance(enqueued, int) else 0,
        note=PICKLED,
        size_bytes=len(raw),
    )
