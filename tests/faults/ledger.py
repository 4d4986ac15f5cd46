"""What jobs really did, written outside the Redis under fault: one append-only file per process."""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: environment variable that names the directory of the ledger
VARIABLE: Final = "FAULTS_LEDGER"

_open: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One effect of one run."""

    at: float  #: s, wall clock of the machine
    pid: int
    id: str
    attempt: int
    effect: str


def write(effect: str, job_id: str, attempt: int) -> None:
    """Append one line for this process; a single write, so that SIGKILL cannot tear it."""
    pid = os.getpid()
    if pid not in _open:
        path = Path(os.environ[VARIABLE]) / f"{pid}.jsonl"
        _open[pid] = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    line = {"ts": time.time(), "id": job_id, "attempt": attempt, "effect": effect}
    os.write(_open[pid], json.dumps(line).encode() + b"\n")


def read(directory: Path) -> list[Entry]:
    """Return everything every process wrote, oldest first; what has no line feed yet is being written."""
    entries = [
        Entry(raw["ts"], int(path.stem), raw["id"], raw["attempt"], raw["effect"])
        for path in directory.glob("*.jsonl")
        for raw in map(json.loads, path.read_text(encoding="ascii").split("\n")[:-1])
    ]
    return sorted(entries, key=lambda entry: entry.at)


def counts(entries: Iterable[Entry], effect: str) -> Counter[str]:
    """How often each job had *effect*."""
    return Counter(entry.id for entry in entries if entry.effect == effect)


def by_job(entries: Iterable[Entry]) -> Mapping[str, list[Entry]]:
    """The entries of each job, oldest first."""
    grouped: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        grouped[entry.id].append(entry)
    return grouped
