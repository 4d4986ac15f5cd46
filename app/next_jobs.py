"""Next jobs: what follows when a job completes. Written into its payload, enqueued by its finish.

A next job is made in the script that records the end of the job before it, so it is made exactly
once, and only when that job ended well. Pure: no Redis here.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from app.declarations import NAME_PATTERN
from app.errors import BadPayload, InvalidRequest

#: next jobs of one job, and jobs in a whole chain
MAX_NEXT: Final = 20
MAX_CHAIN: Final = 100
MAX_DEPTH: Final = 20
MAX_DELAY_S: Final = 365 * 86_400.0
#: characters a derived id may have; a longer one is replaced by a hash
_ID_CHARS: Final = 100
_RETRY: Final = re.compile(r"~r[0-9]+")


class Result(Enum):
    """Stands for the result of the job before."""

    OF_JOB_BEFORE = "result"


RESULT: Final = Result.OF_JOB_BEFORE


@dataclass(frozen=True, slots=True, kw_only=True)
class NextJob:
    """A job to make when another completes; checked on construction, InvalidRequest names the field.

    Its one argument is *data*, or the other's result. ``then`` follows when this one completes.
    """

    name: str
    queue: str = ""  #: empty: the queue of the job before
    data: Any = RESULT
    delay_s: float = 0.0
    then: Sequence["NextJob"] = ()

    def __post_init__(self) -> None:
        for field, value in (("name", self.name), ("queue", self.queue or "q")):
            if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
                raise InvalidRequest(
                    f"then: {field}={str(value)[:140]!r} is not valid",
                    field=f"then.{field}",
                    hint="letters, digits and _.:-~ only, starting with a letter or digit",
                )
        number = isinstance(self.delay_s, int | float) and not isinstance(self.delay_s, bool)
        if not number or not 0 <= self.delay_s <= MAX_DELAY_S:
            raise InvalidRequest(
                f"then: delay={self.delay_s!r} is out of range", field="then.delay"
            )

    def to_wire(self) -> dict[str, Any]:
        """Encode for the ``then`` option of a payload; short names, for it travels with every job."""
        raw: dict[str, Any] = {"n": self.name}
        if self.queue:
            raw["q"] = self.queue
        if self.data is not RESULT:
            raw["d"] = self.data
        if self.delay_s:
            raw["w"] = self.delay_s
        if self.then:
            raw["t"] = [one.to_wire() for one in self.then]
        return raw

    @classmethod
    def from_wire(cls, raw: Any) -> Self:
        """Decode one entry of the ``then`` option; BadPayload when it is not one."""
        try:
            return cls(
                name=raw["n"],
                queue=raw.get("q", ""),
                data=raw.get("d", RESULT),
                delay_s=raw.get("w", 0.0),
                then=tuple(cls.from_wire(one) for one in raw.get("t", ())),
            )
        except (InvalidRequest, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadPayload(f"the next job is not readable: {str(error)[:200]}") from error


def check_chain(nexts: Iterable[NextJob]) -> tuple[NextJob, ...]:
    """Return *nexts*; InvalidRequest when one job has too many, or the chain is too long or deep."""
    found = tuple(nexts)
    level, count, depth, widest = list(found), 0, 0, len(found)
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_DEPTH or count > MAX_CHAIN or widest > MAX_NEXT:
            raise InvalidRequest(
                "then: too many next jobs",
                field="then",
                hint=f"at most {MAX_NEXT} of one job, {MAX_CHAIN} in all, {MAX_DEPTH} in a row",
            )
        widest = max(len(job.then) for job in level)
        level = [one for job in level for one in job.then]
    return found


def root_of(job_id: str) -> str:
    """The id a job was first enqueued under: retries of dead letters are ``id~r1``, ``id~r2`` …"""
    head, mark, _ = job_id.rpartition("~r")
    return head if mark and _RETRY.fullmatch(job_id[len(head) :]) else job_id


def next_id(job_id: str, number: int) -> str:
    """Id of the *number*-th next job (from 1): the same for every run and retry of *job_id*."""
    root = root_of(job_id)
    if len(root) > _ID_CHARS or not NAME_PATTERN.fullmatch(root):
        root = "then-" + hashlib.sha256(root.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return f"{root}.then-{number}"


def places_of(nexts: Iterable[NextJob], queue: str) -> set[tuple[str, str]]:
    """Every (queue, function) of a chain that begins on *queue*."""
    found: set[tuple[str, str]] = set()
    level = [(queue, job) for job in nexts]
    while level:
        placed = [(job.queue or before, job) for before, job in level]
        found |= {(name, job.name) for name, job in placed}
        level = [(name, later) for name, job in placed for later in job.then]
    return found
