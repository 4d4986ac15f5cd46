"""Dead letters as a file: JSON lines, CSV or Parquet, streamed a page at a time and bounded.

What a letter carried is decoded inertly (never unpickled) and redacted; cells a spreadsheet would
run get a leading quote.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime
from importlib import import_module
from typing import Any, Final, Literal

from app import keys
from app.errors import BadRecord, InvalidRequest
from app.frames import printable
from app.letters import filters
from app.letters.filters import LetterFilter
from app.letters.redrive import Shelf, asked, raw_fields
from app.payloads.codec import Codec, raw_bytes
from app.payloads.redaction import redacted, redacted_text
from app.reader import arguments_of, lineage_of
from app.records import DeadLetter, utc

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: Final = ("jsonl", "csv", "parquet")
MEDIA: Final[Mapping[str, str]] = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
#: letters one export holds at most
MAX_EXPORTED: Final = 1_000_000
_PAGE: Final = 200
#: rows of one Parquet row group
_GROUP: Final = 5_000
_TEXTS: Final = (
    *("id", "kind", "source", "name", "state", "reason", "error_type", "error", "fingerprint"),
    *("worker", "decision", "decision_reason", "actor", "correlation_id"),
)
_TIMES: Final = {"enqueued": "enqueued_ms", "died": "died_ms", "changed": "changed_ms"}
#: columns of a table; JSON lines carry traceback, history and lineage beside them
COLUMNS: Final = (*_TEXTS, "attempts", "redrives", *_TIMES, "arguments")
_FORMULA: Final = re.compile(r"^[=+\-@\t\r]")


async def export_letters(
    shelf: Shelf,
    wanted: LetterFilter,
    form: Format,
    *,
    codec: Codec | None = None,
    limit: int = MAX_EXPORTED,
) -> AsyncIterator[bytes]:
    """Yield the file piece by piece, newest letter first, at most *limit* letters.

    Raises InvalidRequest for Parquet where pyarrow is not installed.
    """
    write = _WRITERS[form]()
    if head := write.head():
        yield head
    left = min(limit, MAX_EXPORTED)
    async for page in filters.find(shelf, wanted, newest=True, page=min(_PAGE, left)):
        rows = await _rows(shelf, page[:left], codec)
        left -= len(page[:left])
        if piece := write.rows(rows):
            yield piece
        if left <= 0:
            break
    if tail := write.tail():
        yield tail


async def _rows(shelf: Shelf, ids: Iterable[str], codec: Codec | None) -> list[dict[str, Any]]:
    pipe = shelf.redis.pipeline(transaction=False)
    for letter_id in ids:
        pipe.hgetall(keys.dead_record(shelf.source, letter_id))
        pipe.get(keys.dead_payload(shelf.source, letter_id))
    replies = await asked(pipe.execute())
    rows = []
    for raw, payload in zip(replies[::2], replies[1::2], strict=True):
        try:
            letter = DeadLetter.from_fields(raw)
        except BadRecord:
            continue  # closed and forgotten since it was found, or not one of ours
        rows.append(row_of(letter, raw_bytes(payload), codec, lineage_of(raw)))
    return rows


def row_of(
    letter: DeadLetter,
    payload: bytes,
    codec: Codec | None,
    lineage: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """One letter for people: texts that can be printed, ISO times, redacted arguments."""
    row: dict[str, Any] = {name: printable(getattr(letter, name)) for name in _TEXTS}
    row["error"] = redacted_text(row["error"])
    row |= {"attempts": letter.attempts, "redrives": letter.redrives}
    for name, ms in _TIMES.items():
        at = getattr(letter, ms)
        row[name] = utc(at).isoformat(timespec="milliseconds") if 0 < at < 2**48 else ""
    row["arguments"] = _plain(redacted(_carried(letter, payload, codec)))
    row["traceback"] = redacted_text(printable(letter.traceback))
    row["history"] = _list(letter.history)
    row["lineage"] = [dict(entry) for entry in lineage]
    return row


def _carried(letter: DeadLetter, payload: bytes, codec: Codec | None) -> dict[str, Any]:
    if letter.kind == "event":
        try:
            fields: dict[str, Any] = dict(raw_fields(payload.decode("utf-8", "surrogateescape")))
        except BadRecord as error:
            return {"note": printable(error)}
        with contextlib.suppress(KeyError, ValueError, RecursionError):
            fields["data"] = json.loads(fields["data"])
        return fields
    found = arguments_of(payload, codec)
    if found.note:
        return {"note": found.note, "size_bytes": found.size_bytes}
    return {"args": found.args, "kwargs": found.kwargs}


def _plain(value: Any) -> Any:
    """Return *value* as JSON holds it, whatever a job's arguments were."""
    text = json.dumps(value, default=lambda v: printable(v), ensure_ascii=True)
    return json.loads(printable(text))


def _list(text: str) -> Any:
    try:
        return redacted(json.loads(text))
    except (ValueError, RecursionError):
        return []


def safe_cell(value: Any) -> Any:
    """A cell no spreadsheet takes for a formula: such texts get an apostrophe before them."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


class _Lines:
    def head(self) -> bytes:
        return b""

    def rows(self, rows: list[dict[str, Any]]) -> bytes:
        return b"".join(json.dumps(row).encode("ascii") + b"\n" for row in rows)

    def tail(self) -> bytes:
        return b""


class _Csv:
    def head(self) -> bytes:
        return self._lines([list(COLUMNS)])

    def rows(self, rows: list[dict[str, Any]]) -> bytes:
        return self._lines([[safe_cell(_cell(row[name])) for name in COLUMNS] for row in rows])

    def tail(self) -> bytes:
        return b""

    def _lines(self, rows: list[list[Any]]) -> bytes:
        out = io.StringIO()
        csv.writer(out, lineterminator="\r\n").writerows(rows)
        return out.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


class _Parquet:
    """A row group per 5,000 letters; pyarrow comes with the extra ``notebook``."""

    def __init__(self) -> None:
        try:
            pa: Any = import_module("pyarrow")
            pq: Any = import_module("pyarrow.parquet")
        except ImportError as error:
            raise InvalidRequest(
                "Parquet needs pyarrow, which is not installed",
                field="format",
                hint="pip install 'arqscope[notebook]', or ask for csv or jsonl",
            ) from error
        self._pa = pa
        fields = [
            (name, pa.int64() if name in ("attempts", "redrives") else pa.string())
            for name in COLUMNS
        ]
        self._schema = pa.schema(
            [(n, pa.timestamp("ms", tz="UTC") if n in _TIMES else kind) for n, kind in fields]
        )
        self._sink = _Sink()
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"), self._schema, compression="zstd"
        )
        self._kept: list[dict[str, Any]] = []

    def head(self) -> bytes:
        return b""

    def rows(self, rows: list[dict[str, Any]]) -> bytes:
        self._kept += [{name: row[name] for name in COLUMNS} for row in rows]
        return self._group() if len(self._kept) >= _GROUP else b""

    def tail(self) -> bytes:
        piece = self._group() if self._kept else b""
        self._writer.close()
        return piece + self._sink.taken()

    def _group(self) -> bytes:
        for row in self._kept:
            row["arguments"] = _cell(row["arguments"])
            for name in _TIMES:
                row[name] = datetime.fromisoformat(row[name]) if row[name] else None
        self._writer.write_table(self._pa.Table.from_pylist(self._kept, schema=self._schema))
        self._kept = []
        return self._sink.taken()


class _Sink(io.RawIOBase):
    """A file that is taken away as it is written; only its position is remembered."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        self._at += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        piece = b"".join(self._pieces)
        self._pieces.clear()
        return piece


_WRITERS: Final[Mapping[str, Callable[[], Any]]] = {
    "jsonl": _Lines,
    "csv": _Csv,
    "parquet": _Parquet,
}
