"""Read what explaining a cause needs, and explain it: bounded, decoded without executing anything."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pandas as pd
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import audit, frames, keys
from app.analyses import explain
from app.errors import BadRecord, NotFound
from app.letters import causes
from app.letters.causes import Cause, CauseState
from app.payloads.arguments import decoded
from app.records import DeadLetter
from app.sampling import record_rows
from app.wire.batch import Batch, rows_of, sort_command, sorted_records
from app.wire.connections import Connections, explained

#: newest letters looked at per source and state
LETTERS: Final = 500
MAX_SOURCES: Final = 50
#: letters whose arguments are compared
MAX_FAILURES: Final = 500
MAX_SAMPLES: Final = 200
#: audit lines before the first occurrence
MAX_LINES: Final = 200
WINDOW_S: Final = 3_600.0
_FIELDS: Final = (
    *("id", "kind", "source", "name", "state", "reason", "error_type", "error", "fingerprint"),
    *("attempts", "redrives", "died_ms", "decision", "decision_reason", "correlation_id"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is known about why a cause strikes. Frames: ``explain``."""

    cause: Cause
    periods: Mapping[str, int]
    function: str  #: the function most of its letters are of; its successes are compared with
    source: str
    failures: int  #: letters whose arguments were compared
    successes: int  #: sampled successes they were compared with
    shared: pd.DataFrame
    shared_note: str  #: why nothing is said about arguments; empty when something could be
    odds: pd.DataFrame
    elsewhere: pd.DataFrame
    since: pd.Timestamp  #: the first occurrence, or the return after it was resolved
    changes: pd.DataFrame
    looked_at: int  #: letters read; of a busy source only the newest are

    def to_json(self) -> dict[str, Any]:
        """Return what the API and the command show: frames as lists of rows."""
        return {
            "cause": asdict(self.cause),
            "periods": dict(self.periods),
            "function": self.function,
            "source": self.source,
            "failures": self.failures,
            "successes": self.successes,
            "sharedArguments": _rows(self.shared),
            "sharedNote": self.shared_note,
            "retryOdds": _rows(self.odds),
            "elsewhere": _rows(self.elsewhere),
            "since": self.since.isoformat(),
            "changes": _rows(self.changes),
            "lookedAt": self.looked_at,
        }


async def explanation(
    connections: Connections, stream: str, queues: Sequence[str], fingerprint: str
) -> Explanation:
    """Explain the cause called *fingerprint*; NotFound when nobody knows it."""
    try:
        return await _explained(connections, stream, queues, fingerprint)
    except (RedisError, OSError) as error:
        raise explained(error, "redis://dead-letters") from error


async def _explained(
    connections: Connections, stream: str, queues: Sequence[str], fingerprint: str
) -> Explanation:
    queue, streams = connections.queue, connections.streams
    found = await causes.read(queue, fingerprint)
    if found is None:
        raise NotFound("cause", fingerprint)
    cause, counts = found
    now: Any = await queue.time()
    names = list(dict.fromkeys([*cause.sources, *queues]))[:MAX_SOURCES]
    letters: list[DeadLetter] = []
    for server, redis in connections.queue_servers.items():
        held = connections.placement.held_by(server, (name for name in names if name != stream))
        letters += await _letters(redis, held)
    letters += await _letters(streams, [stream])
    table = _table(letters)
    mine = [letter for letter in letters if letter.fingerprint == fingerprint]
    source, function = _commonest(mine)
    failed = [x for x in mine if (x.source, x.name) == (source, function)][:MAX_FAILURES]
    redis = streams if source == stream else connections.holding(source)
    failures, successes = await _arguments(redis, source, function, failed)
    since = pd.Timestamp(
        cause.changed_ms if cause.state is CauseState.REGRESSED else cause.first_ms,
        unit="ms",
        tz="UTC",
    ).as_unit("us")
    shared = explain.shared_arguments(
        explain.arguments_frame(failures),
        len(failures),
        explain.arguments_frame(successes),
        len(successes),
    )
    return Explanation(
        cause=cause,
        periods=causes.periods(counts, int(now[0]) * 1000),
        function=function,
        source=source,
        failures=len(failures),
        successes=len(successes),
        shared=shared,
        shared_note="" if len(shared) else _why_nothing(len(failures), len(successes)),
        odds=explain.retry_odds(table[table["fingerprint"] == fingerprint]),
        elsewhere=explain.elsewhere(table, fingerprint),
        since=since,
        changes=await changes_before(queue, since),
        looked_at=len(letters),
    )


def _why_nothing(failures: int, successes: int) -> str:
    if failures < explain.MIN_FAILURES:
        return f"{failures} failures are too few to compare; {explain.MIN_FAILURES} are needed"
    if successes < explain.MIN_SUCCESSES:
        return (
            f"{successes} sampled successes are too few to compare with; "
            f"{explain.MIN_SUCCESSES} are needed"
        )
    return "no argument value sets the failures apart from the successes"


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[Any, Any]] = frame.to_dict(orient="records")
    return [
        {str(k): v.isoformat() if isinstance(v, pd.Timestamp) else v for k, v in row.items()}
        for row in rows
    ]


async def _letters(redis: Redis, sources: Sequence[str]) -> list[DeadLetter]:
    """The newest letters of *sources*, open, retrying and closed, each once."""
    if not sources:
        return []
    batch = Batch(redis)
    sort = await sort_command(redis)
    found: dict[tuple[str, str], DeadLetter] = {}

    def take(reply: Any) -> None:
        for raw in rows_of(reply, _FIELDS):
            try:
                letter = DeadLetter.from_fields(raw)
            except BadRecord:
                continue
            found[letter.source, letter.id] = letter

    for source in sources:
        pattern = keys.dead_record(source, "*->")
        for index in (keys.dead_open, keys.dead_retrying, keys.dead_closed):
            batch.ask(take, *sorted_records(index(source), pattern, _FIELDS, LETTERS, sort=sort))
    await batch.run()
    return list(found.values())


def _table(letters: Sequence[DeadLetter]) -> pd.DataFrame:
    return record_rows.dead_letters_frame(letters)


def _commonest(letters: Sequence[DeadLetter]) -> tuple[str, str]:
    counts = Counter((letter.source, letter.name) for letter in letters)
    return counts.most_common(1)[0][0] if counts else ("", "")


async def _arguments(
    redis: Redis, source: str, function: str, letters: Sequence[DeadLetter]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Flat arguments of *letters* and of the sampled successes of their function."""
    if not letters:
        return [], []
    async with redis.pipeline(transaction=False) as pipe:
        for letter in letters:
            pipe.hget(keys.dead_record(source, letter.id), "arguments")
        texts = await pipe.execute()
    wanted: Any = redis.lrange(keys.samples(source, function), 0, MAX_SAMPLES - 1)
    sampled: list[str] = await wanted
    failures = [found for text in texts if text and (found := decoded(text)) is not None]
    return failures, [found for text in sampled if (found := decoded(text)) is not None]


async def changes_before(queue: Redis, at: pd.Timestamp) -> pd.DataFrame:
    """What changed in the hour before *at*, nearest first, as CHANGE_COLUMNS."""
    return explain.changes_before(await _changes(queue, at), at, WINDOW_S)


async def _changes(queue: Redis, since: pd.Timestamp) -> pd.DataFrame:
    """Worker starts and operators' actions up to *since*, as CHANGE_COLUMNS."""
    until_ms = int(since.timestamp() * 1000)
    first_ms = int(until_ms - WINDOW_S * 1000)
    members: Any = await queue.zrevrangebyscore(
        keys.STARTS, until_ms, "-inf", start=0, num=1_000, withscores=True
    )
    starts: list[Any] = [(*str(member).split("|", 2), ms) for member, ms in members]
    lines: Any = await queue.xrevrange(
        keys.AUDIT, max=str(until_ms), min=str(first_ms), count=MAX_LINES
    )
    rows = [
        {
            "at": line.at_ms,
            "kind": "action",
            "what": f"{line.action} {line.target}"[:200],
            "who": line.actor,
        }
        for line in audit.decoded(lines)
        if "refused" not in line.detail
    ]
    started = explain.starts_frame(starts)
    acted = frames.frame_of(rows, explain.CHANGE_COLUMNS)
    parts = [part for part in (started, acted) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else started
