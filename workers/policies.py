"""What to do about a dead letter: ordered rules, the first that fits decides. Pure.

Rules come from ``[[policies]]`` in ``arqscope.toml``, then the built-in ones. Their patterns are
prefixes, parts and shell-style globs: nothing an operator or an error message can make slow.
"""

import fnmatch
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import Any, Final

from app.errors import SettingsError
from app.letters.causes import HOURS_PLANNED, Standing
from app.records import DeadLetter
from app.settings import Settings

MAX_PATTERN_CHARS: Final = 200
MESSAGE_LOOKED_AT: Final = 4_096
#: s an automatic retry is delayed at most
DELAY_CAP_S: Final = 3_600.0
BACKOFF: Final = 2.0
#: automatic retries of one cause per hour; the rest is put off to the hours after
CAUSE_RETRIES_PER_HOUR: Final = 600


class Action(StrEnum):
    """The specification's four actions, and ARCHIVE."""

    RETRY = "RETRY"
    DISCARD = "DISCARD"
    ALERT = "ALERT"
    ESCALATE = "ESCALATE"
    ARCHIVE = "ARCHIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """If every condition given holds, *action*; an empty condition always holds.

    Conditions are tuples of alternatives, case ignored. ``exception``, ``message_like``,
    ``function`` and ``queue`` are globs over the whole text, ``message_prefix`` and
    ``message_contains`` plain text.
    """

    name: str
    action: Action
    exception: tuple[str, ...] = ()
    message_prefix: tuple[str, ...] = ()
    message_contains: tuple[str, ...] = ()
    message_like: tuple[str, ...] = ()
    function: tuple[str, ...] = ()
    queue: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()  #: ``job`` or ``event``
    why: tuple[str, ...] = ()  #: globs over the record's reason: attempts, timeout, crash …
    attempts: int = 0  #: at least so many attempts were made
    retries: int | None = None  #: automatic retries of one letter; None: RETRY_ATTEMPTS
    delay_s: float | None = None  #: before the first; None: RETRY_DELAY
    backoff: float = BACKOFF  #: each further retry waits so many times longer
    cause_per_hour: int = CAUSE_RETRIES_PER_HOUR  #: automatic retries of one cause per hour

    def fits(self, letter: DeadLetter) -> bool:
        """Whether every condition holds."""
        message = letter.error[:MESSAGE_LOOKED_AT].casefold()
        return (
            _like(self.exception, letter.error_type)
            and _like(self.function, letter.name)
            and _like(self.queue, letter.source)
            and _like(self.kind, letter.kind)
            and _like(self.why, letter.reason)
            and _like(self.message_like, message)
            and _any(self.message_prefix, message.startswith)
            and _any(self.message_contains, message.__contains__)
            and letter.attempts >= self.attempts
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, when, and why."""

    action: Action
    delay_s: float
    reason: str  #: a sentence for people
    rule: str
    hours_off: int = 0  #: hours a RETRY was put off because its cause's budget was spent


UNKNOWN: Final = Standing()

BUILT_IN_RULES: Final = (
    Rule(
        name="unreadable here",  # before "malformed": a setting of ours, not a fault of the job
        action=Action.ALERT,
        exception=("BadPayload",),
        message_contains=("pickle", "signed", "signature"),
    ),
    Rule(
        name="authentication or permission",
        action=Action.ALERT,
        exception=(
            "*Permission*",
            "*Authenti*",
            "*Authori*",
            "*Unauthorized*",
            "*Forbidden*",
            "*AccessDenied*",
        ),
    ),
    Rule(
        name="connection, timeout or rate limit",
        action=Action.RETRY,
        exception=(
            "*Connect*",
            "*Timeout*",
            "*TimedOut*",
            "*RateLimit*",
            "*TooManyRequests*",
            "*Throttl*",
            "*ServiceUnavailable*",
            "*Unreachable*",
            "BrokenPipeError",
            "gaierror",
            "ReadError",
            "RemoteProtocolError",
            "RedisUnavailable",
        ),
    ),
    Rule(
        name="timeout of the job",
        action=Action.RETRY,
        why=("timeout",),
    ),
    Rule(
        name="message tells of permission",
        action=Action.ALERT,
        message_contains=("permission denied", "unauthorized", "forbidden", "access denied"),
    ),
    Rule(
        name="message tells of connection or rate limit",
        action=Action.RETRY,
        message_contains=(
            "connection refused",
            "connection reset",
            "timed out",
            "rate limit",
            "too many requests",
            "temporarily unavailable",
        ),
    ),
    Rule(name="no such function", action=Action.ALERT, why=("unknown-function",)),
    Rule(name="crash", action=Action.ALERT, why=("crash*",)),
    Rule(
        name="validation",
        action=Action.DISCARD,
        exception=(
            "*Validation*",
            "ValueError",
            "JSONDecodeError",
            "Unicode*Error",
            "BadPayload",
            "BadRecord",
            "InvalidRequest",
        ),
    ),
    Rule(name="malformed", action=Action.DISCARD, why=("malformed", "undecodable")),
    Rule(name="given up by the job", action=Action.ALERT, why=("permanent", "expired")),
    Rule(name="anything else", action=Action.RETRY, retries=1),
)


def decide(
    letter: DeadLetter,
    rules: Sequence[Rule],
    settings: Settings,
    standing: Standing = UNKNOWN,
) -> Decision:
    """Decide about an open letter by the first rule that fits.

    A RETRY that has used up the letter's budget becomes an ALERT, so that no letter goes round for
    ever. One beyond its cause's budget of the hour is put off to the first hour with room.
    """
    rule = next((rule for rule in rules if rule.fits(letter)), BUILT_IN_RULES[-1])
    named = f"rule {rule.name!r}"
    if rule.action is not Action.RETRY:
        reason = f"{named}: {letter.error_type or letter.reason}"
        return Decision(action=rule.action, delay_s=0.0, reason=reason, rule=rule.name)
    budget = settings.retry_attempts
    if rule.retries is not None:
        budget = min(budget, rule.retries)
    if letter.redrives >= budget:
        reason = f"{named}: still fails after {letter.redrives} of {budget} retries"
        return Decision(action=Action.ALERT, delay_s=0.0, reason=reason, rule=rule.name)
    first_s = settings.retry_delay / 1000 if rule.delay_s is None else rule.delay_s
    delay_s = min(DELAY_CAP_S, first_s * rule.backoff ** min(letter.redrives, 50))
    per_hour = rule.cause_per_hour
    # a stream has no future: an event that cannot be retried this hour is for a person
    hours = standing.planned if letter.kind == "job" else standing.planned[:1]
    off = next((n for n, planned in enumerate(hours) if planned < per_hour), None)
    if off is None:
        reason = f"{named}: {per_hour} retries per hour of this cause are spent"
        return Decision(action=Action.ALERT, delay_s=0.0, reason=reason, rule=rule.name)
    put_off = ""
    if off:  # spread over that hour, so that it does not begin with a crowd
        later_s = standing.hour_left_s + 3_600 * (off - 1 + standing.planned[off] / per_hour)
        delay_s = max(delay_s, ceil(later_s * 10) / 10)  # rounded down it would be the hour before
        put_off = f", put off: {per_hour} an hour of this cause"
    reason = f"{named}: retry {letter.redrives + 1} of {budget} after {delay_s:g} s{put_off}"
    return Decision(
        action=Action.RETRY, delay_s=delay_s, reason=reason, rule=rule.name, hours_off=off
    )


def decide_all(
    letters: Sequence[tuple[DeadLetter, Standing]],
    rules: Sequence[Rule],
    settings: Settings,
    is_due: Callable[[DeadLetter, Decision], bool] = lambda *_: True,
) -> tuple[list[Decision], dict[tuple[str, int], int]]:
    """Decide about *letters* in turn, and say how many retries of which cause fall into which hour.

    What the processor does and what ``arqscope dlq policy --test`` shows. Keys of the plan are
    (fingerprint, epoch hour). A retry that is not due will be decided again, and is not planned.
    """
    plan: dict[tuple[str, int], int] = {}
    decisions = []
    for letter, standing in letters:
        mine = [plan.get((letter.fingerprint, standing.hour + n), 0) for n in range(HOURS_PLANNED)]
        planned = tuple(map(sum, zip(standing.planned, mine, strict=True)))
        decision = decide(letter, rules, settings, replace(standing, planned=planned))
        if decision.action is Action.RETRY and is_due(letter, decision):
            slot = (letter.fingerprint, standing.hour + decision.hours_off)
            plan[slot] = plan.get(slot, 0) + 1
        decisions.append(decision)
    return decisions, plan


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Read ``[[policies]]`` of *path* (none when it is missing), then the built-in rules.

    Raises SettingsError, naming the entry and its field.
    """
    if not path.is_file():
        return BUILT_IN_RULES
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    entries = table.get("policies", [])
    if not isinstance(entries, list):
        raise SettingsError(f"{path}: write each policy as [[policies]], with two brackets")
    return (
        *(_rule(f"{path}, [[policies]] {n}", entry) for n, entry in enumerate(entries, 1)),
        *BUILT_IN_RULES,
    )


_TEXTS: Final = (
    "exception",
    "message_prefix",
    "message_contains",
    "message_like",
    "function",
    "queue",
    "kind",
    "why",
)
_NUMBERS: Final = {
    "attempts": (int, 0, 1_000),
    "retries": (int, 0, 100),
    "delay_s": (int | float, 0, DELAY_CAP_S),
    "backoff": (int | float, 1, 10),
    "cause_per_hour": (int, 1, 100_000),
}


def _rule(where: str, entry: object) -> Rule:
    if not isinstance(entry, Mapping):
        raise SettingsError(f"{where} is not a table")
    fields: dict[str, Any] = {}
    for name, value in entry.items():
        if name in _TEXTS:
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(
                isinstance(t, str) and 0 < len(t) <= MAX_PATTERN_CHARS for t in texts
            ):
                raise SettingsError(
                    f"{where}: {name} must be a text or a list of texts, "
                    f"each of 1 to {MAX_PATTERN_CHARS} characters"
                )
            fields[name] = tuple(texts)
        elif name in _NUMBERS:
            kind, low, high = _NUMBERS[name]
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                raise SettingsError(f"{where}: {name}={value!r} is not between {low} and {high}")
            fields[name] = value
        elif name == "name":
            fields[name] = str(value)[:80]
        elif name != "action":
            raise SettingsError(
                f"{where}: {name!r} is not a field; known: "
                f"{', '.join(('name', 'action', *_TEXTS, *_NUMBERS))}"
            )
    try:
        action = Action(str(entry["action"]).upper())
    except (KeyError, ValueError) as error:
        raise SettingsError(f"{where}: action must be one of {', '.join(Action)}") from error
    return Rule(**{"name": where.rpartition(", ")[2], **fields, "action": action})


def _like(patterns: Sequence[str], text: str) -> bool:
    return _any(patterns, lambda pattern: fnmatch.fnmatchcase(text.casefold(), pattern))


def _any(patterns: Sequence[str], holds: Any) -> bool:
    return not patterns or any(holds(pattern.casefold()) for pattern in patterns)
