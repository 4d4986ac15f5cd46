"""Proofs: what one check of a deployment tried, what it showed, and what to do about it."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from app.errors import CheckFailed, CheckImpossible


class Shown(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    UNCHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One check: its name, what it is about, and what was seen."""

    check: str
    about: str
    shown: Shown
    evidence: str  #: what was seen; of a failure, the sentence that says what is wrong
    remedy: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The proof as plain values."""
        return asdict(self) | {"shown": self.shown.value, "seconds": round(self.seconds, 3)}


def failed(sentence: str, remedy: str) -> CheckFailed:
    """An error to raise in a check: what is wrong, and what to do."""
    return CheckFailed(sentence, remedy)


def impossible(sentence: str, remedy: str) -> CheckImpossible:
    """An error to raise in a check that cannot be tried from here."""
    return CheckImpossible(sentence, remedy)


def exit_code(proofs: list[Proof]) -> int:
    """0: all passed. 1: something failed. 3: nothing failed, and not everything could be checked."""
    states = {proof.shown for proof in proofs}
    if Shown.FAILED in states:
        return 1
    return 3 if Shown.UNCHECKED in states else 0
