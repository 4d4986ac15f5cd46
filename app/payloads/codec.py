"""The payload codec: what a job or a result looks like as bytes.

``j1:{json}``, or ``h1:<hmac>:{json}`` when signed. The JSON object has arq's own fields (``t f a k
et``, for results also ``s r st ft q id``) and may carry ours under ``o`` (options). Values JSON has
no word for are tagged ``{"__t__": kind, "v": text}``; exceptions are data, never objects. Pickle is
read only through ``Codec(allow_pickle=True)``, which only a worker makes.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from app.errors import BadPayload, InvalidRequest, PayloadTooLarge

MAX_PAYLOAD_BYTES: Final = 262_144
MAX_DEPTH: Final = 64
#: the last ms of the year 9999, where Python's datetime ends
MAX_TIME_MS: Final = 253_402_300_799_999
#: characters of a correlation id: it travels with every run report, event and letter
MAX_CID_CHARS: Final = 256
#: options of a job that are numbers, and what they may be; the producer's own limits are narrower
_OPTION_RANGES: Final = (
    ("timeout", 0, 10_000_000),
    ("attempts", 1, 1_000_000),
    ("backoff", 0, 10_000_000),
)
TAG: Final = "__t__"
_PLAIN: Final = b"j1:"
_SIGNED: Final = b"h1:"
_DIGEST_CHARS: Final = 43


class RemoteError(Exception):
    """An exception another process reported: its type's name and message, as text."""

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied as it was made: a record that holds one can be taken apart."""
        return type(self), (self.type_name, self.message, self.traceback)


def safe_str(value: object, limit: int = 4096) -> str:
    """``str(value)`` cut to *limit* characters, lone surrogates replaced; never raises."""
    try:
        text = str(value)
    except BaseException as error:  # noqa: BLE001, RUF100 - a job's __str__ may raise anything
        text = f"<{type(value).__name__}: __str__ raised {type(error).__name__}>"
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def raw_bytes(text: str | bytes | None) -> bytes:
    """The bytes behind a reply that was decoded with ``surrogateescape``."""
    if text is None:
        return b""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _tagged(value: object) -> Any:
    """``json``'s *default*: what JSON has no word for."""
    if isinstance(value, datetime):
        return {TAG: "datetime", "v": value.isoformat()}
    if isinstance(value, date):
        return {TAG: "date", "v": value.isoformat()}
    if isinstance(value, timedelta):
        return {TAG: "timedelta", "v": value.total_seconds()}
    if isinstance(value, UUID):
        return {TAG: "uuid", "v": str(value)}
    if isinstance(value, Decimal):
        return {TAG: "decimal", "v": str(value)}
    if isinstance(value, bytes | bytearray):
        return {TAG: "bytes", "v": base64.b64encode(value).decode()}
    if isinstance(value, set | frozenset):
        return {TAG: "set", "v": list(value)}
    if isinstance(value, BaseException):
        kind = type(value)
        name = value.type_name if isinstance(value, RemoteError) else kind.__qualname__
        text = value.message if isinstance(value, RemoteError) else safe_str(value)
        return {TAG: "exception", "v": {"type": name, "message": text}}
    raise TypeError(f"{type(value).__name__} is not JSON")


def _exception(v: Mapping[str, str]) -> BaseException:
    if v["type"] == "CancelledError":  # arq's Job.abort() recognises an abort by it
        return asyncio.CancelledError()
    return RemoteError(str(v["type"]), str(v["message"]))


_UNTAG: Final[dict[str, Callable[[Any], Any]]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "timedelta": lambda v: timedelta(seconds=v),
    "uuid": UUID,
    "decimal": Decimal,
    "bytes": base64.b64decode,
    "set": set,
    "exception": _exception,
}


def _untagged(value: dict[str, Any]) -> Any:
    kind = value.get(TAG)
    if kind is None:
        return value
    return _UNTAG[kind](value["v"])


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_encoder: Final = json.JSONEncoder(
    separators=(",", ":"), default=_tagged, allow_nan=False, check_circular=True
)


def dumps(value: Any) -> bytes:
    """Encode any JSON value, with our tags; InvalidRequest names what cannot be encoded."""
    try:
        return _encoder.encode(value).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"arguments cannot be stored as JSON: {safe_str(error, 200)}",
            field="data",
            hint="use JSON values, datetime, Decimal, UUID, bytes or set",
        ) from error


#: made once: ``json.loads`` with any keyword builds a decoder and its scanner for every job
_PLAIN_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
_TAGGED_DECODER: Final = json.JSONDecoder(object_hook=_untagged, parse_constant=_no_constant)


def loads(raw: bytes | str) -> Any:
    """Decode what ``dumps`` made; BadPayload when it is not JSON, NaN, too deep or badly tagged."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        return (_TAGGED_DECODER if TAG in text else _PLAIN_DECODER).decode(text)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as e:
        raise BadPayload(f"not a JSON payload: {safe_str(e, 200)}") from e


@dataclass(frozen=True, slots=True)
class Codec:
    """Encode and decode payloads; signs and verifies when it has a key."""

    key: bytes | None = field(default=None, repr=False)
    allow_pickle: bool = False

    def encode(self, value: Mapping[str, Any]) -> bytes:
        """Encode one job or result (arq's ``job_serializer``)."""
        body = dumps(value)
        if self.key is None:
            return _PLAIN + body
        return _SIGNED + self._digest(body) + b":" + body

    def decode(self, raw: bytes) -> dict[str, Any]:
        """Decode one job or result (arq's ``job_deserializer``); BadPayload says what is wrong."""
        if raw.startswith(_PLAIN):
            if self.key is not None:
                raise BadPayload("the payload is not signed, but ARQSCOPE_PAYLOAD_KEY is set")
            value = loads(raw[len(_PLAIN) :])
        elif raw.startswith(_SIGNED):
            value = loads(self._verified(raw))
        elif self.allow_pickle and raw[:1] == b"\x80":
            try:
                value = pickle.loads(raw)  # noqa: S301 - ARQSCOPE_ALLOW_PICKLE, workers only
            except Exception as error:
                raise BadPayload(f"cannot unpickle: {safe_str(error, 200)}") from error
        elif raw[:1] == b"\x80":
            raise BadPayload(
                "the payload is pickled, which would execute what it holds; "
                "set ARQSCOPE_ALLOW_PICKLE=true on workers that must read stock arq producers"
            )
        else:
            raise BadPayload(f"unknown payload format {raw[:8]!r}")
        if not isinstance(value, dict):
            raise BadPayload(f"the payload is a {type(value).__name__}, not an object")
        return value

    def encode_job(
        self,
        function: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        enqueued_ms: int,
        options: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Encode a job; PayloadTooLarge above 256 KB."""
        job: dict[str, Any] = {"t": None, "f": function, "a": args, "k": kwargs, "et": enqueued_ms}
        if options:
            job["o"] = options
        raw = self.encode(job)
        if len(raw) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLarge(
                f"the arguments of {function!r} take {len(raw):,} bytes, "
                f"the limit is {MAX_PAYLOAD_BYTES:,}",
                field="data",
                hint="store the data elsewhere and pass a reference to it",
            )
        return raw

    def decode_job(self, raw: bytes) -> "JobPayload":
        """Decode a job and check its shape; BadPayload says which field is wrong."""
        job = self.decode(raw)
        try:
            function, args, kwargs, enqueued, tried = (
                job["f"],
                job["a"],
                job["k"],
                job["et"],
                job["t"],
            )
        except KeyError as error:
            raise BadPayload(f"the payload has no field {error}") from error
        for name, value, kinds in (
            ("f", function, str),
            ("a", args, (list, tuple)),
            ("k", kwargs, dict),
            ("et", enqueued, int),
            ("t", tried, (int, type(None))),
        ):
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise BadPayload(f"payload field {name!r} is a {type(value).__name__}")
        return JobPayload(
            function,
            tuple(args),
            kwargs,
            checked_time(enqueued),
            tried,
            _checked_options(job["o"]) if job.get("o") else {},
            pickled=raw[:1] == b"\x80",
        )

    def _digest(self, body: bytes) -> bytes:
        mac = hmac.new(self.key or b"", body, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mac).rstrip(b"=")

    def _verified(self, raw: bytes) -> bytes:
        if self.key is None:
            raise BadPayload("the payload is signed, but ARQSCOPE_PAYLOAD_KEY is not set here")
        end = len(_SIGNED) + _DIGEST_CHARS
        digest, body = raw[len(_SIGNED) : end], raw[end + 1 :]
        if not hmac.compare_digest(digest, self._digest(body)):
            raise BadPayload("the signature of the payload is wrong")
        return body


def checked_time(ms: int) -> int:
    """Return *ms* when it is a time people could mean; BadPayload for what no calendar holds."""
    if not 0 <= ms <= MAX_TIME_MS:
        raise BadPayload(f"payload field 'et' is {safe_str(ms, 40)}, no time in ms since 1970")
    return ms


def _checked_options(options: Any) -> dict[str, Any]:
    """Return the options a worker acts on; BadPayload names the one it could not act on."""
    if not isinstance(options, dict):
        raise BadPayload(f"payload field 'o' is a {type(options).__name__}")
    for name, low, high in _OPTION_RANGES:
        value = options.get(name)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise BadPayload(f"option {name!r} is {safe_str(value, 40)}, not {low:g} to {high:g}")
    if not isinstance(options.get("cid", ""), str) or len(options.get("cid", "")) > MAX_CID_CHARS:
        raise BadPayload(f"option 'cid' is not a text of at most {MAX_CID_CHARS} characters")
    return options


@dataclass(frozen=True, slots=True)
class JobPayload:
    """A decoded job: what to call, with what."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    enqueued_ms: int
    job_try: int | None
    options: dict[str, Any]
    pickled: bool = False
