"""Bulk: a group of dead letters retried or given up as an operation, asked about with filter and count.

A cause may lie on several queues; an operation is about one source, so one is started for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app import actions, palette
from app.actions import Actor, Connections
from app.errors import InvalidRequest
from app.operations import parse_rate
from app.pages.markup import Html, join, safe_text, tag
from app.pages.scene import Scene
from app.settings import Settings

KINDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "retry-group": ("retry_letters", "Retry", "retried"),
    "discard-group": ("discard_letters", "Discard", "discarded"),
    "archive-group": ("archive_letters", "Archive", "archived"),
}
#: sources one question is about
MAX_SOURCES: Final = 20


@dataclass(frozen=True, slots=True)
class Matched:
    """How many letters of which sources a filter means; counted by Redis, not by the page."""

    of_source: Mapping[str, int]
    samples: tuple[Mapping[str, Any], ...] = ()

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.of_source.values())


def filter_of(data: Mapping[str, str]) -> dict[str, str]:
    """The letter filter of what a control said."""
    names = {"cause": "fingerprint", "function": "name", "since": "since"}
    return {field: data[name] for name, field in names.items() if data.get(name)}


def sources_of(data: Mapping[str, str], scene: Scene) -> list[str]:
    """The sources that may hold letters of the group."""
    if data.get("source"):
        return [data["source"]]
    letters = scene.snapshot.dead_letters
    if data.get("cause"):
        letters = letters[letters["fingerprint"] == data["cause"]]
    return sorted({str(source) for source in letters["source"]})[:MAX_SOURCES]


async def count(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    what: str,
    data: Mapping[str, str],
    sources: list[str],
) -> Matched:
    """Ask each source how many letters match, without changing anything."""
    kind = KINDS[what][0]
    of_source: dict[str, int] = {}
    samples: list[Mapping[str, Any]] = []
    for source in sources:
        report = await actions.start_operation(
            connections, settings, actor, kind, source, filter_of(data), dry_run=True
        )
        of_source[source] = int(report.detail["matched"])
        samples += report.detail.get("sample", [])
    return Matched({s: n for s, n in of_source.items() if n}, tuple(samples[:3]))


def fields_of(
    what: str,
    data: Mapping[str, str],
    matched: Matched | None,
    given: Mapping[str, Any],
    error: str = "",
) -> Html:
    """The filter, the count, and how it shall go; *error* is what the cause says, for people."""
    _, _, done = KINDS[what]
    words = {"fingerprint": "cause is", "name": "function is", "since": "died since"}
    conditions = filter_of(data) | ({"source": data["source"]} if data.get("source") else {})
    lines = [
        tag("div", tag("b", words.get(name, f"{name} is")), " ", tag("code", safe_text(value, 120)))
        for name, value in conditions.items()
    ] or [tag("div", "every open dead letter")]
    if error:
        lines.append(tag("div", "its last error: ", safe_text(error, 200), class_="soft"))
    if matched is None:
        counted: object = "counting …"
    else:
        shares = ", ".join(f"{palette.count(n)} in {s}" for s, n in matched.of_source.items())
        match = "open letter matches" if matched.total == 1 else "open letters match"
        counted = f"{palette.count(matched.total)} {match} now" + (
            f": {shares}." if shares else "."
        )
    shown = tag("div", lines, tag("div", counted, role="status"), class_="filter")
    if what != "retry-group":
        effect = tag(
            "p", f"They are {done}, kept, and can be taken back for 24 h.", class_="effect"
        )
        return join(shown, effect, _reason(given))
    effect = tag(
        "p",
        "Each runs again with the same payload. With a canary, so many are retried first; the rest "
        "follows only if no more than the share given fails.",
        class_="effect",
    )
    several = matched is not None and len(matched.of_source) > 1
    first = "Canary: retry first" + (", of each queue" if several else "")
    return join(
        shown,
        effect,
        tag(
            "div",
            _asked(first, "canary", str(given.get("canary", "5")), "0: all at once"),
            _asked("Stop when more than this fail, %", "failed", str(given.get("failed", "20")), "0"),
            _asked("Rate", "rate", str(given.get("rate", "10/s")), "10/s, 600/min; empty: full speed"),
            class_="cols",
        ),
        _reason(given),
    )  # fmt: skip


def _asked(word: str, name: str, value: str, hint: str) -> Html:
    return tag("label", tag("span", word), tag("input", name=name, value=value, placeholder=hint,
                                               autocomplete="off"))  # fmt: skip


def _reason(given: Mapping[str, Any]) -> Html:
    return tag(
        "label", tag("span", "Reason, kept in the record"),
        tag("input", name="reason", value=str(given.get("reason", "")), maxlength="400",
            autocomplete="off"),
    )  # fmt: skip


async def start(
    connections: Connections,
    settings: Settings,
    actor: Actor,
    what: str,
    data: Mapping[str, str],
    sources: list[str],
    fields: Mapping[str, Any],
) -> list[str]:
    """Start one operation per source that has matches; their ids. InvalidRequest names a field."""
    matched = await count(connections, settings, actor, what, data, sources)
    if not matched.total:
        raise InvalidRequest("no open letter matches any more", field="filter")
    pace: dict[str, Any] = {"reason": str(fields.get("reason", ""))}
    if what == "retry-group":
        pace |= {
            "canary": _number(fields, "canary"),
            "canary_max_failed": min(100, _number(fields, "failed")) / 100,
            "rate_per_s": parse_rate(str(fields.get("rate", "")).strip()),
        }
    started = []
    for source in matched.of_source:
        report = await actions.start_operation(
            connections, settings, actor, KINDS[what][0], source, filter_of(data), **pace
        )
        started.append(str(report.detail["operation"]))
    return started


def _number(fields: Mapping[str, Any], name: str) -> int:
    text = str(fields.get(name, "")).strip() or "0"
    if not text.isdecimal() or len(text) > 6:
        raise InvalidRequest(f"{name}={text[:20]!r} is not a whole number", field=name)
    return int(text)


__all__ = ["KINDS", "Matched", "count", "fields_of", "filter_of", "sources_of", "start"]
