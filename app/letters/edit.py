"""Edited arguments: what a retry may carry in place of what died, checked. Pure: no Redis here."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.enqueue import JobRequest
from app.errors import BadPayload, InvalidRequest
from app.letters.redrive import Edited, raw_fields
from app.payloads.codec import Codec
from app.records import DeadLetter
from app.streams.events import MAX_FIELD_CHARS, check_type, encode_data

#: fields of an event that may be edited beside ``type`` and ``data``
_EVENT_FIELDS: Final = ("userId", "workspaceId", "correlationId")
_NOTHING: Final[Any] = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterEdit:
    """What to change; None: as it was. *args* and *kwargs* hold for jobs, the rest as named."""

    name: str | None = None  #: function or event type
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    data: Any = _NOTHING  #: of an event
    fields: Mapping[str, str] | None = None  #: of an event: userId, workspaceId, correlationId

    @property
    def has_data(self) -> bool:
        """Whether ``data`` is edited (None is a value)."""
        return self.data is not _NOTHING


def edited_job(edit: LetterEdit, letter: DeadLetter, raw: bytes, codec: Codec) -> Edited:
    """Encode the job with its edited arguments.

    What is not edited is taken from *raw*; a payload that cannot be read (pickled, malformed) must
    be edited as a whole. Raises InvalidRequest or PayloadTooLarge.
    """
    if edit.has_data or edit.fields is not None:
        raise InvalidRequest("a job has args and kwargs, not data or fields", field="edit")
    args, kwargs, options = edit.args, edit.kwargs, {}
    name, enqueued_ms = edit.name or letter.name, letter.enqueued_ms
    try:
        before = Codec(key=codec.key).decode_job(raw)
    except BadPayload as error:
        if args is None or kwargs is None:
            raise InvalidRequest(
                f"what died cannot be read ({error}); edit it as a whole",
                field="edit",
                hint="give args and kwargs, both",
            ) from error
        options = {"cid": letter.correlation_id} if letter.correlation_id else {}
    else:
        args = before.args if args is None else args
        kwargs = before.kwargs if kwargs is None else kwargs
        name = edit.name or before.function
        options, enqueued_ms = before.options, before.enqueued_ms
    JobRequest(name=name)  # checks the name
    payload = codec.encode_job(name, tuple(args), kwargs, enqueued_ms=enqueued_ms, options=options)
    return Edited(payload=payload, before=digest(raw), after=digest(payload))


def edited_event(edit: LetterEdit, raw: bytes) -> Edited:
    """Return the fields of the event with what is edited; raises InvalidRequest, PayloadTooLarge.

    An event whose kept fields cannot be read must be given a name and data.
    """
    if edit.args is not None or edit.kwargs is not None:
        raise InvalidRequest("an event has data and fields, not args and kwargs", field="edit")
    fields = raw_fields(raw.decode("utf-8", "surrogateescape"))
    if edit.name is not None:
        fields["type"] = check_type(edit.name)
    if edit.has_data:
        fields["data"] = encode_data(edit.data)
    for name, value in (edit.fields or {}).items():
        if name not in _EVENT_FIELDS or not isinstance(value, str) or len(value) > MAX_FIELD_CHARS:
            raise InvalidRequest(
                f"{name[:60]!r} cannot be edited so",
                field="edit",
                hint=f"{', '.join(_EVENT_FIELDS)}: texts of at most {MAX_FIELD_CHARS} characters",
            )
        fields[name] = value
    text = json.dumps(fields, sort_keys=True).encode("utf-8", "surrogateescape")
    return Edited(fields=fields, before=digest(raw), after=digest(text))


def digest(raw: bytes) -> str:
    """SHA-256 in hex: tells in audit and lineage what was sent without telling what it holds."""
    return hashlib.sha256(raw).hexdigest()
