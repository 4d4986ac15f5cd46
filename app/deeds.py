"""Deeds: what an audit line says was done, as a person would say it. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pandas as pd

from app import palette

#: name of an action → what whoever asked for it did
_DID: Final[Mapping[str, str]] = {
    "abort_job": "asked to abort the job",
    "abort_operation": "aborted the operation",
    "acknowledge_alert": "acknowledged the alert",
    "archive_letter": "archived the letter",
    "cancel_job": "cancelled the job",
    "change_cause": "changed the cause",
    "clean_queue": "cleaned the queue",
    "control_workers": "told the workers",
    "create_key": "created the key",
    "discard_letter": "discarded the letter",
    "drain_queue": "drained the queue",
    "import_letters": "brought letters back",
    "login": "logged in",
    "logout": "logged out",
    "mark_deploy": "marked a deploy",
    "notify": "sent a notification",
    "pause_operation": "paused the operation",
    "pause_queue": "paused the queue",
    "promote_job": "made the job due now",
    "publish_event": "published",
    "reschedule_job": "put the job off",
    "resume_operation": "let the operation go on",
    "resume_queue": "resumed the queue",
    "retry_letter": "retried the letter",
    "revoke_key": "revoked the key",
    "set_concurrency": "set the slots",
    "silence_alert": "silenced the alert",
    "skip_pending": "skipped the entry",
    "start_operation": "started a bulk action",
    "submit_jobs": "submitted",
    "undo_discard": "took the letter back",
}
#: of a detail that says nothing to a person: names of records, digests
_MUTE: Final = frozenset({"kind", "operation", "requestId", "cid", "before", "after"})


def did(action: str) -> str:
    """What was done, for a sentence that begins with who did it: ``paused the queue``."""
    return _DID.get(action, action.replace("_", " "))


def in_words(detail: Mapping[str, Any]) -> str:
    """What a line tells beside it: ``retry letters: 16 matched, canary of 5, at most 10 a second``."""
    kind = str(detail.get("kind", "")).replace("_", " ")
    mute = _MUTE - {"before"} if "version" in detail else _MUTE  # the version before, not a digest
    said = [
        _said(name, value)
        for name, value in detail.items()
        if name not in mute and not (value is None or value is False or value in ("", []))
    ]
    return ": ".join(filter(None, (kind, ", ".join(filter(None, said)))))


def _said(name: str, value: Any) -> str:
    if value is True:
        return _spaced(name)
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else _plain(value)
    if name in _SAID and (made := _SAID[name](value)) is not None:
        return made
    return f"{_spaced(name)} {shown}"


def _plain(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _spaced(name: str) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name.replace("_", " "))


def _number(value: Any) -> float | None:
    """The audit keeps numbers that are not whole as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _for(word: str) -> Callable[[Any], str | None]:
    def told(value: Any) -> str | None:
        seconds = _number(value)
        if seconds is None:
            return None
        return f"{word} {palette.plain_duration(seconds)}" if seconds else ""

    return told


def _counted(one: str, many: str) -> Callable[[Any], str | None]:
    def told(value: Any) -> str | None:
        number = _number(value)
        return None if number is None else f"{number:,g} {one if number == 1 else many}"

    return told


def _rate(value: Any) -> str | None:
    rate = _number(value)
    return None if rate is None else f"at most {rate:,g} a second"


def _canary(value: Any) -> str | None:
    number = _number(value)
    if number is None:
        return None
    return f"canary of {number:,g}" if number else ""


def _moment(value: Any) -> str:
    ms = _number(value)
    if not ms or not 0 < ms < 253_402_300_800_000:
        return "never expires"
    return f"expires {pd.Timestamp(int(ms), unit='ms', tz='UTC'):%Y-%m-%d %H:%M} UTC"


def _filter(value: Any) -> str:
    """``name=x, error=y`` as ``name x, error y``: what the letters have in common."""
    parts = (part.partition("=") for part in str(value).split(", "))
    return "of " + ", ".join(f"{_spaced(name)} {text}" if text else name for name, _, text in parts)


_SAID: Final[Mapping[str, Callable[[Any], str | None]]] = {
    "age": _for("older than"),
    "canary": _canary,
    "delay": _for("after"),
    "delay_s": _for("by"),
    "done": _counted("done", "done"),
    "events": _counted("event", "events"),
    "expires_ms": _moment,
    "filter": _filter,
    "jobs": _counted("job", "jobs"),
    "letters": _counted("letter", "letters"),
    "matched": _counted("matched", "matched"),
    "rate": _rate,
    "reason": lambda value: f"because: {value}",
    "refused": lambda value: f"refused: {value}",
    "seconds": _for("for"),
    "slots": _counted("slot", "slots"),
}

__all__ = ["did", "in_words"]
