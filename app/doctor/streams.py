"""Hazards of the streams: groups that lost entries, consumers that died, events nobody takes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app import keys
from app.doctor.findings import Finding, Severity
from app.settings import Settings

#: ms a consumer may be silent while it holds entries
DEAD_MS: Final = 600_000
#: names of consumers beyond which somebody forgets to remove them
MANY: Final = 50
#: pending entries looked at, the oldest
PENDING: Final = 200
#: ms an entry may be pending
OLD_MS: Final = 600_000


@dataclass(slots=True, kw_only=True)
class Group:
    """What was seen of one group of one stream."""

    stream: str
    name: str
    last: str = "0-0"  #: id delivered last
    pending: int = 0
    lag: int | None = None  #: None: Redis does not know
    consumers: list[Mapping[str, Any]] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)  #: pending entries that are not in the stream
    oldest_idle_ms: int = 0


@dataclass(slots=True, kw_only=True)
class Stream:
    """What was seen of one stream."""

    name: str
    group: str  #: the one our processor uses
    length: int = 0
    exists: bool = False
    first: str = ""
    deleted: str = ""  #: max-deleted-entry-id, Redis 7
    groups: list[Group] = field(default_factory=list)
    dead_open: int = 0


async def look_at(redis: Redis, settings: Settings) -> list[Stream]:
    """Look at the declared streams and their groups."""
    return [await _stream(redis, policy.name, policy.group) for policy in settings.streams]


async def _stream(redis: Redis, name: str, group: str) -> Stream:
    found = Stream(name=name, group=group)
    found.dead_open = int(await redis.zcard(keys.dead_open(name)))
    try:
        info: Any = await redis.xinfo_stream(name)
        groups: Any = await redis.xinfo_groups(name)
    except ResponseError as error:
        if "no such key" in str(error):
            return found
        raise
    found.exists, found.length = True, int(info["length"])
    found.first = str((info.get("first-entry") or ("",))[0])
    found.deleted = str(info.get("max-deleted-entry-id", ""))
    for row in groups[:20]:
        made = Group(
            stream=name,
            name=str(row["name"]),
            last=str(row["last-delivered-id"]),
            pending=int(row["pending"]),
            lag=None if row.get("lag") is None else int(row["lag"]),
        )
        made.consumers = list(await redis.xinfo_consumers(name, made.name))[:1_000]
        if made.pending:
            await _pending(redis, made)
        found.groups.append(made)
    return found


async def _pending(redis: Redis, group: Group) -> None:
    rows: Any = await redis.xpending_range(group.stream, group.name, "-", "+", PENDING)
    async with redis.pipeline(transaction=False) as pipe:
        for row in rows:
            pipe.xrange(group.stream, row["message_id"], row["message_id"], count=1)
        entries = await pipe.execute() if rows else []
    group.vanished = [
        str(row["message_id"]) for row, entry in zip(rows, entries, strict=True) if not entry
    ]
    group.oldest_idle_ms = max((int(row["time_since_delivered"]) for row in rows), default=0)


def hazards_of(streams: list[Stream], settings: Settings) -> Iterator[Finding]:
    """What is wrong with the streams."""
    for stream in streams:
        if stream.exists and stream.group not in {group.name for group in stream.groups}:
            yield Finding(
                hazard="no-group", severity=Severity.CRITICAL, where=f"stream {stream.name}",
                sentence="The group of the event processor does not exist: nobody takes these events.",
                evidence=f"{stream.length:,} entries, no group {stream.group!r}",
                remedy="start the event processor (arqscope events): it makes the group at its last checkpoint",
            )  # fmt: skip
        for group in stream.groups:
            yield from _group(stream, group)
        if stream.dead_open > 0.8 * settings.dead_letter_cap:
            yield Finding(
                hazard="dead-letters-cap", severity=Severity.WARNING, where=f"stream {stream.name}",
                sentence="Dead letters near their cap: the oldest will be moved to a file.",
                evidence=f"{stream.dead_open:,} open of {settings.dead_letter_cap:,}",
                remedy="decide on them: arqscope dlq causes",
            )  # fmt: skip


def _group(stream: Stream, group: Group) -> Iterator[Finding]:
    where = f"stream {stream.name}/{group.name}"

    def finding(
        hazard: str, severity: Severity, sentence: str, evidence: str, remedy: str
    ) -> Finding:
        return Finding(
            hazard=hazard, severity=severity, where=where, sentence=sentence, evidence=evidence, remedy=remedy,
        )  # fmt: skip

    if stream.deleted and _number(stream.deleted) > _number(group.last):
        yield finding(
            "trimmed-unread", Severity.CRITICAL,
            "Entries this group had not read were removed from the stream.",
            f"the newest removed is {stream.deleted}, the last delivered {group.last}",
            "no MAXLEN on XADD of your own; our processor trims only what every group has handled",
        )  # fmt: skip
    if group.vanished:
        yield finding(
            "trimmed-pending", Severity.CRITICAL,
            "Entries that were given to a consumer are no longer in the stream: they cannot be tried again.",
            f"{len(group.vanished)} of the {min(group.pending, PENDING)} oldest pending: {group.vanished[0]}",
            "no MAXLEN, XTRIM or XDEL beside our processor; it counts them as dead when it meets them",
        )  # fmt: skip
    dead = [c for c in group.consumers if int(c["pending"]) and int(c["idle"]) > DEAD_MS]
    if dead:
        held = sum(int(c["pending"]) for c in dead)
        yield finding(
            "dead-consumers", Severity.WARNING,
            "Consumers that are silent hold entries nobody handles.",
            f"{held:,} entries with {len(dead)} consumers, e.g. {str(dead[0]['name'])[:80]}",
            "start an event processor: it takes them over; else arqscope streams claim",
        )  # fmt: skip
    if len(group.consumers) > MANY:
        yield finding(
            "many-consumers", Severity.NOTICE, "Names of consumers pile up.",
            f"{len(group.consumers)} names", "XGROUP DELCONSUMER those without pending entries; ours does",
        )  # fmt: skip
    awake = [c for c in group.consumers if int(c["idle"]) < 60_000]
    if group.name == stream.group and group.lag and not awake:
        yield finding(
            "no-processor", Severity.CRITICAL, "Events wait and no event processor is heard of.",
            f"lag {group.lag:,}", "arqscope events",
        )  # fmt: skip
    elif group.oldest_idle_ms > OLD_MS and not dead:
        yield finding(
            "old-pending", Severity.WARNING, "Entries have been pending for long.",
            f"the oldest for {group.oldest_idle_ms / 60_000:.0f} min", "arqscope streams pending",
        )  # fmt: skip


def _number(entry_id: str) -> tuple[int, int]:
    ms, _, rest = entry_id.partition("-")
    return (int(ms), int(rest or 0)) if ms.isdecimal() else (0, 0)
