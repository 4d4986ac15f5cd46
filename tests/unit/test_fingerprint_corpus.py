"""Fingerprints on real tracebacks of real libraries (``tests/corpus``): one per cause, no more, no less."""

import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.letters.fingerprint import fingerprint, frames

CORPUS = Path(__file__).parents[1] / "corpus"


@dataclass(frozen=True)
class Error:
    """One traceback of the corpus, and the group a person puts it in."""

    group: str
    type: str
    message: str
    traceback: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.type, self.message, self.traceback)


def load(path: Path) -> Error:
    head, _, trace = path.read_text(encoding="utf-8").partition("\n\n")
    facts = dict(line.split(": ", 1) for line in head.splitlines())
    return Error(facts["group"], facts["type"], json.loads(facts["message"]), trace)


ERRORS = [load(path) for path in sorted(CORPUS.glob("*.txt"))]


def test_every_group_of_the_corpus_is_one_fingerprint_and_every_fingerprint_one_group():
    by_group, by_fingerprint = defaultdict(set), defaultdict(set)
    for error in ERRORS:
        by_group[error.group].add(error.fingerprint)
        by_fingerprint[error.fingerprint].add(error.group)

    assert len(by_group) >= 40
    assert {group: made for group, made in by_group.items() if len(made) > 1} == {}
    assert {made: groups for made, groups in by_fingerprint.items() if len(groups) > 1} == {}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ERRORS), st.integers(1, 5_000), st.sampled_from(["/opt/b", "C:\\py", "/x y"])
)
def test_shifted_lines_and_another_install_path_change_nothing(error, shift, root):
    def shifted(match: re.Match[str]) -> str:
        return f'", line {int(match.group(1)) + shift}, in'

    moved = re.sub(r'", line (\d+), in', shifted, error.traceback).replace("/opt/venv", root)

    assert fingerprint(error.type, error.message, moved) == error.fingerprint


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ERRORS), st.integers(1, 200))
def test_frames_of_callers_further_out_change_nothing(error, depth):
    """
    The same failing code called from elsewhere: what counts are the innermost frames.
    """
    if len(frames(error.traceback)) < 5 or "Group" in error.type:
        return
    head = "Traceback (most recent call last):\n"
    outer = "".join(
        f'  File "/srv/a{n}.py", line {n}, in outer{n}\n    go()\n' for n in range(depth)
    )
    start, _, last = error.traceback.rpartition(head)

    assert (
        fingerprint(error.type, error.message, f"{start}{head}{outer}{last}") == error.fingerprint
    )


@pytest.mark.parametrize("error", ERRORS[::2], ids=lambda error: error.group)
def test_a_message_that_quotes_another_traceback_does_not_borrow_its_frames(error):
    quoted = random.Random(7).choice(ERRORS).traceback
    own = 'Traceback (most recent call last):\n  File "/srv/run.py", line 3, in run\n    go()\n'

    def made(quotation: str) -> tuple[str, ...]:
        message = f"the subprocess said:\n{quotation}"
        from app.letters.fingerprint import _without

        return frames(_without(f"{own}RuntimeError: {message}\n", message))

    assert made(quoted) == made(error.traceback) == ("run.py:run",)


def test_a_huge_message_does_not_hide_the_frames():
    head = 'Traceback (most recent call last):\n  File "/srv/run.py", line 3, in run\n    go()\n'
    trace = head + "ValueError: " + "x" * 10_000_000

    assert frames(trace) == ("run.py:run",)
