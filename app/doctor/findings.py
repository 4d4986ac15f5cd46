"""Findings: what the doctor saw, how bad it is, and what to do. Pure."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final


class Severity(StrEnum):
    """How bad a finding is."""

    CRITICAL = "critical"  #: work can be lost or stands still, or somebody else may get in
    WARNING = "warning"  #: it will be critical one day, or costs now
    NOTICE = "notice"  #: worth knowing


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One hazard, where it is, what shows it, and what to do."""

    hazard: str  #: a short name, the same at every place
    severity: Severity
    where: str  #: ``queue`` (a role's Redis), a queue, a stream/group, ``settings``
    sentence: str
    evidence: str
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain values."""
        return asdict(self) | {"severity": self.severity.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What one examination saw. *unknown*: what could not be looked at, and why."""

    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]
    examined: tuple[str, ...]  #: what was looked at
    taken_ms: int

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as plain values."""
        return {
            "healthy": not any(f.severity is not Severity.NOTICE for f in self.findings),
            "takenMs": self.taken_ms,
            "examined": list(self.examined),
            "unknown": list(self.unknown),
            "findings": [finding.as_dict() for finding in self.findings],
        }

    @property
    def exit_code(self) -> int:
        """0: notices at most. 1: something critical. 2: warnings."""
        severities = {finding.severity for finding in self.findings}
        if Severity.CRITICAL in severities:
            return 1
        return 2 if Severity.WARNING in severities else 0


def together(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """*findings* for people: the same hazard, shown by the same, is one with all its places."""
    places: dict[Finding, list[str]] = {}
    for finding in findings:
        places.setdefault(replace(finding, where=""), []).append(finding.where)
    return tuple(replace(one, where=", ".join(where)) for one, where in places.items())


def in_words(findings: Iterable[Finding]) -> str:
    """How many there are of each severity, in words."""
    found = [finding.severity for finding in findings]
    counts = [(severity.value, found.count(severity)) for severity in Severity]
    return ", ".join(
        f"{number} {word}{'s' if number > 1 and word != 'critical' else ''}"
        for word, number in counts
        if number
    )


_ORDER: Final = {severity: number for number, severity in enumerate(Severity)}


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """*findings*, the worst first, then by place and name."""
    return tuple(sorted(findings, key=lambda f: (_ORDER[f.severity], f.where, f.hazard)))
