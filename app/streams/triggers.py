"""Trigger rules: which events make which jobs, with what data. Pure but for reading the file.

Rules are ``[[triggers]]`` entries of ``arqscope.toml``. A template names parts of the event in
braces: ``"{data.table}"`` alone keeps the type of the value, ``"table {data.table}"`` is text, and
``"{data.rows|100}"`` has a default. Names are looked up in plain data; nothing is evaluated.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.declarations import NAME_PATTERN
from app.enqueue import JobRequest
from app.errors import ArqscopeError, InvalidRequest, SettingsError
from app.settings import Settings
from app.streams.events import Event, check_pattern, matches

#: parts of an event a rule may name; ``data`` has parts of its own
PARTS: Final = {
    "id": "id",
    "type": "type",
    "timestamp": "timestamp",
    "source": "source",
    "userId": "user_id",
    "workspaceId": "workspace_id",
    "correlationId": "correlation_id",
    "eventId": "event_id",
    "data": "data",
}
MAX_RULES: Final = 200
MAX_TEMPLATE_DEPTH: Final = 10
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_MISSING: Final = object()
_FIELDS: Final = frozenset(
    {"name", "type", "queue", "function", "data", "when", "delay_s", "timeout_s", "attempts"}
    | {"backoff_s"}
)
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Hole:
    """A place in a template that a part of the event fills."""

    path: tuple[str, ...]
    default: Any = _MISSING

    def fill(self, event: Event) -> Any:
        """Return the part; InvalidRequest when the event has none and there is no default."""
        found = look_up(event, self.path)
        if found is not _MISSING:
            return found
        if self.default is _MISSING:
            name = ".".join(self.path)
            raise InvalidRequest(
                f"the event has no {name}",
                field=name,
                hint=f"write {{{name}|…}} in the rule to give a default",
            )
        return self.default


@dataclass(frozen=True, slots=True)
class Text:
    """A text with holes in it."""

    pieces: tuple[str | Hole, ...]

    def fill(self, event: Event) -> str:
        """Return the text, its holes filled."""
        return "".join(
            piece if isinstance(piece, str) else _as_text(piece.fill(event))
            for piece in self.pieces
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Each event of *type* that *when* holds for makes one job."""

    name: str
    type: str  #: exact, ``prefix.*`` or ``*``
    queue: str
    function: str
    data: Any = Hole(("data",))  #: the job's one argument, Hole and Text in place of templates
    when: Mapping[tuple[str, ...], tuple[Scalar, ...]] = field(default_factory=dict)
    delay_s: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)  #: timeout_s, attempts, backoff_s

    @property
    def handler(self) -> str:
        """The name its jobs' ids end with."""
        return f"trigger_{self.name.replace('-', '_')}"

    def why_not(self, event: Event) -> str:
        """Return why *event* makes no job by this rule; empty when it does."""
        if not matches(self.type, event.type):
            return f"the type is not {self.type}"
        if event.type.startswith("job."):  # else a rule could feed on its own jobs for ever
            job = str(event.value("jobId", "")).partition("~r")[0].partition(".then-")[0]
            if job.endswith(f"-{self.handler}"):
                return "the event is about a job this rule made"
        for path, wanted in self.when.items():
            found = look_up(event, path)
            if not any(_equal(found, value) for value in wanted):
                shown = "missing" if found is _MISSING else _as_text(found)[:60]
                return f"{'.'.join(path)} is {shown}, not {' or '.join(map(_as_text, wanted))}"
        return ""

    def job_data(self, event: Event) -> Any:
        """Fill the template; InvalidRequest names the rule and the part the event lacks."""
        try:
            return _filled(self.data, event)
        except InvalidRequest as error:
            raise InvalidRequest(
                f"trigger {self.name!r}: {error}", field=error.field, hint=error.hint
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """What one rule would do with one event."""

    rule: str
    fires: bool
    why: str  #: why it does not; empty when it does
    job: Mapping[str, Any] | None = None  #: id, queue, name, data, options


def dry_run(rules: Sequence[Rule], event: Event) -> list[Firing]:
    """Say for every rule what it would do with *event*; nothing is enqueued."""
    said = []
    for rule in rules:
        why = rule.why_not(event)
        job: dict[str, Any] | None = None
        if not why:
            try:
                job = {
                    "id": f"evt-{event.identity}-{rule.handler}",
                    "queue": rule.queue,
                    "name": rule.function,
                    "data": rule.job_data(event),
                    "options": {"delay_s": rule.delay_s, **rule.options},
                    "correlationId": event.trace_id,
                }
            except ArqscopeError as error:
                why = f"a dead letter: {error}"
        said.append(Firing(rule=rule.name, fires=job is not None, why=why, job=job))
    return said


def load_rules(settings: Settings) -> tuple[Rule, ...]:
    """Read ``[[triggers]]`` of the settings' TOML file; none when it is missing.

    Raises SettingsError, naming the rule and its field.
    """
    path = settings.config_file
    if not path.is_file():
        return ()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return rules_of(table.get("triggers", []), settings, path)


def rules_of(
    entries: Any, settings: Settings, path: Path = Path("arqscope.toml")
) -> tuple[Rule, ...]:
    """Check decoded ``[[triggers]]`` entries; SettingsError names the rule and its field."""
    if not isinstance(entries, list) or len(entries) > MAX_RULES:
        raise SettingsError(
            f"{path}: write each trigger as [[triggers]], with two brackets, at most {MAX_RULES}"
        )
    rules: dict[str, Rule] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"{path}, [[triggers]] {number}" + (f" ({name})" if name else "")
        try:
            rule = _rule(entry, settings)
        except (ArqscopeError, TypeError, ValueError) as error:
            raise SettingsError(f"{where}: {error}") from error
        if rule.handler in rules:
            raise SettingsError(f"{where}: another trigger has this name; - and _ are alike")
        rules[rule.handler] = rule
    return tuple(rules.values())


def _rule(entry: Any, settings: Settings) -> Rule:
    if not isinstance(entry, dict):
        raise SettingsError("not a table")
    unknown = sorted(set(entry) - _FIELDS)
    if unknown:
        raise SettingsError(f"no field {unknown[0]!r}; there are {', '.join(sorted(_FIELDS))}")
    for needed in ("name", "type", "queue", "function"):
        if not isinstance(entry.get(needed), str):
            raise SettingsError(f"{needed} is missing or not a text")
    if not _NAME.fullmatch(entry["name"]):
        raise SettingsError(f"name={entry['name']!r}: small letters, digits, - and _, at most 32")
    check_pattern(entry["type"])
    if entry["queue"] not in settings.queue_names:
        raise SettingsError(
            f"queue={entry['queue']!r} is not declared; there are {', '.join(settings.queue_names)}"
        )
    if not NAME_PATTERN.fullmatch(entry["function"]):
        raise SettingsError(f"function={entry['function']!r} is not a function name")
    options = {n: entry[n] for n in ("timeout_s", "attempts", "backoff_s") if n in entry}
    delay_s = entry.get("delay_s", 0.0)
    JobRequest(name=entry["function"], delay_s=delay_s, **options)  # refuses what is out of range
    return Rule(
        name=entry["name"],
        type=entry["type"],
        queue=entry["queue"],
        function=entry["function"],
        data=_template(entry["data"], 0) if "data" in entry else Hole(("data",)),
        when=_conditions(entry.get("when", {})),
        delay_s=delay_s,
        options=options,
    )


def _conditions(table: Any) -> dict[tuple[str, ...], tuple[Scalar, ...]]:
    if not isinstance(table, dict):
        raise SettingsError('when is not a table, such as { "data.plan" = "pro" }')
    found = {}
    for name, value in table.items():
        wanted = value if isinstance(value, list) else [value]
        if not wanted or not all(isinstance(one, str | int | float | bool) for one in wanted):
            raise SettingsError(f"when {name!r}: a text, number or truth value, or a list of them")
        found[_path(name)] = tuple(wanted)
    return found


def _template(value: Any, depth: int) -> Any:
    """Compile a template: texts with braces become Hole or Text, the rest stays."""
    if depth > MAX_TEMPLATE_DEPTH:
        raise SettingsError(f"data is nested deeper than {MAX_TEMPLATE_DEPTH}")
    if isinstance(value, dict):
        return {name: _template(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_template(inner, depth + 1) for inner in value]
    if isinstance(value, str):
        return _text(value)
    if not isinstance(value, int | float | bool):
        raise SettingsError(f"data holds a {type(value).__name__}: write it as text")
    return value


def _text(value: str) -> str | Hole | Text:
    pieces: list[str | Hole] = []
    for found in _PIECE.finditer(value):
        piece = found.group()
        if found.group(1) is not None:
            name, bar, default = found.group(1).partition("|")
            pieces.append(Hole(_path(name), _default(default) if bar else _MISSING))
        elif piece in ("{", "}"):
            raise SettingsError(f"{value!r} has a single {piece}: write {piece * 2} for itself")
        else:
            pieces.append({"{{": "{", "}}": "}"}.get(piece, piece))
    if len(pieces) == 1 and isinstance(pieces[0], Hole):
        return pieces[0]
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(piece for piece in pieces if isinstance(piece, str))
    return Text(tuple(pieces))


def _path(name: str) -> tuple[str, ...]:
    parts = tuple(name.strip().split("."))
    if parts[0] not in PARTS or not all(parts):
        raise SettingsError(f"{name!r} is no part of an event; there are {', '.join(PARTS)}")
    if len(parts) > 1 and parts[0] != "data":
        raise SettingsError(f"{name!r}: only data has parts of its own")
    return parts


def _default(text: str) -> Any:
    """A default is JSON where it can be (``100``, ``true``, ``null``), else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def look_up(event: Event, path: Sequence[str]) -> Any:
    """Return the part of *event* at *path*, or a marker that equals nothing; plain data only."""
    found: Any = getattr(event, PARTS[path[0]])
    if len(path) == 1 and path[0] != "data" and not found:
        return _MISSING
    for name in path[1:]:
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and re.fullmatch(r"\d{1,6}", name) and int(name) < len(found):
            found = found[int(name)]
        else:
            return _MISSING
    return found


def _filled(template: Any, event: Event) -> Any:
    match template:
        case Hole() | Text():
            return template.fill(event)
        case dict():
            return {name: _filled(inner, event) for name, inner in template.items()}
        case list():
            return [_filled(inner, event) for inner in template]
        case _:
            return template


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _equal(found: Any, wanted: Scalar) -> bool:
    """Whether two values are equal and of one kind: true is not 1, "1" is not 1."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return found == wanted
    return isinstance(found, str) and isinstance(wanted, str) and found == wanted
