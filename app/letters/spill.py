"""Dead letters beyond the cap: the oldest open ones go to a file, and come back from it. None is dropped.

A line per letter, JSON with its record, its raw payload and a checksum. The file is on disk before
the letter leaves Redis; whoever is killed in between leaves the letter in both, never in none.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app import keys
from app.errors import BadRecord, NotFound
from app.letters.redrive import Shelf, asked, run_script
from app.payloads.codec import raw_bytes
from app.wire.scripts import script

#: letters per batch: a call to Redis of a few ms, and one fsync
BATCH: Final = 250
#: bytes a line may have: a letter with the largest payload and traceback, and to spare
MAX_LINE_BYTES: Final = 4_000_000
#: letters on their way back at once
AT_ONCE: Final = 100
_VERSION: Final = 1
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spilled:
    """What one call came to."""

    letters: int
    file: Path | None  #: None: nothing was written


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One letter of a file."""

    source: str
    kind: str
    id: str
    score: str  #: ms it died
    record: Mapping[str, str]
    payload: bytes | None


async def spill(shelf: Shelf, folder: Path, cap: int, *, most: int = 20 * BATCH) -> Spilled:
    """Move the oldest open letters beyond *cap* to a file in *folder*, at most *most*.

    Raises OSError when the file cannot be written; the letters are open again then.
    """
    count, file = 0, None
    while count < most:
        ids = await _run(shelf, "take", cap, BATCH)
        if not ids:
            break
        lines = await _lines(shelf, ids)
        file = file or _file_of(shelf.source, folder)
        try:
            await asyncio.to_thread(append, file, lines)
        except OSError:
            await _run(shelf, "back", *ids)
            raise
        await _run(shelf, "gone", *ids)
        count += len(ids)
    return Spilled(letters=count, file=file)


async def unspill(
    path: Path, shelf_of: Callable[[Line], Shelf], *, dry_run: bool = False
) -> tuple[int, int]:
    """Bring the letters of a file back; returns how many came back and how many were here.

    *shelf_of* tells the shelf of a line. Every line is checked before the first
    is brought back: BadRecord names the line that is damaged.
    """
    for _ in read_lines(path):
        pass
    back = here = 0
    if dry_run:
        return sum(1 for _ in read_lines(path)), 0
    lines = iter(read_lines(path))
    while some := list(itertools.islice(lines, AT_ONCE)):
        for kind in ("job", "event"):
            came = await _bring_back([(line, shelf_of(line)) for line in some if line.kind == kind])
            back += sum(came)
            here += len(came) - sum(came)
    return back, here


async def _bring_back(some: list[tuple[Line, Shelf]]) -> list[int]:
    """Bring lines of one Redis back; the first call makes sure that Redis knows the script."""
    if not some:
        return []
    calls = [_call(line, shelf) for line, shelf in some]
    shelf = some[0][1]
    first = int(await run_script(shelf, "unspill_letter", *calls[0]))
    pipe = shelf.redis.pipeline(transaction=False)
    for names, values in calls[1:]:
        pipe.evalsha(script(__file__, "unspill_letter").sha, len(names), *names, *values)
    return [first, *(await asked(pipe.execute()) if calls[1:] else ())]


def _call(line: Line, shelf: Shelf) -> tuple[list[str], list[Any]]:
    names = [
        keys.dead_record(line.source, line.id),
        keys.dead_payload(line.source, line.id),
        keys.dead_open(line.source),
        shelf.totals,
    ]
    values = [
        line.id,
        line.score,
        "0" if line.payload is None else "1",
        line.payload or b"",
        *[part for pair in line.record.items() for part in pair],
    ]
    return names, values


def append(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines and wait until they, and the file's name, are on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("ab") as file:
        if is_new:
            path.chmod(0o600)
        begin = _whole_bytes(path)
        file.truncate(begin)
        try:
            for line in lines:
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            file.truncate(begin)  # a torn line would make the file unreadable
            raise
    if is_new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _whole_bytes(path: Path) -> int:
    """Bytes up to the last whole line: a torn one is of a letter that is still in Redis."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - MAX_LINE_BYTES))
        tail = file.read()
    return size - (len(tail) - (tail.rfind(b"\n") + 1))


def line_of(line: Line) -> bytes:
    """Encode one letter; the checksum is over everything before it."""
    body = {
        "v": _VERSION,
        "source": line.source,
        "kind": line.kind,
        "id": line.id,
        "score": line.score,
        "record": dict(line.record),
        "payload": None if line.payload is None else base64.b64encode(line.payload).decode(),
    }
    text = json.dumps(body)
    return f'{{"sha256":"{_digest(text)}","letter":{text}}}\n'.encode("ascii")


def read_lines(path: Path) -> Iterable[Line]:
    """The letters of a file; BadRecord names the line that is damaged. A torn last line is left out.

    A letter written twice (an interrupted spill) is given twice.
    """
    if not path.is_file():
        raise NotFound("file", str(path))
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if not raw.endswith(b"\n") and len(raw) <= MAX_LINE_BYTES:
                return  # whoever wrote it was killed before the letter left Redis
            yield _line(raw, f"{path} line {number}")


def _line(raw: bytes, where: str) -> Line:
    try:
        outer = json.loads(raw)
        body = outer["letter"]
        if outer["sha256"] != _digest(json.dumps(body)):
            raise BadRecord(f"{where} is damaged: its checksum is wrong")
        if body["v"] != _VERSION:
            raise BadRecord(f"{where} has version {body['v']}, this reads {_VERSION}")
        payload = body["payload"]
        return Line(
            source=str(body["source"]),
            kind=str(body["kind"]),
            id=str(body["id"]),
            score=str(body["score"]),
            record={str(k): str(v) for k, v in body["record"].items()},
            payload=None if payload is None else base64.b64decode(payload, validate=True),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRecord(f"{where} is not a dead letter: {error}") from error


async def _lines(shelf: Shelf, ids: list[str]) -> list[bytes]:
    pipe = shelf.redis.pipeline(transaction=False)
    for letter_id in ids:
        pipe.hgetall(keys.dead_record(shelf.source, letter_id))
        pipe.get(keys.dead_payload(shelf.source, letter_id))
    replies = await asked(pipe.execute())
    return [
        line_of(
            Line(
                source=shelf.source,
                kind=shelf.kind,
                id=letter_id,
                score=str(record.get("died_ms") or 0),
                record=record,
                payload=None if payload is None else raw_bytes(payload),
            )
        )
        for letter_id, record, payload in zip(ids, replies[::2], replies[1::2], strict=True)
    ]


def _file_of(source: str, folder: Path) -> Path:
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return folder / f"{_UNSAFE.sub('_', source)}-{day}-{os.getpid()}.jsonl"


async def _run(shelf: Shelf, verb: str, *rest: Any) -> Any:
    source = shelf.source
    return await run_script(
        shelf,
        "spill_letters",
        [keys.dead_open(source), keys.dead_spilling(source), shelf.totals],
        [verb, keys.dead_record(source, ""), keys.dead_payload(source, ""), *rest],
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
