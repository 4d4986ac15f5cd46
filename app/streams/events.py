"""The event record: one stream entry decoded, and the rules its fields obey. Pure: no Redis here.

The wire format is flat text, so that any language can write it: ``type`` and ``data`` (JSON) are
required, ``timestamp source userId workspaceId correlationId eventId`` are optional; ``redrivenFrom``
and ``replayedFrom`` mark copies.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, Self
from uuid import UUID

from app.errors import BadRecord, InvalidRequest, PayloadTooLarge
from app.payloads.codec import MAX_DEPTH, safe_str

TYPE_PATTERN: Final = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+")
_WORD: Final = re.compile(r"[a-z0-9_-]+")
ENTRY_ID: Final = re.compile(r"\d{1,20}-\d{1,20}")
MAX_TYPE_CHARS: Final = 128
MAX_DATA_BYTES: Final = 262_144
MAX_FIELD_CHARS: Final = 256
MAX_FIELDS: Final = 64

#: attribute of Event → field of the wire format, the plain text ones
_TEXTS: Final = {
    "timestamp": "timestamp",
    "source": "source",
    "user_id": "userId",
    "workspace_id": "workspaceId",
    "correlation_id": "correlationId",
    "event_id": "eventId",
    "redriven_from": "redrivenFrom",
    "replayed_from": "replayedFrom",
}
_ATTRIBUTES: Final = {wire: name for name, wire in _TEXTS.items()}
_ENTRY_IDS: Final = frozenset({"redriven_from", "replayed_from"})


def check_type(event_type: object) -> str:
    """Return *event_type* when it is dotted lower case; InvalidRequest says what it must be."""
    if (
        not isinstance(event_type, str)
        or len(event_type) > MAX_TYPE_CHARS
        or not _has_form(event_type)
    ):
        raise InvalidRequest(
            f"type={safe_str(event_type, 140)!r} is not an event type",
            field="type",
            hint="dotted lower-case words such as user.created, at most 128 characters",
        )
    return event_type


def check_pattern(pattern: object) -> str:
    """Return *pattern* when it is a type, ``prefix.*`` or ``*``; InvalidRequest says what it must be."""
    if pattern == "*":
        return "*"
    words = pattern.removesuffix(".*").split(".") if isinstance(pattern, str) else [""]
    if len(str(pattern)) > MAX_TYPE_CHARS or not all(_WORD.fullmatch(word) for word in words):
        raise InvalidRequest(
            f"type={safe_str(pattern, 140)!r} is not an event pattern",
            field="type",
            hint="a type (user.created), a prefix (user.*) or * for all",
        )
    return str(pattern)


def matches(pattern: str, event_type: str) -> bool:
    """Whether *event_type* is *pattern*, or begins with its prefix (``user.*``), or it is ``*``."""
    if pattern == "*" or pattern == event_type:
        return True
    return pattern.endswith(".*") and event_type.startswith(pattern[:-1])


@functools.lru_cache(1024)
def _has_form(event_type: str) -> bool:
    """Whether *event_type*, which is short, is dotted lower case; a stream has few types."""
    return TYPE_PATTERN.fullmatch(event_type) is not None


def _plain(value: object) -> str:
    """``json``'s *default*: what other languages read as text."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def encode_data(data: Any) -> str:
    """Encode the ``data`` of an event; InvalidRequest or PayloadTooLarge for what cannot be sent."""
    try:
        text = json.dumps(
            data, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
        )
        size = len(text.encode())
        if _is_deeper(data, MAX_DEPTH):
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        if _has_odd_keys(data):  # 1 and "1" become one name
            json.loads(text, object_pairs_hook=_unique)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"data cannot be stored as JSON: {safe_str(error, 200)}",
            field="data",
            hint="use JSON values; dates, UUIDs and decimals become text",
        ) from error
    if size > MAX_DATA_BYTES:
        raise PayloadTooLarge(
            f"data takes {size:,} bytes, the limit is {MAX_DATA_BYTES:,}",
            field="data",
            hint="store the data elsewhere and publish a reference to it",
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event somebody wants published; checked on construction, InvalidRequest names the field."""

    type: str
    data: Any = field(default_factory=dict)
    user_id: str = ""
    workspace_id: str = ""
    correlation_id: str = ""
    source: str = ""  #: empty: the publisher's
    event_id: str = ""  #: the caller's own id: published once, however often it is asked for

    def __post_init__(self) -> None:
        check_type(self.type)
        for name in ("user_id", "workspace_id", "correlation_id", "source", "event_id"):
            check_text(_TEXTS[name], getattr(self, name))


def check_text(name: str, value: object) -> None:
    """Refuse what cannot be a plain text field of an entry."""
    if not isinstance(value, str) or len(value) > MAX_FIELD_CHARS or not _is_text(value):
        raise InvalidRequest(
            f"{name}={safe_str(value, 60)!r} is not a text of at most {MAX_FIELD_CHARS} characters",
            field=name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact that happened, as the stream holds it."""

    id: str  #: id of the stream entry
    type: str
    data: Any
    timestamp: str = ""  #: ISO 8601, the producer's clock
    source: str = ""
    user_id: str = ""
    workspace_id: str = ""
    correlation_id: str = ""
    event_id: str = ""  #: the id its producer gave it
    redriven_from: str = ""  #: the dead letter this entry is a retry of
    replayed_from: str = ""  #: the entry this one repeats on purpose

    @property
    def identity(self) -> str:
        """The same for every delivery and redrive: what effects derive their ids from."""
        return self.redriven_from or self.id

    @property
    def partition(self) -> str:
        """Events of one partition are handled in order."""
        return self.workspace_id or self.user_id or self.id

    @property
    def trace_id(self) -> str:
        """The correlation id, or the event's own id where the producer gave none."""
        return self.correlation_id or self.identity

    def value(self, name: str, default: Any = None) -> Any:
        """Return field *name* of ``data``, or *default* where data is not an object or lacks it."""
        return self.data.get(name, default) if isinstance(self.data, Mapping) else default

    @classmethod
    def from_entry(cls, entry_id: str, raw: Mapping[str, str]) -> Self:
        """Decode one entry; BadRecord says what is malformed. Sizes are checked before decoding."""
        if len(raw) > MAX_FIELDS:
            raise BadRecord(f"{len(raw):,} fields, the limit is {MAX_FIELDS}")
        for name in ("type", "data"):
            if name not in raw:
                raise BadRecord(f"the field {name!r} is missing")
        texts: dict[str, str] = {}
        for wire, text in raw.items():
            name = _ATTRIBUTES.get(wire, "")
            if not name:
                continue
            if len(text) > MAX_FIELD_CHARS or not (text.isascii() or _is_text(text)):
                raise BadRecord(f"the field {wire!r} is not a text of {MAX_FIELD_CHARS} characters")
            if name in _ENTRY_IDS and text and not ENTRY_ID.fullmatch(text):
                raise BadRecord(f"the field {wire!r} is not the id of an entry")
            texts[name] = text
        try:
            event_type = check_type(raw["type"])
        except InvalidRequest as error:
            raise BadRecord(f"{error}: {error.hint}") from error
        return cls(id=entry_id, type=event_type, data=decode_data(raw["data"]), **texts)

    def to_fields(self) -> dict[str, str]:
        """Encode for XADD; empty optional fields are left out."""
        texts = {wire: getattr(self, name) for name, wire in _TEXTS.items()}
        return {
            "type": self.type,
            **{wire: text for wire, text in texts.items() if text},
            "data": encode_data(self.data),
        }


def decode_data(text: str) -> Any:
    """Decode the ``data`` of an entry; BadRecord for what is not plain, bounded, unambiguous JSON."""
    if len(text) > MAX_DATA_BYTES:
        raise BadRecord(f"data takes more than {MAX_DATA_BYTES:,} bytes")
    try:
        if not text.isascii() and len(text.encode()) > MAX_DATA_BYTES:
            raise BadRecord(f"data takes more than {MAX_DATA_BYTES:,} bytes")
        try:
            value, end = _DECODER.scan_once(text, 0)  # type: ignore[attr-defined]
        except StopIteration:
            end = -1
        if end != len(text):
            value = _DECODER.decode(text)  # spaces around it, or an error with its place
        if "\\u" in text:  # an escaped lone surrogate is text nobody can store again
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"data is not JSON: {safe_str(error, 200)}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise BadRecord(f"data is nested deeper than {MAX_DEPTH}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object names a field twice")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_odd_keys(data: Any) -> bool:
    """Whether an object anywhere in *data*, which is not deeper than MAX_DEPTH, has a key not text."""
    if isinstance(data, dict):
        return any(not isinstance(key, str) for key in data) or any(
            _has_odd_keys(inner)
            for inner in data.values()
            if isinstance(inner, dict | list | tuple)
        )
    if isinstance(data, list | tuple):
        return any(_has_odd_keys(inner) for inner in data if isinstance(inner, dict | list | tuple))
    return False


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether *value* is nested deeper than *limit*, looked at level by level."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list | tuple)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True
