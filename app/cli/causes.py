"""Commands about causes of dead letters: list, set, explain; and what the rules would decide."""

import asyncio
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.terminal import (
    Json,
    act,
    clients,
    reachable_settings,
    sample,
    say,
    say_json,
    show_frame,
    show_table,
)
from app.errors import InvalidRequest

if TYPE_CHECKING:
    from app.explanation import Explanation
    from app.records import DeadLetter
    from app.settings import Settings

#: letters read at a time
PAGE = 500

Fingerprint = Annotated[str, typer.Argument(help="Fingerprint of the cause; see `dlq causes`.")]


def add_to(dlq: typer.Typer) -> None:
    """Add the commands to ``arqscope dlq``."""
    dlq.command("causes")(causes)
    dlq.command("cause")(cause)
    dlq.command("explain")(explain)
    dlq.command("policy")(policy)


def causes(as_json: Json = False) -> None:
    """Show the causes of dead letters, those with most open letters first."""
    frame = asyncio.run(sample(reachable_settings())).causes
    names = ["fingerprint", "state", "count", "total", "today", "error_type", "error", "functions"]
    show_frame("Causes", frame[[*names, "owner", "last_seen"]], as_json, {"count": "open"})


def cause(
    fingerprint: Fingerprint,
    state: Annotated[
        str | None, typer.Option("--state", help="new, known, ignored or resolved.")
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Who looks after it.")] = None,
    note: Annotated[str | None, typer.Option("--note", help="What is known about it.")] = None,
    as_json: Json = False,
) -> None:
    """Set what people know of a cause: its state, who looks after it, a note."""
    from app import actions

    act(actions.change_cause, fingerprint, as_json=as_json, state=state, owner=owner, note=note)


def explain(fingerprint: Fingerprint, as_json: Json = False) -> None:
    """Explain a cause: shared arguments, retry odds, other queues, what changed before it."""
    settings = reachable_settings()
    found = asyncio.run(_explained(settings, fingerprint))
    if as_json:
        say_json(found.to_json())
        return
    known = found.cause
    say(f"{known.error_type}: {known.error[:300]}")
    counted = ", ".join(f"{name} {n:,}" for name, n in found.periods.items())
    say(f"state {known.state}, owner {known.owner or 'nobody'}, deaths {known.count:,} ({counted})")
    odds = found.odds
    if len(odds) and odds.loc[0, "retries"]:
        row: Any = odds.iloc[0]
        well, tried, low, high = row["ended_well"], row["retries"], row["low"], row["high"]
        say(f"retries: {well} of {tried} ended well (95%: {low:.0%} to {high:.0%})")
    else:
        say("retries: none has ended yet")
    if found.shared_note:
        say(f"arguments: {found.shared_note}")
    for told in found.shared.head(5).to_dict(orient="records"):
        say(
            f"arguments: {told['failed_share']:.0%} of {found.failures} failures have "
            f"{told['argument']}={told['value']}; {told['ok_share']:.0%} of {found.successes} "
            "successes do"
        )
    names = ["source", "letters", "open", "functions", "same"]
    show_frame("Where it strikes", found.elsewhere[names], as_json=False)
    names = ["at", "kind", "what", "who"]
    show_frame(f"In the hour before {found.since:%Y-%m-%d %H:%M:%S}", found.changes[names], False)


async def _explained(settings: "Settings", fingerprint: str) -> "Explanation":
    from app.explanation import explanation
    from app.letters.causes import known_queues
    from app.wire.connections import Connections

    async with clients(settings) as made:
        connections = Connections(**made)
        queues = await known_queues(connections, settings.queue_names)
        return await explanation(connections, settings.stream_name, queues, fingerprint)


def policy(
    test: Annotated[
        bool, typer.Option("--test", help="Show what would be decided; change nothing.")
    ] = False,
    source: Annotated[str, typer.Option("--source", help="Only this queue or stream.")] = "",
    rules: Annotated[
        Path | None, typer.Option("--rules", help="Rules of this file, not of arqscope.toml.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000)] = 1_000,
    as_json: Json = False,
) -> None:
    """Show the rules, or with --test what they would decide about the letters that are open now."""
    settings = reachable_settings()
    if rules is not None and not rules.is_file():
        raise InvalidRequest(f"{rules} is not a file", field="rules")
    policies: Any = import_module("workers.policies")  # `app` does not depend on `workers`
    in_force = policies.load_rules(rules or settings.config_file)
    if not test:
        rows = [[n, rule.name, str(rule.action), _told(rule)] for n, rule in enumerate(in_force, 1)]
        if as_json:
            say_json([dict(zip(("n", "rule", "action", "when"), row, strict=True)) for row in rows])
            return
        show_table("Rules; the first that fits decides", ["n", "rule", "action", "when"], rows)
        return
    letters = asyncio.run(_standing(settings, source, limit))
    decisions, _ = policies.decide_all(letters, in_force, settings)
    found = [
        {
            "id": letter.id,
            "source": letter.source,
            "name": letter.name,
            "error_type": letter.error_type,
            "decided": letter.decision,
            "action": str(decision.action),
            "rule": decision.rule,
            "delay_s": decision.delay_s,
            "reason": decision.reason,
        }
        for (letter, _), decision in zip(letters, decisions, strict=True)
    ]
    if as_json:
        say_json(found)
        return
    names = ["id", "source", "name", "error_type", "decided", "action", "delay_s", "reason"]
    rows = [[row[name] for name in names] for row in found]
    show_table("What the rules would decide", names, rows, {"delay_s"})
    counts: dict[tuple[str, str], int] = {}
    for row in found:
        pair = (str(row["action"]), str(row["rule"]))
        counts[pair] = counts.get(pair, 0) + 1
    for (action, rule), n in sorted(counts.items(), key=lambda item: -item[1]):
        say(f"{n:>7,}  {action:<9} {rule}")


def _told(rule: Any) -> str:
    """Return the conditions of a rule that are set, in one line."""
    texts = ("exception", "message_prefix", "message_contains", "message_like")
    places = ("function", "queue", "kind", "why")
    parts = [
        f"{name} {', '.join(getattr(rule, name))}"
        for name in (*texts, *places)
        if getattr(rule, name)
    ]
    return "; ".join(parts) or "always"


async def _standing(
    settings: "Settings", source: str, limit: int
) -> list[tuple["DeadLetter", Any]]:
    """Open letters with how their causes stand; at most *limit* per source."""
    from app import reader
    from app.actions.letters import shelf_of
    from app.letters.causes import known_queues, standings
    from app.letters.filters import LetterFilter
    from app.wire.connections import Connections

    async with clients(settings) as made:
        connections = Connections(**made)
        names = [source]
        if not source:
            queues = await known_queues(connections, settings.queue_names)
            names = [*queues, settings.stream_name]
        found: list[DeadLetter] = []
        for name in names:
            shelf = await shelf_of(connections, settings, name)
            wanted, cursor, left = LetterFilter.parse({"state": "open"}), None, limit
            while left > 0:
                page = await reader.letters_matching(shelf, wanted, cursor, min(left, PAGE))
                found += page.items
                left -= len(page.items)
                if page.cursor is None or page.cursor == cursor:
                    break
                cursor = page.cursor
        stands = await standings(made["queue"], {letter.fingerprint for letter in found})
    return [(letter, stands[letter.fingerprint]) for letter in found]
