"""Commands about streams: numbers, entries, pending, publishing, replaying, trigger rules."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.terminal import (
    Json,
    act,
    clients,
    json_object,
    json_value,
    reachable_settings,
    sample,
    say,
    say_json,
    show_frame,
    show_table,
)
from app.errors import InvalidRequest

if TYPE_CHECKING:
    from app.settings import Settings

app = typer.Typer(help="Look at streams, publish, replay, try trigger rules.", no_args_is_help=True)

Stream = Annotated[str, typer.Option("--stream", help="Name; empty: STREAM_NAME.")]
Group = Annotated[str, typer.Option("--group", help="Name; empty: STREAM_CONSUMER_GROUP.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500)]
EntryId = Annotated[str, typer.Argument(help="Id of the entry, e.g. 1795442400000-0.")]
Type = Annotated[str, typer.Option("--type", help="A type, or a prefix: user.*")]
From = Annotated[str, typer.Option("--from", help="Entry id, epoch ms or ISO 8601 time.")]
To = Annotated[str, typer.Option("--to", help="Entry id, epoch ms or ISO 8601 time.")]


@app.command("list")
def listed(as_json: Json = False) -> None:
    """Show the streams and their groups: pending, lag in events and seconds."""
    snapshot = asyncio.run(sample(reachable_settings()))
    names = ["stream", "length", "processed", "dead", "unmatched", "per_s"]
    if as_json:
        say_json(
            {
                "streams": snapshot.streams.to_dict("records"),
                "groups": snapshot.groups.to_dict("records"),
            }
        )
        return
    show_frame("Streams", snapshot.streams[names], as_json=False)
    groups = snapshot.groups.copy()
    groups["lag"] = [
        f"≈{lag:,.0f}" if estimate else f"{lag:,.0f}"
        for lag, estimate in zip(groups["lag"], groups["lag_is_estimate"], strict=True)
    ]
    shown = ["stream", "group", "consumers", "pending", "lag", "lag_s"]
    show_frame("Groups", groups[shown], as_json=False)


@app.command("entries")
def browse(
    stream: Stream = "",
    event_type: Type = "",
    start: From = "",
    end: To = "",
    user: Annotated[str, typer.Option("--user")] = "",
    workspace: Annotated[str, typer.Option("--workspace")] = "",
    correlation: Annotated[str, typer.Option("--correlation")] = "",
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show entries, newest first; at most 5,000 are looked at."""
    from app.streams import entries

    wanted = entries.EntryFilter(
        type=event_type, user_id=user, workspace_id=workspace, correlation_id=correlation
    )
    first = entries.position(start, "from") if start else "-"
    last = entries.position(end, "to") if end else "+"

    async def read(redis: Any, settings: "Settings") -> entries.EntriesPage:
        name = stream or settings.stream_name
        return await entries.entries_page(redis, name, wanted, start=first, end=last, limit=limit)

    page = _ask(read)
    if as_json:
        say_json(asdict(page))
        return
    names = ["id", "type", "source", "userId", "workspaceId", "data"]
    rows = [
        [one.get(name, one.get("malformed") or one.get("note", "")) for name in names]
        for one in page.items
    ]
    show_table(f"Entries ({page.scanned:,} looked at)", names, rows)


@app.command("show")
def show(entry_id: EntryId, stream: Stream = "") -> None:
    """Print one entry as it was written, where it is pending, and whether it is dead."""
    from app.streams import entries

    async def read(redis: Any, settings: "Settings") -> dict[str, Any]:
        return await entries.entry(redis, stream or settings.stream_name, entry_id)

    say_json(_ask(read))


@app.command("pending")
def pending(
    stream: Stream = "",
    group: Group = "",
    consumer: Annotated[str, typer.Option("--consumer")] = "",
    min_idle_ms: Annotated[int, typer.Option("--min-idle", min=0, help="ms")] = 0,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show what a group was given and has not acknowledged, oldest first."""
    from app.streams import entries

    async def read(redis: Any, settings: "Settings") -> entries.EntriesPage:
        return await entries.pending_page(
            redis,
            stream or settings.stream_name,
            group or settings.stream_consumer_group,
            consumer=consumer,
            min_idle_ms=min_idle_ms,
            limit=limit,
        )

    page = _ask(read)
    if as_json:
        say_json(asdict(page))
        return
    names = ["id", "type", "consumer", "idle_ms", "deliveries"]
    rows = [
        [one["id"], (one["entry"] or {}).get("type", "deleted"), *(one[n] for n in names[2:])]
        for one in page.items
    ]
    show_table("Pending entries", names, rows, {"idle_ms", "deliveries"})


@app.command("claim")
def claim(
    entry_id: EntryId,
    stream: Stream = "",
    group: Group = "",
    consumer: Annotated[str, typer.Option("--consumer", help="Who gets it.")] = "",
    as_json: Json = False,
) -> None:
    """Release a pending entry: the next processor takes it at once."""
    _change(entry_id, "claim", stream, group, as_json, consumer=consumer)


@app.command("skip")
def skip(entry_id: EntryId, stream: Stream = "", group: Group = "", as_json: Json = False) -> None:
    """Acknowledge a pending entry without handling it."""
    _change(entry_id, "ack", stream, group, as_json)


@app.command("publish")
def publish(
    event_type: Annotated[str, typer.Argument(help="Such as user.created.")],
    data: Annotated[str, typer.Option("--data", help="JSON.")] = "{}",
    stream: Stream = "",
    event_id: Annotated[str, typer.Option("--id", help="Once, however often.")] = "",
    user: Annotated[str, typer.Option("--user")] = "",
    workspace: Annotated[str, typer.Option("--workspace")] = "",
    correlation: Annotated[str, typer.Option("--correlation")] = "",
    as_json: Json = False,
) -> None:
    """Publish one event."""
    from app import actions

    act(
        actions.publish_event,
        event_type,
        json_value(data, "--data", "data"),
        as_json=as_json,
        source="cli",
        user_id=user,
        workspace_id=workspace,
        correlation_id=correlation,
        event_id=event_id,
        stream=stream,
    )


@app.command("replay")
def replay(
    stream: Stream = "",
    event_type: Type = "",
    start: From = "",
    end: To = "",
    user: Annotated[str, typer.Option("--user")] = "",
    workspace: Annotated[str, typer.Option("--workspace")] = "",
    correlation: Annotated[str, typer.Option("--correlation")] = "",
    rate: Annotated[str, typer.Option("--rate", help="5/s, 300/min …; empty: no limit.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    as_json: Json = False,
) -> None:
    """Append copies of a range to the stream, as an operation; handlers run again for them."""
    from app import actions, operations

    wanted = {"type": event_type, "from": start, "to": end, "user": user}
    wanted |= {"workspace": workspace, "correlation": correlation}
    act(
        actions.start_operation,
        "replay_events",
        stream or reachable_settings().stream_name,
        {name: value for name, value in wanted.items() if value},
        as_json=as_json,
        rate_per_s=operations.parse_rate(rate),
        reason=reason,
        dry_run=dry_run,
    )


@app.command("triggers")
def triggers(
    test: Annotated[
        Path | None, typer.Option("--test", help="A file with an event as JSON; - reads stdin.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the trigger rules of arqscope.toml, or what each would do with an event."""
    from app.settings import Settings
    from app.streams.triggers import dry_run, load_rules

    rules = load_rules(Settings.load())
    if test is None:
        names = ["name", "type", "queue", "function", "delay_s"]
        rows = [[getattr(rule, name) for name in names] for rule in rules]
        if as_json:
            say_json([dict(zip(names, row, strict=True)) for row in rows])
            return
        show_table("Triggers", names, rows)
        return
    said = dry_run(rules, _event_of(test))
    if as_json:
        say_json([asdict(one) for one in said])
        return
    for one in said:
        say(f"{one.rule}: {'makes a job' if one.fires else one.why}")
        for name, value in (one.job or {}).items():
            say(f"  {name:<14} {value}")


@app.command("statuses")
def statuses(
    kind: Annotated[str, typer.Argument(help="sync, job, user, workspace or auth.")],
    stream: Stream = "",
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show what events last said about things of one kind, newest first."""
    from app.streams import entries

    async def read(redis: Any, settings: "Settings") -> list[dict[str, Any]]:
        return await entries.statuses(redis, stream or settings.stream_name, kind, limit)

    found = _ask(read)
    if as_json:
        say_json(found)
        return
    names = ["subject", "status", "text", "type", "at", "entry"]
    show_table(kind, names, [[one.get(name, "") for name in names] for one in found])


def _change(entry_id: str, verb: str, stream: str, group: str, as_json: bool, **more: Any) -> None:
    from app import actions

    settings = reachable_settings()
    act(
        actions.change_pending,
        stream or settings.stream_name,
        group or settings.stream_consumer_group,
        entry_id,
        verb,
        as_json=as_json,
        **more,
    )


def _ask(read: Callable[[Any, "Settings"], Awaitable[Any]]) -> Any:
    """Ask the streams Redis one thing."""
    settings = reachable_settings()

    async def do() -> Any:
        async with clients(settings) as made:
            return await read(made["streams"], settings)

    return asyncio.run(do())


def _event_of(path: Path) -> Any:
    from app.streams.events import Event, encode_data

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--test {path}: {error}", field="test") from error
    given = json_object(text, f"--test {path}", "test")
    raw = {name: str(value) for name, value in given.items() if name not in ("id", "data")}
    raw["data"] = encode_data(given.get("data", {}))
    return Event.from_entry(str(given.get("id", "0-1")), raw)
