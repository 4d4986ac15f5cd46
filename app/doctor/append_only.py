"""An append-only file on disk: whether a stopped Redis will find everything in it, and a careful repair.

Redis cuts a torn tail off with a line in its log and starts; with holes in the middle it refuses; without its
manifest it starts empty and says nothing. Nothing here touches a file before all of them are copied.
"""

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from app.doctor.findings import Finding, Severity
from app.errors import ActionRefused, NotFound

MANIFEST: Final = "appendonly.aof.manifest"
DIRECTORY: Final = "appendonlydir"
_PART: Final = re.compile(r"appendonly\.aof\.(\d+)\.(base|incr)\.(rdb|aof)")
#: bytes of one argument; beyond it the length itself is taken for damage (Redis' own limit)
_MOST: Final = 512 * 1_048_576


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a file stops being commands: *good* bytes are, *bad* bytes behind are not."""

    good: int
    bad: int
    is_torn: bool  #: the last command is incomplete, and nothing but that is wrong
    commands: int


def damage_of(path: Path) -> Damage:
    """Read an incremental file command by command; a transaction is one: Redis takes all of it or nothing."""
    size = path.stat().st_size
    commands = good = 0
    in_transaction = False
    with path.open("rb") as file:
        while True:
            state, name = _command(file)
            if state == "end" and not in_transaction:
                return Damage(size, 0, is_torn=False, commands=commands)
            if state != "ok":
                is_torn = state in ("torn", "end")
                return Damage(good, size - good, is_torn=is_torn, commands=commands)
            in_transaction = name == b"MULTI" or (in_transaction and name != b"EXEC")
            if not in_transaction:
                good, commands = file.tell(), commands + 1


def _command(file: BinaryIO) -> tuple[str, bytes]:
    """Read one command: ``ok``, ``end``, ``torn`` (the file ends in it) or ``bad``; and its name."""
    head = file.readline(64)
    name = b""
    if not head:
        return "end", name
    if head.startswith(b"#"):  # an annotation, such as a timestamp
        return ("ok" if head.endswith(b"\n") else "torn"), name
    count = _number(head, b"*")
    if count is None:
        return ("torn" if not head.endswith(b"\n") and head.startswith(b"*") else "bad"), name
    for _ in range(count):
        line = file.readline(64)
        length = _number(line, b"$")
        if length is None:
            is_torn = not line.endswith(b"\n") and line[:1] in (b"", b"$")
            return ("torn" if is_torn else "bad"), name
        body = file.read(length + 2)
        if len(body) < length + 2:
            return "torn", name
        if not body.endswith(b"\r\n"):
            return "bad", name
        name = name or body[:-2].upper()
    return "ok", name


def _number(line: bytes, sign: bytes) -> int | None:
    if not (line.startswith(sign) and line.endswith(b"\r\n") and line[1:-2].isdigit()):
        return None
    number = int(line[1:-2])
    return number if number <= _MOST else None


def home_of(directory: Path) -> Path:
    """The directory of the append-only files: *directory* itself, or in it; NotFound else."""
    for place in (directory, directory / DIRECTORY):
        if any(_PART.fullmatch(path.name) for path in _files(place)) or (place / MANIFEST).exists():
            return place
    raise NotFound("append-only file", str(directory))


def _files(place: Path) -> list[Path]:
    return sorted(place.iterdir()) if place.is_dir() else []


def listed(place: Path) -> list[str] | None:
    """The files the manifest names; None when there is no manifest."""
    try:
        lines = (place / MANIFEST).read_text("utf-8").splitlines()
    except OSError:
        return None
    words = (line.split() for line in lines)
    return [row[row.index("file") + 1] for row in words if "file" in row[:-1]]


def hazards_of(directory: Path) -> Iterator[Finding]:
    """What a Redis that starts on *directory* would meet."""
    place = home_of(directory)
    names = listed(place)
    if names is None:
        parts = [path.name for path in _files(place) if _PART.fullmatch(path.name)]
        yield _finding(
            place, "manifest-missing", Severity.CRITICAL,
            "The manifest is missing: Redis starts EMPTY, says nothing, and begins a new file.",
            f"{len(parts)} files lie there: {', '.join(parts[:4])}",
            "do not start Redis; arqscope doctor --aof DIR --fix writes the manifest, after a copy",
        )  # fmt: skip
        names = _ordered(parts)
    for name in names:
        path = place / name
        if not path.exists():
            yield _finding(
                place, "part-missing", Severity.CRITICAL, "A file the manifest names is missing.",
                name, "restore the directory from a backup: Redis will not start",
            )  # fmt: skip
        elif name.endswith(".aof"):
            yield from _of_file(path)


def _of_file(path: Path) -> Iterator[Finding]:
    with path.open("rb") as file:
        if file.read(5) == b"REDIS":  # an RDB preamble: redis-check-aof reads it
            return
    damage = damage_of(path)
    if not damage.bad:
        return
    evidence = f"{path.name}: {damage.commands:,} commands to byte {damage.good:,}, {damage.bad:,} bytes behind"
    if damage.is_torn:
        yield _finding(
            path.parent, "torn-tail", Severity.WARNING,
            "The last command is incomplete: Redis drops it at its start, with a line in its log.", evidence,
            "nothing to lose by it: it was never acknowledged with appendfsync always; --fix cuts it off after a copy",
        )  # fmt: skip
    else:
        yield _finding(
            path.parent, "hole", Severity.CRITICAL,
            "It is damaged in the middle: Redis refuses to start.", evidence,
            "a replica or a backup first; --fix copies everything, then keeps what is before the damage",
        )  # fmt: skip


def fix(directory: Path, *, now_s: float | None = None) -> tuple[Path, list[str]]:
    """Copy everything, then mend: write a missing manifest, cut off what is no command.

    Returns the copy and what was done. ActionRefused while a Redis holds the files, or when a part is missing.
    """
    place = home_of(directory)
    if holder := _holder(place):
        raise ActionRefused(f"process {holder} has these files open: stop that Redis first")
    names = listed(place)
    parts = names if names is not None else _ordered([path.name for path in _files(place)])
    missing = [name for name in parts if not (place / name).exists()]
    if missing:
        raise ActionRefused(f"{', '.join(missing)} is missing: restore the directory from a backup")
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s))
    copy = place.with_name(f"{place.name}.before-fix-{stamp}")
    shutil.copytree(place, copy)
    done = []
    for name in parts:
        path = place / name
        with path.open("rb") as file:
            if not name.endswith(".aof") or file.read(5) == b"REDIS":
                continue
        damage = damage_of(path)
        if damage.bad:
            with path.open("r+b") as file:
                file.truncate(damage.good)
            done.append(f"{name}: cut {damage.bad:,} bytes behind {damage.commands:,} commands")
    if names is None:
        rows = [_PART.fullmatch(name) for name in parts]
        text = "".join(
            f"file {row[0]} seq {row[1]} type {'b' if row[2] == 'base' else 'i'}\n"
            for row in rows
            if row
        )
        (place / MANIFEST).write_text(text, "utf-8")
        done.append(f"wrote {MANIFEST} with {len(parts)} files")
    return copy, done


def _ordered(names: list[str]) -> list[str]:
    """The newest base and every incremental file that follows it, as a manifest lists them."""
    found = [m for name in names if (m := _PART.fullmatch(name))]
    bases = sorted((m for m in found if m[2] == "base"), key=lambda m: int(m[1]))
    steps = sorted((m for m in found if m[2] == "incr"), key=lambda m: int(m[1]))
    return [m[0] for m in (*bases[-1:], *steps)]


def _holder(place: Path) -> int | None:
    """A process of this machine that has one of the files open, as far as we may see."""
    ours = {
        (s.st_dev, s.st_ino) for path in place.iterdir() if path.is_file() for s in (path.stat(),)
    }
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = list((process / "fd").iterdir())
        except OSError:
            continue
        for link in links:
            with contextlib.suppress(OSError):  # closed meanwhile
                seen = link.stat()  # not its path: a container calls the same file otherwise
                if (seen.st_dev, seen.st_ino) in ours:
                    return int(process.name)
    return None


def _finding(
    place: Path, hazard: str, severity: Severity, sentence: str, evidence: str, remedy: str
) -> Finding:
    return Finding(
        hazard=hazard, severity=severity, where=str(place), sentence=sentence, evidence=evidence,
        remedy=remedy,
    )  # fmt: skip
