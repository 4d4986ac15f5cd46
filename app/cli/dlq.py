"""Commands about dead letters: list, look, retry, discard, archive, undo, export, import."""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from app.cli.terminal import (
    Json,
    act,
    clients,
    json_value,
    reachable_settings,
    sample,
    say,
    say_json,
    show_frame,
    show_table,
)
from app.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from app.reader import LetterDetail, Page
    from app.records import DeadLetter

app = typer.Typer(help="Look at dead letters, retry them, give them up.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(help="Queue or stream it died on.")]
LetterId = Annotated[str, typer.Argument(help="Id of the dead letter; without it: all that match.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit and the record.")]
Name = Annotated[str, typer.Option("--name", help="Only this function or event type.")]
Fingerprint = Annotated[str, typer.Option("--fingerprint", help="Only this cause.")]
ErrorType = Annotated[str, typer.Option("--error-type", help="Only this type of error.")]
Text = Annotated[str, typer.Option("--text", help="Only with this text in error, id or name.")]
Since = Annotated[str, typer.Option("--since", help="Died since, e.g. 2026-11-23T12:00Z.")]
Until = Annotated[str, typer.Option("--until", help="Died until.")]
OlderThan = Annotated[str, typer.Option("--older-than", help="Dead for longer, e.g. 2h.")]
Rate = Annotated[str, typer.Option("--rate", help="At most so fast, e.g. 5/s or 300/min.")]
Canary = Annotated[int, typer.Option("--canary", help="So many first; wait for their outcome.")]
MaxFailed = Annotated[
    float, typer.Option("--max-failed", min=0, max=1, help="Share of canaries that may fail.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count and show a few; change nothing.")]
_COLUMNS = ("id", "name", "state", "attempts", "redrives", "error_type", "error", "died")


def _conditions(**given: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if value}


@app.command("list")
def listed(
    source: Annotated[str, typer.Argument(help="Queue or stream; without it: all.")] = "",
    state: Annotated[
        str, typer.Option("--state", help="open, retrying, closed, resolved, discarded, archived.")
    ] = "open",
    name: Name = "",
    fingerprint: Fingerprint = "",
    error_type: ErrorType = "",
    text: Text = "",
    since: Since = "",
    until: Until = "",
    older_than: OlderThan = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=500)] = 50,
    as_json: Json = False,
) -> None:
    """Show dead letters, newest first; without a source those of all queues and streams."""
    conditions = _conditions(
        name=name, fingerprint=fingerprint, error_type=error_type, text=text,
        since=since, until=until, older_than=older_than,
    )  # fmt: skip
    from app import reader
    from app.actions import Connections
    from app.actions.letters import shelf_of
    from app.letters.filters import LetterFilter
    from app.letters.shelves import letters_of_all
    from app.records import utc

    settings = reachable_settings()
    wanted = LetterFilter.parse(conditions | {"state": state})

    async def read() -> "list[DeadLetter]":
        async with clients(settings) as made:
            connections = Connections(**made)
            shelf = await shelf_of(connections, settings, source) if source else None

            async def page(cursor: str | None, most: int) -> "Page[DeadLetter]":
                if shelf is not None:
                    return await reader.letters_matching(shelf, wanted, cursor, most)
                names = (settings.queue_names, settings.stream_names)
                return await letters_of_all(connections, *names, wanted, cursor, most)

            found, cursor = await page(None, limit), None
            items = found.items
            while found.cursor and len(items) < limit and found.cursor != cursor:
                cursor = found.cursor
                found = await page(cursor, limit - len(items))
                items += found.items
            if found.window:
                sys.stderr.write(f"arqscope: {found.window}\n")
            return items

    found = asyncio.run(read())
    if as_json:
        say_json([asdict(letter) for letter in found])
        return
    columns = _COLUMNS if source else ("id", "source", *_COLUMNS[1:])
    rows = [
        [*(getattr(letter, name) for name in columns[:-1]), utc(letter.died_ms)] for letter in found
    ]
    title = f"Dead letters of {source}" if source else "Dead letters"
    show_table(title, columns, rows, {"attempts", "redrives"})


@app.command("groups")
def groups(as_json: Json = False) -> None:
    """Show the open dead letters by cause, most frequent first."""
    show_frame("Causes", asyncio.run(sample(reachable_settings())).causes, as_json)


@app.command("show")
def show(source: Source, letter_id: LetterId, as_json: Json = False) -> None:
    """Show one dead letter: error, attempts, retries, and what it carried."""
    from app import reader
    from app.actions import Connections
    from app.actions.letters import shelf_of
    from app.enqueue import codec_of

    settings = reachable_settings()

    async def read() -> "LetterDetail | None":
        async with clients(settings) as made:
            shelf = await shelf_of(Connections(**made), settings, source)
            return await reader.letter(shelf.redis, source, letter_id, codec=codec_of(settings))

    found = asyncio.run(read())
    if found is None:
        raise NotFound("dead letter", letter_id)
    if as_json:
        say_json(asdict(found))
        return
    for name, value in asdict(found.letter).items():
        if value not in ("", "[]", 0) and name != "traceback":
            say(f"{name:<16} {value}")
    for entry in found.lineage:
        say(f"{'retry ' + str(entry['n']):<16} {json.dumps(entry)}")
    carried = found.raw or json.dumps(asdict(found.arguments), default=str)
    say(f"{'carried':<16} {carried}")
    if found.letter.traceback:
        say(found.letter.traceback)


@app.command("retry")
def retry(
    source: Source,
    letter_id: LetterId = "",
    delay_s: Annotated[float, typer.Option("--delay", help="Seconds to wait first.")] = 0.0,
    edit: Annotated[
        str,
        typer.Option("--edit", help='Changed arguments, e.g. {"args": [{"records": 5}]}.'),
    ] = "",
    name: Name = "",
    fingerprint: Fingerprint = "",
    error_type: ErrorType = "",
    text: Text = "",
    since: Since = "",
    until: Until = "",
    older_than: OlderThan = "",
    rate: Rate = "",
    canary: Canary = 0,
    max_failed: MaxFailed = 0.0,
    reason: Reason = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Put one dead letter back, or start an operation on all open ones that match."""
    if not letter_id:
        if edit or delay_s:
            raise InvalidRequest("--edit and --delay are for one letter", field="letter_id")
        conditions = _conditions(
            name=name, fingerprint=fingerprint, error_type=error_type, text=text,
            since=since, until=until, older_than=older_than,
        )  # fmt: skip
        _start(
            "retry_letters", source, conditions, as_json,
            rate=rate, canary=canary, canary_max_failed=max_failed, reason=reason, dry_run=dry_run,
        )  # fmt: skip
        return
    from app import actions

    changes = _edit(edit) if edit else None
    act(actions.retry_letter, source, letter_id, delay_s=delay_s, edit=changes, as_json=as_json)


@app.command("retry-group")
def retry_group(
    source: Source,
    fingerprint: Annotated[str, typer.Argument(help="The cause, as `dlq groups` shows it.")],
    rate: Rate = "",
    canary: Canary = 0,
    max_failed: MaxFailed = 0.0,
    reason: Reason = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Start an operation that retries every open letter of one cause."""
    _start(
        "retry_letters", source, {"fingerprint": fingerprint}, as_json,
        rate=rate, canary=canary, canary_max_failed=max_failed, reason=reason, dry_run=dry_run,
    )  # fmt: skip


@app.command("discard")
def discard(
    source: Source,
    letter_id: LetterId = "",
    name: Name = "",
    fingerprint: Fingerprint = "",
    error_type: ErrorType = "",
    text: Text = "",
    since: Since = "",
    until: Until = "",
    older_than: OlderThan = "",
    rate: Rate = "",
    reason: Reason = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give up one dead letter, or all open ones that match; it can be taken back for 24 h."""
    conditions = _conditions(
        name=name, fingerprint=fingerprint, error_type=error_type, text=text,
        since=since, until=until, older_than=older_than,
    )  # fmt: skip
    _close("discard_letters", source, letter_id, conditions, rate, reason, dry_run, as_json)


@app.command("archive")
def archive(
    source: Source,
    letter_id: LetterId = "",
    name: Name = "",
    fingerprint: Fingerprint = "",
    error_type: ErrorType = "",
    text: Text = "",
    since: Since = "",
    until: Until = "",
    older_than: OlderThan = "",
    rate: Rate = "",
    reason: Reason = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Put one dead letter aside as dealt with, or all open ones that match."""
    conditions = _conditions(
        name=name, fingerprint=fingerprint, error_type=error_type, text=text,
        since=since, until=until, older_than=older_than,
    )  # fmt: skip
    _close("archive_letters", source, letter_id, conditions, rate, reason, dry_run, as_json)


@app.command("undo")
def undo(source: Source, letter_id: LetterId, as_json: Json = False) -> None:
    """Open a discarded or archived letter again, within 24 h."""
    from app import actions

    act(actions.undo_discard, source, letter_id, as_json=as_json)


@app.command("export")
def export(
    source: Source,
    form: Annotated[str, typer.Option("--format", help="jsonl, csv or parquet.")] = "jsonl",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; without it: standard output.")
    ] = None,
    state: Annotated[
        str, typer.Option("--state", help="open, retrying, closed, resolved, discarded, archived.")
    ] = "open",
    name: Name = "",
    fingerprint: Fingerprint = "",
    error_type: ErrorType = "",
    text: Text = "",
    since: Since = "",
    until: Until = "",
    older_than: OlderThan = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000)] = 1_000_000,
) -> None:
    """Write the dead letters that match to a file; secrets are masked, formulas disarmed."""
    from app.actions import Connections
    from app.actions.letters import shelf_of
    from app.enqueue import codec_of
    from app.exports.letters import FORMATS, Format, export_letters
    from app.letters.filters import LetterFilter

    settings = reachable_settings()
    if form not in FORMATS:
        raise InvalidRequest(f"format={form!r}", field="format", hint=", ".join(FORMATS))
    conditions = _conditions(
        state=state, name=name, fingerprint=fingerprint, error_type=error_type, text=text,
        since=since, until=until, older_than=older_than,
    )  # fmt: skip
    wanted = LetterFilter.parse(conditions)

    async def write() -> None:
        async with clients(settings) as made:
            shelf = await shelf_of(Connections(**made), settings, source)
            pieces = export_letters(
                shelf, wanted, cast(Format, form), codec=codec_of(settings), limit=limit
            )
            with out.open("wb") if out else sys.stdout.buffer as file:
                async for piece in pieces:
                    file.write(piece)

    asyncio.run(write())
    if out:
        say(f"{out} is written")


@app.command("import")
def import_file(
    path: Annotated[Path, typer.Argument(help="Archive file the dead-letter process wrote.")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Bring the dead letters of an archive file back; doing it twice brings each back once."""
    from app import actions

    act(actions.import_letters, path, dry_run=dry_run, as_json=as_json)


def _close(
    kind: str,
    source: str,
    letter_id: str,
    conditions: dict[str, str],
    rate: str,
    reason: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    if not letter_id:
        _start(kind, source, conditions, as_json, rate=rate, reason=reason, dry_run=dry_run)
        return
    from app import actions

    if conditions or rate or dry_run:
        raise InvalidRequest("a filter is for all that match; leave the id out", field="letter_id")
    action = actions.discard_letter if kind == "discard_letters" else actions.archive_letter
    act(action, source, letter_id, reason=reason, as_json=as_json)


def _start(
    kind: str, source: str, conditions: dict[str, str], as_json: bool, *, rate: str, **more: Any
) -> None:
    from app import actions
    from app.operations import parse_rate

    per_s = parse_rate(rate)
    act(
        actions.start_operation,
        kind,
        source,
        conditions,
        rate_per_s=per_s,
        as_json=as_json,
        **more,
    )


def _edit(text: str) -> Any:
    from app.letters.edit import LetterEdit

    changes = json_value(text, "--edit", "edit")
    known = ("name", "args", "kwargs", "data", "fields")
    if not isinstance(changes, dict) or set(changes) - set(known):
        raise InvalidRequest("--edit is not such an object", field="edit", hint=", ".join(known))
    return LetterEdit(**changes)
