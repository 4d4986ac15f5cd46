"""What can become of a dead letter: retried, closed, reopened, decided upon.

One script per change, each compared with the letter's state; shared by the operators' actions and
the dead-letter processor. A *Shelf* is where the letters of one queue or stream lie.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.errors import BadRecord
from app.payloads.codec import safe_str
from app.records import DeadLetter, LetterState
from app.wire.connections import explained
from app.wire.scripts import script

#: how long a discard or archive can be taken back
UNDO_S: Final = 86_400
#: the name the processor signs with
POLICY: Final = "policy"
#: letters one call to Redis looks at: it must not block longer than a few ms
SWEEP: Final = 200
#: fields an event may have to be appended again: a script cannot hand on some 4,000, and no event
#: that can be handled has more than 64
MAX_FIELDS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Shelf:
    """The dead letters of one source; *redis* is the one the source lives on."""

    redis: Redis
    source: str
    kind: str  #: ``job`` or ``event``

    @property
    def totals(self) -> str:
        """Key of the counters."""
        return keys.totals(self.source) if self.kind == "job" else keys.event_totals(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """What became of a retry."""

    word: str  #: redriven · promoted · already · state:<state> · missing · no-payload · changed · fenced
    id: str  #: the job or entry that carries the retry

    @property
    def changed(self) -> bool:
        """Whether this call made or moved it."""
        return self.word in ("redriven", "promoted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a letter is changed, as its record will say; *token* fences a processor's write."""

    actor: str
    decision: str = ""
    reason: str = ""
    token: str = ""  #: holder's token of the dead-letters lease; empty: an operator
    seen_redrives: int | None = None

    def lineage(self, edited: "Edited | None") -> str:
        """What the letter's record keeps of this retry, as a JSON object."""
        facts: dict[str, Any] = {"actor": self.actor}
        if edited is not None:
            facts |= {"edited": True, "before": edited.before, "after": edited.after}
        return json.dumps(facts)

    @property
    def undecided_only(self) -> bool:
        """Whether only a letter nobody decided about may be taken."""
        return self.actor == POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """What a retry carries in place of what died; *before* and *after* are SHA-256 of both."""

    payload: bytes = b""  #: of a job
    fields: Mapping[str, str] = field(default_factory=dict)  #: of an event
    before: str
    after: str


async def read_letter(shelf: Shelf, letter_id: str) -> DeadLetter | None:
    """One letter, or None; BadRecord when its record is unreadable."""
    raw: Any = await asked(shelf.redis.hgetall(keys.dead_record(shelf.source, letter_id)))
    return DeadLetter.from_fields(raw) if raw else None


async def redrive(
    shelf: Shelf,
    letter_id: str,
    verdict: Verdict,
    *,
    delay_s: float = 0.0,
    edited: "Edited | None" = None,
) -> Redrive:
    """Retry one letter: a job with the same bytes, or an entry with the same fields; once.

    *delay_s* holds for jobs; a stream has no future, so an event is retried at once. *edited* takes
    the place of what died in the retry only; the letter keeps it.
    """
    if shelf.kind == "job":
        return await _redrive_job(shelf, letter_id, verdict, delay_s, edited)
    return await _redrive_event(shelf, letter_id, verdict, edited)


async def close(shelf: Shelf, letter_id: str, state: LetterState, verdict: Verdict) -> str:
    """Discard, archive or (``NEW``) take that back; returns the script's word."""
    return await _close(shelf, letter_id, str(state), verdict)


async def note_decision(shelf: Shelf, letter_id: str, verdict: Verdict) -> str:
    """Write down what was decided about an open letter that stays open."""
    return await _close(shelf, letter_id, "noted", verdict)


async def reopen_lost(shelf: Shelf, after: str, idle_s: float) -> tuple[str, list[str]]:
    """Reopen letters whose retry is nowhere; returns where to go on (empty: the end) and their ids."""
    source = shelf.source
    reply = await run_script(
        shelf,
        "reopen_letters",
        [
            keys.dead_retrying(source),
            keys.dead_open(source),
            source,
            keys.running(source),
        ],
        [keys.dead_record(source, ""), keys.ARQ_JOB, int(idle_s * 1000), SWEEP, after or "-inf"],
    )
    return str(reply[0]), [str(i) for i in reply[1:]]


async def trim_closed(shelf: Shelf, retention_s: float) -> int:
    """Forget up to ``SWEEP`` closed letters whose retention has passed; returns how many."""
    source = shelf.source
    reply = await run_script(
        shelf,
        "trim_letters",
        [keys.dead_closed(source), keys.dead_open(source), keys.dead_retrying(source)],
        [
            keys.dead_record(source, ""),
            keys.dead_payload(source, ""),
            int(retention_s * 1000),
            SWEEP,
        ],
    )
    return int(reply)


async def _redrive_job(
    shelf: Shelf, letter_id: str, verdict: Verdict, delay_s: float, edited: Edited | None
) -> Redrive:
    source = shelf.source
    reply = await run_script(
        shelf,
        "redrive",
        [
            keys.dead_record(source, letter_id),
            keys.dead_payload(source, letter_id),
            keys.dead_open(source),
            keys.dead_retrying(source),
            source,
            keys.running(source),
            keys.totals(source),
            keys.wake(source),
            keys.QUEUES,
            keys.lease("dead-letters"),
        ],
        [
            letter_id,
            keys.ARQ_JOB,
            int(delay_s * 1000),
            verdict.actor,
            "" if verdict.seen_redrives is None else verdict.seen_redrives,
            verdict.token,
            verdict.decision,
            verdict.reason,
            "0" if verdict.undecided_only else "1",
            source,
            b"" if edited is None else edited.payload,
            verdict.lineage(edited),
        ],
    )
    return Redrive(word=str(reply[0]), id=str(reply[1]))


async def _redrive_event(
    shelf: Shelf, letter_id: str, verdict: Verdict, edited: Edited | None
) -> Redrive:
    source = shelf.source
    if edited is None:
        text = await asked(shelf.redis.get(keys.dead_payload(source, letter_id)))
        if text is None:
            known = await asked(shelf.redis.exists(keys.dead_record(source, letter_id)))
            return Redrive(word="no-payload" if known else "missing", id="")
        fields: Mapping[str, str] = raw_fields(text)
    else:
        fields = edited.fields
    if len(fields) > MAX_FIELDS:
        raise BadRecord(
            f"the dead event has {len(fields):,} fields; discard it, an event has at most 64"
        )
    reply = await run_script(
        shelf,
        "redrive_event",
        [
            keys.dead_record(source, letter_id),
            keys.dead_open(source),
            keys.dead_retrying(source),
            source,
            keys.event_totals(source),
        ],
        [
            letter_id,
            verdict.actor,
            "" if verdict.seen_redrives is None else verdict.seen_redrives,
            verdict.decision,
            verdict.reason,
            "1" if verdict.undecided_only else "0",
            verdict.lineage(edited),
            *[part for pair in fields.items() for part in pair],
        ],
    )
    return Redrive(word=str(reply[0]), id=str(reply[1]))


def raw_fields(text: str) -> dict[str, str]:
    """Return the fields of a dead event as its producer wrote them; BadRecord when unreadable."""
    try:
        kept = json.loads(text)
        if set(kept) == {"raw"}:
            kept = kept["raw"] if isinstance(kept["raw"], dict) else json.loads(kept["raw"])
        fields = {str(name): str(value) for name, value in kept.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRecord(f"the raw fields are not readable: {safe_str(error, 200)}") from error
    if not fields:
        raise BadRecord("the dead event has no fields")
    return fields


async def _close(shelf: Shelf, letter_id: str, wanted: str, verdict: Verdict) -> str:
    source = shelf.source
    word = await run_script(
        shelf,
        "close_letter",
        [
            keys.dead_record(source, letter_id),
            keys.dead_open(source),
            keys.dead_closed(source),
            shelf.totals,
            keys.lease("dead-letters"),
        ],
        [
            letter_id,
            wanted,
            verdict.actor,
            verdict.decision,
            verdict.reason,
            verdict.token,
            UNDO_S * 1000,
            "1" if verdict.undecided_only else "0",
        ],
    )
    return str(word)


async def run_script(shelf: Shelf, name: str, names: list[str], args: list[Any]) -> Any:
    """Run ``lua/<name>.lua`` on the shelf's Redis; its errors become ours."""
    return await asked(script(__file__, name).run(shelf.redis, names, args))


async def asked(reply: Any) -> Any:
    """Await a reply of Redis; its errors become ours."""
    try:
        return await reply
    except (RedisError, OSError) as error:
        raise explained(error, "redis://dead-letters") from error
